"""Training windows, what is learnt from them, and the report."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from taskloom.core.errors import DataError, InvalidInputError
from taskloom.core.predictor import Predictor
from taskloom.core.task import Example, TrainRun
from taskloom.plugins.tasks.qa.metrics import answer_length, evaluate, question_word
from taskloom.plugins.tasks.qa.model import QaModel
from taskloom.plugins.tasks.qa.reading import read_examples
from taskloom.plugins.tasks.qa.schema import GoldAnswer, QaInput, QaParams, QaTarget, TrainConfig
from taskloom.plugins.tasks.qa.train import split_by_context, train
from taskloom.plugins.tasks.qa.windows import TrainingWindows, draw_windows, learnable

FILLER = ["the", "card", "is", "lost", "hello", "refund", "where"]


def row(context: str, *answers: str, question: str = "where?", domain: str = "") -> Example[QaInput]:
    golds = tuple(GoldAnswer(text=a, start=context.index(a), end=context.index(a) + len(a)) for a in answers)
    return Example(input=QaInput(question=question, context=context), target=QaTarget(answers=golds, domain=domain))


def orders(count: int, words: int = 12) -> list[Example[QaInput]]:
    """Rows whose answer is the word after "order", wherever that is."""
    source = random.Random(5)
    found = []
    for number in range(count):
        text = source.choices(FILLER, k=words)
        text.insert(source.randrange(len(text)), f"order {'abcdefghij'[number % 10]}")
        context = " ".join(text)
        start = context.index("order ") + 6
        golds = (GoldAnswer(text=context[start], start=start, end=start + 1),)
        found.append(Example(input=QaInput(question="order?", context=context), target=QaTarget(answers=golds)))
    return found


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_windows_hold_the_answer_or_none_of_it(tiny_bert: str, share: float) -> None:
    read = QaModel.build(backbone=tiny_bert).windows
    context = " ".join([*FILLER * 5, "my order", *FILLER * 6])
    rows = [row(context, "my order", "order", "order")]
    how = TrainingWindows(length=24, no_answer_share=share)
    torch.manual_seed(1)
    places = set()
    for _ in range(20):
        batch = draw_windows(read, rows, how)
        assert int(batch["lengths"][0]) == len(batch["input_ids"]) <= 24
        assert float(batch["gold_weight"].sum()) == pytest.approx(1.0)
        if share:
            assert batch["gold_reach"].tolist() == [-1]
            offsets = batch["offsets"][batch["offsets"][:, 0] >= 0]
            assert not any("order" in context[start:end] for start, end in offsets.tolist())
            continue
        found = {}
        for token, reach, weight in zip(batch["gold_token"], batch["gold_reach"], batch["gold_weight"], strict=True):
            start, end = batch["offsets"][token, 0], batch["offsets"][token + reach, 1]
            found[context[start:end]] = float(weight)
        assert found == pytest.approx({"my order": 1 / 3, "order": 2 / 3})
        places.add(int(batch["gold_token"][0]))
    assert share or len(places) > 1, "the answer always lies at the same place of its window"


def test_rows_without_a_window_are_left_out_and_named(tiny_bert: str) -> None:
    read = QaModel.build(backbone=tiny_bert).windows
    how = TrainingWindows(length=24, no_answer_share=0.5, max_answer_tokens=3)
    long_answer = row("the card is lost hello refund", "the card is lost hello")
    assert not learnable(read, long_answer, how)
    with pytest.raises(DataError, match="max_answer_tokens"):
        draw_windows(read, [long_answer], how)
    # Longer than the 8 tokens that windows share, and so placed that both windows of the context hold a part of it alone.
    split = " ".join([*["the"] * 9, *"abcdefghijklm", *["the"] * 8])
    wide = TrainingWindows(length=24, max_answer_tokens=40)
    assert not learnable(read, row(split, "a b c d e f g h i j k l m"), wide)
    assert learnable(read, row(split, "a b c d"), wide)
    assert learnable(read, row("the card is lost hello refund"), how)
    assert learnable(read, row("the card is lost", "card is"), how)
    model = QaModel.build(backbone=tiny_bert)
    model.training = how
    assert [model.can_learn(given) for given in (long_answer, row("the card is lost", "card is"))] == [False, True]


def test_the_loss_is_the_likelihood_of_span_start_and_end(tiny_bert: str) -> None:
    torch.manual_seed(1)
    model = QaModel.build(backbone=tiny_bert, dropout=0.0, max_length=64, overlap=16)
    torch.nn.init.normal_(model.module.head.outer.weight, std=1.0)
    model.module.eval()
    model.training = TrainingWindows(length=64, no_answer_share=0.0, max_answer_tokens=10)
    example = row("the card is lost hello refund", "card is")
    with torch.inference_mode():
        loss = float(model.loss(model.collate([example])))
        outputs = model.forward(model.encode([example.input]))
    logits, bias = outputs["logits"].double(), outputs["length_bias"].detach().double()
    inside = [i for i, (start, _) in enumerate(outputs["offsets"].tolist()) if start >= 0]
    first, last = inside[1], inside[2]
    spans = {(i, j): logits[i, 0] + logits[j, 1] + bias[j - i] for i in inside for j in inside if 0 <= j - i < 10}
    null = logits[0].sum()

    def surprise(options: list[torch.Tensor], true: torch.Tensor) -> float:
        return float(torch.stack(options).logsumexp(0) - true)

    expected = surprise([*spans.values(), null], spans[first, last])
    expected += 0.5 * surprise([*logits[inside, 0], logits[0, 0]], logits[first, 0])
    expected += 0.5 * surprise([*logits[inside, 1], logits[0, 1]], logits[last, 1])
    assert loss == pytest.approx(expected, abs=1e-4)
    answer = model.decode(outputs, [example.input], [QaParams(top_k=100, max_answer_tokens=10, no_answer_threshold=1.0)])[0]
    starts, ends = outputs["offsets"].unbind(1)
    shares = {(int(starts[i]), int(ends[j])): logit for (i, j), logit in spans.items()}
    total = torch.stack([*spans.values(), null]).logsumexp(0)
    for given in answer.answers:
        assert given.score == pytest.approx(float((shares[given.start, given.end] - total).exp()))


@pytest.fixture(scope="module")
def trained(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    config = TrainConfig(
        backbone=tiny_bert,
        adapter=None,
        head="mlp",
        dropout=0.0,
        backbone_dropout=0.0,
        max_length=48,
        overlap=12,
        train_length=24,
        epochs=12,
        batch_size=16,
        learning_rate=3e-3,
        head_learning_rate=3e-3,
        ema_decay=0.9,
        validation_fraction=0.1,
        early_stopping_patience=0,
        precision="fp32",
        device="cpu",
    )
    return train(config, orders(300, words=20), [], TrainRun(tmp_path_factory.mktemp("run"), show_progress=False))


def test_a_reader_learns_and_reads_longer_texts_than_it_was_trained_on(
    trained: Any, as_predictor: Callable[[QaModel], Predictor[Any, Any, Any]]
) -> None:
    assert trained.history[-1]["f1"] > 0.8
    predictor = as_predictor(trained.model)
    result = evaluate(predictor, orders(30, words=90))
    assert result.metrics["f1"] > 0.6
    low, high = result.intervals["f1"]
    assert low <= result.metrics["f1"] <= high


def test_without_an_answer_it_says_so(trained: Any, as_predictor: Callable[[QaModel], Predictor[Any, Any, Any]]) -> None:
    rows = [*orders(10), *(row(" ".join(FILLER * 3), question="order?") for _ in range(10))]
    result = evaluate(as_predictor(trained.model), rows)
    table = {line[0]: line[1] for line in result.tables["with and without an answer"][1:]}
    assert table["with an answer"] > 0.5
    assert table["without"] > 0.5


def test_windows_go_forward_whatever_their_length(tiny_bert: str, tmp_path: Path) -> None:
    """A question may take half of a window, and the windows that are trained on are no longer than those that are read."""
    settings = {
        "backbone": tiny_bert,
        "max_length": 24,
        "overlap": 8,
        "train_length": 96,
        "epochs": 1,
        "validation_fraction": 0,
    }
    rows = [row("the card is lost " * 6, "lost", question="where is my card order refund " * 4)] * 4
    model = train(TrainConfig(**settings), rows, [], TrainRun(tmp_path, show_progress=False)).model
    assert model.saved.overlap == 8
    with pytest.raises(ValidationError, match="at most a third of max_length"):
        TrainConfig(max_length=24, overlap=9)
    assert [TrainConfig(max_length=length).overlap for length in (24, 128, 384)] == [8, 42, 128]


def test_no_context_is_on_both_sides_of_the_split() -> None:
    rows = [row(f"card {i // 5} is lost", "card", domain="web") for i in range(200)]
    kept, held = split_by_context(rows, TrainConfig(validation_fraction=0.2))
    assert len(held) == 40
    assert not {r.input.context for r in kept} & {r.input.context for r in held}


def test_the_report_has_its_tables(
    sample: Path, reader: QaModel, as_predictor: Callable[[QaModel], Predictor[Any, Any, Any]]
) -> None:
    rows = list(read_examples(sample))
    result = evaluate(as_predictor(reader), rows)
    assert result.examples == len(rows)
    domains = {line[0]: line[-1] for line in result.tables["per domain"][1:]}
    assert sum(domains.values()) == len(rows)
    assert set(domains) == {"new_wiki", "reddit", "amazon"}
    assert sum(line[-1] for line in result.tables["per answer length"][1:]) == len(rows)
    assert "with and without an answer" not in result.tables
    assert question_word("What's it?") == "what"
    assert answer_length(row("in old York city", "old York city", "York")) == "1 word"


def test_chinese_rows_are_grouped_by_their_own_words_and_characters() -> None:
    asked = ["他为什么来？", "会议什么时候开始？", "首都是哪里，什么样？", "這本書是誰寫的？", "有多高？", "请说明原因。"]
    assert [question_word(question) for question in asked] == ["为什么", "什么时候", "哪", "谁", "多少", "other"]
    asked = [
        "许多大学在哪里？",
        "几内亚的首都是哪里？",
        "茶几是谁的？",
        "几乎什么地方都有的是什么？",
        "有几个会员国？",
        "何地出产？",
    ]
    assert [question_word(question) for question in asked] == ["哪", "哪", "谁", "什么", "多少", "哪"]
    context = "总部设在美国纽约，现有193个会员国，工作语言有六种。"
    assert answer_length(row(context, "美国纽约")) == "1-5 characters"
    assert answer_length(row(context, context)) == "21-40 characters"


def test_a_row_that_the_model_refuses_is_named(
    reader: QaModel, as_predictor: Callable[..., Predictor[Any, Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(inputs: Any) -> Any:
        raise InvalidInputError("too odd")

    monkeypatch.setattr(reader, "encode", refuse)
    with pytest.raises(DataError, match=r"question 'where\?': too odd"):
        evaluate(as_predictor(reader), [row("the card is lost", "card")])
