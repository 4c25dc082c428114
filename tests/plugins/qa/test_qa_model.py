"""The reader: right offsets, windows that don't show, probabilities, and the heads of Hugging Face checkpoints."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from taskloom.core.artifact import Manifest
from taskloom.core.errors import UnsupportedError
from taskloom.core.predictor import Predictor
from taskloom.core.store import ModelStore
from taskloom.core.task import SharedParts
from taskloom.core.testing.conformance import EDGE_TEXTS
from taskloom.plugins.backbones.settings import LoraSettings
from taskloom.plugins.tasks.qa import model as model_module
from taskloom.plugins.tasks.qa.model import QaModel
from taskloom.plugins.tasks.qa.schema import QaInput, QaOutput, QaParams

EVERYTHING = QaParams(top_k=20, no_answer_threshold=1.0)
LONG = "hello my card is lost, where is the order? refund the card. " * 12


def ask(model: QaModel, question: str, context: str, params: QaParams = EVERYTHING) -> QaOutput:
    item = QaInput(question=question, context=context)
    with torch.inference_mode():
        return model.decode(model.forward(model.encode([item])), [item], [params])[0]


SHORT_EDGES = [name for name in EDGE_TEXTS if "long" not in name]


@pytest.mark.parametrize("name", [*SHORT_EDGES, "accents", "tones", "flag"])
def test_answers_are_the_parts_of_the_context_that_they_say(reader: QaModel, name: str) -> None:
    more = {"accents": "le cafe\u0301 noir a\u0300 la carte", "tones": "hello 👍🏽 card", "flag": "银行卡🏳️‍🌈在哪里"}
    context = {**EDGE_TEXTS, **more}[name]
    try:
        item = QaInput(question="where is my card?", context=context)
    except ValueError:
        assert name in {"empty", "blank", "only control characters", "lone surrogate"}
        return
    for answer in ask(reader, item.question, context).answers:
        assert context[answer.start : answer.end] == answer.text
        assert answer.text.strip() == answer.text
        assert answer.end == len(context) or context[answer.end] not in "\u0301\u0300\u036b\u0343\u200d\ufe0f\U0001f3fd"


def test_chinese_offsets_count_characters(reader: QaModel) -> None:
    context = "👍🏽你好,我的银行卡在哪里"
    answers = ask(reader, "卡", context).answers
    assert answers
    for answer in answers:
        assert context[answer.start : answer.end] == answer.text


def test_a_question_is_read_in_the_script_of_its_context(reader: QaModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    windows = reader.parts.tokenizer.windows

    def watched(contexts: Sequence[str], questions: Sequence[str], **given: Any) -> Any:
        seen.extend(questions)
        return windows(contexts, questions, **given)

    monkeypatch.setattr(reader.parts.tokenizer, "windows", watched)
    for question, context in (
        ("银行卡在哪里?", "請問我的銀行卡在哪裡"),
        ("銀行卡在哪裡?", "请问我的银行卡在哪里"),
        ("銀行卡在哪裡?", "請問我的銀行卡在哪裡"),
        ("銀行卡在哪裡?", "where is my card"),
    ):
        ask(reader, question, context)
    assert seen == ["銀行卡在哪裏?", "银行卡在哪里?", "銀行卡在哪裡?", "銀行卡在哪裡?"]


def test_a_long_context_is_read_to_its_end_and_probabilities_make_one(reader: QaModel) -> None:
    found = ask(reader, "where?", LONG, QaParams(top_k=100, no_answer_threshold=1.0, max_answer_tokens=1))
    assert len(reader.encode([QaInput(question="where?", context=LONG)])["lengths"]) > 3
    # Answers of one token can't be near-duplicates of one another, so 100 of them are the 100 best spans of all windows.
    assert max(answer.end for answer in found.answers) > len(LONG) - 60
    assert len({(answer.start, answer.end) for answer in found.answers}) == 100
    short = "hello my card is lost"
    few = ask(reader, "where?", short, QaParams(top_k=100, no_answer_threshold=1.0, max_answer_tokens=1))
    assert sum(answer.score for answer in few.answers) + few.no_answer_score == pytest.approx(1.0, abs=1e-6)


def test_windows_of_one_input_are_normalised_together_and_apart_from_other_inputs(reader: QaModel) -> None:
    inputs = [QaInput(question="where?", context=text) for text in (LONG, "hello", LONG[::-1], "my card")]
    with torch.inference_mode():
        together = reader.decode(reader.forward(reader.encode(inputs)), inputs, [EVERYTHING] * len(inputs))
    for item, answer in zip(inputs, together, strict=True):
        alone = ask(reader, item.question, item.context)
        assert [(a.start, a.end) for a in alone.answers] == [(a.start, a.end) for a in answer.answers]
        assert [a.score for a in alone.answers] == pytest.approx([a.score for a in answer.answers], abs=1e-5)


def test_an_answer_is_found_wherever_it_lies(reader: QaModel) -> None:
    """A head that looks for one rare word finds it at every place of a long context, by whichever window has it."""
    chosen = reader.parts.tokenizer.processor.convert_tokens_to_ids("a")

    class Finder(torch.nn.Module):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return torch.where(ids == chosen, 5.0, -5.0).unsqueeze(1).expand(-1, 2)

    words = ["the", "card", "is", "lost"] * 30
    for place in random.Random(1).sample(range(len(words)), 12):
        context = " ".join([*words[:place], "a", *words[place:]])
        item = QaInput(question="where?", context=context)
        batch = reader.encode([item])
        ids = batch["input_ids"]
        reader.module.head = Finder()
        with torch.inference_mode():
            best = reader.decode(reader.forward(batch), [item], [QaParams()])[0].answers[0]
        assert best.text == "a"
        assert best.start == context.index(" a ") + 1 if 0 < place < len(words) else True
        assert best.score > 0.9


def test_a_model_that_sees_no_answer_gives_none(reader: QaModel) -> None:
    class Null(torch.nn.Module):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return torch.where(offsets[:, :1] < 0, 5.0, -5.0).expand(-1, 2)

    item = QaInput(question="where?", context=LONG)
    batch = reader.encode([item])
    offsets = batch["offsets"]
    reader.module.head = Null()
    outputs = reader.forward(batch)
    silent = reader.decode(outputs, [item], [QaParams()])[0]
    assert silent.answers == ()
    assert silent.no_answer_score > 0.9
    assert reader.decode(outputs, [item], [QaParams(no_answer_threshold=1.0)])[0].answers


def test_params_limit_what_is_returned(reader: QaModel) -> None:
    three = ask(reader, "where?", LONG, QaParams(top_k=3, no_answer_threshold=1.0))
    assert len(three.answers) == 3
    scores = [answer.score for answer in three.answers]
    cut = ask(reader, "where?", LONG, QaParams(top_k=3, threshold=max(scores), no_answer_threshold=1.0))
    assert cut.answers
    assert all(answer.score >= max(scores) for answer in cut.answers)
    assert not ask(reader, "where?", LONG, QaParams(threshold=1.0, no_answer_threshold=1.0)).answers
    short = ask(reader, "where?", LONG, QaParams(top_k=5, max_answer_tokens=2, no_answer_threshold=1.0))
    assert all(len(answer.text.split()) <= 2 for answer in short.answers)


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta"])
def test_a_hugging_face_reader_gives_its_own_logits(kind: str, qa_checkpoint: Callable[[str], str]) -> None:
    from transformers import AutoModelForQuestionAnswering

    folder = qa_checkpoint(kind)
    model = QaModel.import_checkpoint(folder)
    model.module.eval()
    item = QaInput(question="where is my card?", context="hello, my card is lost.")
    batch = model.encode([item])
    theirs = AutoModelForQuestionAnswering.from_pretrained(folder, dtype=torch.float32).eval()
    types = {} if kind == "distilbert" else {"token_type_ids": batch["token_type_ids"].unsqueeze(0)}
    with torch.inference_mode():
        ours = model.forward(batch)["logits"]
        expected = theirs(input_ids=batch["input_ids"].unsqueeze(0), **types)
    assert torch.allclose(ours[:, 0], expected.start_logits[0], atol=1e-5)
    assert torch.allclose(ours[:, 1], expected.end_logits[0], atol=1e-5)


def test_a_checkpoint_with_another_head_says_so(checkpoint: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads that see the whole sequence, as XLNet's, can't be taken over; a classifier's stands for them here."""
    monkeypatch.setattr(model_module, "AUTO_CLASS", "AutoModelForSequenceClassification")
    with pytest.raises(UnsupportedError, match="start and end logits"):
        QaModel.import_checkpoint(str(checkpoint("bert", head=["yes", "no"])))


def test_models_on_one_backbone_answer_as_each_does_alone(
    tiny_bert: str, tmp_path: Any, as_predictor: Callable[..., Predictor[Any, Any, Any]]
) -> None:
    store = ModelStore([tmp_path])
    item = QaInput(question="where is my card?", context=LONG)
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = QaModel.build(backbone=tiny_bert, adapter=LoraSettings(r=2), max_length=48, overlap=16)
        for name, parameter in model.module.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        with store.draft("reader") as folder:
            config = model.save(folder)
            manifest = Manifest(
                model="reader", task="qa", created="2026-01-01T00:00:00Z", config=config, backbone=model.backbone
            )
            store.publish(folder, manifest)
    digest = store.resolve("reader@1").manifest.config["backbone_digest"]
    shared = SharedParts([digest])
    for version in ("1", "2"):
        artifact = store.resolve(f"reader@{version}")
        branch = QaModel.load(artifact, shared)
        assert branch.branch is not None
        answers = as_predictor(branch).predict_one(item, EVERYTHING)
        alone = as_predictor(QaModel.load(artifact, SharedParts())).predict_one(item, EVERYTHING)
        assert [a.score for a in answers.answers] == pytest.approx([a.score for a in alone.answers], abs=1e-4)
