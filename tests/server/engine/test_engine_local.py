"""The engine over the local dispatcher: the whole path but the other processes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from engine_fakes import EchoModel, PlainRuntime, SlowModel, publish
from pydantic import Base64Bytes, BaseModel

from taskloom.core.artifact import Artifact, Manifest
from taskloom.core.errors import (
    DeadlineExceededError,
    InvalidInputError,
    ModelFailedError,
    NotFoundError,
    TaskloomError,
    UnavailableError,
)
from taskloom.core.registry import Registry
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.settings import ModelSettings, Settings
from taskloom.core.store import ModelStore
from taskloom.core.types import InferCall, InferResult, ModelRef
from taskloom.plugins.tasks.vision.plugin import VisionTask
from taskloom.server.builtin import open_local_engine
from taskloom.server.engine.engine import Engine
from taskloom.server.engine.served import ServedModel


def call(model: str, text: object, **fields: object) -> InferCall:
    return InferCall(model=ModelRef.parse(model), input={"text": text}, **fields)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.02)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, server={"model_poll_s": 0.05, "dispatcher": "local", "drain_s": 5})


@pytest.fixture
async def engine(settings: Settings, registry: Registry, store: ModelStore) -> AsyncIterator[Engine]:
    publish(store, "parrot", "echo")
    publish(store, "risky", "poison")
    publish(store, "sloth", "slow")
    made = Engine.from_settings(settings, registry, store=store)
    await made.start()
    yield made
    await made.close()


async def test_a_call_is_answered_with_who_answered_it_and_where_the_time_went(engine: Engine) -> None:
    result = await engine.infer(call("parrot", "hé 中", params={"shout": True}, request_id="r1"))
    assert (result.request_id, result.model, result.version, result.task) == ("r1", "parrot", "1", "echo")
    assert result.output["text"] == "HÉ 中"
    assert 0 < result.timings.total_s < 5


async def test_calls_that_arrive_together_share_batches_across_models(engine: Engine) -> None:
    names = ["parrot", "risky"] * 16
    results = await asyncio.gather(*(engine.infer(call(m, f"t{n}")) for n, m in enumerate(names)))
    assert [r.output["text"] for r in results] == [f"t{n}" for n in range(32)]
    assert {r.timings.batch_size for r in results} == {32}


async def test_one_poison_among_32_gives_31_answers_and_one_typed_error(engine: Engine) -> None:
    texts = ["poison" if n == 9 else f"t{n}" for n in range(32)]
    results = await asyncio.gather(*(engine.infer(call("risky", t)) for t in texts), return_exceptions=True)
    assert isinstance(results[9], ModelFailedError)
    assert sum(isinstance(r, InferResult) for r in results) == 31


@pytest.mark.parametrize(
    ("bad", "error", "told"),
    [
        (call("parot", "x"), NotFoundError, "did you mean 'parrot'"),
        (call("parrot@7", "x"), NotFoundError, "this server serves parrot@1 (candidate, production)"),
        (call("parrot", 5), InvalidInputError, "input.text"),
        (call("parrot", "x", params={"volume": 3}), InvalidInputError, "params.volume"),
        (call("parrot", "x", typed_as="classification"), InvalidInputError, "task 'echo'"),
    ],
)
async def test_a_bad_call_is_refused_before_it_is_scheduled(
    engine: Engine, bad: InferCall, error: type[TaskloomError], told: str
) -> None:
    with pytest.raises(error) as refused:
        engine.prepare(bad)
    assert told in str(refused.value)


async def test_preparing_tells_task_version_and_cost(engine: Engine) -> None:
    prepared = engine.prepare(call("parrot@1", "12345", typed_as="echo"))
    assert (prepared.task, prepared.version, prepared.cost) == ("echo", "1", 5)
    assert engine.prepare(call("parrot@candidate", "x")).version == "1"


async def test_models_and_descriptions_say_what_is_served(engine: Engine) -> None:
    assert [(m.name, m.version, m.ready) for m in engine.models()] == [(n, "1", True) for n in ("parrot", "risky", "sloth")]
    described = engine.describe(ModelRef(name="parrot"))
    assert described.labels == ("yes", "no")
    assert described.input_schema["properties"]["text"]["examples"] == ["hello"]
    assert "shout" in described.params_schema["properties"]
    assert "pid" in described.output_schema["properties"]
    assert engine.health() == {"": True, "parrot": True, "risky": True, "sloth": True}


async def test_as_many_batches_run_at_a_time_as_the_runtime_has_lanes(
    settings: Settings, registry: Registry, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, "sloth", "slow")
    plan = PlainRuntime().plan(RuntimeConfig())
    monkeypatch.setattr(PlainRuntime, "plan", lambda *_: plan.model_copy(update={"lanes": 2}))
    engine = Engine.from_settings(settings, registry, store=store)
    await engine.start()
    meeting = threading.Barrier(2, timeout=5)

    def forward(_: SlowModel, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        meeting.wait()
        return batch

    monkeypatch.setattr(SlowModel, "forward", forward)
    calls = []
    for name in "ab":
        calls.append(asyncio.create_task(engine.infer(call("sloth", name))))
        await asyncio.sleep(0.02)
    results = await asyncio.gather(*calls)
    assert [result.timings.batch_size for result in results] == [1, 1]
    await engine.close()


async def test_expired_work_does_not_run(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = tmp_path / "ran"
    monkeypatch.setenv("TASKLOOM_TEST_RAN", str(ran))
    busy = [asyncio.create_task(engine.infer(call("sloth", f"sleep 0.3{n}"))) for n in range(1)]
    await asyncio.sleep(0.05)
    busy += [asyncio.create_task(engine.infer(call("sloth", "sleep 0.2")))]
    await asyncio.sleep(0.05)
    with pytest.raises(DeadlineExceededError):
        await engine.infer(call("sloth", "late", deadline_s=time.time() + 0.1))
    await asyncio.gather(*busy)
    await engine.infer(call("sloth", "after"))
    assert "late" not in ran.read_text()
    assert "after" in ran.read_text()


async def test_a_moved_alias_is_followed_without_a_failed_call(engine: Engine, store: ModelStore) -> None:
    publish(store, "parrot", "echo", aliases=["candidate"])
    versions: list[str] = []
    failures: list[BaseException] = []
    stop = asyncio.Event()

    async def caller() -> None:
        while not stop.is_set():
            try:
                versions.append((await engine.infer(call("parrot", "x"))).version)
            except TaskloomError as exc:
                failures.append(exc)
            await asyncio.sleep(0.001)

    callers = [asyncio.create_task(caller()) for _ in range(8)]
    await asyncio.sleep(0.2)
    assert set(versions) == {"1"}
    store.set_alias("parrot", "production", "2")
    await until(lambda: "2" in versions and engine.prepare(call("parrot", "x")).version == "2")
    stop.set()
    await asyncio.gather(*callers)
    assert failures == []
    assert versions[-1] == "2"
    with pytest.raises(NotFoundError, match="parrot@2"):
        await engine.infer(call("parrot@1", "x"))


async def test_a_version_that_does_not_load_is_refused_and_the_old_one_goes_on(
    engine: Engine, store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    publish(store, "parrot", "echo", aliases=["production"], broken=True)
    await asyncio.sleep(0.4)
    assert (await engine.infer(call("parrot", "x"))).version == "1"
    refusals = [r for r in caplog.records if "stay as they are" in r.message]
    assert len(refusals) == 1, "told once, not at every look"
    publish(store, "parrot", "echo", aliases=["production"])
    await until(lambda: engine.prepare(call("parrot", "x")).version == "3")
    assert (await engine.infer(call("parrot", "x"))).version == "3"


async def test_a_model_published_later_is_served_as_well(engine: Engine, store: ModelStore) -> None:
    publish(store, "novel", "echo")
    await until(lambda: "novel" in [m.name for m in engine.models()])
    assert (await engine.infer(call("novel", "x"))).version == "1"


async def test_closing_answers_what_was_accepted(engine: Engine) -> None:
    calls = [asyncio.create_task(engine.infer(call("sloth", "sleep 0.2"))) for _ in range(4)]
    await asyncio.sleep(0.05)
    await engine.close()
    assert len([r.version for r in await asyncio.gather(*calls)]) == 4
    assert engine.health()[""] is False
    with pytest.raises(UnavailableError):
        await engine.infer(call("sloth", "x"))


async def test_an_empty_store_is_an_error_that_says_what_to_do(settings: Settings, registry: Registry, tmp_path: Path) -> None:
    engine = Engine.from_settings(settings, registry, store=ModelStore([tmp_path / "none"]))
    with pytest.raises(NotFoundError, match="taskloom train"):
        await engine.start()


async def test_a_model_that_does_not_answer_its_own_example_is_not_served(
    settings: Settings, registry: Registry, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, "parrot", "echo")

    def fails(*_: object) -> None:
        raise RuntimeError("no device")

    monkeypatch.setattr(EchoModel, "forward", fails)
    engine = Engine.from_settings(settings, registry, store=store)
    with pytest.raises(ModelFailedError, match="parrot@1"):
        await engine.start()


async def test_a_model_whose_plugin_is_missing_stops_the_server_only_if_the_settings_name_it(
    settings: Settings, registry: Registry, store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    publish(store, "parrot", "echo")
    publish(store, "alien", "telepathy")
    engine = Engine.from_settings(settings, registry, store=store)
    await engine.start()
    await asyncio.sleep(0.2)
    assert [m.name for m in engine.models()] == ["parrot"]
    await engine.close()
    assert len([r for r in caplog.records if "telepathy" in r.getMessage()]) == 1, "told once, not at every look"

    named = settings.model_copy(update={"models": {"alien": ModelSettings()}})
    with pytest.raises(NotFoundError, match="telepathy"):
        await Engine.from_settings(named, registry, store=store).start()


async def test_settings_choose_models_versions_and_pools(tmp_path: Path, registry: Registry, store: ModelStore) -> None:
    publish(store, "parrot", "echo")
    publish(store, "parrot", "echo", aliases=["candidate"])
    publish(store, "sloth", "slow")
    chosen = Settings(
        home=tmp_path,
        pools={"quick": {}, "unused": {}},
        models={"parrot": {"version": "candidate", "pool": "quick"}},
    )
    engine = Engine.from_settings(chosen, registry, dispatcher="local", store=store)
    await engine.start()
    try:
        assert [(m.name, m.version) for m in engine.models()] == [("parrot", "2")]
        assert (await engine.infer(call("parrot", "x"))).version == "2"
        with pytest.raises(NotFoundError):
            engine.prepare(call("sloth", "x"))
    finally:
        await engine.close()


async def test_the_hook_opens_a_local_engine(settings: Settings, registry: Registry) -> None:
    publish(ModelStore([settings.models_folder]), "parrot", "echo")
    engine = open_local_engine(settings, registry)
    await engine.start()
    assert "parrot" in [m.name for m in engine.models()]
    await engine.close()


async def test_a_pool_that_rolled_is_served_as_it_is_though_another_did_not(
    tmp_path: Path, registry: Registry, store: ModelStore
) -> None:
    publish(store, "parrot", "echo")
    publish(store, "risky", "echo")
    settings = Settings(
        home=tmp_path,
        server={"model_poll_s": 60, "dispatcher": "local"},
        pools={"a": {}, "b": {}},
        models={"parrot": {"pool": "a"}, "risky": {"pool": "b"}},
    )
    engine = Engine.from_settings(settings, registry, store=store)
    await engine.start()
    try:
        for name in ("parrot", "risky"):
            publish(store, name, "echo")
            store.set_alias(name, "production", "2")
        broken = store.resolve("risky@2").folder / "notes.txt"
        broken.write_text("not in the manifest", encoding="utf-8")
        with pytest.raises(TaskloomError):
            await engine.refresh()
        assert (await engine.infer(call("parrot@2", "x"))).version == "2"
        assert (await engine.infer(call("risky@1", "x"))).version == "1"
        broken.unlink()
        publish(store, "parrot", "echo")
        await engine.refresh()
        assert (await engine.infer(call("risky@2", "x"))).version == "2"
    finally:
        await engine.close()


async def test_a_pool_that_may_go_down_to_nothing_is_ready_without_a_replica(
    tmp_path: Path, registry: Registry, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, "parrot", "echo")
    for least, ready in ((0, True), (1, False)):
        autoscale = {"min_replicas": least, "max_replicas": 2}
        settings = Settings(home=tmp_path, server={"dispatcher": "local"}, pools={"default": {"autoscale": autoscale}})
        engine = Engine.from_settings(settings, registry, store=store)
        await engine.start()
        try:
            monkeypatch.setattr(engine._pools["default"].dispatcher, "replicas", lambda: 0)
            assert engine.health()[""] is ready
        finally:
            await engine.close()


def test_fields_of_bytes_are_known_from_the_input_schema() -> None:
    class Page(BaseModel):
        scan: Base64Bytes
        pages: tuple[Page, ...] = ()

    class Letter(BaseModel):
        text: str
        picture: Base64Bytes | None = None
        page: Page
        names: list[str] = []

    class LetterTask:
        Input = Letter

    Page.model_rebuild(_types_namespace={"Page": Page})
    assert ServedModel(Mock(), LetterTask(), "default").binary == ("picture", "page")  # type: ignore[arg-type]
    assert ServedModel(Mock(), VisionTask(), "default").binary == ("image",)


@pytest.mark.parametrize(("told", "streams"), [(True, True), (False, False), (None, True)])
def test_a_model_that_never_streams_takes_no_place_for_streams(told: bool | None, streams: bool) -> None:
    """Whatever other models of its task do; artifacts that don't tell are taken for those that do."""

    class Writing:
        streams = True

    manifest = Manifest(model="m", task="t", created="2026-01-01T00:00:00Z", streams=told)
    assert ServedModel(Artifact(Path(), manifest), Writing(), "default").streams is streams  # type: ignore[arg-type]
