from __future__ import annotations

from taskloom.core.knowledge import Document
from taskloom.plugins.retrieval.documents.duplicates import content_key, near_duplicates

ENGLISH = " ".join(f"Router {i} needs {i * 7 % 31} volts and a cable of {i * 3} metres." for i in range(40))
CHINESE = "".join(f"第{i}台路由器需要{i * 7 % 31}伏电压和一根网线。" for i in range(40))


def document(name: str, text: str, **fields: str) -> Document:
    return Document(document_id=name, text=text, **fields)


def test_the_content_key_is_of_what_a_document_says() -> None:
    key = content_key(document("a", "text", title="T"))
    assert content_key(document("b", "text", title="T", source="elsewhere", language="en")) == key
    others = [document("a", "text"), document("a", "texts", title="T"), document("a", "text", title="T", question="Q?")]
    assert key not in [content_key(other) for other in others]
    assert content_key(document("a", "ab", title="c")) != content_key(document("a", "a", title="bc"))


def test_near_duplicates_are_told_in_both_languages() -> None:
    documents = [
        document("en", ENGLISH),
        document("zh", CHINESE),
        document("en copy", ENGLISH.replace("Router 3 ", "The router ").upper()),
        document("zh copy", CHINESE + "完。"),
        document("other", "Nothing of what is said here has anything to do with the devices of the other texts at all."),
        document("short", "Router 1"),
        document("short too", "Router 1"),
    ]
    found = {pair.document_id: pair for pair in near_duplicates(documents)}
    assert {name: pair.like for name, pair in found.items()} == {"en copy": "en", "zh copy": "zh"}
    assert all(0.8 <= pair.similarity < 1.0 for pair in found.values())


def test_the_similarity_is_that_of_the_shingles() -> None:
    sentences = ENGLISH.split(". ")
    most = ". ".join(sentences[:31]) + ". " + " ".join(f"Something else stands here, by {i} people." for i in range(9))
    documents = [document("a", ENGLISH), document("b", most)]
    [pair] = near_duplicates(documents, threshold=0.4)
    assert 0.5 < pair.similarity < 0.8  # 31 of 49 sentences
    assert list(near_duplicates(documents)) == []
