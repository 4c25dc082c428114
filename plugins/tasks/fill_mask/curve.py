"""How the loss of a training went: written on the way, kept in the artifact, drawn for its report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from taskloom.core.types import Frozen

CURVE_FILE = "training_curve.json"
LOG_FILE = "losses.jsonl"
FIGURE = "training_loss.png"
EVERY_S = 20.0
"""A point of the curve is the mean of the steps of so many seconds, and is said where no progress bar is shown; the end of an
epoch is one, too."""


class CurvePoint(Frozen):
    """The mean over the steps up to `step` since the point before."""

    step: int = Field(ge=1)
    tokens: int = Field(ge=0)
    """Read since the training began."""
    loss: float
    learning_rate: float
    tokens_per_s: float = Field(ge=0)


class LossCurve(Frozen):
    points: tuple[CurvePoint, ...] = ()

    @classmethod
    def read(cls, path: Path) -> LossCurve:
        return cls.model_validate_json(path.read_bytes())

    def write(self, path: Path) -> None:
        path.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    def draw(self, path: Path) -> None:
        """A PNG of the loss and the learning rate over the tokens read."""
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(figsize=(7, 4), dpi=110)
        millions = [point.tokens / 1e6 for point in self.points]
        axes.plot(millions, [point.loss for point in self.points], color="tab:blue", linewidth=1.2)
        axes.set_xlabel("tokens read (millions)")
        axes.set_ylabel("loss at masked tokens (nats)")
        axes.grid(alpha=0.3)
        rate = axes.twinx()
        rate.plot(millions, [point.learning_rate for point in self.points], color="tab:gray", linewidth=0.8, linestyle="--")
        rate.set_ylabel("learning rate")
        rate.set_ylim(bottom=0)
        figure.tight_layout()
        figure.savefig(path, metadata={"Software": None})
        pyplot.close(figure)


@dataclass
class _Since:
    steps: int = 0
    loss: float = 0.0
    units: int = 0


class CurveLog:
    """Hears the events of a training and writes its curve into the work folder, one JSON line a point. A training that goes on
    goes on with its curve, and so does one that starts from the weights of an `earlier` one, in its folder."""

    def __init__(
        self,
        folder: Path,
        on_event: Callable[[Mapping[str, Any]], None],
        *,
        earlier: Path | None = None,
        every_s: float = EVERY_S,
    ) -> None:
        self._path = folder / LOG_FILE
        self._on_event = on_event
        self._every_s = every_s
        self._before = tuple(_written(earlier / LOG_FILE)) if earlier is not None else ()
        self._points: list[CurvePoint] | None = None
        self._since = _Since()
        self._began = time.perf_counter()

    def hear(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if self._points is None:
            self._begin(event["step"] if kind == "resumed" else 0)
        if kind == "step":
            self._since.steps += 1
            self._since.loss += event["loss"]
            self._since.units += event["units"]
            if time.perf_counter() - self._began >= self._every_s:
                told = self._point(event).model_dump(include={"loss", "tokens_per_s"})
                self._on_event({"event": "progress", "step": event["step"], "steps": event["steps"], **told})
        elif kind == "epoch" and self._since.steps:
            self._point(event)
        self._on_event(event)

    def _begin(self, step: int) -> None:
        """Keeps what is known of the training up to a step; points behind it will come again."""
        last = self._before[-1].step if self._before else 0
        self._points = [*self._before, *(point for point in _written(self._path) if last < point.step <= last + step)]
        self._path.write_text("".join(f"{point.model_dump_json()}\n" for point in self._points), encoding="utf-8")
        self._since, self._began = _Since(), time.perf_counter()

    def curve(self) -> LossCurve:
        return LossCurve(points=tuple(self._points if self._points is not None else _written(self._path)))

    def _point(self, event: Mapping[str, Any]) -> CurvePoint:
        assert self._points is not None
        took = time.perf_counter() - self._began
        since = self._since
        point = CurvePoint(
            step=event["step"] + (self._before[-1].step if self._before else 0),
            tokens=since.units + (self._points[-1].tokens if self._points else 0),
            loss=round(since.loss / since.steps, 4),
            learning_rate=event["learning_rate"],
            tokens_per_s=round(since.units / took, 1),
        )
        self._points.append(point)
        with self._path.open("a", encoding="utf-8") as out:
            out.write(f"{point.model_dump_json()}\n")
        self._since, self._began = _Since(), time.perf_counter()
        return point


def _written(path: Path) -> list[CurvePoint]:
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(CurvePoint.model_validate(json.loads(line)))
        except ValueError:
            break  # a line that a kill cut off
    return found
