from __future__ import annotations

import sys

import pytest

from taskloom.core.settings import Settings
from taskloom.server import builtin


def test_without_the_server_extra_there_is_no_log_and_a_warning_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in [name for name in sys.modules if name.startswith(("taskloom.server.audit", "taskloom.server.database"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    assert builtin.open_audit_log(Settings()) is None
    assert "taskloom[server]" in caplog.text
