"""An encoder that is made from scratch: what it reads, what its layers compute, and what can't be done with it."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from taskloom.core.errors import DataError, InvalidInputError, UnsupportedError
from taskloom.plugins._shared.graph_export import arrays, export_onnx
from taskloom.plugins.backbones.encoder import TextEncoder
from taskloom.plugins.backbones.from_scratch import SPECIAL, new_backbone, new_processor
from taskloom.plugins.backbones.loading import Backbone, blank_backbone, load_backbone, save_backbone
from taskloom.plugins.backbones.parts import EncoderParts
from taskloom.plugins.backbones.recurrent import RecurrentLayer, mirrored_places
from taskloom.plugins.backbones.segmentation import ALONE, BEGINS, CONTINUES, ENDS, places_in_words
from taskloom.plugins.backbones.settings import LoraSettings, RecurrentNetwork

TEXTS = ["马云在杭州创办了阿里巴巴。", "Angela Merkel met Angela in Berlin", "ＡＢＣ公司成立于１９９８年", "好"]
PLAIN = RecurrentNetwork(embedding=8, hidden=6, layers=2)
RICH = RecurrentNetwork(embedding=8, hidden=6, pairs=64, pair_embedding=4, segmentation=True)
LETTERS = "马云在杭州好ab AB１Ａ,。é👩\u200d👧\u3000\u0301"


def made(network: RecurrentNetwork, seed: int = 0) -> Backbone:
    torch.manual_seed(seed)
    return new_backbone(network, TEXTS, max_length=64)


def states(encoder: nn.Module, backbone: Backbone, texts: Sequence[str]) -> list[Tensor]:
    found = backbone.tokenizer.encode(texts)
    with torch.inference_mode():
        hidden = encoder(found.input_ids, found.token_type_ids, found.lengths)
    return list(torch.split(hidden, found.lengths.tolist()))


# -- layers ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [PLAIN, RICH], ids=["plain", "rich"])
def test_texts_of_a_batch_do_not_see_each_other(network: RecurrentNetwork) -> None:
    backbone = made(network)
    encoder = TextEncoder(backbone)
    texts = [*TEXTS, "", "云" * 50, TEXTS[0] * 3]
    for text, together in zip(texts, states(encoder, backbone, texts), strict=True):
        assert torch.allclose(together, states(encoder, backbone, [text])[0], atol=1e-6), text


def test_a_layer_is_torchs_bidirectional_lstm_on_packed_sequences() -> None:
    torch.manual_seed(1)
    layer, both = RecurrentLayer(5, 7), nn.LSTM(5, 7, bidirectional=True, batch_first=True)
    for name, weight in layer.forwards.named_parameters():
        getattr(both, name).data.copy_(weight)
    for name, weight in layer.backwards.named_parameters():
        getattr(both, f"{name}_reverse").data.copy_(weight)
    lengths = torch.tensor([4, 9, 1])
    x = torch.randn(3, 9, 5)
    mask = torch.arange(9) < lengths.unsqueeze(1)
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    expected = nn.utils.rnn.pad_packed_sequence(both(packed)[0], batch_first=True)[0]
    assert torch.allclose(layer(x, mirrored_places(mask.long()))[mask], expected[mask], atol=1e-6)


def test_what_is_dropped_is_dropped_in_training_alone() -> None:
    backbone = made(RecurrentNetwork(embedding=8, hidden=6, dropout=0.5, unknown=0.999999))
    encoder = TextEncoder(backbone)
    first, again = (states(encoder, backbone, TEXTS[:1])[0] for _ in range(2))
    assert torch.equal(first, again)
    encoder.train()
    ids = backbone.tokenizer.encode(TEXTS[:1]).input_ids.unsqueeze(0)
    read = backbone.model._with_unknown(ids)[0]
    names = [SPECIAL.index(name) for name in ("[CLS]", "[UNK]", "[SEP]")]
    assert read.tolist() == [names[0], *[names[1]] * (ids.shape[1] - 2), names[2]]
    assert not torch.equal(states(encoder, backbone, TEXTS[:1])[0], first)


def test_the_graph_that_other_engines_run_gives_the_same(tmp_path: Path) -> None:
    import onnxruntime

    from taskloom.plugins.tasks.ner.model import NerModel
    from taskloom.plugins.tasks.ner.schema import NerInput

    model = NerModel.build(["PER"], backbone=made(RICH.model_copy(update={"layers": 2})))
    model.module.eval()
    batch = model.encode([NerInput(text=text) for text in [*TEXTS, "云" * 150]])
    graph = model.graph
    assert graph is not None
    export_onnx(graph, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    answers = [session.run(None, arrays(feed)) for feed in graph.feeds(batch)]
    assert len(answers) > 1
    found = [dict(zip(graph.outputs, map(torch.from_numpy, answer), strict=True)) for answer in answers]
    with torch.inference_mode():
        assert torch.allclose(graph.results(found, batch)["logits"], model.forward(batch)["logits"], atol=1e-5)


# -- reading --------------------------------------------------------------------------------------------------------------


def test_a_vocabulary_is_of_the_training_texts() -> None:
    processor = new_processor(["马云马 Berlin２０", "berlin Rome"])
    assert processor.tokenize("云马 BERLIN rome 02 李") == ["云", "马", "berlin", "r", "##o", "##m", "##e", "0", "2", "[UNK]"]
    ids = processor.get_vocab()
    assert [ids[name] for name in SPECIAL] == [0, 1, 2, 3]
    assert ids == new_processor(["berlin Rome", "马云马 Berlin２０"]).get_vocab()
    rare = new_processor(["马云马 Berlin２０", "berlin Rome"], least_count=2)
    assert set(rare.get_vocab()) - set(SPECIAL) == {"马", "berlin", "b", "##e", "##r", "##l", "##i", "##n"}
    with pytest.raises(DataError, match="no visible character"):
        new_processor([" \u3000\x00"])


@settings(deadline=None, max_examples=150)
@given(st.lists(st.text(LETTERS, max_size=40), min_size=1, max_size=4), st.integers(0, 5))
def test_pieces_are_where_their_characters_are(texts: list[str], overlap: int) -> None:
    """Whatever forms are folded on the way: each piece spells the characters that it is said to stand for."""
    tokenizer = made(RICH).tokenizer
    found = tokenizer.windows(texts, overlap=overlap, max_length=16)
    windows = torch.split(found.offsets, found.lengths.tolist())
    ids = torch.split(found.input_ids, found.lengths.tolist())
    for owner, offsets, own in zip(found.owner.tolist(), windows, ids, strict=True):
        inside = [(a, b, piece) for (a, b), piece in zip(offsets.tolist(), own.tolist(), strict=True) if a >= 0]
        assert [a for a, _, _ in inside] == sorted(a for a, _, _ in inside)
        for start, end, piece in inside:
            text = texts[owner][start:end]
            assert 0 <= start < end <= len(texts[owner])
            name = tokenizer.processor.convert_ids_to_tokens(piece)
            if name != "[UNK]":
                assert unicodedata.normalize("NFKC", text).lower() == name.removeprefix("##")


@settings(deadline=None, max_examples=300)
@given(
    st.text(
        st.one_of(st.sampled_from("马云在杭州创办了阿里巴巴 １ab。"), st.characters(exclude_categories=["Cs"])), max_size=40
    )
)
def test_each_character_has_a_place_in_a_word(text: str) -> None:
    places = places_in_words(text).tolist()
    assert len(places) == len(text)
    assert all(place or character.isspace() for place, character in zip(places, text, strict=True))
    for before, after in zip([0, *places], [*places, 0], strict=True):
        assert (before in {BEGINS, CONTINUES}) == (after in {CONTINUES, ENDS})


def test_words_are_told_with_the_pieces() -> None:
    tokenizer = made(RICH).tokenizer
    expected = [0, BEGINS, ENDS, ALONE, BEGINS, ENDS, 0]
    assert tokenizer.encode(["马云在杭州"]).token_type_ids.tolist() == expected
    assert tokenizer.cut_at(5).windows(["马云在杭州"]).token_type_ids.tolist() == [
        0,
        BEGINS,
        ENDS,
        ALONE,
        0,
        0,
        BEGINS,
        ENDS,
        0,
    ]
    pair = tokenizer.windows(["杭州"], ["马云"]).token_type_ids.tolist()
    assert pair == tokenizer.encode(["马云"], ["杭州"]).token_type_ids.tolist() == [0, BEGINS, ENDS, 0, BEGINS, ENDS, 0]
    assert made(PLAIN).tokenizer.encode(["马云在杭州"]).token_type_ids.tolist() == [0] * 7
    with pytest.raises(InvalidInputError, match="surrogate"):
        tokenizer.encode(["马\ud800"])


# -- files, and what changes a model ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [PLAIN, RICH], ids=["plain", "rich"])
def test_files_give_it_again(network: RecurrentNetwork, tmp_path: Path) -> None:
    backbone = made(network)
    save_backbone(backbone, tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    again = load_backbone(str(tmp_path), max_length=64)
    for one, other in zip(
        states(TextEncoder(backbone), backbone, TEXTS), states(TextEncoder(again), again, TEXTS), strict=True
    ):
        assert torch.equal(one, other)
    blank = blank_backbone(tmp_path)
    assert not TextEncoder(blank).has_weights
    assert blank.tokenizer.encode(TEXTS).token_type_ids.tolist() == again.tokenizer.encode(TEXTS).token_type_ids.tolist()


def test_pieces_can_go_where_they_are_in_one_table() -> None:
    parts = EncoderParts.build(made(PLAIN))
    before = states(parts.encoder, parts.backbone, TEXTS[:1])[0]
    kept = parts.tokenizer.encode(TEXTS[:1]).input_ids.tolist()
    old = parts.backbone.model.config.vocab_size
    parts.keep_pieces(kept)
    assert parts.backbone.model.config.vocab_size < old
    assert torch.equal(states(parts.encoder, parts.backbone, TEXTS[:1])[0], before)
    with pytest.raises(UnsupportedError, match="leave its vocabulary whole"):
        EncoderParts.build(made(RICH)).keep_pieces(kept)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda parts: parts.restart(), "made from scratch: there is no pretrained one"),
        (lambda parts: EncoderParts.build(parts.backbone, adapter=LoraSettings()), "no linear layers"),
        (lambda parts: TextEncoder(parts.backbone, "packed"), "can't run packed batches"),
    ],
    ids=["restart", "adapter", "packed"],
)
def test_what_cannot_be_done_with_it_says_why(change: Any, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        change(EncoderParts.build(made(PLAIN)))
