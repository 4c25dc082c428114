"""What a relation classifier answers, learns from, and refuses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from optimizer_steps import published
from pydantic import ValidationError

from taskloom.core.artifact import Artifact
from taskloom.core.errors import ArtifactError, ConfigError, DataError, InvalidInputError
from taskloom.core.predictor import Predictor
from taskloom.core.task import Example, SharedParts
from taskloom.plugins.backbones.settings import LoraSettings
from taskloom.plugins.tasks.relation.model import RelationModel
from taskloom.plugins.tasks.relation.plugin import RelationTask
from taskloom.plugins.tasks.relation.schema import RelationInput, RelationOutput, RelationParams

DIRECTED = ["Cause(e1,e2)", "Cause(e2,e1)", "Other"]

Pair = Callable[..., RelationInput]
Row = Callable[..., Example[RelationInput]]
AsPredictor = Callable[[RelationModel], Predictor[Any, Any, Any]]


def decoded(model: RelationModel, logits: list[float], **params: Any) -> RelationOutput:
    outputs = {"logits": torch.tensor([logits]), "truncated": torch.tensor([False])}
    anything = RelationInput.model_validate({"text": "ab", "head": {"start": 0, "end": 1}, "tail": {"start": 1, "end": 2}})
    return model.decode(outputs, [anything], [RelationParams(**params)])[0]


def random_model(backbone: str, **settings: Any) -> RelationModel:
    """It tells inputs apart: random states of the small encoder differ by little."""
    torch.manual_seed(5)
    found = RelationModel.build(DIRECTED, backbone=backbone, uncounted=["Other"], **settings)
    for layer in (found.module.head.inner, found.module.head.outer):
        torch.nn.init.normal_(layer.weight, std=0.3)  # type: ignore[operator, union-attr]
    found.module.eval()
    return found


@pytest.fixture(scope="module")
def model(small_bert: str) -> RelationModel:
    return random_model(small_bert, in_text_order=True)


def test_labels_are_a_distribution_with_relation_and_direction(model: RelationModel) -> None:
    found = decoded(model, [0.0, 2.0, 1.0], top_k=None).labels
    assert sum(item.score for item in found) == pytest.approx(1)
    assert [(item.label, item.relation, item.direction) for item in found] == [
        ("Cause(e2,e1)", "Cause", "tail_to_head"),
        ("Other", "Other", None),
        ("Cause(e1,e2)", "Cause", "head_to_tail"),
    ]


def test_top_k_and_threshold_cut_the_list(model: RelationModel) -> None:
    assert [item.label for item in decoded(model, [0.0, 2.0, 1.0], top_k=1).labels] == ["Cause(e2,e1)"]
    assert [item.label for item in decoded(model, [0.0, 2.0, 1.0], threshold=0.2).labels] == ["Cause(e2,e1)", "Other"]
    assert decoded(model, [0.0, 0.0, 0.0], threshold=0.9).labels == ()


def scores(predictor: Predictor[Any, Any, Any], asked: RelationInput) -> dict[str, float]:
    answer = predictor.predict_one(asked, RelationParams(top_k=None))
    return {item.label: item.score for item in answer.labels}


def test_in_the_order_of_the_text_a_question_turned_round_has_the_answer_turned_round(
    model: RelationModel, as_predictor: AsPredictor, pair: Pair, small_bert: str
) -> None:
    text = "the order is lost"
    forth, back = pair(text, "order", "lost"), pair(text, "lost", "order")
    one, other = scores(as_predictor(model), forth), scores(as_predictor(model), back)
    assert one["Cause(e1,e2)"] == pytest.approx(other["Cause(e2,e1)"], abs=1e-6)
    assert one["Other"] == pytest.approx(other["Other"], abs=1e-6)
    assert abs(one["Cause(e1,e2)"] - other["Cause(e1,e2)"]) > 1e-3
    plain = as_predictor(random_model(small_bert))
    one, other = scores(plain, forth), scores(plain, back)
    assert max(abs(one[label] - other[label]) for label in one) > 1e-3, "a plain one reads roles, wherever they stand"


def test_which_words_are_marked_changes_the_answer(model: RelationModel, as_predictor: AsPredictor, pair: Pair) -> None:
    predictor = as_predictor(model)
    one = scores(predictor, pair("where is my card", "where", "card"))
    other = scores(predictor, pair("where is my card", "is", "my"))
    assert max(abs(one[label] - other[label]) for label in one) > 1e-3


def test_a_cut_text_is_reported(model: RelationModel, as_predictor: AsPredictor, pair: Pair) -> None:
    predictor = as_predictor(model)
    short, long = predictor.predict([pair("my lost card", "lost", "card"), pair("lost card " + "hello " * 300, "lost", "card")])
    assert (short.truncated, long.truncated) == (False, True)


def test_what_does_not_fit_fails_alone(model: RelationModel, as_predictor: AsPredictor, pair: Pair) -> None:
    long = "card " * 300
    good, bad = pair("my lost card", "lost", "card"), pair(long + "lost", long.strip(), "lost")
    answers = as_predictor(model).predict([good, bad, good])
    assert isinstance(answers[1], InvalidInputError)
    assert "mark shorter parts" in str(answers[1])
    assert answers[0] == answers[2]


@pytest.mark.parametrize(
    ("text", "head", "problem"),
    [
        ("my card", (0, 8), "the text has 7 characters"),
        ("my card", (3, 3), "not behind its start"),
        ("my card", (5, 3), "not behind its start"),
        ("my card", (2, 3), "blank"),
        ("my \u200b card", (3, 4), "blank"),
        ("𠮷野家", (0, 4), "the text has 3 characters"),
    ],
)
def test_places_that_hold_no_entity_are_refused(text: str, head: tuple[int, int], problem: str) -> None:
    raw = {"text": text, "head": {"start": head[0], "end": head[1]}, "tail": {"start": 0, "end": 1}}
    with pytest.raises(ValidationError, match=problem) as caught:
        RelationInput.model_validate(raw)
    assert caught.value.errors()[0]["loc"] == ("head",)


def test_emoji_and_chinese_are_counted_in_code_points(model: RelationModel, as_predictor: AsPredictor, pair: Pair) -> None:
    text = "👩\u200d👧 我的银行卡 is lost"
    answers = as_predictor(model).predict([pair(text, "👩\u200d👧", "lost"), pair(text, "银行卡", "👧")])
    assert all(len(answer.labels) == 3 for answer in answers)


def test_a_few_steps_learn_who_stands_where(row: Row, as_predictor: AsPredictor) -> None:
    torch.manual_seed(0)
    lora = LoraSettings(r=8, dropout=0)
    model = RelationModel.build(DIRECTED, adapter=lora, dropout=0)
    text = "The fire damaged the kitchen of the house."
    examples = [
        row(text, "fire", "kitchen", "Cause(e1,e2)"),
        row(text, "kitchen", "fire", "Cause(e2,e1)"),
        row(text, "fire", "house", "Other"),
    ]
    batch = model.collate(examples)
    optimizer = torch.optim.AdamW([p for p in model.module.parameters() if p.requires_grad], lr=0.002)
    first = last = model.loss(batch)
    for _ in range(25):
        optimizer.zero_grad()
        last = model.loss(batch)
        last.backward()
        optimizer.step()
    assert last.item() < first.item() / 3
    answers = as_predictor(model).predict([example.input for example in examples])
    assert [answer.labels[0].label for answer in answers] == [example.target for example in examples]


def test_an_unknown_relation_names_its_line(model: RelationModel, row: Row) -> None:
    with pytest.raises(DataError, match=r"pairs.jsonl, line 7: relation 'nope' is none of the model's 3") as caught:
        model.collate([row("my card", "my", "card", "nope", line=7)])
    assert caught.value.line == 7


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"uncounted": ["None"]}, "uncounted names 'None'.*relations: Cause, Other"),
        ({"labels": ["Cause(e1,e2)", "Other"], "in_text_order": True}, r"without 'Cause\(e2,e1\)'"),
        ({"markers": ("$", "@")}, "no piece for the marker '@'"),
        ({"labels": ["a", "a"]}, "unique"),
    ],
)
def test_settings_that_do_not_fit_are_refused(small_bert: str, settings: dict[str, Any], problem: str) -> None:
    labels = settings.pop("labels", DIRECTED)
    with pytest.raises((ConfigError, InvalidInputError), match=problem):
        RelationModel.build(labels, backbone=small_bert, **settings)


def test_a_manifest_of_another_kind_is_refused(model: RelationModel, tmp_path: Path) -> None:
    artifact = published("relation", model, tmp_path)
    strange = artifact.manifest.model_copy(update={"config": {"form": "unheard"}})
    with pytest.raises(ArtifactError, match="no relation classifier's"):
        RelationModel.load(Artifact(artifact.folder, strange), SharedParts())


def test_on_one_trunk_with_others_it_answers_as_alone(
    small_bert: str, tmp_path: Path, pair: Pair, as_predictor: AsPredictor
) -> None:
    torch.manual_seed(3)
    built = RelationModel.build(DIRECTED, backbone=small_bert, adapter=LoraSettings(r=2), in_text_order=True)
    for name, parameter in built.module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    artifact = published("relation", built, tmp_path)
    shared = SharedParts([artifact.manifest.backbone.digest])  # type: ignore[union-attr]
    one, other = (RelationTask().load(artifact, shared) for _ in range(2))
    assert one.branch is not None
    assert other.branch is not None
    assert one.branch.trunk is other.branch.trunk
    asked = [pair("where is my lost card", "card", "where"), pair("my card", "my", "card")]
    alone = RelationModel.load(artifact, SharedParts())
    for shared_answer, own in zip(as_predictor(other).predict(asked), as_predictor(alone).predict(asked), strict=True):  # type: ignore[arg-type]
        for left, right in zip(shared_answer.labels, own.labels, strict=True):
            assert left.score == pytest.approx(right.score, abs=1e-4)


def test_warm_up_batches_run(model: RelationModel) -> None:
    assert model.forward(next(model.warm_up(300)))["logits"].shape[1] == 3


def test_cost_counts_the_markers_and_is_capped() -> None:
    task, params = RelationTask(), RelationParams()
    long = {"text": "长" * 90_000, "head": {"start": 0, "end": 1}, "tail": {"start": 5, "end": 6}}
    assert task.cost(RelationInput.model_validate(long), params) == 512
    assert 9 <= task.cost(RelationInput.model_validate({**long, "text": "my lost card"}), params) <= 12


def test_the_registry_knows_the_task_without_importing_torch() -> None:
    code = (
        "import sys; from taskloom.core import load_registry; r = load_registry(); t = r.tasks.get('relation'); "
        "t.Input(text='ab', head={'start': 0, 'end': 1}, tail={'start': 1, 'end': 2}); "
        "print([m for m in ('torch', 'transformers', 'numpy', 'peft') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
