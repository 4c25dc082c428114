from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from taskloom.core.errors import InvalidInputError, ModelFailedError, PluginError, RequestCancelledError, UnsupportedError
from taskloom.core.predictor import Predictor, validated
from taskloom.core.task import Batch, Outputs, Run, TaskModel
from taskloom.core.types import Frozen


class Word(Frozen):
    text: str = Field(min_length=1)


class Length(Frozen):
    length: int


class NoParams(Frozen):
    pass


class CountingModel(TaskModel[Word, Length, NoParams]):
    """Measures words; `poison` breaks `forward`, `odd` is refused by `encode`."""

    def __init__(self) -> None:
        self.runs = 0

    def encode(self, inputs: Sequence[Word]) -> Batch:
        if any(item.text == "odd" for item in inputs):
            raise InvalidInputError("odd words are not counted", "input.text")
        return {"texts": [item.text for item in inputs]}

    def forward(self, batch: Batch) -> Outputs:
        self.runs += 1
        if "poison" in batch["texts"]:
            raise RuntimeError("/secret/path: index out of range")
        return {"lengths": [len(text) for text in batch["texts"]]}

    def decode(self, outputs: Outputs, inputs: Sequence[Word], params: Sequence[NoParams]) -> list[Length]:
        return [Length(length=length) for length in outputs["lengths"]]

    def save(self, folder: Path) -> Mapping[str, Any]:
        return {}


class CountingTask:
    name = "counting"
    Input, Output, Params = Word, Length, NoParams


class InPlace:
    plan = None

    def __init__(self, model: CountingModel) -> None:
        self.run = model.forward

    def close(self) -> None: ...


def predictor() -> Predictor[Word, Length, NoParams]:
    model = CountingModel()
    return Predictor(CountingTask(), model, InPlace(model))  # type: ignore[arg-type]


@given(st.lists(st.sampled_from(["a", "bcd", "poison", "odd", "字字"]), max_size=40))
def test_each_input_gets_its_own_answer_whatever_its_neighbours_do(words: list[str]) -> None:
    answers = predictor().predict([Word(text=word) for word in words])
    assert len(answers) == len(words)
    for word, answer in zip(words, answers, strict=True):
        if word == "poison":
            assert isinstance(answer, ModelFailedError)
            assert "secret" not in str(answer)
        elif word == "odd":
            assert isinstance(answer, InvalidInputError)
        else:
            assert answer == Length(length=len(word))


def test_one_poison_among_many_costs_a_few_runs_not_many() -> None:
    p = predictor()
    p.predict([Word(text="poison" if n == 17 else "fine") for n in range(64)])
    assert p.model.runs <= 2 * 6 + 1  # type: ignore[attr-defined]


def test_predict_one_raises_what_is_wrong() -> None:
    assert predictor().predict_one(Word(text="abc")).length == 3
    with pytest.raises(ModelFailedError):
        predictor().predict_one(Word(text="poison"))


def test_validation_names_the_field_and_the_fields_there_are() -> None:
    with pytest.raises(InvalidInputError) as caught:
        validated(Word, {"text": "", "txt": "x"}, "input")
    assert caught.value.field == "input.text"
    assert "input.txt" in str(caught.value)
    assert "Fields of input: text" in str(caught.value)


def test_what_a_model_can_not_do_is_said() -> None:
    with pytest.raises(UnsupportedError, match="CountingModel can't be distilled"):
        CountingModel().distillation_targets({})


class SpellingModel(CountingModel):
    """Writes the length of a word letter by letter, one run of the device for each; `poison` breaks after two letters."""

    streams = True

    def __init__(self) -> None:
        super().__init__()
        self.let_go = 0
        self.gives: Any = None

    def stream(self, input: Word, params: NoParams, run: Run) -> Generator[str, None, Length]:
        try:
            for place, letter in enumerate(input.text):
                run({"texts": ["poison" if place == 2 and input.text == "poison" else letter]})
                yield ""
                yield letter
            return self.gives or Length(length=len(input.text))
        finally:
            self.let_go += 1


def spelling() -> Predictor[Word, Length, NoParams]:
    model = SpellingModel()
    return Predictor(CountingTask(), model, InPlace(model))  # type: ignore[arg-type]


@given(st.text(min_size=1, max_size=8))
def test_what_is_sent_on_the_way_is_the_text_and_the_answer_is_the_same(text: str) -> None:
    parts: list[str] = []
    assert spelling().stream(Word(text=text), parts.append) == spelling().predict_one(Word(text=text))
    assert parts == list(text)


def test_a_model_that_does_not_stream_sends_nothing_and_answers() -> None:
    parts: list[str] = []
    assert predictor().stream(Word(text="abc"), parts.append).length == 3
    assert parts == []
    with pytest.raises(InvalidInputError):
        predictor().stream(Word(text="odd"), parts.append)


def test_a_model_that_fails_while_it_writes_gives_a_typed_error_without_its_details() -> None:
    parts: list[str] = []
    with pytest.raises(ModelFailedError) as caught:
        spelling().stream(Word(text="poison"), parts.append)
    assert parts == ["p", "o"]
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("where", ["check", "send"])
def test_a_caller_who_is_gone_ends_the_work_before_the_next_step(where: str) -> None:
    p, parts = spelling(), []

    def gone(*_: object) -> None:
        if len(parts) == 3:
            raise RequestCancelledError("the caller went away")

    def send(piece: str) -> None:
        parts.append(piece)
        if where == "send":
            gone()

    with pytest.raises(RequestCancelledError):
        p.stream(Word(text="a long word"), send, check=gone if where == "check" else lambda: None)
    assert parts == ["a", " ", "l"]
    assert p.model.runs == 3  # type: ignore[attr-defined]
    assert p.model.let_go == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("gives", ["text", 5, Word(text="a")])
def test_a_plugin_that_returns_no_output_is_told_so(gives: object) -> None:
    p = spelling()
    p.model.gives = gives  # type: ignore[attr-defined]
    with pytest.raises(PluginError, match="`stream` of a model of task 'counting'"):
        p.stream(Word(text="abc"), lambda _: None)


def test_a_model_that_says_it_streams_and_can_not_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CountingModel, "streams", True)
    with pytest.raises(UnsupportedError, match="CountingModel answers as a whole"):
        predictor().stream(Word(text="abc"), lambda _: None)
