from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from engine_fakes import EchoModel, PlainExecutor, PlainRuntime, SlowModel, publish

from taskloom.core.artifact import Artifact
from taskloom.core.errors import ArtifactError, InvalidInputError, ModelFailedError
from taskloom.core.ports import WorkItem
from taskloom.core.registry import Registry
from taskloom.core.runtime import ExecutionPlan, RuntimeConfig
from taskloom.core.store import ModelStore
from taskloom.server.engine.host import ModelHost, _Device
from taskloom.server.engine.spec import ModelVersion, ReplicaSpec


def item(model: str, text: object, **params: object) -> WorkItem:
    return WorkItem(request_id="r", model=model, input={"text": text}, params=params)


@pytest.fixture
def host(registry: Registry, store: ModelStore) -> ModelHost:
    publish(store, "parrot", "echo")
    publish(store, "risky", "poison")
    spec = ReplicaSpec("default", (ModelVersion("parrot", "1"), ModelVersion("risky", "1")), store.roots)
    made = ModelHost(spec, registry, store)
    made.load()
    return made


def test_a_batch_mixes_models_and_keeps_its_order(host: ModelHost) -> None:
    result = host.run([item("parrot", "a"), item("risky@1", "b"), item("parrot@1", "c", shout=True)])
    assert [r.output["text"] for r in result.results if r.output] == ["a", "b", "C"]
    assert [r.version for r in result.results] == ["1", "1", "1"]
    assert result.compute_s >= 0


def test_each_bad_item_gets_its_own_typed_error(host: ModelHost) -> None:
    batch = [item("parrot", f"t{n}") for n in range(32)]
    batch[3] = item("risky", "poison")
    batch[5] = item("parrot", 7)
    batch[7] = item("parrot", "x", loud=True)
    batch[9] = item("parrot", "")
    batch[11] = item("nobody", "x")
    batch[13] = item("parrot@2", "x")
    batch[15] = item("risky", "fine")
    results = host.run(batch).results
    codes = {place: r.error.code for place, r in enumerate(results) if r.error}
    assert codes == {
        3: "model_failed",
        5: "invalid_input",
        7: "invalid_input",
        9: "invalid_input",
        11: "not_found",
        13: "not_found",
    }
    assert "secret" not in results[3].error.message
    assert "parrot@1" in results[13].error.message
    assert not any("risky" in results[place].error.message for place in (11, 13)), "other models may be none of the caller's"
    assert all(r.output for place, r in enumerate(results) if place not in codes)


def test_an_altered_file_is_refused_before_it_is_loaded(host: ModelHost, store: ModelStore) -> None:
    weights = store.resolve("parrot").path("weights.txt")
    weights.chmod(0o644)
    weights.write_text("anything")
    with pytest.raises(ArtifactError, match="altered"):
        host.load()


def test_the_self_check_is_a_real_prediction(host: ModelHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.self_check()

    def fails(*_: object) -> None:
        raise RuntimeError("no device")

    monkeypatch.setattr(EchoModel, "forward", fails)
    with pytest.raises(ModelFailedError, match="parrot@1"):
        host.self_check()


def test_the_self_check_passes_over_examples_that_a_model_does_not_take(
    host: ModelHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a model of pairs does with a single text."""
    asked: list[str] = []
    encode = EchoModel.encode

    def picky(self: EchoModel, inputs: Any) -> Any:
        asked.append(inputs[0].text)
        if len(asked) == 1:
            raise InvalidInputError("it takes pairs alone")
        return encode(self, inputs)

    examples = {"examples": [{"text": "one"}, {"text": "two"}], "properties": {}}
    monkeypatch.setattr(EchoModel, "encode", picky)
    schema = host._held["parrot"].predictor.task.Input
    monkeypatch.setattr(schema, "model_json_schema", lambda: examples)
    host.self_check()
    assert asked[:2] == ["one", "two"]
    asked.clear()
    examples["examples"] = [{"text": "one"}]
    with pytest.raises(ModelFailedError, match="pairs alone"):
        host.self_check()


def test_forwards_take_turns_while_encoding_overlaps(host: ModelHost, monkeypatch: pytest.MonkeyPatch) -> None:
    running, most = 0, 0

    def forward(self: EchoModel, batch: dict[str, object]) -> dict[str, object]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.05)
        running -= 1
        return batch

    monkeypatch.setattr(EchoModel, "forward", forward)
    took: list[float] = []
    threads = [threading.Thread(target=lambda: took.append(host.run([item("parrot", "x")]).compute_s)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert max(took) < 0.1, "waiting for another batch's turn is no compute time"


@pytest.mark.parametrize(("lanes", "most"), [(1, 1), (2, 2), (3, 2), (4, 4)])
def test_no_more_forwards_of_a_kind_run_than_its_plan_has_lanes(lanes: int, most: int) -> None:
    """Beside a model with four; of three lanes' forwards each takes two of the four."""
    device = _Device()
    device.lanes = 4
    running, seen, lock = [0], [0], threading.Lock()

    def forward() -> None:
        with device.turn(lanes):
            with lock:
                running[0] += 1
                seen[0] = max(seen[0], running[0])
            time.sleep(0.02)
            with lock:
                running[0] -= 1

    threads = [threading.Thread(target=forward) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen[0] <= most


def test_forwards_run_side_by_side_in_as_many_lanes_as_the_plan_has(
    registry: Registry, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, "parrot", "echo")
    publish(store, "loner", "slow")
    plan = PlainRuntime().plan(RuntimeConfig())

    def load(self: PlainRuntime, model: EchoModel, artifact: Artifact, _: ExecutionPlan) -> PlainExecutor:
        return PlainExecutor(model, plan.model_copy(update={"lanes": 1 if artifact.manifest.model == "loner" else 2}))

    monkeypatch.setattr(PlainRuntime, "load", load)
    spec = ReplicaSpec("default", (ModelVersion("parrot", "1"), ModelVersion("loner", "1")), store.roots)
    host = ModelHost(spec, registry, store)
    host.load()
    assert host.lanes == 2

    running: list[type] = []
    seen: list[list[type]] = []
    lock = threading.Lock()

    def forward(self: EchoModel, batch: dict[str, object]) -> dict[str, object]:
        with lock:
            running.append(type(self))
            seen.append(list(running))
        time.sleep(0.05)
        with lock:
            running.remove(type(self))
        return batch

    monkeypatch.setattr(EchoModel, "forward", forward)
    monkeypatch.setattr(SlowModel, "forward", forward)
    names = ["parrot", "parrot", "parrot", "loner", "parrot", "parrot", "loner", "parrot"]
    threads = [threading.Thread(target=host.run, args=([item(name, "x")],)) for name in names]
    for thread in threads:
        thread.start()
        time.sleep(0.005)
    for thread in threads:
        thread.join()
    assert len(seen) == len(names)
    assert max(map(len, seen)) == 2
    assert all(len(together) == 1 for together in seen if SlowModel in together), "its runtime runs one batch at a time"
    assert [together[-1] is SlowModel for together in seen] == [name == "loner" for name in names], "first come, first served"


def test_an_output_that_is_no_json_fails_alone(host: ModelHost, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = EchoModel.decode

    def decode_one_badly(self, outputs, inputs, params):  # type: ignore[no-untyped-def]
        return [object() if given.text == "bad" else good for given, good in zip(inputs, decode(self, outputs, inputs, params))]  # noqa: B905

    monkeypatch.setattr(EchoModel, "decode", decode_one_badly)
    results = host.run([item("parrot", "a"), item("parrot", "bad"), item("risky", "b")]).results
    assert [r.error.code if r.error else "ok" for r in results] == ["ok", "model_failed", "ok"]
