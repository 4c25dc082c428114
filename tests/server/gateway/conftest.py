from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

FAKES = Path(__file__).parent / "fakes"
if str(FAKES) not in sys.path:
    sys.path.insert(0, str(FAKES))

from gateway_fakes import Running, running_gateway  # noqa: E402


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    async with running_gateway() as gateway:
        yield gateway
