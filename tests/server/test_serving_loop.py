"""The event loop that `taskloom serve` runs in."""

from __future__ import annotations

import sys

import pytest
import uvloop

from taskloom.core.event_loop import loop_factory


def test_it_is_uvloops_where_that_is_installed() -> None:
    make = loop_factory()
    assert make is not None
    loop = make()
    assert isinstance(loop, uvloop.Loop)
    loop.close()


def test_it_is_asyncios_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert loop_factory() is None
