from __future__ import annotations

import getpass
import os

import pytest

from taskloom.core.operator import operator


def test_an_account_without_a_name_is_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert operator() == f"os:{os.getuid()}"
