"""A smaller vocabulary: no word becomes unknown, what is read in the same pieces computes the same, and files hold it."""

from __future__ import annotations

import json
import string
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from taskloom.core.errors import UnsupportedError
from taskloom.plugins.backbones.encoder import TextEncoder
from taskloom.plugins.backbones.loading import Backbone, load_backbone, save_backbone
from taskloom.plugins.backbones.parts import EncoderParts
from taskloom.plugins.backbones.tokenizer import TextTokenizer
from taskloom.plugins.backbones.vocabulary import WordPieces

DATA = Path(__file__).parents[2] / "data"
INSIDE = tuple(f"##{c}" for c in string.ascii_lowercase)
WORDS = st.text("abc²", min_size=1, max_size=8)
KNOWN = ["where is my card?", "lost order"]
OTHER = "the refund said hello"


def word_pieces(pieces: list[str]) -> Tokenizer:
    found = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(["[UNK]", *pieces])}, unk_token="[UNK]"))
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    return found


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sets(st.text("abc²", min_size=1, max_size=4)), st.sets(st.text("abc²", min_size=1, max_size=4)))
def test_no_word_becomes_unknown_whatever_goes(data: st.DataObject, fronts: set[str], insides: set[str]) -> None:
    """Vocabularies in which characters have no piece of their own, too."""
    pieces = [*sorted(fronts), *(f"##{piece}" for piece in sorted(insides))]
    whole = word_pieces(pieces)
    ids = whole.get_vocab()
    wanted = data.draw(st.sets(st.sampled_from(sorted(ids.values()))))
    needed = set(WordPieces(ids, "##", frozenset({0}), whole).needed(wanted))
    assert wanted <= needed
    smaller = word_pieces([piece for piece in pieces if ids[piece] in needed])
    for word in data.draw(st.lists(WORDS, min_size=1, max_size=20)):
        if "[UNK]" not in whole.encode(word).tokens:
            assert "[UNK]" not in smaller.encode(word).tokens, word


def test_characters_that_are_words_of_their_own_need_no_piece_inside() -> None:
    fast = word_pieces(["a", "##a", "我", "##我", "的", "##的", ",", "##,"])
    fast.normalizer = normalizers.BertNormalizer()
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ids = fast.get_vocab()
    kept = WordPieces(ids, "##", frozenset({0}), fast).needed([])
    assert {piece for piece, i in ids.items() if i in kept} == {"[UNK]", "a", "##a", "我", "的", ","}


def sentences(name: str) -> list[str]:
    return [json.loads(line)["text"] for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def banking() -> tuple[TextTokenizer, TextTokenizer]:
    """The bundled tokenizer, and the same with the pieces of some questions about banking."""
    whole = load_backbone()
    parts = EncoderParts.build(whole)
    before = parts.tokenizer
    parts.keep_pieces(before.encode(sentences("banking77-sample.jsonl")).input_ids.tolist())
    return before, parts.tokenizer


def test_real_sentences_have_no_new_unknown_word(banking: tuple[TextTokenizer, TextTokenizer]) -> None:
    before, after = banking
    inner, smaller = before.processor.backend_tokenizer, after.processor.backend_tokenizer
    assert smaller.get_vocab_size() < inner.get_vocab_size() / 6
    paragraphs = json.loads((DATA / "squadshifts-sample.json").read_text(encoding="utf-8"))["data"][0]["paragraphs"]
    texts = [*sentences("banking77-sample.jsonl"), *(part["context"] for part in paragraphs), "naïve 北京 €5 ½ Ünïcödé ☃"]
    for text in texts:
        unknown = [found.encode(text).tokens.count("[UNK]") for found in (inner, smaller)]
        assert unknown[0] == unknown[1], text
    assert len(after.encode(texts).input_ids) > len(before.encode(texts).input_ids)


def test_offsets_are_those_of_the_pieces(banking: tuple[TextTokenizer, TextTokenizer]) -> None:
    _, after = banking
    names = {i: piece for piece, i in after.processor.backend_tokenizer.get_vocab().items()}
    text = "An exoskeleton was unloaded: zebras pontificated, twice."
    read = after.windows([text])
    pairs = zip(read.input_ids.tolist(), read.offsets.tolist(), strict=True)
    pieces = [(names[i].removeprefix("##"), text[start:end].lower()) for i, (start, end) in pairs if start >= 0]
    assert all(piece == part for piece, part in pieces)
    assert "".join(part for _, part in pieces) == text.replace(" ", "").lower()


def states(backbone: Backbone, texts: list[str]) -> torch.Tensor:
    read = backbone.tokenizer.encode(texts)
    found: torch.Tensor = TextEncoder(backbone)(read.input_ids, read.token_type_ids, read.lengths)
    return found


@pytest.mark.parametrize("kind", ["bert", "distilbert", "electra"])
def test_texts_in_the_same_pieces_compute_the_same_and_files_hold_it(
    checkpoint: Callable[..., Path], tmp_path: Path, kind: str
) -> None:
    parts = EncoderParts.build(load_backbone(str(checkpoint(kind, pieces=INSIDE))))
    expected = states(parts.backbone, KNOWN)
    seen = parts.tokenizer.encode(KNOWN).input_ids.tolist()
    kept = parts.keep_pieces(seen)
    assert set(seen) <= set(kept)
    assert parts.backbone.model.get_input_embeddings().weight.shape[0] == len(kept) == parts.backbone.model.config.vocab_size
    assert torch.allclose(states(parts.backbone, KNOWN), expected, atol=1e-5)
    assert parts.saved.form == "full"
    names = parts.tokenizer.processor.convert_ids_to_tokens(parts.tokenizer.encode([OTHER]).input_ids.tolist())
    assert "refund" not in names
    assert names[names.index("r") :][:6] == ["r", "##e", "##f", "##u", "##n", "##d"]
    save_backbone(parts.backbone, tmp_path)
    again = load_backbone(str(tmp_path))
    texts = [*KNOWN, OTHER]
    assert torch.equal(states(again, texts), states(parts.backbone, texts))
    # Once more, from what was read: ids are renumbered a second time.
    further = EncoderParts.build(again)
    assert len(further.keep_pieces([])) < len(kept)
    assert "[UNK]" not in further.tokenizer.processor.convert_ids_to_tokens(further.tokenizer.encode(texts).input_ids.tolist())


def test_another_process_reads_the_tokenizer_alike(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    parts = EncoderParts.build(load_backbone(str(checkpoint("bert", pieces=INSIDE))))
    parts.keep_pieces(parts.tokenizer.encode(KNOWN).input_ids.tolist())
    save_backbone(parts.backbone, tmp_path)
    code = "import sys; from tokenizers import Tokenizer; print(Tokenizer.from_file(sys.argv[1]).encode(sys.argv[2]).ids)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "tokenizer.json"), OTHER], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == parts.tokenizer.encode([OTHER]).input_ids.tolist()


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (models.BPE({"a": 0, "[UNK]": 1}, [], unk_token="[UNK]"), "merging smaller ones"),
        (models.Unigram([("[UNK]", 0.0), ("a", -1.0)], unk_id=0), "probabilities"),
    ],
)
def test_other_kinds_of_tokenizer_say_why_not(model: Any, reason: str, tiny_bert: str) -> None:
    import transformers

    wrapper: Any = transformers.PreTrainedTokenizerFast
    backbone = load_backbone(tiny_bert)
    fast = wrapper(tokenizer_object=Tokenizer(model), unk_token="[UNK]")
    parts = EncoderParts.build(Backbone(backbone.info, backbone.model, backbone.tokenizer.replaced(fast)))
    with pytest.raises(UnsupportedError, match=reason):
        parts.keep_pieces([0])
    assert parts.saved.form == "full"
    assert backbone.model.config.vocab_size == backbone.model.get_input_embeddings().num_embeddings
