"""Where markers stand, wherever two entities lie in a text, and what is left of a long one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom.core.errors import InvalidInputError
from taskloom.plugins.backbones.from_scratch import new_backbone
from taskloom.plugins.backbones.loading import load_backbone
from taskloom.plugins.backbones.settings import RecurrentNetwork
from taskloom.plugins.tasks.relation.marking import MarkedBatch, Marking

ENGLISH = "where is the lost card of my order"


@pytest.fixture(scope="module")
def backbone(small_bert: str) -> Any:
    return load_backbone(small_bert, max_length=24)


@pytest.fixture(scope="module")
def marking(backbone: Any) -> Marking:
    return Marking(backbone.tokenizer, ("$", "#"))


def read(backbone: Any, marking: Marking, text: str, head: tuple[int, int], tail: tuple[int, int]) -> str:
    (marked,) = marking.mark([text], [head], [tail])
    return " ".join(backbone.tokenizer.processor.convert_ids_to_tokens(marked.ids))


def span(text: str, part: str) -> tuple[int, int]:
    return text.index(part), text.index(part) + len(part)


@pytest.mark.parametrize(
    ("head", "tail", "expected"),
    [
        ("card", "order", "where is the lost $ card $ of my # order #"),
        ("order", "where", "# where # is the lost card of my $ order $"),
        ("lost card", "card", "where is the $ lost # card # $ of my order"),
        ("card", "lost card of", "where is the # lost $ card $ of # my order"),
        ("lost card", "card of", "where is the $ lost # card $ of # my order"),
        ("card", "card", "where is the lost $ # card # $ of my order"),
        ("ar", "order", "where is the lost $ card $ of my # order #"),
    ],
    ids=["apart", "at both ends", "in one another", "in the middle of another", "overlapping", "the same", "inside a word"],
)
def test_markers_stand_around_the_words_of_each_entity(
    backbone: Any, marking: Marking, head: str, tail: str, expected: str
) -> None:
    known = expected.replace("of", "[UNK]")
    assert read(backbone, marking, ENGLISH, span(ENGLISH, head), span(ENGLISH, tail)) == f"[CLS] {known} [SEP]"


def test_an_entity_without_pieces_is_marked_where_it_would_stand(backbone: Any, marking: Marking) -> None:
    """This tokenizer drops combining marks."""
    text = "my \u0300\u0301 card"
    assert read(backbone, marking, text, (3, 5), span(text, "card")) == "[CLS] my $ $ # card # [SEP]"


def test_chinese_characters_are_pieces_of_their_own(backbone: Any, marking: Marking) -> None:
    text = "我的银行卡在哪里"
    found = read(backbone, marking, text, (2, 5), (6, 8))
    assert found == "[CLS] 我 的 $ 银 行 卡 $ 在 # 哪 里 # [SEP]"


def test_places_are_from_the_opening_marker_to_before_the_closing_one(marking: Marking) -> None:
    rows = marking.mark([ENGLISH, "my card"], [span(ENGLISH, "lost card"), (0, 2)], [span(ENGLISH, "card"), (0, 2)])
    batch = MarkedBatch.of(rows)
    assert batch.head_sizes.tolist() == [5, 4]  # $ lost # card #; $ # my #
    assert batch.tail_sizes.tolist() == [2, 2]
    first = batch.input_ids[batch.head_at[0]]
    assert batch.input_ids[batch.head_at[5]] == first  # the second row's head opens with the same marker
    assert int(batch.lengths.sum()) == len(batch.input_ids)


def test_a_long_text_is_cut_around_both_entities(backbone: Any, marking: Marking) -> None:
    text = "a " * 40 + "lost card " + "hello " * 40
    found = read(backbone, marking, text, span(text, "lost"), span(text, "card"))
    assert "a $ lost $ # card # hello" in found
    assert len(found.split()) == 24
    (marked,) = marking.mark([text], [span(text, "lost")], [span(text, "card")])
    assert marked.truncated


def test_of_a_text_with_entities_far_apart_what_stands_around_each_is_read(backbone: Any, marking: Marking) -> None:
    text = "is lost is " + "hello " * 60 + "the card the"
    found = read(backbone, marking, text, span(text, "lost"), span(text, "card"))
    assert found.startswith("[CLS] is $ lost $ is hello")
    assert found.endswith("hello the # card # the [SEP]")
    assert len(found.split()) <= 24


@pytest.mark.parametrize(("head", "tail"), [((0, 200), (210, 400)), ((0, 400), (200, 204)), ((0, 300), (100, 400))])
def test_entities_that_are_longer_than_the_model_reads_are_refused(
    marking: Marking, head: tuple[int, int], tail: tuple[int, int]
) -> None:
    with pytest.raises(InvalidInputError, match=r"this model reads 18") as caught:
        marking.mark(["card " * 100], [head], [tail])
    assert caught.value.field == "input.head"


def test_a_text_that_fits_to_the_last_piece_is_whole(marking: Marking) -> None:
    whole, longer = marking.mark(["card " * 18, "card " * 19], [(0, 4)] * 2, [(5, 9)] * 2)
    assert (len(whole.ids), whole.truncated) == (24, False)
    assert (len(longer.ids), longer.truncated) == (24, True)


@st.composite
def marked_texts(draw: st.DrawFn) -> tuple[str, tuple[int, int], tuple[int, int]]:
    text = draw(st.text(alphabet=" ab我card👩\u200d\ufe0f\u0301.$#", min_size=1, max_size=120))
    spans = []
    for _ in range(2):
        start = draw(st.integers(0, len(text) - 1))
        spans.append((start, draw(st.integers(start + 1, len(text)))))
    return text, spans[0], spans[1]


@given(case=marked_texts())
def test_every_text_is_read_within_the_length_and_both_entities_are_there(
    backbone: Any, marking: Marking, case: tuple[str, tuple[int, int], tuple[int, int]]
) -> None:
    text, head, tail = case
    whole = backbone.tokenizer.pieces([text])[0]
    try:
        (marked,) = marking.mark([text], [head], [tail])
    except InvalidInputError:
        assert len(whole.ids) > marking.room
        return
    assert len(marked.ids) <= 24
    if not marked.truncated:
        assert len(marked.ids) == len(whole.ids) + 6
    names = backbone.tokenizer.processor.convert_ids_to_tokens(marked.ids)
    for (first, end), (start, stop), marker in ((marked.head, head, "$"), (marked.tail, tail, "#")):
        assert names[first] == names[end] == marker
        own = [i for i, (a, b) in zip(whole.ids, whole.offsets, strict=True) if a < stop and b > start]
        assert [i for i, name in zip(marked.ids[first:end], names[first:end], strict=True) if name not in {"$", "#"}] == [
            i for i in own if backbone.tokenizer.processor.convert_ids_to_tokens(i) not in {"$", "#"}
        ]


def test_where_a_model_reads_places_in_words_markers_have_none() -> None:
    network = RecurrentNetwork(embedding=4, hidden=4, segmentation=True)
    backbone = new_backbone(network, ["马云在杭州$#", "马云在杭州"], max_length=32)
    (marked,) = Marking(backbone.tokenizer, ("$", "#")).mark(["马云在杭州"], [(0, 2)], [(3, 5)])
    own = [0] * len(backbone.tokenizer.frame()[0])
    assert marked.types[: len(own) + 9] == [*own, 0, 1, 3, 0, 4, 0, 1, 3, 0]
