"""Teachers and students by name: whose answers are imitated, by whom, and what can't be compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from optimizer_steps import Steps, published, shuffled_words

from taskloom.core.anatomy import SoftTarget
from taskloom.core.errors import ConfigError, NotFoundError, UnsupportedError
from taskloom.core.task import Example, SharedParts
from taskloom.plugins.optimizers.distill.panel import averaged
from taskloom.plugins.tasks.classification.model import ClassificationModel
from taskloom.plugins.tasks.embedding.model import EmbeddingModel
from taskloom.plugins.tasks.embedding.schema import EmbeddingInput, EmbeddingTarget
from taskloom.plugins.tasks.qa.model import QaModel

QUICK: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 16,
    "learning_rate": 3e-3,
    "head_learning_rate": 3e-3,
    "ema_decay": 0.0,
    "early_stopping_patience": 0,
    "precision": "fp32",
    "device": "cpu",
}


def shares(model: Any, rows: Sequence[Example[Any]], temperature: float = 1.0) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model.forward(model.encode([row.input for row in rows]))["logits"]
    return (logits / temperature).softmax(-1)


def distance(own: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((wanted * (wanted.log() - own.log())).sum(-1).mean())


def classifier(backbone: str, seed: int, labels: Sequence[str] = ("one", "two", "three")) -> ClassificationModel:
    torch.manual_seed(seed)
    model = ClassificationModel.build(labels, backbone=backbone, dropout=0.0)
    for parameter in model.module.head.parameters():
        torch.nn.init.normal_(parameter, std=1.0)
    model.module.eval()
    return model


def add(steps: Steps, name: str, model: Any, task: str = "classification") -> None:
    published(task, model, steps.parent.folder.parent.parent, name)


# -- several teachers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_what_teachers_hold_for_likely_is_averaged_not_their_logits(temperature: float) -> None:
    one, two = torch.tensor([[4.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, -30.0]])
    said = averaged([SoftTarget(one), SoftTarget(two)], (0.25, 0.75), temperature)
    expected = 0.25 * (one / temperature).softmax(-1) + 0.75 * (two / temperature).softmax(-1)
    assert torch.allclose((said.values / temperature).softmax(-1), expected, atol=1e-6)
    flags = averaged([SoftTarget(one, "flags"), SoftTarget(two, "flags")], (0.25, 0.75), temperature)
    expected = 0.25 * (one / temperature).sigmoid() + 0.75 * (two / temperature).sigmoid()
    assert torch.allclose((flags.values / temperature).sigmoid(), expected, atol=1e-6)
    sizes = torch.tensor([2, 1])
    rows = [SoftTarget(torch.tensor(x), "choices", sizes) for x in ([[2.0], [0.0], [5.0]], [[0.0], [1.0], [-5.0]])]
    chosen = averaged(rows, (0.5, 0.5), temperature).values / temperature
    expected = sum((row.values[:2] / temperature).softmax(0) for row in rows) / 2
    assert torch.allclose(chosen[:2].softmax(0), expected, atol=1e-6)
    assert torch.allclose(chosen[2:].exp(), torch.ones(1, 1)), "a choice among one is certain, whatever its logit"


@pytest.fixture
def pair(steps: Callable[..., Steps], tiny_bert: str) -> Steps:
    """Chains on `small`, beside which there is `other`, which holds the third label for likely whatever it reads."""
    taught = steps("taught")
    other = classifier(tiny_bert, 7)
    last = next(part for part in other.module.head.modules() if isinstance(part, torch.nn.Linear))
    with torch.no_grad():
        last.bias[2] += 4
    add(taught, "other", other)
    return taught


def teachers_of(taught: Steps, temperature: float) -> list[torch.Tensor]:
    task = taught.registry.tasks.get("classification")
    models = [task.load(taught.store.resolve(name), SharedParts()) for name in ("small", "other")]
    return [shares(model, taught.held, temperature) for model in models]


FAR = {**QUICK, "batch_size": 4, "head_learning_rate": 0.1, "alpha": 0.0}


def test_a_student_of_two_is_like_the_mean_of_them(pair: Steps) -> None:
    chain = pair.run("distill", layers=1, teachers=["small@1", "other"], teacher_weights=[1.0, 3.0], **FAR)
    facts = chain.steps[0].facts
    assert list(facts["teachers"]) == ["small@1", "other@1"]
    assert facts["hidden_weight"] == 0.0, "whose states?"
    one, other = teachers_of(pair, 2.0)
    own = shares(chain.model, pair.held, 2.0)
    assert distance(own, 0.25 * one + 0.75 * other) < 0.2 * min(distance(own, one), distance(own, other))
    assert distance(own, other) < 0.5 * distance(own, one), "the weights count"
    with pytest.raises(ConfigError, match="1 numbers for 2 teachers"):
        pair.run("distill", teachers=["small", "other"], teacher_weights=[1.0], **QUICK)


def test_a_teacher_by_name_takes_the_parents_place(pair: Steps) -> None:
    chain = pair.run("distill", teachers=["other"], **FAR)
    one, other = teachers_of(pair, 1.0)
    assert distance(shares(chain.model, pair.held), other) < 0.2 * distance(one, other)
    assert chain.steps[0].facts["hidden_weight"] == 1.0, "it reads the same tokens at the same width"


def test_who_can_not_teach_is_refused(steps: Callable[..., Steps], tiny_bert: str) -> None:
    taught = steps("taught")
    add(taught, "fewer", classifier(tiny_bert, 1, ("one", "two")))
    add(taught, "mixed", classifier(tiny_bert, 1, ("one", "three", "two")))
    add(taught, "reader", QaModel.build(backbone=tiny_bert), "qa")
    with pytest.raises(NotFoundError, match="nobody"):
        taught.run("distill", teachers=["nobody"], **QUICK)
    with pytest.raises(UnsupportedError, match="'three' is there on one side alone"):
        taught.run("distill", teachers=["fewer"], **QUICK)
    with pytest.raises(UnsupportedError, match="'three' where the student has 'two'"):
        taught.run("distill", teachers=["mixed"], **QUICK)
    with pytest.raises(UnsupportedError, match="is a model of qa"):
        taught.run("distill", teachers=["reader"], **QUICK)
    with pytest.raises(UnsupportedError, match="with several teachers"):
        taught.run("distill", teachers=["small", "small"], hidden_weight=1.0, **QUICK)


# -- students of another kind ---------------------------------------------------------------------------------------------


def test_a_named_student_on_another_backbone_learns_the_parents_answers(
    telling_steps: Callable[..., Steps], narrow: str, tmp_path: Path
) -> None:
    taught = telling_steps("taught")
    student = ClassificationModel.build(["one", "two", "three"], backbone=narrow, dropout=0.0)
    add(taught, "narrow", student)
    wanted = shares(taught.registry.tasks.get("classification").load(taught.parent, SharedParts()), taught.held)
    before = distance(shares(student, taught.held), wanted)
    settings = {**QUICK, "learning_rate": 1e-2, "head_learning_rate": 1e-2, "batch_size": 4}
    chain = taught.run("distill", student="narrow", alpha=0.0, augment=1, **settings)
    facts = chain.steps[0].facts
    assert list(facts["student"]) == ["narrow@1"]
    assert facts["parameters"] < facts["teacher_parameters"]
    assert facts["hidden_weight"] == 0.0
    assert chain.model.parts.hidden_size == 16
    assert distance(shares(chain.model, taught.held), wanted) < 0.8 * before
    predictor = taught.predictor(chain.model, tmp_path / "again")
    best = shares(chain.model, taught.held).max(-1).values.tolist()
    answers = predictor.predict([row.input for row in taught.held])
    assert [answer.labels[0].score for answer in answers] == pytest.approx(best, abs=1e-5)
    with pytest.raises(UnsupportedError, match="reads the same tokens"):
        taught.run("distill", student="narrow", hidden_weight=1.0, **QUICK)


def test_an_embedder_learns_the_vectors_of_one_named_teacher_and_several_are_refused(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    small, other = (EmbeddingModel.build(backbone=str(checkpoint("bert", seed=seed))) for seed in (0, 1))
    parent = published("embedding", small, tmp_path / "store")
    published("embedding", other, tmp_path / "store", "other")
    rows = [
        Example(input=EmbeddingInput(text=text), target=EmbeddingTarget(positives=(text[::-1],)))
        for text in shuffled_words(["card", "order", "lost", "refund", "hello"], 24, 4, 5)
    ]
    taught = Steps(parent, rows[:16], tmp_path / "work", rows[16:])
    made = taught.run("distill", teachers=["other"], alpha=0.0, hidden_weight=0.0, **QUICK | {"batch_size": 4})
    assert made.steps[0].facts["compared"] == ["target/vectors"]
    inputs = [row.input for row in rows]
    with torch.inference_mode():
        before, after, wanted = (model.forward(model.encode(inputs))["vectors"] for model in (small, made.model, other))
    assert float((after - wanted).square().sum()) < 0.9 * float((before - wanted).square().sum())
    with pytest.raises(UnsupportedError, match="name one teacher"):
        taught.run("distill", teachers=["small", "other"], **QUICK)
