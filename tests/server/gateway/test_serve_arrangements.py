"""What `taskloom serve` makes of its arguments, of plugins that observe, and of log lines."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest

from taskloom.core import hookimpl
from taskloom.core.errors import InvalidInputError
from taskloom.core.hookspecs import RequestEvent
from taskloom.core.loader import load_registry
from taskloom.core.settings import AutoscaleSettings, ModelSettings, PoolSettings, Settings, TelemetrySettings
from taskloom.server.app import observers_of
from taskloom.server.commands.serve import chosen
from taskloom.server.telemetry.logs import logging_to


def test_the_command_line_wins_over_the_settings_and_leaves_the_rest() -> None:
    autoscale = AutoscaleSettings(min_replicas=1, max_replicas=4)
    settings = Settings(
        pools={"fast": PoolSettings(autoscale=autoscale)},
        models={"intent-en": ModelSettings(pool="fast"), "other": ModelSettings(pool="fast")},
    )
    told = chosen(settings, ("intent-en@2", "new"), port=0, dispatcher="local", replicas=3)
    assert (told.server.port, told.server.dispatcher, told.server.host) == (0, "local", "127.0.0.1")
    assert told.models == {"intent-en": ModelSettings(version="2", pool="fast"), "new": ModelSettings(pool="fast")}
    assert (told.pools["fast"].replicas, told.pools["fast"].autoscale) == (3, None)
    assert chosen(settings) == settings
    with pytest.raises(InvalidInputError):
        chosen(settings, ("No Name",))


def test_plugins_observe_with_or_without_the_event() -> None:
    seen: list[Any] = []

    class Watching:
        @hookimpl
        def observe_request(self, event: RequestEvent) -> None:
            seen.append(event.kind)

    class Counting:
        @hookimpl
        def observe_request(self) -> None:
            seen.append(1)

    registry = load_registry([])
    assert observers_of(registry) == []
    assert registry.hooks is not None
    registry.hooks.register(Watching())
    registry.hooks.register(Counting())
    event = RequestEvent(kind="completed", request_id="r", model="m", version="1", task="t", principal="p", tenant="x")
    for observe in observers_of(registry):
        observe(event)
    assert sorted(map(str, seen)) == ["1", "completed"]


def test_log_lines_are_json_with_the_request_id_and_undone_after() -> None:
    stream = io.StringIO()
    handlers = list(logging.getLogger().handlers)
    with logging_to(TelemetrySettings(), lambda: "r-1", stream):
        logging.getLogger("taskloom.server").info("started %d", 1)
        logging.getLogger("elsewhere").info("chatter")
        try:
            raise ValueError("cause")
        except ValueError:
            logging.getLogger("taskloom.server").exception("it failed")
    assert logging.getLogger().handlers == handlers
    logging.getLogger("taskloom.server").error("after")
    first, second = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (first["message"], first["level"], first["request_id"]) == ("started 1", "info", "r-1")
    assert "ValueError: cause" in second["exception"]


def test_log_lines_for_people_are_text() -> None:
    stream = io.StringIO()
    with logging_to(TelemetrySettings(log_format="text", log_level="warning"), lambda: "", stream):
        logging.getLogger("taskloom.server").info("not told")
        logging.getLogger("taskloom.server").warning("told")
    (line,) = stream.getvalue().splitlines()
    assert line.endswith("WARNING taskloom.server: told")
