"""How OpenMP's threads wait for each other. A library that brings OpenMP reads it once, when it is loaded."""

from __future__ import annotations

import os

SPIN = "1000"
"""Turns of a loop, some microseconds, before a thread that waits goes to sleep. By libgomp's default it spins for milliseconds,
and where another process is at work on one of the cores, these are taken from the very thread that it waits for: a batch of 64
to 2048 tokens is then 5 to 50 times slower on two threads than on one, with this 1.03 to 1.5 times; on idle cores both gain the
same (`benchmarks/threads.py`)."""


def wait_briefly() -> None:
    """Has the libraries that this process loads from now on, and the processes that it starts, wait for so long; not where the
    environment says how to wait."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN)
