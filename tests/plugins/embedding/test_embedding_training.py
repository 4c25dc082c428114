"""Training by contrast: what counts as a negative, what the loss is worth, and that a model learns its pairs."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from taskloom.core.errors import ConfigError, DataError
from taskloom.core.predictor import Predictor
from taskloom.core.task import Example, TrainRun
from taskloom.plugins.tasks.embedding.contrast import Contrast, contrastive_loss
from taskloom.plugins.tasks.embedding.model import EmbeddingModel
from taskloom.plugins.tasks.embedding.plugin import EmbeddingTask
from taskloom.plugins.tasks.embedding.schema import EmbeddingInput, TrainConfig
from taskloom.plugins.tasks.embedding.train import split_by_passage

Row = Callable[..., Example[EmbeddingInput]]
WORDS = ["where", "is", "my", "card", "lost", "order", "refund", "hello", "the", "a"]
QUICK: dict[str, Any] = {"precision": "fp32", "device": "cpu", "ema_decay": 0.0, "early_stopping_patience": 0}


def loss_of(cosines: list[list[float]], contrast: Contrast, temperature: float = 0.5, symmetric: bool = False) -> float:
    """The loss of queries and passages whose cosines these are, to three digits: passages are the axes of a space."""
    matrix = torch.tensor(cosines)
    rest = (1 - matrix.square().sum(1, keepdim=True)).clamp(min=0).sqrt()
    queries = torch.cat([matrix, rest], 1)
    passages = torch.eye(matrix.shape[1] + 1)[: matrix.shape[1]]
    return float(contrastive_loss(queries, passages, contrast, temperature=temperature, symmetric=symmetric))


def chosen(logits: list[float], right: int) -> float:
    """-log of the share of one among several."""
    return math.log(sum(math.exp(value) for value in logits)) - logits[right]


def test_the_loss_is_that_of_choosing_among_the_batch(row: Row) -> None:
    contrast = Contrast.of([row("q1", "p1", negatives=("n",)), row("q2", "p2")])
    cosines = [[0.8, 0.2, 0.1], [0.3, 0.4, 0.6]]  # p1, n, p2
    forth = (chosen([1.6, 0.4, 0.2], 0) + chosen([0.6, 0.8, 1.2], 2)) / 2
    assert loss_of(cosines, contrast) == pytest.approx(forth, abs=1e-5)
    back = (chosen([1.6, 0.6], 0) + chosen([0.2, 1.2], 1)) / 2
    assert loss_of(cosines, contrast, symmetric=True) == pytest.approx((forth + back) / 2, abs=1e-5)


def test_a_passage_that_is_right_for_a_query_is_no_negative_of_it(row: Row) -> None:
    """Two questions on one paragraph, and one question with two paragraphs, meet in a batch."""
    same_passage = Contrast.of([row("q1", "p"), row("q2", "p"), row("q3", "o")])
    cosines = [[0.6, 0.6, 0.1], [0.5, 0.5, 0.2], [0.1, 0.1, 0.7]]
    # The repeated column counts once for q3, and for q1 and q2 not at all.
    forth = (chosen([1.2, 0.2], 0) + chosen([1.0, 0.4], 0) + chosen([0.2, 1.4], 1)) / 3
    assert loss_of(cosines, same_passage) == pytest.approx(forth, abs=1e-5)
    back = (chosen([1.2, 0.2], 0) + chosen([1.0, 0.2], 0) + chosen([0.2, 0.4, 1.4], 2)) / 3
    assert loss_of(cosines, same_passage, symmetric=True) == pytest.approx((forth + back) / 2, abs=1e-5)
    same_query = Contrast.of([row("q", "p", "o"), row("q", "o", "p")])
    assert loss_of([[0.6, 0.5], [0.5, 0.6]], same_query, symmetric=True) == pytest.approx(0, abs=1e-6)
    # The other row of q is in another batch.
    known_from_the_file = Contrast.of([row("q", "p", "o"), row("r", "o")])
    assert loss_of([[0.6, 0.5], [0.5, 0.6]], known_from_the_file) == pytest.approx(chosen([1.0, 1.2], 1) / 2, abs=1e-5)


def test_shorter_vectors_are_trained_along(row: Row) -> None:
    torch.manual_seed(0)
    queries, passages = torch.nn.functional.normalize(torch.randn(2, 2, 8), dim=-1)
    contrast = Contrast.of([row("q1", "p1"), row("q2", "p2")])
    settings: dict[str, Any] = {"temperature": 0.5, "symmetric": True}
    whole = contrastive_loss(queries, passages, contrast, **settings)
    cut = contrastive_loss(queries[:, :4], passages[:, :4], contrast, **settings)
    assert float(contrastive_loss(queries, passages, contrast, sizes=(4,), **settings)) == pytest.approx(
        float((whole + cut) / 2)
    )


def test_a_batch_has_each_rows_texts_together(tiny_bert: str, row: Row) -> None:
    """Who keeps what a teacher said to a row counts on it."""
    model = EmbeddingModel.build(backbone=tiny_bert, query_prefix="where: ")
    model.module.eval()
    rows = [row("my card", "lost card", negatives=("hello", "a")), row("order", "the order")]
    with torch.inference_mode():
        outputs = model.forward(model.collate(rows))
        texts = [("my card", "query"), ("lost card", "passage"), ("hello", "passage"), ("a", "passage")]
        texts += [("order", "query"), ("the order", "passage")]
        asked = [EmbeddingInput.model_validate({"text": text, "kind": kind}) for text, kind in texts]
        expected = model.forward(model.encode(asked))["vectors"]
    torch.testing.assert_close(outputs["vectors"], expected, atol=1e-5, rtol=0)
    target = model.distillation_targets(outputs)["vectors"]
    assert target.kind == "vectors"
    assert target.sizes.tolist() == [4, 2]


@pytest.mark.parametrize("adapter", [{"r": 8, "dropout": 0.0}, None])
def test_a_few_steps_learn_which_passage_is_whose(
    adapter: Any,
    checkpoint: Callable[..., Path],
    row: Row,
    tmp_path: Path,
    as_predictor: Callable[[EmbeddingModel], Predictor[Any, Any, Any]],
) -> None:
    """Which passage belongs to which letter is chance, so only training can tell."""
    task = EmbeddingTask()
    # The vectors of random weights are nearly the same: dropout would drown what there is to learn from.
    backbone = str(checkpoint("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    rows = [row(f"{letter} ?", f"{word} .", line=i) for i, (letter, word) in enumerate(zip("zyxwvu", WORDS, strict=False), 1)]
    settings = {"epochs": 40, "batch_size": 6, "learning_rate": 5e-3, "validation_fraction": 0.0, "adapter": adapter}
    config = TrainConfig.model_validate({"backbone": backbone, **QUICK, **settings})
    before = task.evaluate(as_predictor(EmbeddingModel.build(backbone=backbone)), rows)
    trained = task.train(config, rows, [], TrainRun(tmp_path, show_progress=False))
    assert isinstance(trained.model, EmbeddingModel)
    after = task.evaluate(as_predictor(trained.model), rows)
    assert before.metrics["recall@1"] < 0.5
    assert after.metrics["recall@1"] > 0.8
    assert trained.history[-1]["loss"] < trained.history[0]["loss"] / 2
    assert trained.model.saved.form == ("full" if adapter is None else "adapter")


def test_no_passage_is_trained_on_and_held_out(row: Row) -> None:
    rows = [row(f"q{i}", f"p{i // 3}") for i in range(60)] + [row("both", "p1", "p2"), row("both", "p2", "p1")]
    kept, held = split_by_passage(rows, TrainConfig(validation_fraction=0.2))
    assert len(held) in {12, 13, 14}
    assert {text for row in kept for text in row.target.positives}.isdisjoint(
        text for row in held for text in row.target.positives
    )
    assert len(kept) + len(held) >= 60


def test_rows_held_out_choose_the_epoch(tiny_bert: str, row: Row, tmp_path: Path) -> None:
    rows = [row(f"{word} ?", f"the {word}") for word in WORDS]
    config = TrainConfig.model_validate({"backbone": tiny_bert, **QUICK, "epochs": 1, "validation_fraction": 0.3})
    trained = EmbeddingTask().train(config, rows, [], TrainRun(tmp_path, show_progress=False))
    assert trained.facts["validation_rows"] == 3
    assert 0 < trained.history[0]["ndcg@10"] <= 1


def test_a_pretrained_model_takes_no_rows_and_others_need_two_passages(tiny_bert: str, row: Row, tmp_path: Path) -> None:
    task, run = EmbeddingTask(), TrainRun(tmp_path, show_progress=False)
    taken = TrainConfig(backbone=tiny_bert, pretrained=True)
    trained = task.train(taken, [], [], run)
    assert not any(parameter.requires_grad for parameter in trained.model.module.parameters())
    with pytest.raises(ConfigError, match="trains nothing, and there are 1 rows"):
        task.train(taken, [row("q", "p")], [], run)
    with pytest.raises(DataError, match="fewer than two passages"):
        task.train(TrainConfig(backbone=tiny_bert), [row("q", "p"), row("r", "p")], [], run)
