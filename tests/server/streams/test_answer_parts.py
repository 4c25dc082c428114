"""Text between a writer and a reader, and the sign that stops a writer."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom.core.errors import DeadlineExceededError, RequestCancelledError
from taskloom.server.parts import PartBuffer, StopSign


@given(steps=st.lists(st.one_of(st.text(min_size=1, max_size=3), st.integers(0, 3)), max_size=30))
def test_whatever_the_pace_nothing_is_lost_doubled_or_out_of_order(steps: list[str | int]) -> None:
    """A text is written; a number is how many turns of the loop the writer rests for."""
    written = [step for step in steps if isinstance(step, str)]

    async def main() -> list[str]:
        buffer, read = PartBuffer(), list[str]()

        async def reader() -> None:
            async for text in buffer:
                read.append(text)
                await asyncio.sleep(0)

        reading = asyncio.create_task(reader())
        for step in steps:
            if isinstance(step, str):
                buffer.add(step)
            else:
                for _ in range(step):
                    await asyncio.sleep(0)
        buffer.end()
        await reading
        return read

    read = asyncio.run(main())
    assert "".join(read) == "".join(written)
    assert len(read) <= len(written)
    assert all(read)


async def test_what_comes_while_the_reader_is_busy_is_one_part() -> None:
    buffer, read, go_on = PartBuffer(), list[str](), asyncio.Event()

    async def slow_reader() -> None:
        async for text in buffer:
            read.append(text)
            await go_on.wait()

    reading = asyncio.create_task(slow_reader())
    for n in range(1000):
        buffer.add(f"{n} ")
        await asyncio.sleep(0)
    go_on.set()
    buffer.end()
    await reading
    assert read == ["0 ", "".join(f"{n} " for n in range(1, 1000))]


def test_a_stop_sign_says_why() -> None:
    sign = StopSign(None)
    sign.check()
    sign.put_up()
    with pytest.raises(RequestCancelledError):
        sign.check()
    StopSign(time.time() + 60).check()
    with pytest.raises(DeadlineExceededError):
        StopSign(time.time() - 0.001).check()
