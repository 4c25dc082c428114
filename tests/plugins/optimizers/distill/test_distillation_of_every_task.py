"""Students of every task: what is imitated of each, and that the student learns it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from optimizer_steps import Steps, published, shuffled_words
from vision_pictures import LABELS, shades

from taskloom.core.errors import UnsupportedError
from taskloom.core.optimizer import OptimizeContext
from taskloom.core.task import Example, TrainRun
from taskloom.plugins.optimizers.distill.apply import distill
from taskloom.plugins.optimizers.distill.config import DistillConfig
from taskloom.plugins.optimizers.distill.losses import soft_loss
from taskloom.plugins.tasks.ner.model import NerModel
from taskloom.plugins.tasks.ner.schema import NerInput
from taskloom.plugins.tasks.qa.model import QaModel
from taskloom.plugins.tasks.qa.schema import GoldAnswer, QaInput, QaTarget
from taskloom.plugins.tasks.qa.windows import TrainingWindows
from taskloom.plugins.tasks.recommendation.catalogue import Catalogue
from taskloom.plugins.tasks.recommendation.model import RecommendationModel
from taskloom.plugins.tasks.recommendation.schema import CatalogueConfig, HeldOut, RecommendationInput, TowerConfig
from taskloom.plugins.tasks.recommendation.vectors import ItemVectors
from taskloom.plugins.tasks.summarization.model import SentenceChooser
from taskloom.plugins.tasks.summarization.schema import SummarizationInput
from taskloom.plugins.tasks.vision.model import VisionModel
from taskloom.plugins.tasks.vision.schema import NetworkSettings

WORDS = ["where", "is", "my", "card", "lost", "order", "refund", "hello", "the", "a"]
FAST: dict[str, Any] = {
    "epochs": 4,
    "batch_size": 16,
    "learning_rate": 3e-3,
    "head_learning_rate": 3e-3,
    "ema_decay": 0.0,
    "early_stopping_patience": 0,
    "precision": "fp32",
    "device": "cpu",
}

Rows = list[Example[Any]]


def ner(head: str) -> Callable[[str, Path], tuple[Any, Rows]]:
    def make(backbone: str, folder: Path) -> tuple[Any, Rows]:
        model = NerModel.build(["ITEM", "PLACE"], backbone=backbone, head=head, max_span_words=3, dropout=0.0)  # type: ignore[arg-type]
        texts = shuffled_words(WORDS, 48, 5, 6)
        return model, [
            Example(input=NerInput(text=t), target=((0, t.index(" "), "ITEM"),), path="d.jsonl", line=i)
            for i, t in enumerate(texts)
        ]

    return make


def qa(backbone: str, folder: Path) -> tuple[Any, Rows]:
    model = QaModel.build(backbone=backbone, max_length=32, overlap=8, dropout=0.0)
    model.training = TrainingWindows(length=24)
    rows = []
    for text in shuffled_words(WORDS, 48, 12, 7):
        answer = GoldAnswer(
            text=text.split()[2], start=(start := len(" ".join(text.split()[:2])) + 1), end=start + len(text.split()[2])
        )
        rows.append(Example(input=QaInput(question="where?", context=text), target=QaTarget(answers=(answer,))))
    return model, rows


def summarization(backbone: str, folder: Path) -> tuple[Any, Rows]:
    model = SentenceChooser.build(backbone=backbone, head_size=16, head_layers=1, dropout=0.0)
    texts = [
        text.replace(" hello ", " hello. ").capitalize() + ". Where is the order." for text in shuffled_words(WORDS, 48, 8, 8)
    ]
    return model, [
        Example(input=SummarizationInput(document=t), target=(t.split(".")[0],), path="d", line=i) for i, t in enumerate(texts)
    ]


def recommendation(backbone: str, folder: Path) -> tuple[Any, Rows]:
    items = folder / "items.csv"
    with items.open("w", encoding="utf-8", newline="") as stream:
        names = [("item", "title"), *((f"i{n}", f"the {text}") for n, text in enumerate(shuffled_words(WORDS, 24, 3, 9)))]
        csv.writer(stream).writerows(names)
    towers = TowerConfig(dimensions=8, hidden=8, reading=8)
    model = RecommendationModel.build(Catalogue.read(items, CatalogueConfig()), towers=towers, backbone=backbone)
    texts = model.embed([item.text() for item in model.catalogue.items])
    model.learn_to_read(texts)
    read = torch.nn.functional.normalize(model.towers.reading(texts), dim=-1)
    model._take(ItemVectors.rounded(torch.randn(24, 8), torch.rand(24, 1), read))
    draw = torch.Generator().manual_seed(3)
    rows = []
    for n in range(48):
        order = torch.randperm(24, generator=draw).tolist()
        item = RecommendationInput(history=tuple(f"i{i}" for i in order[:6]))
        rows.append(Example(input=item, target=HeldOut(warm=(f"i{order[7]}", f"i{order[8]}")), path="users", line=n))
    return model, rows


TASKS: dict[str, tuple[str, Callable[[str, Path], tuple[Any, Rows]]]] = {
    "ner": ("ner", ner("crf")),
    "ner of spans": ("ner", ner("span")),
    "qa": ("qa", qa),
    "summarization": ("summarization", summarization),
    "recommendation": ("recommendation", recommendation),
}


def distance(student: Any, teacher: Any, rows: Sequence[Example[Any]]) -> float:
    """What `soft_loss` says of inputs as they are asked."""
    inputs = [row.input for row in rows]
    with torch.inference_mode():
        own, wanted = (x.distillation_targets(x.forward(x.encode(inputs))) for x in (student, teacher))
    return sum(float(soft_loss(own[name], wanted[name].values, 1.0)) for name in own)


@pytest.mark.parametrize("name", list(TASKS))
def test_a_student_with_half_the_layers_learns_what_the_task_says(name: str, tiny_bert: str, tmp_path: Path) -> None:
    torch.manual_seed(4)
    task, make = TASKS[name]
    model, rows = make(tiny_bert, tmp_path)
    for parameter in model.module.head.parameters():
        if parameter.requires_grad and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.module.eval()
    steps = Steps(published(task, model, tmp_path / "store"), rows, tmp_path / "work", rows[:6])
    taught = steps.run("distill", layers=1, alpha=0.0, **{**FAST, "batch_size": 4})
    history = taught.steps[0].facts["history"]
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    facts = taught.steps[0].facts
    assert facts["kept_layers"] == {"layers": [1]}
    random_reading = name in {"qa", "recommendation"}
    assert ("asked in each step" in facts["answers"]) == random_reading, facts["answers"]


def network(seed: int) -> VisionModel:
    torch.manual_seed(seed)
    return VisionModel.build(LABELS, network=NetworkSettings(stem_width=8, widths=(8, 16), blocks=(1, 1)), size=16)


def test_a_network_imitates_another_and_has_norms_of_its_own(tmp_path: Path) -> None:
    teacher = network(1)
    torch.nn.init.normal_(teacher.module.head.weight, std=2.0)
    teacher.module.eval()
    rows = shades(60)
    steps = Steps(published("vision", teacher, tmp_path / "store"), rows, tmp_path / "work")
    context = OptimizeContext(
        task=steps.registry.tasks.get("vision"),
        parent=steps.parent,
        train=rows,
        validation=rows[:8],
        run=TrainRun(tmp_path / "work", True, False),
        score=lambda _: {},
    )
    student = network(2)
    student.module.eval()
    before = distance(student, teacher, rows)
    made = distill(student, DistillConfig(alpha=0.0, **{**FAST, "epochs": 8, "learning_rate": 1e-2}), context)
    assert distance(made.model, teacher, shades(30)[15:]) < 0.5 * before
    with pytest.raises(UnsupportedError, match="text encoders of one width"):
        steps.run("distill", hidden_weight=1.0, **FAST)
    with pytest.raises(UnsupportedError, match="queries, keys and values"):
        steps.run("distill", relation_weight=1.0, **FAST)


def test_layers_that_no_row_reaches_are_not_left_untaught(
    tiny_bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Histories alone never run a recommender's encoder."""
    torch.manual_seed(4)
    model, rows = recommendation(tiny_bert, tmp_path)
    monkeypatch.setattr("taskloom.plugins.tasks.recommendation.relearning.IN_WORDS", 0.0)
    steps = Steps(published("recommendation", model, tmp_path / "store"), rows, tmp_path / "work")
    with pytest.raises(UnsupportedError, match="runs through the layers"):
        steps.run("distill", layers=1, **FAST)
