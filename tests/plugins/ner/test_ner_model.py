"""Recognisers: whole words with places in the text that was sent, long texts, terms and filters, imported checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taskloom.core.artifact import Artifact, Manifest
from taskloom.core.errors import ArtifactError, InvalidInputError, UnsupportedError
from taskloom.core.store import ModelStore
from taskloom.core.task import Example, SharedParts
from taskloom.core.testing.conformance import publish
from taskloom.plugins.backbones.loading import load_backbone
from taskloom.plugins.backbones.settings import LoraSettings
from taskloom.plugins.tasks.ner.alignment import encode_words
from taskloom.plugins.tasks.ner.decoding import best_spans
from taskloom.plugins.tasks.ner.heads import SpanHead, turned
from taskloom.plugins.tasks.ner.model import NerModel
from taskloom.plugins.tasks.ner.plugin import NerTask
from taskloom.plugins.tasks.ner.schema import Entity, NerInput, NerParams
from taskloom.plugins.tasks.ner.words import words_of

BIO = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
Ask = Callable[..., list[list[Entity]]]


def saying(model: NerModel, tags: Callable[[str], str]) -> NerModel:
    """The model, its head replaced by one that gives each word the tag that `tags` says, by the word's text; what is under
    test is everything around it."""
    known = model.saved.tags
    encode = model.encode

    def encode_and_keep(inputs: Any) -> Any:
        batch = dict(encode(inputs))
        spans = torch.split(batch["word_spans"], batch["word_counts"].tolist())
        words = [item.text[i:j] for item, part in zip(inputs, spans, strict=True) for i, j in part.tolist()]
        said = torch.tensor([known.index(tags(word)) for word in words], dtype=torch.long)
        batch["said"] = torch.nn.functional.one_hot(said, len(known)).float() * 9
        return batch

    def finish(hidden: Any, batch: Any) -> Any:
        return {"logits": batch["said"], "word_spans": batch["word_spans"], "word_counts": batch["word_counts"]}

    model.encode, model.finish = encode_and_keep, finish  # type: ignore[method-assign]
    return model


@pytest.fixture
def flat(tiny_bert: str) -> NerModel:
    return NerModel.build(["LOC", "PER"], backbone=tiny_bert, head="token", max_length=40)


@pytest.mark.parametrize(
    ("text", "names", "places"),
    [
        ("👩‍👩‍👧‍👦 Zu\u0308rich, e\u0301!", {"Zu\u0308rich": "B-LOC"}, [(8, 15)]),
        ("我在北京工作", {"北": "B-LOC", "京": "I-LOC"}, [(2, 4)]),
        ("𠮷野家 in 𝔘𝔫𝔦", {"𠮷": "B-LOC", "野": "I-LOC", "家": "I-LOC", "𝔘𝔫𝔦": "B-PER"}, [(0, 3), (7, 10)]),
        ("unaffable's card", {"unaffable": "B-PER"}, [(0, 9)]),
        ("\u202eabc\x07 card\ufeff", {"abc": "B-PER", "card": "I-PER"}, [(1, 10)]),
    ],
)
def test_places_are_code_points_of_the_text_as_it_was_sent(
    flat: NerModel, ask: Ask, text: str, names: dict[str, str], places: list[tuple[int, int]]
) -> None:
    found = ask(saying(flat, lambda word: names.get(word, "O")), text)[0]
    assert [(entity.start, entity.end) for entity in found] == places
    assert all(entity.text == text[entity.start : entity.end] for entity in found)


@given(
    st.lists(
        st.text(st.sampled_from("where is my card? 银行卡 e\u0301 👩‍👧 \n\x00\ue000𠮷"), max_size=120), min_size=1, max_size=3
    )
)
@settings(deadline=None, max_examples=60)
def test_each_word_is_judged_by_its_first_token(bert: Any, texts: list[str]) -> None:
    found = encode_words(bert, texts)
    owners = torch.repeat_interleave(found.windows.owner, found.windows.lengths)
    of_word = torch.repeat_interleave(torch.arange(len(texts)), found.counts)
    assert torch.equal(owners[found.tokens], of_word)
    offsets = found.windows.offsets
    for (start, end), token, owner in zip(found.spans.tolist(), found.tokens.tolist(), of_word.tolist(), strict=True):
        assert (start, end) in words_of(texts[owner])
        assert offsets[token, 0] < end
        assert offsets[token, 1] > start
        before = token - 1
        assert not (owners[before] == owner and offsets[before, 0] < offsets[before, 1] and offsets[before, 1] > start)


@pytest.fixture(scope="module")
def bert(tiny_bert: str) -> Any:
    return load_backbone(tiny_bert, max_length=24).tokenizer


def test_a_long_text_is_read_to_its_end_and_names_cross_windows(flat: NerModel, ask: Ask) -> None:
    text = "where is my card ? " * 60
    words = words_of(text)
    model = saying(flat, lambda word: {"my": "B-PER", "card": "I-PER"}.get(word, "O"))
    found = ask(model, text, "hello")[0]
    assert [entity.text for entity in found] == ["my card"] * 60
    assert found[-1].start == text.rindex("my card")
    assert len(flat.encode([NerInput(text=text)])["lengths"]) > 5
    assert len(flat.encode([NerInput(text=text)])["word_tokens"]) == len(words)


def test_a_word_in_two_windows_is_judged_where_it_is_central(bert: Any) -> None:
    text = "a " * 50
    found = encode_words(bert, [text])
    ends = found.windows.lengths.cumsum(0)
    window = torch.searchsorted(ends, found.tokens, right=True)
    starts = ends - found.windows.lengths
    edge = torch.minimum(found.tokens - starts[window] - 1, ends[window] - 2 - found.tokens)
    assert window.tolist() == sorted(window.tolist())
    inner = edge[(window > 0) & (window < len(ends) - 1)]
    assert int(inner.min()) >= 2, "an eighth of a window of 24 tokens, less the two at its ends"


def test_thresholds_labels_and_terms(flat: NerModel, ask: Ask) -> None:
    model = saying(flat, lambda word: {"card": "B-PER", "order": "B-LOC"}.get(word, "O"))
    text = "my card , my order and my refund"
    assert [e.label for e in ask(model, text)[0]] == ["PER", "LOC"]
    assert [e.label for e in ask(model, text, labels=("LOC",))[0]] == ["LOC"]
    assert ask(model, text, threshold=1.0)[0] == []
    found = ask(model, text, threshold=1.0, dictionary={"my refund": "WISH", "Order": "X"}, ignore_case=True)[0]
    assert [(e.label, e.text, e.score, e.source) for e in found] == [
        ("X", "order", 1.0, "dictionary"),
        ("WISH", "my refund", 1.0, "dictionary"),
    ]


def test_labels_that_nothing_has_are_refused_before_the_model_runs(tiny_bert: str) -> None:
    model = NerModel.build(["LOC", "PER"], backbone=tiny_bert, head="token", dictionary={"card": "THING"})
    inputs = [NerInput(text="my card")]
    with pytest.raises(InvalidInputError, match=r"'PERSON'; .* are LOC, PER, THING, MINE") as caught:
        model.prepare(inputs, [NerParams(labels=("PER", "PERSON"), dictionary={"my": "MINE"})])
    assert caught.value.field == "params.labels"
    assert model.prepare(inputs, [NerParams(labels=("PER", "THING", "MINE"), dictionary={"my": "MINE"})])["word_counts"] == 2


def test_a_model_may_come_with_terms_and_the_caller_goes_first(tiny_bert: str, ask: Ask) -> None:
    model = NerModel.build(["PER"], backbone=tiny_bert, head="token", dictionary={"card": "THING", "order": "THING"})
    model = saying(model, lambda word: "O")
    assert [e.label for e in ask(model, "card order")[0]] == ["THING", "THING"]
    assert [e.label for e in ask(model, "card order", dictionary={"card": "MINE"})[0]] == ["MINE", "THING"]


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "electra"])
@pytest.mark.parametrize("tags", [BIO, ["B-PER", "I-PER", "E-PER", "S-PER", "O"]], ids=["BIO", "BIOES"])
def test_hugging_face_checkpoints_answer_as_they_do_there(
    token_checkpoint: Callable[..., str], kind: str, tags: list[str]
) -> None:
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    folder = token_checkpoint(kind, tags)
    model = NerModel.import_checkpoint(folder)
    assert model.labels == tuple(dict.fromkeys(tag[2:] for tag in tags if tag != "O"))
    text = "where is my unaffable card ?"
    with torch.inference_mode():
        mine = model.forward(model.encode([NerInput(text=text)]))["logits"]
        theirs = AutoModelForTokenClassification.from_pretrained(folder, dtype=torch.float32).eval()
        tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
        logits = theirs(**{k: v for k, v in tokens.items() if k != "token_type_ids"}).logits[0]
    words = tokens.word_ids()
    first = [i for i, word in enumerate(words) if word is not None and word != words[i - 1]]
    assert torch.allclose(mine, logits[first], atol=1e-4)


def test_checkpoints_that_begin_entities_with_i_keep_them(token_checkpoint: Callable[..., str], ask: Ask) -> None:
    """IOB1, the scheme of CoNLL 2003's files: `B` only parts two entities of one label."""
    model = NerModel.import_checkpoint(token_checkpoint("bert", BIO))
    says = {"my": "I-PER", "card": "I-PER", "order": "I-LOC", "hello": "B-LOC"}
    found = ask(saying(model, lambda word: says.get(word, "O")), "my card is order hello", "order my card")
    assert [[(e.text, e.label) for e in entities] for entities in found] == [
        [("my card", "PER"), ("order", "LOC"), ("hello", "LOC")],
        [("order", "LOC"), ("my card", "PER")],
    ]
    assert all(entity.score > 0.9 for entities in found for entity in entities)


def test_checkpoints_whose_labels_are_no_tags_are_refused(token_checkpoint: Callable[..., str]) -> None:
    with pytest.raises(UnsupportedError, match="'NOUN' is no tag"):
        NerModel.import_checkpoint(token_checkpoint("bert", ["NOUN", "VERB"]))
    with pytest.raises(InvalidInputError, match="knows no entities"):
        NerModel.import_checkpoint(token_checkpoint("bert", ["O"]))


def test_half_a_character_is_the_callers_mistake(flat: NerModel) -> None:
    with pytest.raises(InvalidInputError, match="surrogate"):
        flat.encode([NerInput.model_construct(text="a\ud800b")])


@pytest.mark.parametrize("labels", [[], ["PER", "PER"], [""]])
def test_labels_must_make_sense(tiny_bert: str, labels: list[str]) -> None:
    with pytest.raises(InvalidInputError):
        NerModel.build(labels, backbone=tiny_bert)


def test_a_manifest_of_another_task_is_refused(tmp_path: Path) -> None:
    manifest = Manifest(model="m", task="ner", created="2026-01-01T00:00:00Z", config={"pooling": "mean"})
    with pytest.raises(ArtifactError, match="no entity recogniser's"):
        NerModel.load(Artifact(tmp_path, manifest), SharedParts())


def test_models_on_one_backbone_answer_as_each_alone(tiny_bert: str, tmp_path: Path, ask: Ask) -> None:
    store = ModelStore([tmp_path])
    text = "where is my card , hello the order 银行"
    for head in ("crf", "span"):
        torch.manual_seed(4)
        model = NerModel.build(["LOC", "PER"], backbone=tiny_bert, head=head, adapter=LoraSettings(r=2))  # type: ignore[arg-type]
        for name, parameter in model.module.named_parameters():
            if "lora_B" in name or name.startswith("head."):
                torch.nn.init.normal_(parameter, std=0.3)
        artifact = publish(NerTask(), model, store)
        alone = NerModel.load(artifact, SharedParts())
        together = NerModel.load(artifact, SharedParts([artifact.manifest.config["backbone_digest"]]))
        assert together.branch is not None
        one, other = (ask(m, text, text * 9) for m in (alone, together))
        assert [[e.model_copy(update={"score": 0}) for e in x] for x in one] == [
            [e.model_copy(update={"score": 0}) for e in x] for x in other
        ]
        scores = [[e.score for x in answers for e in x] for answers in (one, other)]
        assert scores[0]
        assert scores[0] == pytest.approx(scores[1], abs=1e-4)


# -- spans -----------------------------------------------------------------------------------------------------------


def test_spans_score_as_the_rotated_products_of_their_ends() -> None:
    torch.manual_seed(5)
    head = SpanHead(12, 2, widest=3, size=4, word_shapes=False, dropout=0.0).eval()
    words, counts = torch.randn(7, 12), torch.tensor([3, 0, 4])
    with torch.inference_mode():
        found = head(words, torch.zeros(7, 5, dtype=torch.long), counts)
        ends = head.ends(head.features(words, torch.zeros(7, 5, dtype=torch.long))).view(7, 2, 2, 4)
    for begin, end, place in [(0, 3, 0), (3, 7, 3)]:
        for i in range(begin, end):
            for more in range(3):
                if i + more >= end:
                    assert (found[i, more] < -1000).all(), "a span that leaves its text"
                    continue
                query, key = turned(ends[i, 0], i - place), turned(ends[i + more, 1], i + more - place)
                expected = (query * key).sum(1) / 2 + head.bias.detach()
                assert torch.allclose(found[i, more], expected, atol=1e-5)


def test_spans_may_lie_in_one_another_but_not_cross() -> None:
    logits = torch.full((5, 4, 2), -9.0)
    wanted = [((0, 4), 0, 2.0), ((1, 2), 1, 1.0), ((0, 1), 1, 0.5), ((3, 5), 0, 1.5), ((1, 2), 0, 0.9)]
    for (start, end), label, logit in wanted:
        logits[start, end - start - 1, label] = logit
    found = best_spans(logits, torch.tensor([5]), ["ORG", "LOC"], [0.5])[0]
    assert [(span.start, span.end, span.label) for span, _ in found] == [(0, 4, "ORG"), (0, 1, "LOC"), (1, 2, "LOC")]
    assert [score for _, score in found] == pytest.approx([0.8808, 0.6225, 0.7311], abs=1e-4)
    everything = best_spans(torch.zeros(40, 24, 1), torch.tensor([40]), ["X"], [0.0])[0]
    assert len(everything) > 40


def test_labels_that_a_file_lacks_are_left_open(tiny_bert: str) -> None:
    """A word without a label in a file that never has LOC may be a LOC: the loss is then no larger for saying so."""
    rows = [Example(input=NerInput(text="my card"), target=((3, 7, "PER"),), path="tweets.jsonl", line=1)]
    for head in ("token", "crf", "span"):
        torch.manual_seed(0)
        model = NerModel.build(["LOC", "PER"], backbone=tiny_bert, head=head, dropout=0.0)  # type: ignore[arg-type]
        model.module.eval()
        closed = float(model.loss(model.collate(rows)).detach())
        model.known_labels = {"tweets.jsonl": frozenset({"PER"})}
        batch = model.collate(rows)
        opened = float(model.loss(batch).detach())
        assert opened < closed, head
        if head == "span":
            assert batch["weights"][:, :, 0].sum() == 0
        else:
            assert batch["targets"].tolist() == [[True, True, True, False, False], [False, False, False, True, False]]
