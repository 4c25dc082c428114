"""OpenVINO and NNCF, imported so that they keep quiet: neither sends anything nor writes beside what it is asked to."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Any

TELEMETRY = "openvino_telemetry"


def import_openvino() -> Any:
    with _without_telemetry():
        import openvino
    return openvino


def import_nncf() -> Any:
    with _without_telemetry():
        import nncf
    return nncf


@contextmanager
def quiet_nncf() -> Iterator[None]:
    """NNCF shows progress bars and tells of each step, all on the standard output: only what goes wrong is let through."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Both send usage statistics unless a file in the user's home forbids it, and write an id there. They do without where
    the package that sends is not installed, so it is hidden while they are imported."""
    absent = object()
    before = sys.modules.get(TELEMETRY, absent)
    sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # the import system's way to say: not there
    try:
        yield
    finally:
        if before is absent:
            del sys.modules[TELEMETRY]
        else:
            sys.modules[TELEMETRY] = before  # type: ignore[assignment]
