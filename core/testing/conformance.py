"""`TaskConformance`: the promises of the task contract, each as a test that says which promise was broken."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from taskloom.core.artifact import Artifact, Manifest
from taskloom.core.errors import InvalidInputError, TaskloomError
from taskloom.core.predictor import Predictor, validated
from taskloom.core.runtime import RuntimeConfig, RuntimePlugin
from taskloom.core.store import ModelStore
from taskloom.core.task import Batch, Outputs, SharedParts, TaskPlugin

EDGE_TEXTS: Mapping[str, str] = {
    "empty": "",
    "blank": " \t\n\u3000",
    "one letter": "a",
    "one Chinese character": "好",
    "mixed languages": "请帮我 cancel 我的 order 谢谢!",
    "emoji with joiners": "👩‍👩‍👧‍👦 🏳️‍🌈 great",
    "combining marks": "e\u0301" * 20 + "Z\u0351\u036b\u0343",
    "full-width": "ABC 123 !?",
    "control characters": "a\x00b\x07c\x1b[31m",
    "only control characters": "\x00\x01\x02",
    "right to left": "\u202eabc שלום مرحبا",
    "byte order mark": "\ufeffhello",
    "beyond the basic plane": "𠮷野家 𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
    "special tokens": "[CLS] [SEP] <s> </s> [MASK]",
    "lone surrogate": "a\ud800b",
    "one long word": "x" * 5000,
    "very long": "word " * 8000,
    "very long Chinese": "长文本测试" * 3000,
}
"""Texts that a service meets sooner or later."""

WRONG_VALUES: tuple[Any, ...] = (None, 1, 1.5, True, [], ["a"], {}, {"text": "a"}, b"bytes", float("nan"))
"""What a careless caller puts where a text belongs."""


class TaskConformance:
    """Subclass it, name the subclass `Test...`, and give it the fixtures `task`, `predictor` and `runtime`; set
    `tolerance` to what the task states about answers alone and in a batch."""

    tolerance: float = 1e-4

    @pytest.fixture(scope="class")
    @classmethod
    def task(cls) -> TaskPlugin[Any, Any, Any]:
        raise NotImplementedError("give the class a fixture `task`: an instance of the task plugin")

    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls) -> Predictor[Any, Any, Any]:
        raise NotImplementedError("give the class a fixture `predictor`: a Predictor with a small model of the task")

    @pytest.fixture(scope="class")
    @classmethod
    def runtime(cls) -> RuntimePlugin:
        raise NotImplementedError("give the class a fixture `runtime`: the runtime that runs models of the task")

    def inputs(self, task: TaskPlugin[Any, Any, Any]) -> list[Any]:
        """Inputs that the predictor's model answers: by default the examples of the schema. Override it where the model
        takes some of them only."""
        return [task.Input.model_validate(example) for example in examples_of(task.Input)]

    def allows(self, field: str, value: Any) -> bool:
        """Whether a value of `WRONG_VALUES` is right for a field of the input, such as an empty list for a list."""
        return False

    # -- schemas ------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("part", ["Input", "Output", "Params"])
    def test_schema_has_examples_that_survive_json(self, task: TaskPlugin[Any, Any, Any], part: str) -> None:
        schema: type[BaseModel] = getattr(task, part)
        assert examples_of(schema), f"{part} has no examples: set json_schema_extra={{'examples': [...]}}"
        for example in examples_of(schema):
            value = schema.model_validate(example)
            assert schema.model_validate_json(value.model_dump_json()) == value
            assert schema.model_validate(json.loads(json.dumps(value.model_dump(mode="json")))) == value

    @pytest.mark.parametrize("part", ["Input", "Output", "Params", "TrainConfig"])
    def test_schema_is_frozen_and_closed(self, task: TaskPlugin[Any, Any, Any], part: str) -> None:
        schema: type[BaseModel] = getattr(task, part)
        assert schema.model_config.get("frozen") is True, f"{part} must be frozen"
        assert schema.model_config.get("extra") == "forbid", f"{part} must forbid fields that it does not declare"
        for example in examples_of(schema):
            with pytest.raises(ValidationError):
                schema.model_validate({**example, "no_such_field": 1})

    def test_params_have_defaults(self, task: TaskPlugin[Any, Any, Any]) -> None:
        task.Params()

    def test_primary_metric_is_declared(self, task: TaskPlugin[Any, Any, Any]) -> None:
        assert task.primary_metric in {metric.name for metric in task.metrics}

    # -- cost ---------------------------------------------------------------------------------------------------------

    def test_cost_is_positive_and_pure(self, task: TaskPlugin[Any, Any, Any]) -> None:
        for item in self.inputs(task):
            before = item.model_dump_json()
            cost = task.cost(item, task.Params())
            assert isinstance(cost, int)
            assert cost >= 1
            assert task.cost(item, task.Params()) == cost
            assert item.model_dump_json() == before

    # -- answers ------------------------------------------------------------------------------------------------------

    def test_alone_and_in_a_batch_are_the_same(
        self, task: TaskPlugin[Any, Any, Any], predictor: Predictor[Any, Any, Any]
    ) -> None:
        inputs = self.inputs(task) * 3
        together = predictor.predict(inputs)
        assert len(together) == len(inputs)
        for item, answer in zip(inputs, together, strict=True):
            assert_close(plain(answer), plain(predictor.predict_one(item)), self.tolerance)

    def test_order_is_kept(self, task: TaskPlugin[Any, Any, Any], predictor: Predictor[Any, Any, Any]) -> None:
        inputs = self.inputs(task)
        forth, back = predictor.predict(inputs), predictor.predict(inputs[::-1])
        for one, other in zip(forth, back[::-1], strict=True):
            assert_close(plain(one), plain(other), self.tolerance)

    def test_several_threads_give_the_same_answers(
        self, task: TaskPlugin[Any, Any, Any], predictor: Predictor[Any, Any, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        inputs = self.inputs(task)
        expected = predictor.predict(inputs)
        run, lanes = predictor.executor.run, threading.Semaphore(predictor.executor.plan.lanes)

        def run_in_turn(batch: Batch) -> Outputs:
            with lanes:
                return run(batch)

        monkeypatch.setattr(predictor.executor, "run", run_in_turn)
        with ThreadPoolExecutor(4) as pool:
            turned = [[*inputs[turn:], *inputs[:turn]] for turn in range(len(inputs))] * 4
            for asked, answers in zip(turned, pool.map(predictor.predict, turned), strict=True):
                for item, answer in zip(asked, answers, strict=True):
                    assert_close(plain(answer), plain(expected[inputs.index(item)]), self.tolerance)

    def test_outputs_survive_json(self, task: TaskPlugin[Any, Any, Any], predictor: Predictor[Any, Any, Any]) -> None:
        for answer in predictor.predict(self.inputs(task)):
            assert isinstance(answer, task.Output), f"predict gave {answer!r}"
            assert task.Output.model_validate_json(answer.model_dump_json()) == answer

    def test_an_answer_in_parts_is_the_whole_answer(
        self, task: TaskPlugin[Any, Any, Any], predictor: Predictor[Any, Any, Any]
    ) -> None:
        if not predictor.model.streams:
            pytest.skip("the model answers as a whole")
        assert task.streams, "the model streams and its task does not say so: set TaskPlugin.streams"
        for item in self.inputs(task):
            parts: list[str] = []
            answer = predictor.stream(item, parts.append)
            assert_close(plain(answer), plain(predictor.predict_one(item)), self.tolerance)
            texts = [value for value in plain(answer).values() if isinstance(value, str)]
            assert "".join(parts) in texts, f"the parts {parts!r} make none of the answer's texts {texts!r}"

    def test_a_poison_input_fails_alone(
        self, task: TaskPlugin[Any, Any, Any], predictor: Predictor[Any, Any, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        inputs = (self.inputs(task) * 9)[:9]
        poison = inputs[4].model_copy()
        prepare = predictor.model.prepare

        def prepare_or_fail(items: Sequence[Any], params: Sequence[Any]) -> Any:
            if any(item is poison for item in items):
                raise RuntimeError("poison")
            return prepare(items, params)

        monkeypatch.setattr(predictor.model, "prepare", prepare_or_fail)
        answers = predictor.predict([*inputs[:4], poison, *inputs[5:]])
        assert [isinstance(answer, TaskloomError) for answer in answers] == [i == 4 for i in range(9)]

    def test_save_and_load_give_the_same_answers(
        self,
        task: TaskPlugin[Any, Any, Any],
        predictor: Predictor[Any, Any, Any],
        runtime: RuntimePlugin,
        tmp_path: Path,
    ) -> None:
        inputs = self.inputs(task)
        artifact = publish(task, predictor.model, ModelStore([tmp_path]))
        artifact.verify()
        model = task.load(artifact, SharedParts())
        loaded = Predictor(task, model, runtime.load(model, artifact, runtime.plan(RuntimeConfig())))
        for one, other in zip(predictor.predict(inputs), loaded.predict(inputs), strict=True):
            assert_close(plain(one), plain(other), self.tolerance)

    # -- what callers send --------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("name", EDGE_TEXTS)
    def test_edge_text_gives_an_answer_or_a_typed_error(
        self, task: TaskPlugin[Any, Any, Any], predictor: Predictor[Any, Any, Any], name: str
    ) -> None:
        if task.text_field is None:
            pytest.skip("the task takes no text")
        for example in examples_of(task.Input):
            self._answer_or_typed_error(task, predictor, {**example, task.text_field: EDGE_TEXTS[name]})

    @pytest.mark.parametrize("value", WRONG_VALUES, ids=repr)
    def test_wrong_type_gives_a_typed_error(self, task: TaskPlugin[Any, Any, Any], value: Any) -> None:
        for field in task.Input.model_fields if task.text_field is None else [task.text_field]:
            if self.allows(field, value):
                continue
            example = {**examples_of(task.Input)[0], field: value}
            try:
                validated(task.Input, example, "input")
            except InvalidInputError as error:
                assert error.field.startswith(f"input.{field}")  # noqa: PT017 - the message below is for whoever has none
            else:
                pytest.fail(f"{field} takes {value!r}: declare it with Field(strict=True), or say in `allows` that it is right")

    @staticmethod
    def _answer_or_typed_error(
        task: TaskPlugin[Any, Any, Any], predictor: Predictor[Any, Any, Any], raw: Mapping[str, Any]
    ) -> None:
        try:
            item = validated(task.Input, raw, "input")
        except InvalidInputError:
            return
        assert task.cost(item, task.Params()) >= 1
        answer = predictor.predict([item])[0]
        assert isinstance(answer, task.Output) or answer.code == "invalid_input", f"the model failed: {answer}"


def examples_of(schema: type[BaseModel]) -> list[dict[str, Any]]:
    """The examples that a schema declares."""
    return list(schema.model_json_schema().get("examples", []))


def plain(answer: BaseModel | TaskloomError) -> Any:
    """An answer as JSON data; an error as its code."""
    return answer.code if isinstance(answer, TaskloomError) else answer.model_dump(mode="json")


def assert_close(one: Any, other: Any, tolerance: float, where: str = "") -> None:
    """Equal but for floats, which may differ by `tolerance`."""
    if isinstance(one, float) and isinstance(other, float):
        assert math.isclose(one, other, abs_tol=tolerance), f"{where}: {one} is not {other}"
    elif isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_close(one[key], other[key], tolerance, f"{where}.{key}")
    elif isinstance(one, list) and isinstance(other, list):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_close(a, b, tolerance, f"{where}[{i}]")
    else:
        assert one == other, f"{where}: {one!r} is not {other!r}"


def publish(task: TaskPlugin[Any, Any, Any], model: Any, store: ModelStore) -> Artifact:
    """The model as a new version of `conformance` in a store."""
    with store.draft("conformance") as folder:
        config = model.save(folder)
        manifest = Manifest(
            model="conformance",
            task=task.name,
            created="2026-01-01T00:00:00Z",
            config=config,
            labels=model.labels,
            backbone=model.backbone,
        )
        return store.publish(folder, manifest)
