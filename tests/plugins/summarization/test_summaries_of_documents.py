"""What a model that chooses sentences answers, and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from taskloom.core.artifact import Artifact
from taskloom.core.errors import ArtifactError, InvalidInputError
from taskloom.core.predictor import Predictor
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.store import ModelStore
from taskloom.core.task import SharedParts
from taskloom.core.testing.conformance import publish
from taskloom.plugins.backbones.settings import LoraSettings
from taskloom.plugins.runtimes.torch import TorchRuntime
from taskloom.plugins.tasks.summarization import model as summarizer
from taskloom.plugins.tasks.summarization.model import SentenceChooser
from taskloom.plugins.tasks.summarization.plugin import SummarizationTask
from taskloom.plugins.tasks.summarization.schema import (
    NEWS,
    NEWS_ZH,
    SavedWriter,
    SummarizationInput,
    SummarizationOutput,
    SummarizationParams,
)


def ready(model: SentenceChooser) -> Predictor[Any, Any, Any]:
    runtime = TorchRuntime()
    plan = runtime.plan(RuntimeConfig(precision="fp32", device="cpu", threads=1))
    return Predictor(SummarizationTask(), model, runtime.load(model, None, plan))


@pytest.fixture(scope="module")
def predictor(tiny_bert: str) -> Predictor[Any, Any, Any]:
    torch.manual_seed(0)
    return ready(SentenceChooser.build(backbone=tiny_bert, head_size=16, max_length=32))


def summary(predictor: Predictor[Any, Any, Any], document: str, **params: Any) -> SummarizationOutput:
    found: SummarizationOutput = predictor.predict_one(SummarizationInput(document=document), SummarizationParams(**params))
    return found


def test_a_summary_is_sentences_of_the_document_in_its_order(predictor: Predictor[Any, Any, Any]) -> None:
    found = summary(predictor, NEWS, max_sentences=3)
    assert len(found.sentences) == 3
    assert [NEWS[s.start : s.end] for s in found.sentences] == [s.text for s in found.sentences]
    assert [s.start for s in found.sentences] == sorted(s.start for s in found.sentences)
    assert found.summary == " ".join(s.text for s in found.sentences)
    assert not found.truncated


def test_scores_of_all_sentences_are_a_distribution(predictor: Predictor[Any, Any, Any]) -> None:
    found = summary(predictor, NEWS, max_sentences=9)
    assert found.summary == NEWS
    assert sum(s.score for s in found.sentences) == pytest.approx(1, abs=1e-5)


def test_the_best_sentence_is_the_likeliest(predictor: Predictor[Any, Any, Any]) -> None:
    every = summary(predictor, NEWS, max_sentences=9).sentences
    assert summary(predictor, NEWS, max_sentences=1).sentences == (max(every, key=lambda s: s.score),)


def test_chinese_sentences_are_joined_without_blanks(predictor: Predictor[Any, Any, Any]) -> None:
    found = summary(predictor, NEWS_ZH, max_sentences=9)
    assert found.summary == NEWS_ZH
    assert len(found.sentences) == 3


def test_the_end_of_a_very_long_document_is_read(predictor: Predictor[Any, Any, Any]) -> None:
    document = "Where is my card? " * 300 + "The order is lost!"
    every = summary(predictor, document, max_sentences=100)
    assert not every.truncated
    batch = predictor.model.encode([SummarizationInput(document=document)])
    assert int(batch["documents"][0]) == 301
    assert int(batch["sentence"].max()) == 300


@pytest.mark.parametrize("limit", [1, 7, 60, 100, 250])
def test_a_summary_is_never_longer_than_asked(predictor: Predictor[Any, Any, Any], limit: int) -> None:
    for shorten in (False, True):
        found = summary(predictor, NEWS, max_sentences=4, max_characters=limit, shorten=shorten)
        assert 0 < len(found.summary) <= limit
        assert all(NEWS[s.start : s.end] == s.text for s in found.sentences)


def test_a_limit_in_tokens_is_kept(predictor: Predictor[Any, Any, Any]) -> None:
    for limit in (1, 10, 40, 90):
        found = summary(predictor, NEWS, max_sentences=4, max_tokens=limit)
        tokens = predictor.model.parts.tokenizer.windows([found.summary])
        assert 0 < int((tokens.words >= 0).sum()) <= limit


def test_words_that_do_not_fit_are_left_out_whole(predictor: Predictor[Any, Any, Any]) -> None:
    found = summary(predictor, "Council approves twentyfive buses", max_characters=20)
    assert found.summary == "Council approves"
    assert (found.sentences[0].start, found.sentences[0].end) == (0, 16)


def test_a_shortened_sentence_keeps_its_place(predictor: Predictor[Any, Any, Any]) -> None:
    for document in (NEWS, "👩‍👩‍👧 " + NEWS, NEWS_ZH):
        found = summary(predictor, document, max_sentences=4, shorten=True)
        assert all(document[s.start : s.end] == s.text for s in found.sentences)


def test_only_what_is_given_is_shortened(predictor: Predictor[Any, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    shortened = summarizer.shortened
    read: list[int] = []
    monkeypatch.setattr(summarizer, "shortened", lambda words, unsaid: read.append(len(words)) or shortened(words, unsaid))
    found = summary(predictor, NEWS, max_sentences=2, shorten=True)
    assert len(read) == 2
    assert summary(predictor, NEWS, max_sentences=2, max_characters=10_000, shorten=True) == found
    assert len(read) > 4


def test_a_sentence_that_repeats_another_is_not_given_twice(predictor: Predictor[Any, Any, Any]) -> None:
    document = "Where is my card? " * 3 + "The order is lost! Hello, a refund?"
    plain = summary(predictor, document, max_sentences=2, redundancy_penalty=1.0)  # a random head's relevance means nothing
    assert len({s.text for s in plain.sentences}) == 2


@pytest.mark.parametrize("name", ["num_beams", "min_tokens", "length_penalty", "no_repeat_ngram_size"])
def test_settings_of_models_that_write_are_refused(predictor: Predictor[Any, Any, Any], name: str) -> None:
    with pytest.raises(InvalidInputError, match=f"`{name}` is for models that write") as caught:
        summary(predictor, NEWS, **{name: 1})
    assert caught.value.field == f"params.{name}"


def test_a_setting_of_models_that_write_is_refused_before_the_model_runs(
    predictor: Predictor[Any, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    run = predictor.executor.run
    monkeypatch.setattr(predictor.executor, "run", lambda batch: sizes.append(len(batch["documents"])) or run(batch))
    inputs = [SummarizationInput(document=NEWS)] * 4
    answers = predictor.predict(inputs, [SummarizationParams(num_beams=2), *[SummarizationParams()] * 3])
    assert [isinstance(answer, InvalidInputError) for answer in answers] == [True, False, False, False]
    assert sum(sizes) == 3


@pytest.mark.parametrize("document", ["", " \n", "\u200b", "\x00", "\ud800", "x" * 200_001])
def test_documents_that_say_nothing_or_too_much_are_refused(document: str) -> None:
    with pytest.raises(ValidationError):
        SummarizationInput(document=document)


def test_params_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="min_tokens must not be more"):
        SummarizationParams(min_tokens=9, max_tokens=3)
    assert SummarizationParams.model_validate({"max_sentences": 3.0}).max_sentences == 3


TEXTS = st.text(alphabet=st.sampled_from("ab. !?。中文，,\n\u0301👩\u200d\u200b\x07'\"3"), min_size=1, max_size=120)


@settings(deadline=None, max_examples=60)
@given(TEXTS, st.integers(1, 5), st.sampled_from([None, 1, 12]), st.booleans())
def test_offsets_are_right_for_any_text(
    predictor: Predictor[Any, Any, Any], document: str, most: int, longest: int | None, shorten: bool
) -> None:
    try:
        asked = SummarizationInput(document=document)
    except ValidationError:
        return
    params = SummarizationParams(max_sentences=most, max_characters=longest, shorten=shorten)
    found = predictor.predict_one(asked, params)
    assert found.summary
    assert longest is None or len(found.summary) <= longest
    assert all(s.text and document[s.start : s.end] == s.text for s in found.sentences)


def test_an_artifact_holds_the_head_and_no_backbone(tiny_bert: str, tmp_path: Path) -> None:
    model = SentenceChooser.build(backbone=tiny_bert, head_size=16, sentences=2, shorten=True)
    artifact = publish(SummarizationTask(), model, ModelStore([tmp_path]))
    assert set(artifact.manifest.files) == {"head.safetensors"}
    again = SentenceChooser.load(artifact, SharedParts())
    assert (again.saved.sentences, again.saved.shorten) == (2, True)
    strange = artifact.manifest.model_copy(update={"config": {"kind": "extractive"}})
    with pytest.raises(ArtifactError, match="no sentence chooser's"):
        SentenceChooser.load(Artifact(artifact.folder, strange), SharedParts())
    other = artifact.manifest.model_copy(update={"config": {"kind": "abstract"}})
    with pytest.raises(ArtifactError, match="there are 'extractive' and 'seq2seq'"):
        SummarizationTask().load(Artifact(artifact.folder, other), SharedParts())


def test_it_shares_a_backbone_with_other_models_and_answers_the_same(tiny_bert: str, tmp_path: Path) -> None:
    torch.manual_seed(4)
    model = SentenceChooser.build(backbone=tiny_bert, adapter=LoraSettings(r=2), head_size=16, sentences=2, shorten=True)
    for name, parameter in model.module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    artifact = publish(SummarizationTask(), model, ModelStore([tmp_path]))
    alone = ready(SentenceChooser.load(artifact, SharedParts()))
    shared = SentenceChooser.load(artifact, SharedParts([model.saved.backbone_digest]))
    assert shared.branch is not None
    for document in (NEWS, NEWS_ZH):
        one, other = summary(alone, document), summary(ready(shared), document)
        assert one.summary == other.summary
        assert [s.score for s in one.sentences] == pytest.approx([s.score for s in other.sentences], abs=1e-4)


def test_only_the_head_is_trained_without_an_adapter(tiny_bert: str) -> None:
    plain = SentenceChooser.build(backbone=tiny_bert, head_size=16)
    assert all(name.startswith("head.") for name, p in plain.module.named_parameters() if p.requires_grad)
    adapted = SentenceChooser.build(backbone=tiny_bert, head_size=16, adapter=LoraSettings(r=2))
    assert any("lora" in name for name, p in adapted.module.named_parameters() if p.requires_grad)


def test_warm_up_meets_the_head(predictor: Predictor[Any, Any, Any]) -> None:
    predictor.warm_up(100)


def test_cost_grows_with_the_document_and_what_is_to_be_written() -> None:
    task = SummarizationTask()
    short, long = (SummarizationInput(document=NEWS * n) for n in (1, 20))
    choosing = SummarizationParams(max_sentences=1)
    assert task.cost(long, choosing) > 15 * task.cost(short, choosing) > 15 * 60
    chosen = task.cost(short, choosing)
    assert task.cost(short, SummarizationParams(max_tokens=100, num_beams=4)) == chosen + 400
    # The model's own settings are not known here: what isn't said costs what a writer's are if it has none.
    usual = SavedWriter.model_fields["max_tokens"].default
    assert task.cost(short, SummarizationParams()) == chosen + usual
    assert task.cost(short, SummarizationParams(num_beams=2)) == chosen + 2 * usual
    assert task.cost(short, SummarizationParams(max_tokens=100)) == chosen + 100
    assert task.cost(short, SummarizationParams(min_tokens=500)) == chosen + 500
    assert task.cost(short, SummarizationParams(max_tokens=100, max_sentences=1)) == chosen


def test_the_registry_knows_summarization_without_importing_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from taskloom.core import load_registry; r = load_registry(); t = r.tasks.get('summarization'); "
        "t.cost(t.Input(document='a'), t.Params()); "
        "print([m for m in ('torch', 'transformers', 'numpy', 'nltk') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.strip().replace("'", '"')) == []
