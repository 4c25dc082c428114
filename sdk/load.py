"""Closed-loop load: so many callers, each asking again as soon as it is answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files

from pydantic import Field

from taskloom.core.types import Frozen


class Measured(Frozen):
    """What a closed loop saw. Latencies are seconds, over the calls that began after the warm-up."""

    texts_per_s: float = Field(ge=0)
    p50_s: float = Field(ge=0)
    p99_s: float = Field(ge=0)
    texts: int = Field(ge=0)
    errors: int = Field(ge=0)


def bench_texts() -> list[str]:
    """512 English texts of mixed length in random order: customers' questions, sentences and paragraphs of news."""
    return files("taskloom.sdk").joinpath("bench_texts.txt").read_text(encoding="utf-8").splitlines()


def summarize(finished: Sequence[tuple[float, float]], began: float, ended: float, errors: int) -> Measured:
    """From (start, end) of each answered call: those that ended inside the window count for the rate."""
    inside = [(start, end) for start, end in finished if began <= end <= ended]
    latencies = sorted(end - start for start, end in inside if start >= began) or sorted(end - start for start, end in inside)
    return Measured(
        texts_per_s=round(len(inside) / (ended - began), 2),
        p50_s=round(_percentile(latencies, 0.50), 5),
        p99_s=round(_percentile(latencies, 0.99), 5),
        texts=len(inside),
        errors=errors,
    )


def _percentile(ordered: Sequence[float], q: float) -> float:
    """The nearest-rank percentile."""
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0.0


async def closed_loop(
    call: Callable[[str], Awaitable[object]], texts: Sequence[str], callers: int, seconds: float, warm_up_s: float = 2.0
) -> Measured:
    """Runs `callers` callers for `warm_up_s + seconds`; what ends in the last `seconds` is counted."""
    finished: list[tuple[float, float]] = []
    errors: list[Exception] = []
    began = time.perf_counter() + warm_up_s
    ended = began + seconds

    async def caller(index: int) -> None:
        position = index * len(texts) // callers
        while (start := time.perf_counter()) < ended:
            try:
                await call(texts[position % len(texts)])
            except Exception as exc:
                errors.append(exc)
                await asyncio.sleep(0.05)
            else:
                finished.append((start, time.perf_counter()))
            position += 1

    await asyncio.gather(*(caller(index) for index in range(callers)))
    return summarize(finished, began, ended, len(errors))
