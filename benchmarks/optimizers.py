"""Every optimizer on the model of every task in the box: 24 cells, the chain of three, and what the targets say of them.

    python benchmarks/optimizers.py --data FOLDER --home FOLDER [--models intent-en,...] [--cells prune,...] [--table]

`--data` holds the folders that the recipes name (`banking77/train.jsonl`, say). Each cell is one `taskloom optimize`, measured
beside its parent in one run; what is done is kept in `--home`, so that an interrupted benchmark goes on. Recovery trains on a
sample where all rows would take hours: the table says on how many.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taskloom.core.comparison import Comparison
from taskloom.core.errors import NotFoundError, TaskloomError, UnsupportedError
from taskloom.core.loader import load_registry
from taskloom.core.optimizing import StepRequest
from taskloom.core.publishing import Report, read_report
from taskloom.core.registry import Registry
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.settings import Settings
from taskloom.core.store import ModelStore, open_store
from taskloom.plugins.commands.recipe import Recipe, load_recipe
from taskloom.plugins.optimizing import DataFiles, optimize_model

RECIPES = Path(__file__).parents[1] / "models" / "recipes"


@dataclass(frozen=True)
class Subject:
    """A bundled model, the rows that its cells train on and are evaluated on (0: all), and what it needs of a step beside the
    step's defaults."""

    model: str
    train_rows: int = 0
    evaluation_rows: int = 0
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


SUBJECTS = (
    Subject("intent-en"),
    Subject("ner-en", 4000, 800),
    Subject("qa-en", 3000, 500),
    Subject("summary-en", 600, 300),
    Subject("recommend-anime", 0, 1000),
    Subject("vision-fashion", 16000, 3000),
)

CELLS: Mapping[str, tuple[StepRequest, ...]] = {
    "quantize-static": (StepRequest(name="quantize", config={"mode": "static"}),),
    "quantize-dynamic": (StepRequest(name="quantize", config={"mode": "dynamic"}),),
    "distill": (StepRequest(name="distill", config={"layers": 2}),),
    "prune": (StepRequest(name="prune"),),
    "lora": (StepRequest(name="lora", config={"start": "backbone"}),),
    "full": (StepRequest(name="lora", config={"start": "backbone", "method": "full"}),),
    "chain": (StepRequest(name="prune"), StepRequest(name="distill"), StepRequest(name="quantize", config={"mode": "static"})),
}


@dataclass(frozen=True)
class Cell:
    """One optimizer on one model: a report, or the reason why there is none."""

    model: str
    cell: str
    report: Report | None
    steps: Sequence[Mapping[str, Any]] = ()
    refused: str = ""

    @property
    def comparison(self) -> Comparison:
        assert self.report is not None
        assert self.report.comparison is not None
        return self.report.comparison

    @property
    def quality(self) -> float:
        """The metric as a share of the parent's; the other way round where less is better."""
        told = self.comparison.primary_change
        return told.candidate / told.parent if told.higher_is_better else told.parent / told.candidate

    def speed(self, batch: int) -> float:
        """How many times as fast as the parent, by processor time: the geometric mean over short and long inputs."""
        ratios = [1 / ratio.cpu for ratio in self.comparison.latency if ratio.batch == batch]
        return statistics.geometric_mean(ratios)


@dataclass(frozen=True)
class Target:
    """A row of the table of targets: the median over the tasks, and the worst task."""

    cell: str
    figure: str
    value: Callable[[Cell], float]
    median: float
    worst: float | None = None
    at_most: bool = False


TARGETS = (
    Target("quantize-static", "quality", lambda c: c.quality, 0.995, 0.99),
    Target("quantize-static", "size", lambda c: c.comparison.size_ratio, 0.27, at_most=True),
    Target("quantize-static", "speed, batch 1", lambda c: c.speed(1), 5),
    Target("quantize-static", "speed, batch 8", lambda c: c.speed(8), 7),
    Target("quantize-dynamic", "quality", lambda c: c.quality, 0.995, 0.99),
    Target("quantize-dynamic", "size", lambda c: c.comparison.size_ratio, 0.27, at_most=True),
    Target("quantize-dynamic", "speed, batch 1", lambda c: c.speed(1), 3),
    Target("quantize-dynamic", "speed, batch 8", lambda c: c.speed(8), 3),
    Target("distill", "quality", lambda c: c.quality, 0.988, 0.97),
    Target("distill", "speed, batch 1", lambda c: c.speed(1), 2),
    Target("distill", "speed, batch 8", lambda c: c.speed(8), 2),
    Target("prune", "quality", lambda c: c.quality, 0.99, 0.98),
    Target("prune", "speed, batch 1", lambda c: c.speed(1), 1.8),
    Target("prune", "speed, batch 8", lambda c: c.speed(8), 1.8),
    Target("lora", "speed, batch 1", lambda c: c.speed(1), 1),
    Target("chain", "quality", lambda c: c.quality, 0.98, 0.96),
    Target("chain", "size", lambda c: c.comparison.size_ratio, 0.15, at_most=True),
    Target("chain", "speed, batch 1", lambda c: c.speed(1), 15),
    Target("chain", "speed, batch 8", lambda c: c.speed(8), 15),
)


def main() -> None:
    asked = _arguments()
    settings = Settings(home=asked.home)
    store = open_store(settings.models_folder)
    registry = load_registry()
    subjects = [subject for subject in SUBJECTS if subject.model in asked.models]
    if not asked.table:
        for name in asked.cells:
            for subject in subjects:
                _make(store, registry, subject, name, asked)
    found = [cell for subject in subjects for cell in _found(store, asked.home, subject, asked.cells)]
    print("\n".join(_cell_table(found)), end="\n\n")
    print("\n".join(_target_table(found)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder that holds the data folders which the recipes name")
    parser.add_argument("--home", type=Path, required=True, help="folder for the models that are made")
    parser.add_argument("--models", type=_listed, default=[subject.model for subject in SUBJECTS])
    parser.add_argument("--cells", type=_listed, default=list(CELLS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="make nothing, print what there is")
    return parser.parse_args()


def _listed(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def _make(store: ModelStore, registry: Registry, subject: Subject, name: str, asked: argparse.Namespace) -> None:
    told = _refusal(asked.home, subject.model, name)
    try:
        store.resolve(f"{subject.model}@{name}")
    except NotFoundError:
        if told.exists():
            return
    else:
        return
    recipe = load_recipe(RECIPES / f"{subject.model}.toml")
    data = DataFiles(
        train=_placed(recipe, "train", asked.data),
        evaluation=_placed(recipe, "evaluation", asked.data),
        licence=recipe.data.licence,
        source=recipe.data.source,
        train_rows=subject.train_rows,
        evaluation_rows=subject.evaluation_rows,
    )
    began = time.perf_counter()
    try:
        artifact = optimize_model(
            store,
            registry,
            f"{subject.model}@1",
            _steps(subject, name),
            data,
            work_folder=asked.home / "optimizing",
            aliases=(name,),
            runtime=RuntimeConfig(device="cpu", threads=asked.threads),
            on_event=_say,
        )
    except UnsupportedError as exc:
        told.parent.mkdir(parents=True, exist_ok=True)
        told.write_text(json.dumps({"refused": exc.message}), encoding="utf-8")
        print(f"{subject.model} {name}: refused: {exc.message}", flush=True)
    except TaskloomError as exc:
        print(f"{subject.model} {name}: FAILED: {exc}", flush=True)
    else:
        cell = Cell(subject.model, name, read_report(artifact))
        took = time.perf_counter() - began
        print(
            f"{subject.model} {name}: {took:.0f} s, quality {cell.quality:.4f}, size {cell.comparison.size_ratio:.3f}",
            flush=True,
        )


def _steps(subject: Subject, name: str) -> list[StepRequest]:
    return [step.model_copy(update={"config": {**step.config, **subject.settings.get(step.name, {})}}) for step in CELLS[name]]


def _placed(recipe: Recipe, part: str, folder: Path) -> list[Path]:
    return [folder / path.relative_to(RECIPES) for path in getattr(recipe.data, part)]


def _say(event: Mapping[str, Any]) -> None:
    if event["event"] in {"optimizer", "kept", "epoch", "compare"}:
        told = ", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{value}" for key, value in event.items())
        print(f"  {time.strftime('%H:%M:%S')} {told}", flush=True)


def _refusal(home: Path, model: str, name: str) -> Path:
    return home / "refused" / f"{model}.{name}.json"


def _found(store: ModelStore, home: Path, subject: Subject, names: Sequence[str]) -> Iterator[Cell]:
    for name in names:
        told = _refusal(home, subject.model, name)
        try:
            artifact = store.resolve(f"{subject.model}@{name}")
        except NotFoundError:
            if told.exists():
                yield Cell(subject.model, name, None, refused=json.loads(told.read_text(encoding="utf-8"))["refused"])
            continue
        steps = [step.model_dump(mode="json") for step in artifact.manifest.steps]
        yield Cell(subject.model, name, read_report(artifact), steps)


def _cell_table(cells: Sequence[Cell]) -> Iterator[str]:
    yield "| model | step | metric | parent | this | difference (95%) | size | batch 1 | batch 8 | memory | rows |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for cell in cells:
        if cell.report is None:
            yield f"| {cell.model} | {cell.cell} | refused: {cell.refused} | | | | | | | | |"
            continue
        told, own = cell.comparison.primary_change, cell.comparison
        between = "" if told.low is None or told.high is None else f" ({told.low:+.3f} to {told.high:+.3f})"
        memory = _ratio(own.after.performance, own.before.performance)
        figures = (
            f"{told.name} | {told.parent:.3f} | {told.candidate:.3f} | {told.difference:+.3f}{between}",
            f"{own.size_ratio:.3f} | {_speeds(cell, 1)} | {_speeds(cell, 8)} | {memory} | {_rows(cell)}",
        )
        yield " | ".join((f"| {cell.model} | {cell.cell}", *figures)) + " |"


def _ratio(after: Any, before: Any) -> str:
    return f"{after.peak_rss_bytes / before.peak_rss_bytes:.2f}" if after and before else ""


def _speeds(cell: Cell, batch: int) -> str:
    return ", ".join(f"{1 / ratio.cpu:.2f}" for ratio in cell.comparison.latency if ratio.batch == batch)


def _rows(cell: Cell) -> str:
    trained = [step["facts"]["rows"] for step in cell.steps[1:] if "rows" in step.get("facts", {})]
    return f"{max(trained, default=0)}/{cell.comparison.rows.rows}"


def _target_table(cells: Sequence[Cell]) -> Iterator[str]:
    yield "| step | figure | target (median; worst) | median | worst | each |"
    yield "|---|---|---|---|---|---|"
    for target in TARGETS:
        values = {cell.model: target.value(cell) for cell in cells if cell.cell == target.cell and cell.report is not None}
        if values:
            bound = ("at most " if target.at_most else "at least ") + f"{target.median:g}"
            bound += f"; {target.worst:g}" if target.worst is not None else ""
            worst = max(values.values()) if target.at_most else min(values.values())
            each = ", ".join(f"{model} {value:.3f}" for model, value in values.items() if not math.isnan(value))
            found = f"{statistics.median(values.values()):.3f} | {worst:.3f} | {each}"
            yield f"| {target.cell} | {target.figure} | {bound} | {found} |"


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
