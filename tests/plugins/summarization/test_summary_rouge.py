"""ROUGE as everybody prints it for English, and as it must be for Chinese."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.stem.porter import PorterStemmer
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenize import tokenize as rouge_score_tokens

from taskloom.plugins.tasks.summarization.rouge import METRICS, Rouge, RougeTokenizer, overlap_f1


@pytest.fixture(scope="module")
def rouge() -> Rouge:
    return Rouge()


def test_english_is_what_rouge_score_says(rouge: Rouge) -> None:
    summary, reference = "The dogs were running to Năstase's café.", "A dog runs to the café — Năstase's, in 2004."
    theirs = RougeScorer(list(METRICS), use_stemmer=True).score(reference, summary)
    assert rouge.score(summary, [reference]) == tuple(theirs[name].fmeasure for name in METRICS)
    assert 0 < theirs["rouge2"].fmeasure < 1


def test_chinese_is_compared_by_characters(rouge: Rouge) -> None:
    assert rouge.score("市议会决定买电动公交车", ["市议会决定买电动公交车。"]) == (1, 1, 1)
    one, two, longest = rouge.score("电动车", ["电车"])
    assert (one, two, longest) == pytest.approx((0.8, 0, 0.8))
    assert rouge.score("用GPT模型", ["GPT 模型"])[0] == pytest.approx(2 * 3 / (4 + 3))


def test_other_scripts_are_compared_by_words(rouge: Rouge) -> None:
    assert rouge.score("Город купил автобусы", ["город купил автобусы"]) == (1, 1, 1)


def test_the_best_reference_counts_for_each_metric(rouge: Rouge) -> None:
    one, two, _ = rouge.score("a b c d", ["d b c a", "a b x y"])
    assert one == 1
    assert two == pytest.approx(1 / 3)


def test_an_empty_summary_scores_nothing(rouge: Rouge) -> None:
    assert rouge.score("", ["something"]) == (0, 0, 0)
    assert rouge.score("…", ["something"]) == (0, 0, 0)


@settings(deadline=None, max_examples=60)
@given(st.text(alphabet="ab c", max_size=30), st.text(alphabet="ab c", max_size=30), st.integers(1, 2))
def test_overlap_is_rouge_n(one: str, other: str, size: int) -> None:
    theirs = RougeScorer([f"rouge{size}"]).score(other, one)[f"rouge{size}"].fmeasure
    assert overlap_f1(one.split(), other.split(), size) == pytest.approx(theirs)


def test_a_letter_of_another_script_on_one_side_changes_nothing_else(rouge: Rouge) -> None:
    reference = "Running dogs improved methods"
    for extra in ("x", "α", "词"):
        assert rouge.score(f"{reference} with {extra}", [reference])[0] == pytest.approx(0.8)
    assert rouge.tokenizer.tokenize("Running GPT模型, cafés") == ["run", "gpt", "模", "型", "caf", "s"]


@settings(deadline=None, max_examples=100)
@given(st.text(alphabet="abdeginrsé İß²µ'_-9", max_size=40), st.text(alphabet="αβж词中,、 ", min_size=1, max_size=5))
def test_latin_words_are_the_same_tokens_in_any_company(latin: str, other: str) -> None:
    tokenize = RougeTokenizer().tokenize
    theirs = list(rouge_score_tokens(latin, PorterStemmer()))
    assert tokenize(latin) == theirs
    assert tokenize(f"{latin} {other}")[: len(theirs)] == theirs
