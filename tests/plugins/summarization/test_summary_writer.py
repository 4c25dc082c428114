"""What a model that writes gives: beams, lengths, streams, the same alone and in a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taskloom.core.errors import InvalidInputError, NotFoundError, RequestCancelledError, UnsupportedError
from taskloom.core.predictor import Predictor
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.store import ModelStore
from taskloom.core.task import Example, SharedParts
from taskloom.core.testing.conformance import publish
from taskloom.plugins.runtimes.torch import TorchRuntime
from taskloom.plugins.tasks.summarization.plugin import SummarizationTask
from taskloom.plugins.tasks.summarization.schema import NEWS, SummarizationInput, SummarizationParams
from taskloom.plugins.tasks.summarization.streaming import WordPieces
from taskloom.plugins.tasks.summarization.writing import SummaryWriter

INPUTS = [SummarizationInput(document=text) for text in ("the city buys buses", "我的银行卡" * 3, "a b c " * 60, NEWS[:90])]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"num_beams": 3, "min_tokens": 8},
    {"num_beams": 2, "length_penalty": -2.0},
    {"no_repeat_ngram_size": 2, "max_tokens": 17},
    {"max_characters": 7},
]


def ready(model: Any) -> Predictor[Any, Any, Any]:
    runtime = TorchRuntime()
    plan = runtime.plan(RuntimeConfig(precision="fp32", device="cpu", threads=1))
    return Predictor(SummarizationTask(), model, runtime.load(model, None, plan))


@pytest.fixture(scope="module", params=["t5", "bart"])
def predictor(request: pytest.FixtureRequest, writer_checkpoint: Callable[..., str]) -> Predictor[Any, Any, Any]:
    return ready(SummaryWriter.import_checkpoint(writer_checkpoint(request.param), max_tokens=24))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_requests_in_a_batch_are_answered_as_if_alone(predictor: Predictor[Any, Any, Any], settings: dict[str, Any]) -> None:
    mixed = [SummarizationParams(**settings), SummarizationParams()] * 2
    together = predictor.predict(INPUTS, mixed)
    assert together == [predictor.predict_one(item, params) for item, params in zip(INPUTS, mixed, strict=True)]
    assert [answer.truncated for answer in together] == [False, False, True, False]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_stream_gives_the_answer_piece_by_piece(predictor: Predictor[Any, Any, Any], settings: dict[str, Any]) -> None:
    for item in INPUTS:
        pieces: list[str] = []
        params = SummarizationParams(**settings)
        answer = predictor.stream(item, pieces.append, params)
        assert answer == predictor.predict_one(item, params)
        assert "".join(pieces) == answer.summary


def test_a_stream_takes_the_device_for_some_tokens_at_a_time(predictor: Predictor[Any, Any, Any]) -> None:
    turns: list[int] = []
    params = SummarizationParams(min_tokens=20, max_tokens=20)
    predictor.stream(INPUTS[0], lambda _: None, params, check=lambda: turns.append(1))
    assert len(turns) == 5


def test_a_reader_who_leaves_ends_the_work(predictor: Predictor[Any, Any, Any]) -> None:
    turns: list[int] = []

    def leave() -> None:
        turns.append(1)
        if len(turns) == 2:
            raise RequestCancelledError("gone")

    with pytest.raises(RequestCancelledError):
        predictor.stream(INPUTS[0], lambda _: None, SummarizationParams(min_tokens=20), check=leave)
    assert len(turns) == 2


def written(predictor: Predictor[Any, Any, Any], **params: Any) -> list[int]:
    model = predictor.model
    outputs = predictor.executor.run(model.prepare(INPUTS[:1], [SummarizationParams(**params)]))
    tokens: list[int] = outputs["tokens"].tolist()
    return tokens


def test_lengths_are_kept(predictor: Predictor[Any, Any, Any]) -> None:
    """BART's forced first and last tokens are special and count among those that it writes."""
    assert 13 <= len(written(predictor, min_tokens=15, max_tokens=15)) <= 15
    assert len(written(predictor, max_tokens=5)) <= 5
    assert len(written(predictor, min_tokens=30)) >= 28


def test_no_run_of_tokens_is_repeated(predictor: Predictor[Any, Any, Any]) -> None:
    tokens = written(predictor, no_repeat_ngram_size=1, min_tokens=20)
    assert len(set(tokens)) == len(tokens)


def test_more_beams_find_a_likelier_summary(predictor: Predictor[Any, Any, Any]) -> None:
    def likelihood(tokens: list[int]) -> float:
        model = predictor.model
        batch = model.encode(INPUTS[:1])
        first = [0] if model.module.config.model_type == "bart" else []
        labels = torch.tensor([[*first, *tokens]])
        with torch.inference_mode():
            return -float(model.module(input_ids=batch["input_ids"][None], labels=labels).loss) * labels.shape[1]

    same = {"min_tokens": 10, "max_tokens": 10, "length_penalty": 0.0}
    greedy, searched = written(predictor, **same, num_beams=1), written(predictor, **same, num_beams=8)
    assert likelihood(searched) >= likelihood(greedy) - 1e-4


@pytest.mark.parametrize("name", ["max_sentences", "redundancy_penalty", "shorten"])
def test_settings_of_models_that_choose_are_refused(predictor: Predictor[Any, Any, Any], name: str) -> None:
    with pytest.raises(InvalidInputError, match=f"`{name}` is for models that choose") as caught:
        predictor.predict_one(INPUTS[0], SummarizationParams(**{name: 1}))
    assert caught.value.field == f"params.{name}"


def test_more_than_the_decoder_can_write_is_refused(writer_checkpoint: Callable[..., str]) -> None:
    model = SummaryWriter.import_checkpoint(writer_checkpoint("bart"))
    with pytest.raises(InvalidInputError, match="this model writes at most 127"):
        model.prepare(INPUTS[:1], [SummarizationParams(max_tokens=128)])


def test_the_prefix_is_read_with_the_document(writer_checkpoint: Callable[..., str]) -> None:
    plain, told = (SummaryWriter.import_checkpoint(writer_checkpoint("t5"), prefix=prefix) for prefix in ("", "the "))
    assert len(told.encode(INPUTS[:1])["input_ids"]) == len(plain.encode(INPUTS[:1])["input_ids"]) + 4


def test_an_artifact_needs_nothing_else(writer_checkpoint: Callable[..., str], tmp_path: Path) -> None:
    model = SummaryWriter.import_checkpoint(writer_checkpoint("t5"), prefix="the ", max_tokens=9)
    artifact = publish(SummarizationTask(), model, ModelStore([tmp_path]))
    assert artifact.manifest.config["kind"] == "seq2seq"
    again = SummarizationTask().load(artifact, SharedParts())
    assert ready(again).predict(INPUTS) == ready(model).predict(INPUTS)


def test_a_checkpoint_that_does_not_write_is_refused(tiny_bert: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="no encoder-decoder checkpoint"):
        SummaryWriter.import_checkpoint(tiny_bert)
    with pytest.raises(NotFoundError, match="no backbone"):
        SummaryWriter.import_checkpoint(str(tmp_path / "nowhere"))


def test_a_few_steps_learn_a_summary(writer_checkpoint: Callable[..., str]) -> None:
    model = SummaryWriter.import_checkpoint(writer_checkpoint("t5", seed=3), max_tokens=24)
    rows = [Example(input=item, target=(text,)) for item, text in zip(INPUTS[:2], ("city buys", "银行卡"), strict=True)]
    optimizer = torch.optim.AdamW(model.module.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        model.loss(model.collate(rows)).backward()
        optimizer.step()
    model.module.eval()
    assert [answer.summary for answer in ready(model).predict(INPUTS[:2])] == ["city buys", "银行卡"]


# -- pieces of text -------------------------------------------------------------------------------------------------------


def from_bytes(tokens: Sequence[int]) -> str:
    return bytes(tokens).decode("utf-8", errors="replace")


@settings(deadline=None, max_examples=60)
@given(st.text(alphabet="ab  ,.中文。👩\u200d\u0301é", max_size=60), st.sampled_from([None, 1, 5, 20]))
def test_pieces_are_whole_characters_and_make_the_text(text: str, longest: int | None) -> None:
    tokens = list(text.encode())
    words = WordPieces(from_bytes, longest)
    pieces = [words.more(tokens[:i]) for i in range(1, len(tokens) + 1)]
    assert not any("\ufffd" in piece for piece in pieces)
    pieces.append(words.rest(tokens))
    assert "".join(pieces) == words.whole(tokens)
    assert longest is None or len(words.whole(tokens)) <= longest


def test_pieces_come_as_soon_as_a_word_is_over() -> None:
    words = WordPieces(from_bytes)
    tokens = "the city. 买车".encode()
    found = [words.more(tokens[:i]) for i in range(1, len(tokens) + 1)]
    assert [piece for piece in found if piece] == ["the", " city.", " 买"]
    assert words.rest(tokens) == "车"


def test_what_is_over_the_limit_ends_the_writing() -> None:
    words = WordPieces(from_bytes, longest=6)
    assert not words.full
    assert [words.more(b"one"), words.more(b"one two "), words.more(b"one two three ")] == ["", "one", ""]
    assert words.full
    assert words.rest(b"one two three ") == ""
