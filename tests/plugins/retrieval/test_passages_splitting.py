from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from taskloom.core.knowledge import Document, Passage
from taskloom.core.testing.conformance import EDGE_TEXTS
from taskloom.plugins._shared.text_cost import estimated_tokens
from taskloom.plugins.retrieval.documents.cleaning import clean
from taskloom.plugins.retrieval.documents.cutting import between_characters
from taskloom.plugins.retrieval.documents.splitting import SplitConfig, split

ENGLISH = [f"Sentence number {i} says a little about the power supply of router {i}." for i in range(30)]
CHINESE = [f"第{i}句话说的是路由器电源的一点小事情。" for i in range(30)]
PARTS = [
    *("The router restarts. ", "他说：“好。”然后走了。", "# Setup\n\n", "\n## 重置\n", "\n\n", "\n", " ", "- item\n"),
    *("| a | b |\n| - | - |\n| 1 | 2 |\n", "```\ncode\n\nmore\n```\n", "长文本测试" * 60, "word " * 120, "x" * 300),
    *("👩‍👩‍👧‍👦", "🇨🇳🇬🇧", "e\u0308", "\ud800", "\x00", "1,000,000 ", "'"),
]
TEXTS = st.one_of(st.text(max_size=200), st.lists(st.sampled_from(PARTS), max_size=16).map("".join))
NARROW = SplitConfig(size=16, maximum=16, overlap=8)
CONFIGS = st.sampled_from([SplitConfig(), NARROW, SplitConfig(size=24, maximum=60, overlap=0)])


def passages_of(text: str, config: SplitConfig | None = None, **fields: str) -> list[Passage]:
    return split(Document(document_id="doc", text=clean(text), **fields), config or SplitConfig())


def check(text: str, config: SplitConfig) -> None:
    cleaned = clean(text)
    passages = split(Document(document_id="doc", text=cleaned), config)
    covered = bytearray(len(cleaned))
    for passage in passages:
        assert cleaned[passage.start : passage.end] == passage.text
        assert passage.text.strip() == passage.text != ""
        assert estimated_tokens(passage.text, limit=10**6) <= config.maximum
        covered[passage.start : passage.end] = b"\x01" * len(passage.text)
    missed = [i for i, letter in enumerate(cleaned) if not covered[i] and not letter.isspace()]
    assert missed == []
    starts = [(passage.start, passage.end) for passage in passages]
    assert starts == sorted(starts)
    assert len({passage.passage_id for passage in passages}) == len(passages)


@settings(max_examples=120, deadline=None)
@given(TEXTS, CONFIGS)
def test_offsets_are_exact_and_nothing_is_lost(text: str, config: SplitConfig) -> None:
    check(text, config)


@pytest.mark.parametrize("name", EDGE_TEXTS)
def test_edge_texts_are_split(name: str) -> None:
    check(EDGE_TEXTS[name], SplitConfig())
    check(f"# {EDGE_TEXTS[name]}\n\n{EDGE_TEXTS[name]}", SplitConfig(size=16, maximum=20, overlap=4))


@pytest.mark.parametrize(("sentences", "joint"), [(ENGLISH, " "), (CHINESE, "")], ids=["en", "zh"])
def test_passages_are_whole_sentences_that_overlap(sentences: list[str], joint: str) -> None:
    passages = passages_of(joint.join(sentences))
    assert len(passages) > 3
    for before, passage in pairwise(passages):
        assert passage.text.startswith(tuple(sentences))
        assert passage.text.endswith(tuple(sentences))
        repeated = before.end - passage.start
        assert repeated > 0
        assert estimated_tokens(before.text[-repeated:]) <= 24 + 2
    assert all(48 <= estimated_tokens(passage.text) <= 96 for passage in passages[:-1])
    alone = passages_of(joint.join(sentences), SplitConfig(overlap=0))
    assert all(before.end <= passage.start for before, passage in pairwise(alone))


def test_headings_are_carried_and_never_crossed() -> None:
    text = "Intro.\n\n# Setup\n\n## Power\n\nPlug it in.\n\n## 重置\n\n按住按钮。\n\n# Help #\n\nCall us."
    found = [(passage.text, passage.headings) for passage in passages_of(text)]
    assert found == [
        ("Intro.", ()),
        ("# Setup\n\n## Power\n\nPlug it in.", ("Setup", "Power")),
        ("## 重置\n\n按住按钮。", ("Setup", "重置")),
        ("# Help #\n\nCall us.", ("Help",)),
    ]


def test_a_long_section_has_its_headings_in_every_passage_and_a_heading_never_ends_one() -> None:
    passages = passages_of("# Power\n\n" + " ".join(ENGLISH) + "\n\n## Nothing\n\n## More\n\n" + " ".join(ENGLISH[:3]))
    assert {passage.headings for passage in passages[:-1]} == {("Power",)}
    assert passages[-1].headings == ("Power", "More")
    assert passages[-1].text.startswith("## Nothing\n\n## More\n\nSentence number 0")


def test_a_heading_stays_with_a_sentence_that_is_longer_than_a_passage_should_be() -> None:
    long = " and ".join(["a router that needs power"] * 20) + "."
    assert 96 < estimated_tokens(long) < 180
    assert [passage.text for passage in passages_of(f"# Power\n\n{long}")] == [f"# Power\n\n{long}"]


def test_a_little_that_is_left_over_goes_with_the_passage_before() -> None:
    paragraph = " ".join(ENGLISH[:5])
    assert estimated_tokens(paragraph) > 85
    assert len(passages_of(f"{paragraph} Then it restarts, and that is all there is to say.")) == 1


def test_what_is_embedded_names_title_and_headings_once() -> None:
    passages = passages_of("# Power\n\n" + " ".join(ENGLISH), title="Router manual")
    assert passages[0].searchable == "Router manual\n" + passages[0].text
    assert passages[1].searchable == "Router manual\nPower\n" + passages[1].text


def test_a_table_and_a_code_block_stay_whole_where_they_fit() -> None:
    table = "| name | volts |\n| --- | --- |\n" + "\n".join(f"| router {i} | {i} |" for i in range(25))
    code = "```\nfor router in routers:\n\n# restart it\n    router.restart()\n```"
    passages = passages_of(f"{' '.join(ENGLISH[:4])}\n\n{table}\n\n{' '.join(ENGLISH[:3])}\n\n{code}\n\nEnd.")
    assert estimated_tokens(table) > 96
    assert sum(table in passage.text for passage in passages) == 1
    assert sum(code in passage.text for passage in passages) == 1
    assert {passage.headings for passage in passages} == {()}  # a comment in code is no heading


def test_a_table_that_is_too_long_is_cut_between_rows() -> None:
    rows = [f"| router number {i} | {i} volts |" for i in range(200)]
    passages = passages_of("\n".join(rows))
    assert len(passages) > 5
    assert [row for passage in passages for row in passage.text.split("\n")] == rows


def test_a_paragraph_that_fits_is_not_torn() -> None:
    paragraphs = [" ".join(ENGLISH[:3]), " ".join(ENGLISH[3:6]), " ".join(ENGLISH[6:9])]
    assert [passage.text for passage in passages_of("\n\n".join(paragraphs))] == paragraphs


def test_a_long_sentence_is_cut_at_clauses_and_never_inside_a_word_or_a_character() -> None:
    clauses = passages_of("，".join(["路由器需要电源和网线才能正常工作"] * 40))
    assert all(passage.text.endswith("，") for passage in clauses[:-1])
    words = {word for passage in passages_of("word another 1,000.50 longer " * 100) for word in passage.text.split()}
    assert words == {"word", "another", "1,000.50", "longer"}
    family = "👩‍👩‍👧‍👦"
    assert {len(passage.text) % len(family) for passage in passages_of(family * 200)} == {0}
    assert {len(passage.text) % 2 for passage in passages_of("🇨🇳" * 400)} == {0}
    assert sum(passage.text.count("Kubernetes") for passage in passages_of("使用Kubernetes部署" * 60)) == 60


def test_a_cut_leaves_whole_what_is_seen_as_one_character() -> None:
    for text in ("e\u0301", "👍🏽", "❤\ufe0f", "👩‍💻", "🇨🇳"):
        assert not any(between_characters(text, place) for place in range(1, len(text)))
    assert between_characters("🇨🇳🇬🇧", 2)
    assert between_characters("ab", 1)


def test_a_faq_pair_is_one_passage_found_by_its_question() -> None:
    answer = " ".join(ENGLISH)
    [passage] = passages_of(f"# Answer\n\n{answer}", question="How do I power it?", language="en")
    assert (passage.start, passage.end, passage.text) == (0, len(answer) + 10, f"# Answer\n\n{answer}")
    assert passage.searchable == "How do I power it?"


def test_ids_depend_on_the_document_and_its_content_alone() -> None:
    text = "# Power\n\n" + " ".join(ENGLISH) + "\n\n# Help\n\nCall us."
    before = [passage.passage_id for passage in passages_of(text)]
    assert before == [passage.passage_id for passage in passages_of(text)]
    other = split(Document(document_id="other", text=text), SplitConfig())
    assert not set(before) & {passage.passage_id for passage in other}
    changed = [passage.passage_id for passage in passages_of(text.replace("Call us", "Write to us"))]
    assert changed[:-1] == before[:-1]
    assert changed[-1] != before[-1]


def test_each_passage_has_its_language() -> None:
    mixed = "# A\n\n" + " ".join(ENGLISH[:3]) + "\n\n# B\n\n" + "".join(CHINESE[:3]) + "\n\n# C\n\n`docker run`"
    assert [passage.language for passage in passages_of(mixed)] == ["en", "zh", "zh"]
    assert {passage.language for passage in passages_of(mixed, language="zh")} == {"zh"}
    [pair] = passages_of("是的。", question="可以吗？")
    assert pair.language == "zh"


def test_what_the_document_says_goes_with_its_passages() -> None:
    document = Document(document_id="a", text="Hello there.", title="T", source="a.txt", metadata={"year": 2026})
    [passage] = split(document, SplitConfig())
    assert (passage.document_id, passage.title, passage.source, passage.metadata) == ("a", "T", "a.txt", {"year": 2026})
    assert split(Document(document_id="a", text=""), SplitConfig()) == []


@pytest.mark.parametrize("fields", [{"size": 200}, {"overlap": 60}, {"size": 1}, {"unknown": 1}])
def test_a_config_that_makes_no_sense_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        SplitConfig(**fields)


HOSTILE = ["!", "。", "J. ", "#", "# a\n", "```\n", "| a\n", "x", "\u0301", "👩\u200d", "🇨", "，", "a\n\n", "- \n", "# \n"]


@pytest.mark.parametrize("part", HOSTILE)
def test_hostile_texts_take_linear_time(part: str) -> None:
    check(part * (30_000 // len(part)) + "a", SplitConfig())


def test_a_long_run_of_marks_takes_linear_time() -> None:
    assert len(passages_of("!" * 150_000 + "a")) > 100  # minutes where each place of the run is tried: the test's time limit
