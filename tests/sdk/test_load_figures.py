from __future__ import annotations

import asyncio

from taskloom.sdk.load import bench_texts, closed_loop, summarize


def test_only_what_ends_in_the_window_counts() -> None:
    finished = [(0.0, 0.9), (0.5, 1.5), (1.2, 1.4), (1.9, 2.1)]
    measured = summarize(finished, began=1.0, ended=2.0, errors=1)
    assert measured.texts == 2
    assert measured.texts_per_s == 2.0
    assert measured.p50_s == 0.2
    assert measured.errors == 1


def test_percentiles_are_nearest_rank() -> None:
    finished = [(10.0, 10.0 + n / 1000) for n in range(1, 101)]
    measured = summarize(finished, began=10.0, ended=11.0, errors=0)
    assert measured.p50_s == 0.051
    assert measured.p99_s == 0.1


async def test_a_closed_loop_keeps_every_caller_busy_and_counts_errors() -> None:
    running = 0
    most = 0
    calls = 0

    async def call(text: str) -> None:
        nonlocal running, most, calls
        running += 1
        most = max(most, running)
        calls += 1
        await asyncio.sleep(0.005)
        running -= 1
        if calls % 10 == 0:
            raise RuntimeError("every tenth")

    measured = await closed_loop(call, ["a", "b"], callers=4, seconds=0.3, warm_up_s=0.05)
    assert most == 4
    assert measured.errors > 0
    assert measured.texts > 20


def test_the_texts_are_of_mixed_length() -> None:
    lengths = sorted(len(text) for text in bench_texts())
    assert len(lengths) == 512
    assert lengths[25] < 50
    assert lengths[-25] > 300
