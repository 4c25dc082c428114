"""What ends a server from outside."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from taskloom.core.errors import ConfigError
from taskloom.server.app import _stopped_from_outside


async def test_a_server_stops_when_the_other_end_of_its_lifeline_is_closed() -> None:
    read, write = os.pipe()
    try:
        with _stopped_from_outside(read) as stop:
            os.write(write, b"still here\n")
            await asyncio.sleep(0.05)
            assert not stop.is_set()
            os.close(write)
            await asyncio.wait_for(stop.wait(), 5)
    finally:
        os.close(read)


async def test_a_lifeline_that_is_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    with (
        path.open("rb") as stream,
        pytest.raises(ConfigError, match="give --until-eof a pipe"),
        _stopped_from_outside(stream.fileno()),
    ):
        pass
