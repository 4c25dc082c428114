"""Log lines: text on a terminal, one JSON object a line elsewhere; with the request id, never with a payload."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TextIO

from taskloom.core.settings import TelemetrySettings

ROOT = "taskloom"


@contextmanager
def logging_to(settings: TelemetrySettings, request_id: Callable[[], str], stream: TextIO | None = None) -> Iterator[None]:
    """Sends the log of Taskloom, and warnings of everything else, to `stream` (stderr). Undone at the end, so that a program
    that serves for a while keeps its own arrangements."""
    stream = stream or sys.stderr
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if as_json else TextLines())
    handler.addFilter(RequestIds(request_id))
    ours, everything = logging.getLogger(ROOT), logging.getLogger()
    before = ours.level, everything.level
    ours.setLevel(settings.log_level.upper())
    everything.setLevel(logging.WARNING)
    # A handler that writes there already would say everything twice.
    others = [h for h in everything.handlers if isinstance(h, logging.StreamHandler) and h.stream is stream]
    _swap(everything, others, [handler])
    try:
        yield
    finally:
        _swap(everything, [handler], others)
        ours.setLevel(before[0])
        everything.setLevel(before[1])


def _swap(logger: logging.Logger, out: Sequence[logging.Handler], into: Sequence[logging.Handler]) -> None:
    for handler in out:
        logger.removeHandler(handler)
    for handler in into:
        logger.addHandler(handler)


class RequestIds(logging.Filter):
    """Puts the id of the request that is being worked on into each record."""

    def __init__(self, request_id: Callable[[], str]) -> None:
        super().__init__()
        self._request_id = request_id

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = self._request_id()
        return True


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := getattr(record, "request_id", ""):
            line["request_id"] = request_id
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class TextLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        request_id = getattr(record, "request_id", "")
        told = f"{_time(record)} {record.levelname:7} {record.name}: {record.getMessage()}"
        told += f" [{request_id}]" if request_id else ""
        return f"{told}\n{self.formatException(record.exc_info)}" if record.exc_info else told


def _time(record: logging.LogRecord) -> str:
    """UTC, ISO 8601, milliseconds."""
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
