from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

import taskloom.sdk
from taskloom.core.errors import InvalidInputError, OverloadedError, TaskloomError
from taskloom.core.hookspecs import hookimpl
from taskloom.core.loader import load_registry
from taskloom.core.registry import Registry
from taskloom.core.settings import load_settings
from taskloom.core.types import InferResult, ModelDescription, ModelInfo
from taskloom.sdk import DeadlineExceededError, LocalClient, MissingDependencyError
from taskloom.sdk.in_process import serving


class LengthEngine:
    """An engine in whose opinion everything is `a`, with the text's length as the score."""

    def __init__(self):
        self.calls, self.closed, self.refusals = [], False, 0

    async def start(self):
        self.loop = asyncio.get_running_loop()

    async def infer(self, call):
        self.calls.append(call)
        if self.refusals:
            self.refusals -= 1
            raise OverloadedError("full", 0.01)
        if call.input["text"] == "slow":
            await asyncio.sleep(30)
        if call.input["text"] == "bad":
            raise InvalidInputError("bad")
        output = {"labels": [{"label": "a", "score": len(call.input["text"]) / 100}], "truncated": False}
        return InferResult(request_id=call.request_id, model=call.model.name, version="1", task="classification", output=output)

    def models(self):
        return [ModelInfo(name="m", version="1", task="classification")]

    def describe(self, ref):
        return ModelDescription(info=self.models()[0], input_schema={}, output_schema={}, params_schema={})

    async def close(self):
        self.closed = True


class EngineHook:
    def __init__(self, engine):
        self.engine = engine

    @hookimpl
    def open_local_engine(self, settings, registry):
        if isinstance(self.engine, Exception):
            raise self.engine
        return self.engine


def make(engine, tmp_path):
    registry = load_registry([])
    registry.hooks.register(EngineHook(engine))
    return LocalClient(load_settings(overrides={"home": str(tmp_path)}), registry, timeout_s=5)


def test_the_same_calls_and_result_types(tmp_path):
    engine = LengthEngine()
    engine.refusals = 2
    client = make(engine, tmp_path)
    client.start()
    with client:
        result = client.classify("hello", model="m", top_k=1)
        assert (result.label, result.score) == ("a", 0.05)
        assert len(engine.calls) == 3
        assert engine.calls[-1].params == {"top_k": 1}
        assert time.time() < engine.calls[-1].deadline_s < time.time() + 6
        items = list(client.infer_many("m", [{"text": "x"}, {"text": "bad"}, {"text": "xxx"}]))
        assert [item.ok for item in items] == [True, False, True]
        assert client.models()[0].name == "m"
        with pytest.raises(DeadlineExceededError):
            client.infer("m", {"text": "slow"}, timeout_s=0.1)
    assert engine.closed


def test_an_image_is_json_data_in_process_too(tmp_path):
    class Camera(LengthEngine):
        async def infer(self, call):
            output = {"labels": [{"label": call.input["image"], "score": 1.0}], "width": 1, "height": 1}
            return InferResult(request_id="r", model="m", version="1", task="vision", output=output)

    client = make(Camera(), tmp_path)
    client.start()
    with client:
        assert client.classify_image(b"\x00\x01", model="m").label == "AAE="


def test_a_missing_library_names_the_install_line(tmp_path):
    client = make(ModuleNotFoundError("No module named 'torch'", name="torch"), tmp_path)
    with pytest.raises(MissingDependencyError, match=r"pip install 'taskloom\[local\]'"):
        client.start()
    client.close()


def test_no_engine_at_all_names_the_install_line(tmp_path):
    client = make(None, tmp_path)
    with pytest.raises(MissingDependencyError, match="pip install"):
        client.start()
    client.close()


def test_asked_models_replace_those_of_the_settings(tmp_path):
    settings = load_settings(overrides={"home": str(tmp_path), "models": {"a": {"version": "3"}, "b": {}}})
    assert {name: m.version for name, m in serving(settings, ["a", "c@2"]).models.items()} == {"a": "3", "c": "2"}


def test_threads_wait_briefly_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    called: list[str] = []
    monkeypatch.setattr("taskloom.core.openmp.wait_briefly", lambda: called.append("waits"))
    monkeypatch.setattr("taskloom.core.loader.load_registry", lambda: called.append("loads") or Registry())
    with pytest.raises(TaskloomError):
        taskloom.sdk.local(["no-such-model"], home=tmp_path)
    assert called == ["waits", "loads"]
