"""Gaps and what fills them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from taskloom.core.artifact import Artifact, Manifest
from taskloom.core.errors import InvalidInputError, UnsupportedError
from taskloom.core.predictor import Predictor, validated
from taskloom.core.store import ModelStore
from taskloom.core.task import Example, SharedParts
from taskloom.core.testing.conformance import publish
from taskloom.plugins.tasks.fill_mask.model import FillMaskModel
from taskloom.plugins.tasks.fill_mask.plugin import FillMaskTask
from taskloom.plugins.tasks.fill_mask.schema import FillMaskInput, FillMaskParams, FillMaskTarget

AsPredictor = Callable[[FillMaskModel], Predictor[Any, Any, Any]]
TEXTS = ["北京是中国的首[MASK]。", "[MASK][MASK]年成立", "在New [MASK]York,[MASK]", "的" * 100 + "[MASK]"]


@pytest.fixture
def predictor(model: FillMaskModel, as_predictor: AsPredictor) -> Predictor[Any, Any, Any]:
    return as_predictor(model)


def test_each_gap_has_candidates_and_its_place(predictor: Predictor[Any, Any, Any]) -> None:
    text = "𠮷在[MASK]北[MASK]"
    found = predictor.predict_one(FillMaskInput(text=text), FillMaskParams(top_k=3))
    assert [text[gap.start : gap.end] for gap in found.gaps] == ["[MASK]", "[MASK]"]
    for gap in found.gaps:
        scores = [candidate.score for candidate in gap.candidates]
        assert len(scores) == 3
        assert scores == sorted(scores, reverse=True)
        assert gap.target_score is None


def test_scores_are_what_transformers_gives(model: FillMaskModel, as_predictor: AsPredictor) -> None:
    """The whole of the vocabulary, but for special tokens."""
    found = as_predictor(model).predict_one(FillMaskInput(text=TEXTS[0]), FillMaskParams(top_k=5))
    given = model.processor(TEXTS[0], return_tensors="pt")
    place = int((given["input_ids"][0] == model.processor.mask_token_id).nonzero())
    whole = model.parts.whole
    whole.set_attn_implementation("eager")
    with torch.no_grad():
        logits = whole(**given).logits[0, place]
    logits[model.processor.all_special_ids] = float("-inf")
    best = logits.softmax(0).topk(5)
    assert [c.token for c in found.gaps[0].candidates] == model.processor.convert_ids_to_tokens(best.indices.tolist())
    assert [c.score for c in found.gaps[0].candidates] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_alone_and_in_a_batch_are_the_same(predictor: Predictor[Any, Any, Any]) -> None:
    inputs = [FillMaskInput(text=text) for text in TEXTS]
    for item, answer in zip(inputs, predictor.predict(inputs), strict=True):
        alone = predictor.predict_one(item)
        for one, other in zip(answer.gaps, alone.gaps, strict=True):
            assert [c.token for c in one.candidates] == [c.token for c in other.candidates]
            assert [c.score for c in one.candidates] == pytest.approx([c.score for c in other.candidates], abs=1e-6)


def test_targets_are_scored(predictor: Predictor[Any, Any, Any]) -> None:
    best = predictor.predict_one(FillMaskInput(text=TEXTS[1]), FillMaskParams(top_k=1))
    tokens = tuple(gap.candidates[0].token for gap in best.gaps)
    found = predictor.predict_one(FillMaskInput(text=TEXTS[1]), FillMaskParams(targets=tokens))
    assert [gap.target_score for gap in found.gaps] == [gap.candidates[0].score for gap in found.gaps]
    unknown = predictor.predict_one(FillMaskInput(text=TEXTS[1]), FillMaskParams(targets=("龘靐", "[PAD]")))
    assert [gap.target_score for gap in unknown.gaps] == [None, None]
    with pytest.raises(InvalidInputError, match=r"names 1 tokens and the text has 2 \[MASK\]"):
        predictor.predict_one(FillMaskInput(text=TEXTS[1]), FillMaskParams(targets=("年",)))


def test_special_tokens_fill_no_gap(model: FillMaskModel, as_predictor: AsPredictor) -> None:
    with torch.no_grad():
        model.parts.whole.get_output_embeddings().bias[model.processor.all_special_ids] = 50.0
    found = as_predictor(model).predict_one(FillMaskInput(text=TEXTS[0]))
    assert not {c.token for c in found.gaps[0].candidates} & set(model.processor.all_special_tokens)


def test_a_text_without_a_gap_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"has no \[MASK\]; put one") as caught:
        validated(FillMaskInput, {"text": "北京"}, "input")
    assert caught.value.field == "input.text"


def test_a_text_that_is_too_long_is_refused(predictor: Predictor[Any, Any, Any]) -> None:
    with pytest.raises(InvalidInputError, match="more than 128 tokens"):
        predictor.predict_one(FillMaskInput(text="的" * 130 + "[MASK]"))
    fine, long = predictor.predict([FillMaskInput(text=TEXTS[0]), FillMaskInput(text="的" * 130 + "[MASK]")])
    assert len(fine.gaps) == 1
    assert isinstance(long, InvalidInputError)


def test_a_tokenizer_with_another_mask_is_spoken_to_in_its_own_words(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint("bert", seed=3)
    content = (folder / "tokenizer_config.json").read_text(encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(content.replace('"mask_token": "[MASK]"', '"mask_token": "hello"'))
    model = FillMaskModel.build(backbone=str(folder))
    assert model.encode([FillMaskInput(text="where [MASK]")])["counts"].tolist() == [1]
    with pytest.raises(InvalidInputError, match="takes for a gap"):
        model.encode([FillMaskInput(text="hello [MASK]")])


def test_an_architecture_whose_head_is_spread_out_is_refused(checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(UnsupportedError, match="not one module"):
        FillMaskModel.build(backbone=str(checkpoint("distilbert")))


def test_examples_can_be_learnt_from(model: FillMaskModel) -> None:
    """What optimizers train on: rows of the task, not of a token file."""
    hidden = ("都", "iphone15pro")
    example = Example(input=FillMaskInput(text="首[MASK]有[MASK]"), target=FillMaskTarget(text="首都有", hidden=hidden))
    batch = model.collate([example])
    assert batch["labels"].tolist() == [model.pieces_of("都")[0], -100]
    loss = model.loss(batch)
    loss.backward()
    assert torch.isfinite(loss)
    assert model.parts.whole.get_input_embeddings().weight.grad.abs().sum() > 0


def test_the_published_encoder_is_any_bert(model: FillMaskModel, tmp_path: Path) -> None:
    """In bf16, exactly, with its head and its pooler: other readers get the same hidden states and logits."""
    from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

    whole = model.parts.whole
    assert whole.get_output_embeddings().weight is whole.get_input_embeddings().weight
    model.module.to(torch.bfloat16)
    artifact = publish(FillMaskTask(), model, ModelStore([tmp_path]))
    folder = artifact.folder / "backbone"
    given = AutoTokenizer.from_pretrained(folder)(TEXTS[0], return_tensors="pt")
    loaded = FillMaskModel.load(artifact, SharedParts())
    assert {p.dtype for p in loaded.module.parameters()} == {torch.bfloat16}
    encoder, again = (AutoModel.from_pretrained(folder, dtype=torch.float32).eval() for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), again.parameters(), strict=True))
    read = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    loaded.module.float().eval()
    with torch.no_grad():
        batch = loaded.encode([FillMaskInput(text=TEXTS[0])])
        hidden = loaded.module(batch["input_ids"], batch["token_type_ids"], batch["lengths"])
        torch.testing.assert_close(encoder(**given).last_hidden_state[0], hidden, atol=1e-5, rtol=1e-4)
        logits = loaded.forward(batch)["logits"][0]
        torch.testing.assert_close(read(**given).logits[0, batch["places"][0]], logits, atol=1e-4, rtol=1e-4)


def test_loading_what_is_no_masked_language_model_says_so(model: FillMaskModel, tmp_path: Path) -> None:
    artifact = publish(FillMaskTask(), model, ModelStore([tmp_path]))
    other = artifact.manifest.model_copy(update={"config": {"form": "none"}})
    with pytest.raises(Exception, match="no masked language model's"):
        FillMaskModel.load(Artifact(artifact.folder, other), SharedParts())


def test_the_head_can_lie_beside_a_graph_that_has_the_encoder(model: FillMaskModel, tmp_path: Path) -> None:
    """What a runtime of its own for the encoder leaves to torch: the head with the table that it shares with the encoder."""
    store = ModelStore([tmp_path])
    with store.draft("apart") as folder:
        config = model.save_rest(folder)
        manifest = Manifest(model="apart", task="fill-mask", created="2026-01-01T00:00:00Z", config=config)
        artifact = store.publish(folder, manifest)
    loaded = FillMaskModel.load(artifact, SharedParts())
    assert not loaded.parts.encoder.has_weights
    batch = model.encode([FillMaskInput(text=TEXTS[0])])
    hidden = torch.randn(len(batch["input_ids"]), 32)
    with torch.no_grad():
        assert torch.equal(loaded.finish(hidden, batch)["logits"], model.finish(hidden, batch)["logits"])


def test_it_can_teach_and_be_pruned(model: FillMaskModel) -> None:
    outputs = model.forward(model.encode([FillMaskInput(text=text) for text in TEXTS[:2]]))
    target = model.distillation_targets(outputs)["logits"]
    assert target.values.shape == (3, len(target.columns))
    assert target.sizes.tolist() == [1, 2]
    assert {structure.kind for structure in model.structures()} >= {"heads", "layers", "units"}
