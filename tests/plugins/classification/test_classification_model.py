"""What a classifier answers, learns from, and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from taskloom.core.artifact import Artifact
from taskloom.core.errors import ArtifactError, DataError, InvalidInputError, UnsupportedError
from taskloom.core.predictor import Predictor
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.store import ModelStore
from taskloom.core.task import Example, SharedParts
from taskloom.core.testing.conformance import publish
from taskloom.plugins.backbones.settings import LoraSettings
from taskloom.plugins.runtimes.torch import TorchRuntime
from taskloom.plugins.tasks.classification.heads import IMPORTED_HEADS
from taskloom.plugins.tasks.classification.model import ClassificationModel, load
from taskloom.plugins.tasks.classification.plugin import ClassificationTask
from taskloom.plugins.tasks.classification.schema import ClassificationInput, ClassificationOutput, ClassificationParams

LABELS = ["card", "order", "refund"]


def ready(model: ClassificationModel) -> Predictor[Any, Any, Any]:
    runtime = TorchRuntime()
    plan = runtime.plan(RuntimeConfig(precision="fp32", device="cpu", threads=1))
    return Predictor(ClassificationTask(), model, runtime.load(model, None, plan))


def decoded(model: ClassificationModel, logits: list[float], **params: Any) -> ClassificationOutput:
    outputs = {"logits": torch.tensor([logits]), "truncated": torch.tensor([False])}
    return model.decode(outputs, [ClassificationInput(text="x")], [ClassificationParams(**params)])[0]


@pytest.fixture(scope="module")
def single(tiny_bert: str) -> ClassificationModel:
    return ClassificationModel.build(LABELS, backbone=tiny_bert)


@pytest.fixture(scope="module")
def multi(tiny_bert: str) -> ClassificationModel:
    return ClassificationModel.build(LABELS, backbone=tiny_bert, multi_label=True)


def test_scores_of_one_label_are_a_distribution_best_first(single: ClassificationModel) -> None:
    found = decoded(single, [0.0, 2.0, 1.0], top_k=None).labels
    assert [item.label for item in found] == ["order", "refund", "card"]
    assert sum(item.score for item in found) == pytest.approx(1)


def test_top_k_and_threshold_cut_the_list(single: ClassificationModel) -> None:
    assert [x.label for x in decoded(single, [0.0, 2.0, 1.0], top_k=1).labels] == ["order"]
    assert [x.label for x in decoded(single, [0.0, 2.0, 1.0], threshold=0.2).labels] == ["order", "refund"]
    assert decoded(single, [0.0, 0.0, 0.0], threshold=0.9).labels == ()


def test_several_labels_are_judged_each_for_itself(multi: ClassificationModel) -> None:
    assert [x.label for x in decoded(multi, [3.0, -1.0, 1.0]).labels] == ["card", "refund"]
    assert [x.score for x in decoded(multi, [0.0, 0.0, -9.0]).labels] == [0.5, 0.5]
    assert len(decoded(multi, [3.0, -1.0, 1.0], threshold=0.0).labels) == 3


def test_a_cut_text_is_reported(tiny_bert: str) -> None:
    predictor = ready(ClassificationModel.build(LABELS, backbone=tiny_bert, max_length=16))
    short, long = predictor.predict([ClassificationInput(text="hello"), ClassificationInput(text="hello " * 30)])
    assert (short.truncated, long.truncated) == (False, True)


def test_a_pair_is_needed_by_models_of_pairs_and_refused_by_others(tiny_bert: str, single: ClassificationModel) -> None:
    with pytest.raises(InvalidInputError, match="takes no `text_pair`") as caught:
        single.encode([ClassificationInput(text="a", text_pair="b")])
    assert caught.value.field == "input.text_pair"
    pairs = ClassificationModel.build(LABELS, backbone=tiny_bert, pair=True)
    with pytest.raises(InvalidInputError, match="needs `text_pair`"):
        pairs.encode([ClassificationInput(text="a")])


def test_words_that_both_texts_of_a_pair_have_are_marked_in_the_second(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    backbone = str(checkpoint("bert", pieces="我的银行卡在哪里?"))
    model = ClassificationModel.build(LABELS, backbone=backbone, pair=True, mark_shared=True)

    def marked(text: str, pair: str, model: ClassificationModel = model) -> list[str]:
        batch = model.encode([ClassificationInput(text=text, text_pair=pair)])
        return model.parts.tokenizer.processor.convert_ids_to_tokens(batch["input_ids"][batch["token_type_ids"] > 0].tolist())

    assert marked("where is my card?", "the card is lost ?") == ["card", "is"]
    assert marked("我的卡在哪里", "银行在我的卡") == ["我", "的", "卡"]
    assert marked("银行", "where is my card") == []
    again = load(publish(ClassificationTask(), model, ModelStore([tmp_path])), SharedParts())
    assert isinstance(again, ClassificationModel)
    assert marked("where is my card?", "the card is lost ?", again) == ["card", "is"]


def test_what_has_nothing_to_mark_or_no_way_to_is_not_marked(checkpoint: Callable[..., Path]) -> None:
    backbone, plain = str(checkpoint("bert")), str(checkpoint("distilbert"))
    with pytest.raises(InvalidInputError, match="set pair = true"):
        ClassificationModel.build(LABELS, backbone=backbone, mark_shared=True)
    with pytest.raises(UnsupportedError, match="no second type of tokens"):
        ClassificationModel.build(LABELS, backbone=plain, pair=True, mark_shared=True)
    model = ClassificationModel.build(LABELS, backbone=backbone, pair=True, mark_shared=True)
    assert not model.on_backbone(plain).saved.mark_shared


@pytest.mark.parametrize("text", ["", "  ", "\u3000\n", "\x00\x01", "\u200b", "x" * 100_001, "\ud800"])
def test_texts_that_say_nothing_or_too_much_are_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        ClassificationInput(text=text)


def test_whole_numbers_sent_as_floats_are_taken() -> None:
    """protobuf's Struct knows doubles alone."""
    assert ClassificationParams.model_validate({"top_k": 3.0}).top_k == 3


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_few_steps_learn_the_examples(multi_label: bool) -> None:
    torch.manual_seed(0)
    lora = LoraSettings(r=8, dropout=0)
    model = ClassificationModel.build(LABELS, multi_label=multi_label, adapter=lora, dropout=0)
    texts = {"card": "where is my card", "order": "the order is lost", "refund": "a refund ?"}
    examples = [
        Example(input=ClassificationInput(text=text), target=(label,) if multi_label else label)
        for label, text in texts.items()
    ]
    batch = model.collate(examples)
    optimizer = torch.optim.AdamW([p for p in model.module.parameters() if p.requires_grad], lr=0.001)
    first = last = model.loss(batch)
    for _ in range(40):
        optimizer.zero_grad()
        last = model.loss(batch)
        last.backward()
        optimizer.step()
    assert last.item() < first.item() / 2
    answers = ready(model).predict([example.input for example in examples])
    assert [answer.labels[0].label for answer in answers] == list(texts)


def test_class_weights_and_smoothing_change_the_loss(tiny_bert: str) -> None:
    model = ClassificationModel.build(LABELS, backbone=tiny_bert)
    model.module.eval()
    rows = [("hello", "card"), ("a", "order")]
    batch = model.collate([Example(input=ClassificationInput(text=text), target=label) for text, label in rows])
    plain = model.loss(batch).item()
    model.class_weights = torch.tensor([10.0, 1.0, 1.0])
    weighted = model.loss(batch).item()
    model.class_weights, model.label_smoothing = None, 0.3
    assert len({round(x, 6) for x in (plain, weighted, model.loss(batch).item())}) == 3


def test_an_unknown_label_names_its_line(single: ClassificationModel) -> None:
    with pytest.raises(DataError, match="'nope' is not one of the model's 3 labels") as caught:
        single.collate([Example(input=ClassificationInput(text="a"), target="nope", path="d.csv", line=7)])
    assert (caught.value.path, caught.value.line) == ("d.csv", 7)


def test_frozen_layers_do_not_train(tiny_bert: str) -> None:
    model = ClassificationModel.build(LABELS, backbone=tiny_bert, frozen_layers=1)
    trained = {name for name, p in model.module.encoder.model.named_parameters() if p.requires_grad}
    assert any("layer.1." in name for name in trained)
    assert not any("layer.0." in name or "embeddings" in name for name in trained)
    with pytest.raises(InvalidInputError, match="the backbone has 2 layers"):
        ClassificationModel.build(LABELS, backbone=tiny_bert, frozen_layers=3)


def test_an_adapter_artifact_is_small_and_names_no_folder(tiny_bert: str, tmp_path: Path) -> None:
    model = ClassificationModel.build(LABELS, backbone=tiny_bert, adapter=LoraSettings(r=2))
    artifact = publish(ClassificationTask(), model, ModelStore([tmp_path]))
    assert set(artifact.manifest.files) == {
        "head.safetensors",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    }
    config = json.loads(artifact.path("adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == tiny_bert


def test_a_full_artifact_needs_nothing_else(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = checkpoint("bert", seed=5)
    artifact = publish(ClassificationTask(), ClassificationModel.build(LABELS, backbone=str(folder)), ModelStore([tmp_path]))
    folder.rename(folder.with_name("gone"))
    assert ready(load(artifact, SharedParts())).predict_one(ClassificationInput(text="hello")).labels


def test_an_adapter_on_another_backbone_is_refused(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = checkpoint("bert", seed=6)
    model = ClassificationModel.build(LABELS, backbone=str(folder), adapter=LoraSettings(r=2))
    artifact = publish(ClassificationTask(), model, ModelStore([tmp_path]))
    other = checkpoint("bert", seed=7) / "model.safetensors"
    (folder / "model.safetensors").write_bytes(other.read_bytes())
    with pytest.raises(ArtifactError, match="the weights were trained on backbone"):
        load(artifact, SharedParts())


def test_a_manifest_of_another_kind_is_refused(tiny_bert: str, tmp_path: Path) -> None:
    model = ClassificationModel.build(LABELS, backbone=tiny_bert)
    artifact = publish(ClassificationTask(), model, ModelStore([tmp_path]))
    strange = artifact.manifest.model_copy(update={"config": {"form": "unheard"}})
    with pytest.raises(ArtifactError, match="no classifier's"):
        load(Artifact(artifact.folder, strange), SharedParts())


@pytest.mark.parametrize("kind", sorted(IMPORTED_HEADS))
def test_an_imported_checkpoint_answers_as_transformers_does(kind: str, checkpoint: Callable[..., Path]) -> None:
    from transformers import AutoModelForSequenceClassification

    folder = checkpoint(kind, head=LABELS)
    model = ClassificationModel.import_checkpoint(str(folder))
    assert model.labels == tuple(LABELS)
    inputs = [ClassificationInput(text="where is my card?"), ClassificationInput(text="我的银行卡 " * 20)]
    batch = model.encode(inputs)
    reference = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        mine = model.forward(batch)["logits"]
        theirs = [reference(input_ids=ids[None]).logits[0] for ids in batch["input_ids"].split(batch["lengths"].tolist())]
    torch.testing.assert_close(mine, torch.stack(theirs), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("problem", [None, "regression"])
def test_a_head_of_one_logit_scores_a_pair_by_its_logistic_function(
    checkpoint: Callable[..., Path], problem: str | None
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = checkpoint("bert", head=["LABEL_0"], problem_type=problem)
    model = ClassificationModel.import_checkpoint(str(folder), pair=True, labels=["relevant"])
    pair = ("where is my card?", "我的银行卡 " * 30)
    (told,) = ready(model).predict(
        [ClassificationInput(text=pair[0], text_pair=pair[1])], [ClassificationParams(threshold=0.0)]
    )
    reference = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    cut: dict[str, Any] = {"truncation": "longest_first", "max_length": 128, "return_token_type_ids": True}
    given = tokenizer(*pair, **cut, return_tensors="pt")
    with torch.inference_mode():
        logit = reference(**given).logits
    assert logit.shape == (1, 1)
    assert [label.label for label in told.labels] == ["relevant"]
    assert told.labels[0].score == pytest.approx(float(logit.sigmoid()), abs=1e-4)
    assert told.truncated


def test_labels_for_an_imported_head_are_as_many_as_its_logits(checkpoint: Callable[..., Path]) -> None:
    folder = str(checkpoint("bert", head=["LABEL_0", "LABEL_1"]))
    model = ClassificationModel.import_checkpoint(folder, pair=True, labels=["irrelevant", "relevant"])
    assert (model.labels, model.saved.multi_label) == (("irrelevant", "relevant"), False)
    for wrong in (["relevant"], ["relevant", "relevant"], ["a", "b", "c"]):
        with pytest.raises(InvalidInputError, match="2 logits"):
            ClassificationModel.import_checkpoint(folder, labels=wrong)
    with pytest.raises(UnsupportedError, match="predicts 2 numbers"):
        ClassificationModel.import_checkpoint(str(checkpoint("bert", head=["a", "b"], problem_type="regression")))


def test_a_checkpoint_with_an_unknown_head_says_what_to_do(checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(UnsupportedError, match=r"mpnet classifier.*Train a new head"):
        ClassificationModel.import_checkpoint(str(checkpoint("mpnet", head=LABELS)))


def test_warm_up_meets_every_row_length_of_a_budget(single: ClassificationModel) -> None:
    totals = [int(batch["lengths"].sum()) for batch in single.warm_up(600)]
    assert totals == [*range(16, 257, 16), 320, 384, 448, 512, 576, 640]
    single.forward(next(single.warm_up(600)))


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [("hi", 3, 4), ("Where is my new card? I ordered it last week.", 10, 16), ("我的银行卡丢了请帮我冻结账户", 14, 18)],
)
def test_cost_is_near_the_tokens(text: str, least: int, most: int) -> None:
    assert least <= ClassificationTask().cost(ClassificationInput(text=text), ClassificationParams()) <= most


def test_cost_is_capped_and_counts_both_texts() -> None:
    task, params = ClassificationTask(), ClassificationParams()
    assert task.cost(ClassificationInput(text="长" * 90_000), params) == 512
    both = task.cost(ClassificationInput(text="hello there", text_pair="hello there"), params)
    assert both > task.cost(ClassificationInput(text="hello there"), params)


def test_the_registry_knows_classification_without_importing_torch() -> None:
    code = (
        "import sys; from taskloom.core import load_registry; r = load_registry(); "
        "assert 'classification' in r.tasks and 'torch' in r.runtimes and 'python' in r.runtimes; "
        "r.tasks.get('classification').Input(text='a'); "
        "print([m for m in ('torch', 'transformers', 'numpy', 'peft') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
