"""Texts that say the same in other words, and texts that say the opposite."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom.core.robustness import Perturbation
from taskloom.core.task import Example, TaskPlugin
from taskloom.plugins._shared.negation import negated
from taskloom.plugins._shared.robustness import perturbations
from taskloom.plugins._shared.synonyms import Lexicon, read_lexicon, with_synonyms
from taskloom.plugins.tasks.classification.plugin import ClassificationTask
from taskloom.plugins.tasks.classification.schema import ClassificationInput
from taskloom.plugins.tasks.ner.plugin import NerTask
from taskloom.plugins.tasks.ner.schema import Entity, NerInput, NerOutput
from taskloom.plugins.tasks.qa.plugin import QaTask
from taskloom.plugins.tasks.qa.schema import QaInput
from taskloom.plugins.tasks.summarization.plugin import SummarizationTask
from taskloom.plugins.tasks.summarization.schema import SummarizationInput, SummarizationOutput, SummarySentence

LEXICON = read_lexicon()
SOME = [
    "buy",
    "error",
    "quickly",
    "Purchase",
    "an",
    "a",
    "Berlin",
    ". ",
    " ",
    "购买",
    "查询",
    "公司",
    "的",
    "在北京",
    "-",
    "'s",
]
NEWS = "In Start Street, police began asking questions about an error. Acme said it almost jumped."
NEWS_ZH = "顾客在购买中心查询目前的价格"


def perturbation(task: TaskPlugin[Any, Any, Any], name: str) -> Perturbation:
    return next(found for found in perturbations(task) if found.name == name)


def changed(task: TaskPlugin[Any, Any, Any], name: str, given_input: Any, target: Any = (), seed: int = 1) -> Any:
    return perturbation(task, name).change(Example(input=given_input, target=target), random.Random(seed)).input


def test_the_lists_have_hundreds_of_words_of_both_languages_and_no_slips() -> None:
    latin = [word for word in LEXICON.words if word.isascii()]
    assert len(latin) > 600
    assert len(LEXICON.words) - len(latin) > 400
    for word, options in LEXICON.words.items():
        assert word not in options
        assert all(option.isascii() == word.isascii() and " " not in option for option in options), word
        assert word.isascii() or len(word) > 1, f"{word} is found inside other words"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("They bought it.", "They purchased it."),
        ("Rapidly it grew", "Quickly it grew"),
        ("She RAPIDLY went to Purchase Street with Rapid Co", None),
        ("it is a presently-made one", None),
        ("an error", "an error"),  # "a mistake" would need another article
        ("我要查询订单", "我要查找订单"),
    ],
)
def test_words_are_exchanged_whole_in_their_case_and_names_are_not(text: str, wanted: str | None) -> None:
    options = {with_synonyms(text, random.Random(seed), LEXICON) for seed in range(20)}
    assert options == {text} if wanted is None else wanted in options
    assert not {"a mistake", "an mistake"} & options


def test_about_half_of_the_words_are_exchanged_and_one_at_least() -> None:
    text = "bought " * 400
    share = with_synonyms(text, random.Random(2), LEXICON).count("purchased") / 400
    assert 0.4 < share < 0.6
    assert all(with_synonyms("bought", random.Random(seed), LEXICON) == "purchased" for seed in range(10))


@given(st.lists(st.sampled_from(SOME)).map(" ".join), st.integers(0, 9), st.integers(0, 40), st.integers(0, 12))
def test_with_offsets_characters_keep_their_places_and_marked_ones_stay(text: str, seed: int, start: int, size: int) -> None:
    place = (start, start + size)
    other = with_synonyms(text, random.Random(seed), LEXICON, fixed=[place], same_length=True)
    assert len(other) == len(text)
    assert other[slice(*place)] == text[slice(*place)]


def test_any_length_may_stand_where_there_are_no_offsets() -> None:
    assert with_synonyms("it was obtained", random.Random(1), LEXICON) == "it was got"
    assert with_synonyms("it was obtained", random.Random(1), LEXICON, same_length=True) == "it was obtained"


def test_entities_stay_where_they_are_and_what_they_are() -> None:
    change = perturbation(NerTask(), "synonyms").change
    seen = set()
    row = Example(input=NerInput(text=NEWS), target=((3, 15, "LOC"), (63, 67, "ORG")))
    row_zh = Example(input=NerInput(text=NEWS_ZH), target=((3, 7, "LOC"),))
    for seed in range(30):
        text = change(row, random.Random(seed)).input.text
        assert (len(text), text[3:15], text[63:67]) == (len(NEWS), "Start Street", "Acme")
        seen.add(text)
    assert len(seen) > 2
    chinese = {change(row_zh, random.Random(seed)).input.text for seed in range(30)}
    assert len(chinese) > 2
    assert {(text[2:7], len(text)) for text in chinese} == {("在购买中心", len(NEWS_ZH))}


def test_the_answer_of_a_recogniser_is_where_entities_are_however_they_are_written() -> None:
    def found(text: str, label: str = "LOC") -> Any:
        entity = Entity(label=label, start=0, end=6, text=text, score=0.5)
        return NerTask().answer(NerOutput(entities=(entity,)))

    assert found("Berlin") == found("BERLIN")
    assert found("Berlin") != found("Berlin", "ORG")


def test_a_summary_is_the_sentences_that_were_chosen_or_what_was_written() -> None:
    def said(text: str, *places: tuple[int, int]) -> Any:
        sentences = tuple(SummarySentence(text=text[a:b], start=a, end=b, score=0.5) for a, b in places)
        return SummarizationTask().answer(SummarizationOutput(summary=text, sentences=sentences))

    assert said("They bought it.", (0, 15)) == said("THEY BOUGHT IT.", (0, 15)) != said("They bought it.", (1, 15))
    assert said("A bus.") != said("Two buses.")
    document = "The firm bought it rapidly. It rapidly grew."
    texts = {
        changed(SummarizationTask(), "synonyms", SummarizationInput(document=document), "A summary.", seed).document
        for seed in range(20)
    }
    assert len(texts) > 1
    assert {len(text) for text in texts} == {len(document)}


def test_a_question_is_put_otherwise_but_not_the_text_that_answers_it() -> None:
    asked = QaInput(question="Where did she purchase it?", context="She purchased it in York, or she did not.")
    options = [changed(QaTask(), "synonyms", asked, seed=seed) for seed in range(5)]
    assert {one.context for one in options} == {asked.context}
    denied = changed(QaTask(), "negation", asked)
    assert (denied.question, denied.context) == ("Where did she not purchase it?", asked.context)


@pytest.mark.parametrize(
    ("text", "denied"),
    [
        ("My card is blocked.", "My card isn't blocked."),
        ("Can I use it?", "Can I not use it?"),
        ("I want a card", "I don't want a card"),
        ("I lost my card", "I didn't lose my card"),
        ("You have declined it", "You haven't declined it"),
        ("I have a card", "I don't have a card"),
        ("Please block my card", "Please don't block my card"),
        ("Block my card", "Don't block my card"),
        ("I'm happy", "I'm not happy"),
        ("I can't log in", "I can log in"),
        ("It isn’t here", "It is here"),
        ("Why am I not able to?", "Why am I able to?"),
        ("nobody told me that it is", "nobody told me that it is"),
        ("new card", "new card"),
        ("", ""),
        ("我可以退款吗", "我不可以退款吗"),
        ("我没有收到卡", "我有收到卡"),
        ("我的卡丢了", "我的卡没丢"),
        ("但是我会去", "但是我不会去"),
        ("公司会议很重要", "公司会议很重要"),
        ("能不能退款", "能不能退款"),
        ("请告诉我余额", "请不要告诉我余额"),
        ("对不起,我想退货", "对不起,我不想退货"),
    ],
)
def test_the_first_verb_is_denied_or_the_first_denial_taken_back(text: str, denied: str) -> None:
    assert negated(text) == denied


@given(st.text(alphabet=st.sampled_from("我不没有能是会要想请的了 aIcn't.?!")))
def test_any_text_can_be_tried(text: str) -> None:
    negated(text)


def test_what_a_denied_text_should_give_is_not_known_and_entities_would_move() -> None:
    denial = perturbation(ClassificationTask(), "negation")
    assert (denial.capability, denial.keeps_answer) == ("negation", False)
    assert changed(ClassificationTask(), "negation", ClassificationInput(text="It is here.")).text == "It isn't here."
    assert changed(NerTask(), "negation", NerInput(text="It is in Berlin.")).text == "It is in Berlin."


def test_a_list_with_a_form_too_few_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from taskloom.plugins._shared import synonyms

    monkeypatch.setattr(synonyms, "files", lambda _: Shelf("buy buys = purchase\n"))
    with pytest.raises(ValueError, match="zip"):
        read_lexicon()
    monkeypatch.setattr(synonyms, "files", lambda _: Shelf("# c\n\nbuy buys = purchase purchases\nget > buy\n"))
    found = read_lexicon()
    assert isinstance(found, Lexicon)
    assert found.words == {
        "buy": ["purchase"],
        "buys": ["purchases"],
        "purchase": ["buy"],
        "purchases": ["buys"],
        "get": ["buy"],
    }


class Shelf:
    """A folder whose every file is the same text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def joinpath(self, _: str) -> Shelf:
        return self

    def read_text(self, encoding: str) -> str:
        return self._text
