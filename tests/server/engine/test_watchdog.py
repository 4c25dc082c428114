"""The watch over a replica's work, in processes that may be ended."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from taskloom.core.ports import WorkItem
from taskloom.server.engine.replica import pack_items, unpack_items

LIMIT_S = 1.0


def ran(work: str) -> subprocess.CompletedProcess[str]:
    program = (
        f"import time\nfrom taskloom.server.engine.replica import Watchdog\ndog = Watchdog({LIMIT_S})\n{textwrap.dedent(work)}"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("work", "ended"),
    [
        ("with dog.over(): time.sleep(1.6)", True),
        ("with dog.over(1.0): time.sleep(0.4)\ntime.sleep(1.2)", False),
        ("with dog.over(3.0): time.sleep(1.6)", False),
        ("with dog.over(1.3): time.sleep(2.0)", True),
        ("with dog.over(), dog.over(3.0): time.sleep(1.6)", False),
        ("with dog.over():\n    with dog.over(3.0): time.sleep(1.6)\n    time.sleep(1.6)", True),
        ("with dog.over():\n    for _ in range(8):\n        time.sleep(0.2)\n        dog.see()", False),
    ],
)
def test_work_that_takes_longer_than_it_is_worth_ends_the_process(work: str, ended: bool) -> None:
    found = ran(work)
    assert (found.returncode != 0) == ended, found.stderr
    assert ("Timeout" in found.stderr) == ended


def test_what_an_item_costs_reaches_the_replica() -> None:
    items = [WorkItem("r", "m", {"text": "x"}, {}, cost=70_000)]
    assert unpack_items(pack_items(items)) == items
