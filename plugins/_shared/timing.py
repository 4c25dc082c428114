"""How long a piece of work takes on this processor, to choose between two ways of doing it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import torch

TRIES = 5
ALONE = threading.Lock()
"""One at a time: two would be timed beside each other."""


def best_seconds(work: Callable[[], object]) -> float:
    """The best of some tries, on one thread: several, which wait for each other, would be timed by what else runs on their
    cores, and two processes that begin at the same time would choose by chance."""
    with ALONE:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return min(_seconds(work) for _ in range(TRIES))
        finally:
            torch.set_num_threads(threads)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
