"""The progress bar of a training, on stderr."""

from __future__ import annotations

import time
from collections import deque
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LAST_STEPS = 20
"""As many steps the speed that is shown is an average of."""


class TrainingProgress:
    """A context manager; with `show=False` it does nothing."""

    def __init__(self, total: int, done: int = 0, *, show: bool = True) -> None:
        self._bar: Progress | None = None
        self._note = ""
        self._steps: deque[tuple[float, int]] = deque(maxlen=LAST_STEPS)
        if show:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("training", total=total, completed=done)

    def advance(self, epoch: int, loss: float, units: int = 0) -> None:
        """After a step over so many units, tokens for text; their speed, if they are told, is that of the last steps."""
        if self._bar is not None:
            now = time.monotonic()
            self._steps.append((now, units))
            took = now - self._steps[0][0]
            speed = f", {sum(done for _, done in list(self._steps)[1:]) / took:,.0f}/s" if units and took else ""
            self._bar.update(self._task, advance=1, description=f"epoch {epoch}, loss {loss:.4f}{speed}{self._note}")

    def note(self, text: str) -> None:
        self._note = f", {text}"

    def __enter__(self) -> TrainingProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
