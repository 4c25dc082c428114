"""Where sentences end, in English and Chinese, and that nothing of a text is lost."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskloom.plugins._shared.sentences import split_sentences


def sentences(text: str) -> list[str]:
    return [text[s.start : s.end] for s in split_sentences(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Dr. Smith paid $3.50. He left.", ["Dr. Smith paid $3.50.", "He left."]),
        ("J. R. R. Tolkien met C. S. Lewis. They talked.", ["J. R. R. Tolkien met C. S. Lewis.", "They talked."]),
        ("The U.S. Army came. He lives in the U.S. The end.", ["The U.S. Army came.", "He lives in the U.S.", "The end."]),
        ("It began at 5 p.m. on Jan. 5. It rained.", ["It began at 5 p.m. on Jan. 5.", "It rained."]),
        ("See Fig. 3 and No. 5. I said no. We left.", ["See Fig. 3 and No. 5.", "I said no.", "We left."]),
        ("Kingma et al. (2014) use it. We do e.g. this.", ["Kingma et al. (2014) use it.", "We do e.g. this."]),
        ('"Stop!" he said. "Why?" She left.', ['"Stop!" he said.', '"Why?"', "She left."]),
        ("She asked... nothing. It ended… Maybe.", ["She asked... nothing.", "It ended…", "Maybe."]),
        (
            "It rained (a lot). Version 1.2.3 of example.com is out.",
            ["It rained (a lot).", "Version 1.2.3 of example.com is out."],
        ),
        ("他说：“好。”然后走了！真的吗？", ["他说：“好。”", "然后走了！", "真的吗？"]),
        ("涨了3.5%。后来……跌了。", ["涨了3.5%。", "后来……", "跌了。"]),
        ("他来了. 我走了.你好", ["他来了.", "我走了.", "你好"]),
        ("我用 Python 3.11。It works. 很好!", ["我用 Python 3.11。", "It works.", "很好!"]),
        ("A heading\nThe text. More", ["A heading", "The text.", "More"]),
        ("1. First\n2. Second\n\n- third", ["1. First", "2. Second", "- third"]),
        ("", []),
        (" \n\u3000", []),
        ("...", ["..."]),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_a_wrapped_line_goes_on() -> None:
    text = "This line of a text was broken where the page of its mail ended\nand goes on here. The next one\nis short."
    assert sentences(text) == [text[:81], "The next one", "is short."]


def test_a_text_without_marks_is_cut_at_words_and_clauses() -> None:
    assert [len(part) for part in sentences("word " * 500)] == [999, 999, 499]
    first, *_ = sentences("a few words, " * 100)
    assert first.endswith("words,")
    assert [len(part) for part in sentences("x" * 2500)] == [1000, 1000, 500]


EDGES = st.text(alphabet=st.sampled_from("ab Z.!?…。！？,，\"'”“)(\n\t 3中文\u200b👩\u0301"), max_size=300)


@settings(deadline=None, max_examples=60)
@given(EDGES, st.integers(1, 40))
def test_every_letter_is_in_one_sentence(text: str, longest: int) -> None:
    found = split_sentences(text, longest)
    assert all(0 < s.end - s.start <= longest for s in found)
    assert all(text[s.start : s.end] == text[s.start : s.end].strip() for s in found)
    assert all(one.end <= other.start for one, other in pairwise(found))
    covered = [i for s in found for i in range(s.start, s.end)]
    assert all(text[i].isspace() for i in set(range(len(text))) - set(covered))


@pytest.mark.parametrize("piece", ["word. ", "a", ".", '"', " \n", ". (", "A.B. ", "x\n", "。"])
def test_time_grows_with_the_text_and_no_faster(piece: str) -> None:
    def took(size: int) -> float:
        text = piece * (size // len(piece))
        best = 9.0
        for _ in range(2):
            start = time.process_time()
            split_sentences(text)
            best = min(best, time.process_time() - start)
        return best

    assert took(20_000) < 40 * took(2_000) + 0.05
