"""Students on a backbone that is named: another width, another tokenizer, and answers that are carried over by characters."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optimizer_steps import Steps, published, shuffled_words
from vision_pictures import LABELS, shades

from taskloom.core.anatomy import SoftTarget
from taskloom.core.artifact import Artifact, BackboneInfo, DataInfo, Manifest
from taskloom.core.errors import ConfigError, NotFoundError, UnsupportedError
from taskloom.core.optimizer import Pretrained
from taskloom.core.optimizing import StepRequest
from taskloom.core.task import Example, SharedParts
from taskloom.plugins.backbones.loading import load_backbone, published_digest, save_backbone
from taskloom.plugins.optimizers.distill.learner import Learner
from taskloom.plugins.optimizers.distill.losses import soft_loss
from taskloom.plugins.optimizing import _licence, named_by, told_once
from taskloom.plugins.tasks.classification.model import ClassificationModel
from taskloom.plugins.tasks.embedding.model import EmbeddingModel
from taskloom.plugins.tasks.embedding.schema import EmbeddingInput, EmbeddingTarget
from taskloom.plugins.tasks.fill_mask.model import FillMaskModel
from taskloom.plugins.tasks.ner.model import NerModel
from taskloom.plugins.tasks.ner.schema import NerInput
from taskloom.plugins.tasks.qa.carrying import carried_over
from taskloom.plugins.tasks.qa.model import QaModel
from taskloom.plugins.tasks.qa.schema import GoldAnswer, QaInput, QaTarget
from taskloom.plugins.tasks.qa.windows import TrainingWindows
from taskloom.plugins.tasks.recommendation.catalogue import Catalogue
from taskloom.plugins.tasks.recommendation.model import RecommendationModel
from taskloom.plugins.tasks.recommendation.schema import CatalogueConfig, TowerConfig
from taskloom.plugins.tasks.relation.model import RelationModel
from taskloom.plugins.tasks.relation.schema import EntitySpan, RelationInput
from taskloom.plugins.tasks.summarization.model import SentenceChooser
from taskloom.plugins.tasks.summarization.schema import SummarizationInput
from taskloom.plugins.tasks.vision.model import VisionModel
from taskloom.plugins.tasks.vision.schema import NetworkSettings

WORDS = ["where", "is", "my", "card", "lost", "order"]
QUICK: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 4,
    "learning_rate": 1e-2,
    "head_learning_rate": 1e-2,
    "ema_decay": 0.0,
    "early_stopping_patience": 0,
    "precision": "fp32",
    "device": "cpu",
}


def learns(chain: Any) -> bool:
    history = chain.steps[0].facts["history"]
    return bool(history[-1]["loss"] < 0.95 * history[0]["loss"])


def test_a_classifier_on_a_named_backbone_learns_the_parents_answers(
    telling_steps: Callable[..., Steps], narrow: str, tmp_path: Path
) -> None:
    taught = telling_steps("taught")
    inputs = [row.input for row in taught.held]

    def shares(model: Any) -> torch.Tensor:
        with torch.inference_mode():
            logits: torch.Tensor = model.forward(model.encode(inputs))["logits"]
        return logits.log_softmax(-1)

    chain = taught.run("distill", backbone=narrow, alpha=0.0, augment=1, **QUICK)
    wanted = shares(taught.registry.tasks.get("classification").load(taught.parent, SharedParts()))
    apart = float((wanted.exp() * (wanted - shares(chain.model))).sum(-1).mean())
    mean = wanted.exp().mean(0).log()
    assert apart < 0.8 * float((wanted.exp() * (wanted - mean)).sum(-1).mean()), "better than one answer to all"
    facts, told = chain.steps[0].facts, chain.steps[0].config["backbone"]
    assert (list(facts["student"]), chain.model.parts.hidden_size) == ([told], 16)
    assert told == "/".join(Path(narrow).parts[-2:]), "nobody is told where the folders of this machine lie"
    assert narrow not in chain.artifact.manifest.model_dump_json()
    assert facts["notes"] == ["distill: states behind layers: not compared, as the student reads other tokens than its teacher"]
    answers = taught.predictor(chain.model, tmp_path / "again").predict(inputs)
    assert [answer.labels[0].score for answer in answers] == pytest.approx(shares(chain.model).exp().amax(-1), abs=1e-5)
    with pytest.raises(UnsupportedError, match="reads the same tokens"):
        taught.run("distill", backbone=narrow, hidden_weight=1.0, **QUICK)
    with pytest.raises(ConfigError, match="both say who learns"):
        taught.run("distill", backbone=narrow, student="small", **QUICK)
    with pytest.raises(NotFoundError, match="no backbone 'nowhere'"):
        taught.run("distill", backbone="nowhere", **QUICK)


def test_rows_that_only_the_student_cannot_learn_from_are_left_out(
    steps: Callable[..., Steps], narrow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut into its pieces a text may be too long, as it was not in its teacher's."""
    taught = steps("taught")
    lost = taught.rows[0]
    monkeypatch.setattr(
        ClassificationModel, "can_learn", lambda self, row: row != lost or self.parts.hidden_size != 16, raising=False
    )
    seen: list[Example[Any]] = []
    collate = Learner.collate
    monkeypatch.setattr(Learner, "collate", lambda self, rows: seen.extend(rows) or collate(self, rows))
    taught.run("distill", backbone=narrow, **{**QUICK, "epochs": 1})
    assert lost not in seen
    assert all(row in seen for row in taught.rows if row != lost)


def test_a_step_that_was_kept_is_not_taken_for_one_with_other_weights_of_the_same_name(
    steps: Callable[..., Steps], narrow: str
) -> None:
    events: list[str] = []

    def run(taught: Steps) -> None:
        optimizing = taught.optimizing(lambda event: events.append(event["event"]))
        optimizing.run([StepRequest(name="distill", config={"backbone": narrow, **QUICK, "epochs": 1})])

    taught = steps("taught")
    run(taught)
    run(taught)
    assert (events.count("optimizer"), events.count("kept")) == (1, 1)
    weights = next(Path(narrow).glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    run(taught)
    assert events.count("optimizer") == 2


def test_a_backbone_may_lie_in_the_users_own_store(
    steps: Callable[..., Steps], narrow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    taught, events = steps("taught"), list[str]()
    law = DataInfo(name="law.txt", sha256="1" * 64, rows=3)

    def publish(change: float) -> Artifact:
        whole = load_backbone(narrow)
        with torch.no_grad():
            next(iter(whole.model.parameters())).add_(change)
        manifest = Manifest(model="backbone-law", task="fill-mask", created="2026-01-01T00:00:00Z", licence="MIT", data=(law,))
        with taught.store.draft("backbone-law") as draft:
            save_backbone(whole, draft / "backbone")
            return taught.store.publish(draft, manifest)

    asked = StepRequest(name="distill", config={"backbone": "backbone-law", **QUICK, "epochs": 1})
    for change, made in ((0.0, 1), (0.0, 1), (1.0, 2)):
        if change or not events:
            published = publish(change)
        chain = taught.optimizing(lambda event: events.append(event["event"])).run([asked])
        assert events.count("optimizer") == made
        assert chain.steps[0].facts["student"] == {"backbone-law": published_digest(published)}
    assert chain.model.parts.hidden_size == 16
    others = named_by(taught.store, taught.registry, [asked])
    assert [(info.name, info.via) for info in others.data] == [("law.txt", "backbone-law@2")]


def test_a_file_that_the_model_itself_was_trained_on_is_told_so_whoever_else_was() -> None:
    own, parents = (DataInfo(name="law.txt", sha256="1" * 64, rows=3, licence=told) for told in ("MIT", ""))
    theirs, other = own.model_copy(update={"via": "backbone-law@1"}), own.model_copy(update={"sha256": "2" * 64})
    assert told_once([parents, own, theirs, other]) == (own, other)
    assert told_once([theirs, own]) == (own,)


# -- answers of words and tokens ------------------------------------------------------------------------------------------


def entities(texts: Sequence[str]) -> list[Example[Any]]:
    return [Example(input=NerInput(text=t), target=((0, t.index(" "), "ITEM"),), path="d", line=i) for i, t in enumerate(texts)]


@pytest.mark.parametrize("head", ["crf", "span"])
def test_words_have_the_same_answers_in_other_tokens(tiny_bert: str, narrow: str, tmp_path: Path, head: Any) -> None:
    teacher = NerModel.build(["ITEM"], backbone=tiny_bert, head=head, max_span_words=3, dropout=0.0)
    rows = entities(shuffled_words(WORDS, 24, 6, 3))
    taught = Steps(published("ner", teacher, tmp_path / "store"), rows, tmp_path / "work")
    chain = taught.run("distill", backbone=narrow, alpha=0.0, **QUICK)
    assert learns(chain)
    assert chain.steps[0].facts["answers"] == "kept on disk"


def test_of_a_text_whose_words_are_not_the_same_nothing_is_said(tiny_bert: str, narrow: str) -> None:
    teacher, student = (NerModel.build(["ITEM"], backbone=backbone, head="token") for backbone in (tiny_bert, narrow))
    inputs = [NerInput(text="my card"), NerInput(text="where is it")]
    teacher.module.eval()
    with torch.no_grad():
        outputs = teacher.forward(teacher.encode(inputs))
    batch = student.encode(inputs)
    own = teacher.distillation_targets(outputs)["logits"].values
    assert torch.equal(teacher.targets_in(batch, outputs)["logits"].values, own)
    fewer = {**batch, "word_counts": torch.tensor([2, 2]), "word_spans": batch["word_spans"][:4]}
    said = teacher.targets_in(fewer, outputs)["logits"]
    assert torch.equal(said.values[:2], own[:2])
    assert said.values[2:].isnan().all()
    mine = torch.randn(4, own.shape[1], requires_grad=True)
    loss = soft_loss(SoftTarget(mine), said.values, 2.0)
    assert loss.item() == pytest.approx(soft_loss(SoftTarget(mine[:2]), own[:2], 2.0).item())
    (gradient,) = torch.autograd.grad(loss, mine)
    assert not gradient[2:].any()


def windows(*rows: Sequence[tuple[int, int]], owner: Sequence[int] = (0,)) -> dict[str, Any]:
    offsets = torch.tensor([pair for row in rows for pair in row])
    lengths = torch.tensor([len(row) for row in rows])
    return {"offsets": offsets, "lengths": lengths, "owner": torch.tensor(owner), "input_ids": torch.zeros(len(offsets))}


NO = (-1, -1)


def test_starts_and_ends_go_to_the_tokens_with_their_characters() -> None:
    """ "card lost": the teacher reads two words, the student c ##ard lo ##s ##t."""
    outputs = {**windows([NO, NO, (0, 4), (5, 9), NO]), "logits": torch.tensor([[0.0, 1], [9, 9], [2, 3], [4, 5], [9, 9]])}
    batch = windows([NO, NO, (0, 1), (1, 4), (5, 7), (7, 8), (8, 9), NO])
    found = carried_over(outputs, batch)
    assert found[:, 0].clamp(min=-99).tolist() == [0, -99, 2, -99, 4, -99, -99, -99]
    assert found[:, 1].clamp(min=-99).tolist() == [1, -99, -99, 3, -99, -99, 5, -99]
    back = carried_over({**batch, "logits": found}, windows([NO, NO, (0, 4), (5, 9), NO]))
    assert torch.allclose(back[[0, 2, 3]], outputs["logits"][[0, 2, 3]], atol=1e-6)


def test_what_lies_outside_of_a_window_is_no_answer_in_it() -> None:
    """The context is read in two windows that overlap in (5, 9); the second one holds less for "no answer"."""
    outputs = {
        **windows([NO, (0, 4), (5, 9)], [NO, (5, 9), (10, 12)], owner=(0, 0)),
        "logits": torch.tensor([[3.0, 3], [1, 1], [2, 2], [0, 0], [4, 4], [5, 5]]),
    }
    found = carried_over(outputs, windows([NO, (0, 4), (5, 9)]))
    expected = torch.tensor([0.0, 5.0]).logsumexp(0)
    assert found[:, 0].tolist() == pytest.approx([float(expected), 1, 4])


@given(
    cuts=st.tuples(*[st.lists(st.integers(1, 19), max_size=8, unique=True).map(sorted)] * 2),
    seed=st.integers(0, 99),
    first=st.integers(0, 10),
)
def test_nothing_is_lost_on_the_way(cuts: tuple[list[int], list[int]], seed: int, first: int) -> None:
    """All that a reader holds for likely of a text of 20 characters is there again, however it is cut."""
    torch.manual_seed(seed)
    tokens = [list(zip([0, *own], [*own, 20], strict=True)) for own in cuts]
    outputs = {**windows([NO, *tokens[0]]), "logits": torch.randn(len(tokens[0]) + 1, 2)}
    found = carried_over(outputs, windows([NO, *(token for token in tokens[1] if token[0] >= first)]))
    assert torch.allclose(found.logsumexp(0), outputs["logits"].logsumexp(0), atol=1e-4)


def asked(texts: Sequence[str]) -> list[Example[Any]]:
    golds = [GoldAnswer(text=t.split()[0], start=0, end=len(t.split()[0])) for t in texts]
    return [
        Example(input=QaInput(question="where?", context=t), target=QaTarget(answers=(gold,)), path="d", line=i)
        for i, (t, gold) in enumerate(zip(texts, golds, strict=True))
    ]


def test_a_reader_learns_from_one_with_another_tokenizer(tiny_bert: str, narrow: str, tmp_path: Path) -> None:
    teacher = QaModel.build(backbone=tiny_bert, max_length=32, overlap=8, dropout=0.0)
    torch.nn.init.normal_(teacher.module.head.outer.weight, std=0.5)  # type: ignore[union-attr, operator, arg-type]
    teacher.training = TrainingWindows(length=24)
    taught = Steps(published("qa", teacher, tmp_path / "store"), asked(shuffled_words(WORDS, 24, 6, 3)), tmp_path / "work")
    chain = taught.run("distill", backbone=narrow, alpha=0.0, **QUICK)
    assert learns(chain)
    assert "asked in each step" in chain.steps[0].facts["answers"]
    more = tmp_path / "more.jsonl"
    more.write_text('{"question": "where?", "context": "my card is lost"}\n')
    with pytest.raises(UnsupportedError, match="leave `unlabelled` and `augment` open"):
        taught.run("distill", unlabelled=[str(more)], **QUICK)


# -- the other tasks ------------------------------------------------------------------------------------------------------


def test_relations_and_sentences_are_learnt_and_what_is_of_tokens_is_left_out(
    tiny_bert: str, narrow: str, tmp_path: Path
) -> None:
    texts = shuffled_words(WORDS, 24, 5, 4)
    relation = RelationModel.build(["owns(e1,e2)", "none"], backbone=tiny_bert, markers=("?", "."), head_size=16, dropout=0.0)
    pairs = [
        RelationInput(text=t, head=EntitySpan(start=0, end=t.index(" ")), tail=EntitySpan(start=t.rindex(" ") + 1, end=len(t)))
        for t in texts
    ]
    rows = [Example(input=pair, target=("none", "owns(e1,e2)")[i % 2], path="d", line=i) for i, pair in enumerate(pairs)]
    taught = Steps(published("relation", relation, tmp_path / "store", "pairs"), rows, tmp_path / "pairs")
    assert learns(taught.run("distill", backbone=narrow, **QUICK))
    chooser = SentenceChooser.build(backbone=tiny_bert, head_size=16, dropout=0.0)
    documents = [f"{t.capitalize()}. Where is the order. My card." for t in texts]
    asks = [
        Example(input=SummarizationInput(document=d), target=(d.split(".")[0],), path="d", line=i)
        for i, d in enumerate(documents)
    ]
    chain = Steps(published("summarization", chooser, tmp_path / "store", "said"), asks, tmp_path / "said").run(
        "distill", backbone=narrow, **QUICK
    )
    assert learns(chain)
    assert chain.steps[0].facts["compared"] == ["target/logits"]
    assert any(note.startswith("distill: target/keep: not compared") for note in chain.steps[0].facts["notes"])


def test_an_embedder_stays_in_its_teachers_space(
    tiny_bert: str, narrow: str, checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    teacher = EmbeddingModel.build(backbone=tiny_bert)
    parent = published("embedding", teacher, tmp_path / "store")
    rows = [
        Example(input=EmbeddingInput(text=text), target=EmbeddingTarget(positives=(text[::-1],)))
        for text in shuffled_words(WORDS, 24, 4, 5)
    ]
    taught = Steps(parent, rows, tmp_path / "work")
    other = str(checkpoint("bert", seed=3, pieces=["drac"]))
    chain = taught.run("distill", backbone=other, alpha=0.0, **QUICK)
    assert learns(chain)
    assert chain.steps[0].facts["compared"] == ["target/vectors"]
    with pytest.raises(UnsupportedError, match="name a backbone of 32"):
        taught.run("distill", backbone=narrow, **QUICK)


def test_who_can_not_be_made_anew_says_why(tiny_bert: str, narrow: str, tmp_path: Path) -> None:
    items = tmp_path / "items.csv"
    with items.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("item", "title"), ("a", "the card"), ("b", "the order")])
    towers = TowerConfig(dimensions=8, hidden=8, reading=2)
    recommender = RecommendationModel.build(Catalogue.read(items, CatalogueConfig()), towers=towers, backbone=tiny_bert)
    with pytest.raises(UnsupportedError, match="item tower"):
        recommender.on_backbone(narrow)
    with pytest.raises(UnsupportedError, match="tokens of its own vocabulary"):
        FillMaskModel.build(backbone=tiny_bert).on_backbone(narrow)
    network = VisionModel.build(LABELS, network=NetworkSettings(stem_width=8, widths=(8, 16), blocks=(1, 1)), size=16)
    taught = Steps(published("vision", network, tmp_path / "store"), shades(12), tmp_path / "work")
    with pytest.raises(UnsupportedError, match="VisionModel can't be made anew"):
        taught.run("distill", backbone=narrow, **QUICK)


def test_the_licence_of_the_backbone_is_one_of_the_versions(steps: Callable[..., Steps]) -> None:
    parent = steps("any").parent
    parent = type(parent)(parent.folder, parent.manifest.model_copy(update={"licence": "Apache-2.0"}))
    one, other, unsaid = (
        Pretrained(BackboneInfo(id=name, licence=told)) for name, told in (("x", "apache-2.0"), ("y", "MIT"), ("org/z", ""))
    )
    assert _licence([parent], [one]) == "Apache-2.0"
    assert _licence([parent], [other, unsaid]) == "Apache-2.0 AND MIT AND not stated by org/z"
