"""A classifier's student: smaller, like its teacher, the same after an interruption and after it is saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from optimizer_steps import Steps

from taskloom.core.errors import ConfigError, UnsupportedError
from taskloom.core.optimizing import StepRequest
from taskloom.core.task import Example
from taskloom.plugins._shared.training import MICRO_BATCH_LENGTH
from taskloom.plugins.optimizers.distill.teacher import ASKED_AT_ONCE, Reading, Teacher, run_watched
from taskloom.plugins.optimizers.distill.watching import Views, Watched, watchable_layers
from taskloom.plugins.tasks.classification.model import ClassificationModel
from taskloom.plugins.tasks.classification.schema import ClassificationInput

FAST: dict[str, Any] = {
    "layers": 1,
    "epochs": 6,
    "batch_size": 16,
    "learning_rate": 3e-3,
    "head_learning_rate": 3e-3,
    "ema_decay": 0.0,
    "early_stopping_patience": 0,
    "precision": "fp32",
    "device": "cpu",
}


def logits(model: Any, rows: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model.forward(model.encode([row.input for row in rows]))["logits"]
    return found


def distance(model: Any, teacher: Any, rows: Any) -> float:
    own, wanted = (logits(x, rows).log_softmax(-1) for x in (model, teacher))
    return float((wanted.exp() * (wanted - own)).sum(-1).mean())


def test_a_student_is_smaller_and_more_like_its_teacher_than_one_that_saw_labels_alone(
    steps: Callable[..., Steps], classifier: ClassificationModel, tmp_path: Path
) -> None:
    taught = steps("taught")
    one = taught.run("distill", alpha=0.0, **FAST)
    other = steps("labels").run("distill", alpha=1.0, hidden_weight=0.0, **FAST)
    assert distance(one.model, classifier, taught.held) < 0.5 * distance(other.model, classifier, taught.held)
    facts = one.steps[0].facts
    assert facts["parameters"] < facts["teacher_parameters"]
    assert facts["kept_layers"] == {"layers": [1]}
    assert facts["history"][-1]["loss"] < 0.5 * facts["history"][0]["loss"]
    predictor = taught.predictor(one.model, tmp_path / "again")
    answers = predictor.predict([row.input for row in taught.held])
    best = logits(one.model, taught.held).softmax(-1).max(-1).values.tolist()
    assert [answer.labels[0].score for answer in answers] == pytest.approx(best, abs=1e-5)


def test_layers_that_imitate_layers_and_relations_come_closer_to_them(steps: Callable[..., Steps]) -> None:
    chain = steps("states").run("distill", hidden_weight=2.0, relation_weight=1.0, relation_heads=4, **FAST)
    history = chain.steps[0].facts["history"]
    assert history[-1]["loss"] < history[0]["loss"]
    assert chain.steps[0].facts["answers"] == "kept on disk"


class Interrupted(Exception):
    pass


def test_an_interrupted_distillation_goes_on_to_the_same_student(steps: Callable[..., Steps]) -> None:
    settings = {**FAST, "epochs": 2, "checkpoint_steps": 2}
    whole = steps("whole").run("distill", **settings)
    broken = steps("broken")

    seen: list[tuple[int, list[int]]] = []

    def answers_made() -> list[int]:
        return [path.stat().st_mtime_ns for path in sorted(broken.folder.rglob("answers-*.safetensors"))]

    def interrupt(event: Mapping[str, Any]) -> None:
        if event["event"] == "step" and event.get("step") == 9:
            raise Interrupted

    def watch(event: Mapping[str, Any]) -> None:
        if event["event"] == "resumed":
            seen.append((event["step"], answers_made()))

    request = [StepRequest(name="distill", config=settings)]
    with pytest.raises(Interrupted):
        broken.optimizing(interrupt).run(request)
    made = answers_made()
    assert made
    chain = broken.optimizing(watch).run(request)
    assert seen == [(8, made)], "it went on from its checkpoint, with the teacher's answers that it had"
    for one, other in zip(whole.model.module.parameters(), chain.model.module.parameters(), strict=True):
        assert torch.equal(one, other)


def test_kept_answers_are_what_the_teacher_says(steps: Callable[..., Steps]) -> None:
    """Students of answers from disk and of answers in each step come out alike, to half precision."""
    kept = steps("kept").run("distill", **{**FAST, "epochs": 1})
    asked = steps("asked").run("distill", cache_gb=0.0, **{**FAST, "epochs": 1})
    assert kept.steps[0].facts["answers"] == "kept on disk"
    assert "asked in each step" in asked.steps[0].facts["answers"]
    one, other = (logits(chain.model, steps("x").held) for chain in (kept, asked))
    assert torch.allclose(one, other, atol=0.05)
    assert kept.steps[0].facts["history"][0]["loss"] == pytest.approx(asked.steps[0].facts["history"][0]["loss"], rel=1e-2)


def test_what_answers_take_is_told_by_rows_from_all_over_the_data(classifier: ClassificationModel, tmp_path: Path) -> None:
    """The long ones may come last: whether they fit is known before they are asked for, and asking takes one part at a time."""
    texts = ["card", *["where is my card " * 12] * 2]
    rows = [
        Example(input=ClassificationInput(text=text), target="one", path="", line=i)
        for text in texts
        for i in range(2 * ASKED_AT_ONCE)
    ]
    views = Views({"hidden/0": watchable_layers(classifier)[0]})
    together = lambda said: dict(said[0])  # noqa: E731
    watched, reading = [Watched(classifier, views)], Reading(repeatable=True, how=("alike",))
    asked: list[int] = []

    class Counted(Teacher):
        def _asked(self, numbers: Sequence[int]) -> Any:
            asked.append(len(numbers))
            return super()._asked(numbers)

    def length(row: Example[Any]) -> int:
        return MICRO_BATCH_LENGTH // 4 if len(row.input.text) > 10 else 1

    teacher = Counted(classifier, watched, reading, rows, say_together=together, length=length)
    told = teacher.keep_answers(tmp_path / "answers", "f", 1e9)
    taken = sum(path.stat().st_size for path in (tmp_path / "answers").iterdir())
    assert told["answers_bytes"] == pytest.approx(taken, rel=0.1)
    assert max(asked) == ASKED_AT_ONCE, "short ones together"
    assert asked[-1] == 4
    batch = classifier.collate(rows[:1] + rows[-1:])
    kept, now = teacher.say([rows[0], rows[-1]], batch), run_watched(watched[0], batch)
    for name, values in kept.items():
        torch.testing.assert_close(values, now[name].values, rtol=2e-3, atol=2e-3)


def test_what_makes_no_sense_is_refused_with_the_reason(steps: Callable[..., Steps]) -> None:
    with pytest.raises(UnsupportedError, match="has 0 to 1"):
        steps("refused").run("distill", **{**FAST, "keep": [0, 7], "layers": None})
    with pytest.raises(ConfigError, match="set one of them"):
        steps("refused").run("distill", keep=[0], layers=1)
    with pytest.raises(ConfigError, match="ascending"):
        steps("refused").run("distill", keep=[1, 0])
