"""Answers in parts over the local dispatcher: the whole path but the other processes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path

import pytest
from engine_fakes import WritingModel, publish, words
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from taskloom.core.errors import DeadlineExceededError, InvalidInputError, ModelFailedError, RequestCancelledError
from taskloom.core.ports import WorkItem
from taskloom.core.registry import Registry
from taskloom.core.settings import Settings
from taskloom.core.store import ModelStore
from taskloom.core.types import InferCall, ModelRef
from taskloom.server.engine.engine import Engine
from taskloom.server.engine.host import ModelHost
from taskloom.server.engine.spec import ModelVersion, ReplicaSpec


def call(model: str, text: object, **fields: object) -> InferCall:
    return InferCall(model=ModelRef.parse(model), input={"text": text}, **fields)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    monkeypatch.setenv("TASKLOOM_TEST_RAN", str(tmp_path / "ran"))
    return lambda: (tmp_path / "ran").read_text().splitlines() if (tmp_path / "ran").exists() else []


@pytest.fixture
async def engine(tmp_path: Path, registry: Registry, store: ModelStore) -> AsyncIterator[Engine]:
    publish(store, "parrot", "echo")
    publish(store, "terse", "terse")
    publish(store, "writer", "writing")
    settings = Settings(home=tmp_path, server={"model_poll_s": 0.05, "dispatcher": "local", "drain_s": 5})
    made = Engine.from_settings(settings, registry, store=store)
    await made.start()
    yield made
    await made.close()


async def test_parts_make_the_text_and_the_answer_is_that_of_a_call_without_them(engine: Engine) -> None:
    parts: list[str] = []
    asked = call("writer", "to be or not 中文 to be", params={"shout": True})
    streamed = await engine.infer(asked, parts.append)
    assert parts == ["TO ", "BE ", "OR ", "NOT ", "中文 ", "TO ", "BE"]
    assert streamed.output == (await engine.infer(asked)).output
    assert "".join(parts) == streamed.output["text"]
    assert streamed.timings.batch_size == 1


@hypothesis_settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60))
async def test_whatever_is_written_the_parts_make_the_text(engine: Engine, text: str) -> None:
    parts: list[str] = []
    assert (await engine.infer(call("writer", text), parts.append)).output["text"] == "".join(parts) == text


@pytest.mark.parametrize("model", ["parrot", "terse"])
async def test_who_does_not_write_in_parts_answers_as_a_whole(engine: Engine, model: str) -> None:
    parts: list[str] = []
    assert (await engine.infer(call(model, "hello there"), parts.append)).output["text"] == "hello there"
    assert parts == []


async def test_requests_for_parts_share_batches_where_no_model_of_the_task_writes_in_parts(engine: Engine) -> None:
    results = await asyncio.gather(*(engine.infer(call("parrot", f"t{n}"), lambda _: None) for n in range(8)))
    assert {r.timings.batch_size for r in results} == {8}


async def test_each_word_arrives_when_it_is_written(engine: Engine) -> None:
    arrived: list[float] = []
    await engine.infer(
        call("writer", "a b c d", params={"step_s": 0.1}), lambda _: arrived.append(asyncio.get_running_loop().time())
    )
    gaps = [later - sooner for sooner, later in pairwise(arrived)]
    assert len(gaps) == 3
    assert min(gaps) > 0.05


async def test_a_failure_in_the_middle_is_typed_and_comes_after_what_was_written(engine: Engine) -> None:
    parts: list[str] = []
    with pytest.raises(ModelFailedError) as caught:
        await engine.infer(call("writer", "one two poison three"), parts.append)
    assert parts == ["one ", "two "]
    assert "secret" not in str(caught.value)
    with pytest.raises(InvalidInputError):
        await engine.infer(call("writer", ""), parts.append)


async def test_a_deadline_in_the_middle_ends_the_writing(engine: Engine, ran: Callable[[], list[str]]) -> None:
    parts: list[str] = []
    late = call("writer", " ".join(f"w{n}" for n in range(100)), params={"step_s": 0.05}, deadline_s=time.time() + 0.3)
    with pytest.raises(DeadlineExceededError):
        await engine.infer(late, parts.append)
    assert 1 <= len(parts) <= 6
    await asyncio.sleep(0.1)
    written = len(ran())
    await asyncio.sleep(0.2)
    assert len(ran()) == written <= 8


async def test_a_caller_who_leaves_ends_the_writing_at_the_next_step(engine: Engine, ran: Callable[[], list[str]]) -> None:
    parts: list[str] = []
    asked = call("writer", " ".join(f"w{n}" for n in range(100)), params={"step_s": 0.02})
    asking = asyncio.create_task(engine.infer(asked, parts.append))
    await until(lambda: len(parts) == 3)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    sent = len(parts)
    await asyncio.sleep(0.1)
    written = len(ran())
    await asyncio.sleep(0.2)
    assert len(ran()) == written <= 6
    assert len(parts) == sent, "a part was sent to a caller who had left"


async def test_long_writing_leaves_batches_their_turns(engine: Engine) -> None:
    """Four answers are being written, a step of 20 ms after another; a batch waits for one step of each at most."""
    text = " ".join("w" for _ in range(60))
    writing = [
        asyncio.create_task(engine.infer(call("writer", text, params={"step_s": 0.02}), lambda _: None)) for _ in range(4)
    ]
    await asyncio.sleep(0.1)
    for n in range(5):
        answer = await engine.infer(call("parrot", f"t{n}"))
        assert answer.timings.total_s < 0.5
        assert not any(task.done() for task in writing)
    for task in writing:
        task.cancel()
    await asyncio.gather(*writing, return_exceptions=True)


async def test_a_roll_lets_what_is_being_written_end_on_the_old_version(engine: Engine, store: ModelStore) -> None:
    parts: list[str] = []
    writing = asyncio.create_task(engine.infer(call("writer", "a b c d e f", params={"step_s": 0.1}), parts.append))
    await until(lambda: bool(parts))
    publish(store, "writer", "writing", aliases=["production"])
    await until(lambda: engine.prepare(call("writer", "x")).version == "2")
    assert not writing.done()
    assert (await engine.infer(call("writer", "x"), lambda _: None)).version == "2"
    assert (await writing).version == "1"
    assert "".join(parts) == "a b c d e f"


async def test_closing_in_the_middle_does_not_wait_for_a_long_answer(
    tmp_path: Path, registry: Registry, store: ModelStore
) -> None:
    publish(store, "writer", "writing")
    settings = Settings(home=tmp_path, server={"dispatcher": "local"})
    engine = Engine.from_settings(settings, registry, store=store)
    await engine.start()
    asked = call("writer", " ".join("w" for _ in range(1000)), params={"step_s": 0.02})
    asking = asyncio.create_task(engine.infer(asked, lambda _: None))
    await asyncio.sleep(0.1)
    async with asyncio.timeout(5):
        await engine.close(drain_s=0.1)
    (ended,) = await asyncio.gather(asking, return_exceptions=True)
    assert getattr(ended, "code", "") == "unavailable"


# -- the host ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def host(registry: Registry, store: ModelStore) -> ModelHost:
    publish(store, "parrot", "echo")
    publish(store, "writer", "writing")
    spec = ReplicaSpec("default", (ModelVersion("parrot", "1"), ModelVersion("writer", "1")), store.roots)
    made = ModelHost(spec, registry, store)
    made.load()
    return made


def item(model: str, text: object, **params: object) -> WorkItem:
    return WorkItem(request_id="r", model=model, input={"text": text}, params=params)


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (item("nobody", "x"), "not_found"),
        (item("writer@2", "x"), "not_found"),
        (item("writer", 7), "invalid_input"),
        (item("writer", "x", loud=True), "invalid_input"),
        (item("writer", ""), "invalid_input"),
        (item("writer", "a poison"), "model_failed"),
    ],
)
def test_what_is_wrong_is_the_results_error(host: ModelHost, bad: WorkItem, code: str) -> None:
    (result,) = host.stream(bad, lambda _: None, lambda: None).results
    assert result.error is not None
    assert result.error.code == code


def test_the_stop_is_looked_for_at_every_step(host: ModelHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also at the steps of a model that has nothing to hand on yet."""
    steps = 0

    def stop() -> None:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise RequestCancelledError("the caller went away")

    def silent(self: WritingModel, input: object, params: object, run: Callable[[object], object]):  # type: ignore[no-untyped-def]
        for _ in range(100):
            run({"texts": []})
        yield "never"

    monkeypatch.setattr(WritingModel, "stream", silent)
    (result,) = host.stream(item("writer", "x"), lambda _: None, stop).results
    assert result.error is not None
    assert result.error.code == "cancelled"
    assert steps == 3


def test_the_device_is_had_in_the_order_of_asking(host: ModelHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer asks again as soon as it is done; with a plain lock it would have the device again and again."""
    order: list[str] = []
    forward = WritingModel.forward

    def noted(self: WritingModel, batch):  # type: ignore[no-untyped-def]
        order.append(threading.current_thread().name)
        return forward(self, batch)

    monkeypatch.setattr(WritingModel, "forward", noted)
    text = " ".join("w" for _ in range(30))

    def write() -> None:
        host.stream(item("writer", text, step_s=0.005), lambda _: None, lambda: None)

    threads = [threading.Thread(target=write, name=f"writer{n}") for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = order[10:-10]
    longest = max(len(run) for run in _runs(together))
    assert longest <= 2, f"one writer had the device {longest} times in a row"


def _runs(names: list[str]) -> list[list[str]]:
    runs: list[list[str]] = []
    for name in names:
        if runs and runs[-1][-1] == name:
            runs[-1].append(name)
        else:
            runs.append([name])
    return runs


def test_the_time_that_others_had_the_device_is_no_compute_time(host: ModelHost) -> None:
    took: list[float] = []

    def write() -> None:
        took.append(host.stream(item("writer", "a b c d e", step_s=0.02), lambda _: None, lambda: None).compute_s)

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(0.1 <= seconds < 0.2 for seconds in took), took


def test_the_words_of_the_fake_make_its_text() -> None:
    assert "".join(words(" a  b\n中 ")) == " a  b\n中 "
