"""Students that write: they learn what their teacher writes, with fewer layers on either side."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from optimizer_steps import Steps, published

from taskloom.core.errors import UnsupportedError
from taskloom.core.predictor import Predictor
from taskloom.core.task import Example
from taskloom.plugins._shared.tuning import InMemory
from taskloom.plugins.optimizers.distill.sequence import written_rows
from taskloom.plugins.tasks.summarization.model import SentenceChooser
from taskloom.plugins.tasks.summarization.schema import SummarizationInput
from taskloom.plugins.tasks.summarization.writing import SummaryWriter

QUICK: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 2,
    "learning_rate": 1e-2,
    "ema_decay": 0.0,
    "early_stopping_patience": 0,
    "precision": "fp32",
    "device": "cpu",
}
TEXTS = ["the bus is late", "a dog ran home", "rain and wind", "the city buys buses", "snow", "two cats met"]


def rows() -> list[Example[Any]]:
    return [Example(input=SummarizationInput(document=t), target=("no",), path="d", line=i) for i, t in enumerate(TEXTS)]


def make_writer(folder: Path, kind: str) -> Path:
    path = Path(__file__).parents[2] / "summarization" / "conftest.py"
    spec = importlib.util.spec_from_file_location("summary_writers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: Path = module.make_writer(folder / kind, kind)
    return made


def summaries(model: SummaryWriter, steps: Steps) -> list[str]:
    predictor = Predictor(steps.registry.tasks.get("summarization"), model, InMemory(model))
    return [answer.summary for answer in predictor.predict([row.input for row in rows()])]


@pytest.fixture(params=["t5", "bart"])
def steps(request: pytest.FixtureRequest, tmp_path: Path) -> Steps:
    teacher = SummaryWriter.import_checkpoint(str(make_writer(tmp_path, request.param)), max_tokens=6)
    return Steps(published("summarization", teacher, tmp_path / "store"), rows(), tmp_path / "work", rows()[:2])


def test_a_student_with_fewer_layers_writes_the_same_again_after_it_was_saved(steps: Steps) -> None:
    chain = steps.run("distill", layers=1, decoder_layers=1, **QUICK)
    facts = chain.steps[0].facts
    assert facts["kept_layers"] == {"encoder.layers": [1], "decoder.layers": [1]}
    assert facts["parameters"] < facts["teacher_parameters"]
    assert facts["history"][-1]["loss"] < facts["history"][0]["loss"]
    # `chain.model` was read from disk; the layers of one that was cut in memory must write as those do.
    again = steps.registry.tasks.get("summarization").load(steps.parent, None)
    for structure in again.structures():
        structure.keep([1])
    again.module.load_state_dict(chain.model.module.state_dict())
    again.module.eval()
    assert summaries(again, steps) == summaries(chain.model, steps)
    batch = again.collate(rows())
    with torch.inference_mode():
        assert float(again.loss(batch)) == pytest.approx(float(chain.model.loss(batch)), rel=1e-5)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_layers_of_the_encoder_alone(tmp_path: Path, kind: str) -> None:
    """T5 can't write with more layers in the decoder than in the encoder; of BART, the decoder's stay as they are."""
    writer = SummaryWriter.import_checkpoint(str(make_writer(tmp_path, kind)), max_tokens=6)
    own = Steps(published("summarization", writer, tmp_path / "store"), rows(), tmp_path / "work", rows()[:2])
    settings: dict[str, Any] = {"layers": 1, "share": 1, "target": "parameters", "epochs": 0, "timed_rows": 2}
    if kind == "t5":
        with pytest.raises(UnsupportedError, match=r"1 encoder\.layers and 2 decoder\.layers"):
            own.run("prune", **settings)
        with pytest.raises(UnsupportedError, match=r"1 encoder\.layers and 2 decoder\.layers"):
            own.run("distill", layers=1, decoder_layers=2, **QUICK)
        return
    made = own.run("prune", **settings)
    facts = made.steps[0].facts
    assert [(one.name, one.size) for one in made.model.structures()] == [("encoder.layers", 1), ("decoder.layers", 2)]
    assert facts["predicted_share"] == pytest.approx(facts["parameters_after"] / facts["parameters_before"])


def test_what_the_teacher_writes_takes_the_place_of_the_references(tmp_path: Path) -> None:
    teacher = SummaryWriter.import_checkpoint(str(make_writer(tmp_path, "t5")), max_tokens=6)
    steps = Steps(published("summarization", teacher, tmp_path / "store"), rows(), tmp_path / "work", rows()[:2])
    task = steps.registry.tasks.get("summarization")
    path = tmp_path / "answers.jsonl"
    found = written_rows(teacher, task, rows(), path, "print")
    assert [row.target for row in found] == [(text,) for text in summaries(teacher, steps)]
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    assert [row.target for row in written_rows(teacher, task, rows(), path, "print")] == [row.target for row in found]
    path.write_text(whole.replace(found[0].target[0], "kept"))
    asked = [row.target for row in written_rows(teacher, task, rows(), path, "print")]
    assert asked[0] == ("kept",), "what is whole is not written again"
    assert next(row.target for row in written_rows(teacher, task, rows(), path, "other")) == found[0].target
    texts = tmp_path / "more.txt"
    texts.write_text("it is cold\n")
    chain = steps.run("distill", decoder_layers=1, unlabelled=[str(texts)], **QUICK)
    assert chain.steps[0].facts["kept_layers"] == {"encoder.layers": [0, 1], "decoder.layers": [1]}
    assert chain.steps[0].facts["rows"] == len(TEXTS) + 1


def test_what_makes_no_sense_for_a_writer_is_refused(tmp_path: Path, tiny_bert: str) -> None:
    teacher = SummaryWriter.import_checkpoint(str(make_writer(tmp_path, "t5")), max_tokens=6)
    steps = Steps(published("summarization", teacher, tmp_path / "store"), rows(), tmp_path / "work", rows()[:2])
    for setting in ({"hidden_weight": 1.0}, {"augment": 2}):
        with pytest.raises(UnsupportedError, match="learns whole answers"):
            steps.run("distill", **setting, **QUICK)
    published("summarization", SentenceChooser.build(backbone=tiny_bert, head_size=16), tmp_path / "store", "chooser")
    with pytest.raises(UnsupportedError, match="the student writes its answers and chooser@1 does not"):
        steps.run("distill", teachers=["chooser"], **QUICK)
    with pytest.raises(UnsupportedError, match="names layers of one stack"):
        steps.run("distill", keep=[0], **QUICK)
