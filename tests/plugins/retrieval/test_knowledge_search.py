"""What a search finds: by meaning, by words, fused; under filters; in two languages."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from small_knowledge import SPACE, drawn_vector, embedded, ids, numbered, put

from taskloom.core.errors import InvalidInputError
from taskloom.core.knowledge import Document, Embedded, KnowledgeBase, Query
from taskloom.plugins.retrieval.config import KnowledgeConfig, stored_config
from taskloom.plugins.retrieval.fusion import convex_combination, reciprocal_rank_fusion

Create = Callable[..., KnowledgeBase]


def test_each_search_finds_what_it_looks_for_and_says_what_it_found_it_by(base: KnowledgeBase) -> None:
    put(base, *numbered(30), Document(document_id="r", text="the R7000 reboots"))
    vector = {SPACE: drawn_vector(numbered(30)[12].text)}
    with base.view() as view:
        dense = view.search(Query("R7000", vector, mode="dense"))
        sparse = view.search(Query("R7000", vector, mode="sparse"))
        hybrid = view.search(Query("R7000", vector, mode="hybrid"))
    assert (dense[0].passage.document_id, dense[0].sparse) == ("d0012", None)
    assert dense[0].score == dense[0].dense == pytest.approx(1.0, abs=1e-3)
    assert len(dense) == 10
    assert ids(sparse) == ["r#0"]
    assert (sparse[0].dense, sparse[0].score) == (None, sparse[0].sparse)
    assert set(ids(hybrid)[:2]) == {"d0012#0", "r#0"}
    assert [hit.score for hit in hybrid] == sorted((hit.score for hit in hybrid), reverse=True)


def test_fusion_adds_reciprocal_ranks() -> None:
    fused = reciprocal_rank_fusion([({1: 9.0, 2: 8.0, 3: 1.0}, 1.0), ({3: 0.2, 1: 0.1}, 0.5)], k=60)
    assert fused == {1: 1 / 61 + 0.5 / 62, 2: 1 / 62, 3: 1 / 63 + 0.5 / 61}


def test_fusion_takes_the_mean_of_scores_on_one_scale() -> None:
    fused = convex_combination([({1: 9.0, 2: 8.0, 3: 1.0}, 3.0), ({3: 0.2, 1: 0.1}, 1.0), ({}, 5.0)])
    assert fused == pytest.approx({1: 0.75, 2: 0.75 * 7 / 8, 3: 0.25})
    assert convex_combination([({4: -2.0}, 1.0), ({5: 0.0, 6: 0.0}, 1.0)]) == {4: 0.5, 5: 0.5, 6: 0.5}
    assert convex_combination([({4: 1.0}, 0.0), ({}, 1.0)]) == {4: 0.0}
    assert convex_combination([]) == {}


@pytest.mark.parametrize(("fusion", "most"), [("scores", 1.0), ("ranks", 1 / 61)])
def test_a_base_fuses_scores_or_ranks_as_it_is_set(create: Create, fusion: str, most: float) -> None:
    """What both searches find first has the most that there is to have."""
    base = create(fusion=fusion)
    put(base, *numbered(30), Document(document_id="r", text="the R7000 reboots"))
    with base.view() as view:
        hits = view.search(Query("R7000", {SPACE: drawn_vector("the R7000 reboots")}))
    assert (ids(hits)[0], hits[0].score) == ("r#0", pytest.approx(most))


def test_a_base_from_before_there_was_a_choice_fuses_ranks() -> None:
    told = KnowledgeConfig(dense_weight=1.0, sparse_weight=1.0).model_dump(mode="json", exclude={"fusion"})
    assert stored_config(json.dumps(told)).fusion == "ranks"
    assert stored_config(KnowledgeConfig().model_dump_json()).fusion == "scores"


def test_weights_say_which_search_counts(create: Create) -> None:
    base = create(dense_weight=0.0)
    put(base, *numbered(30), Document(document_id="r", text="the R7000 reboots"))
    with base.view() as view:
        assert ids(view.search(Query("R7000", {SPACE: drawn_vector(numbered(30)[12].text)})))[0] == "r#0"


def test_equal_scores_come_in_the_order_of_passage_ids(base: KnowledgeBase) -> None:
    same = [Document(document_id=f"z{n}", text="same words", source=str(n), title=f"t{n}") for n in (3, 1, 2, 0, 5, 4)]
    prepared = base.prepare(same)
    assert len(prepared.documents) == 6
    base.put(prepared, embedded(prepared))
    vector = {SPACE: drawn_vector("same words")}
    with base.view() as view:
        for limit in (6, 4):
            expected = [f"z{n}#0" for n in range(limit)]
            assert ids(view.search(Query("same words", vector, limit=limit, mode="dense"))) == expected
            assert ids(view.search(Query("same words", vector, limit=limit, mode="sparse"))) == expected
            assert ids(view.search(Query("same words", vector, limit=limit))) == expected


def kinds_of_router(base: KnowledgeBase) -> None:
    put(
        base,
        Document(document_id="a", text="router one", metadata={"product": "router", "year": 2025, "tags": ("wifi", "setup")}),
        Document(document_id="b", text="router two", metadata={"product": "router", "year": 2026, "tags": ("wifi",)}),
        Document(document_id="c", text="router three", metadata={"product": "modem", "year": "2026", "beta": True}),
    )


@pytest.mark.parametrize("mode", ["dense", "sparse", "hybrid"])
@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"product": "router"}, {"a", "b"}),
        ({"product": "router", "year": 2026}, {"b"}),
        ({"year": 2026.0}, {"b"}),
        ({"year": "2026"}, {"c"}),
        ({"year": (2025, "2026")}, {"a", "c"}),
        ({"tags": "wifi"}, {"a", "b"}),
        ({"tags": ("setup", "other")}, {"a"}),
        ({"beta": True}, {"c"}),
        ({"beta": 1}, set()),
        ({"colour": "red"}, set()),
        ({}, {"a", "b", "c"}),
    ],
)
def test_filters_choose_by_metadata(base: KnowledgeBase, mode: Any, where: Any, expected: set[str]) -> None:
    kinds_of_router(base)
    with base.view() as view:
        hits = view.search(Query("router", {SPACE: drawn_vector("x")}, where=where, mode=mode))
    assert {hit.passage.document_id for hit in hits} == expected


def test_filters_by_keys_that_no_document_has_leave_nothing_behind(base: KnowledgeBase) -> None:
    put(base, Document(document_id="a", text="words", metadata={"product": "router"}))
    with base.view() as view:
        for number in range(20):
            assert view.search(Query("words", {}, mode="sparse", where={f"unheard-of-{number}": 1})) == []
        assert len(view.search(Query("words", {}, mode="sparse", where={"product": "router"}))) == 1
    assert set(base._columns._columns) == {"product"}  # type: ignore[attr-defined]


def test_filters_by_more_keys_than_are_kept_in_memory_find_what_they_ask_for(
    base: KnowledgeBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskloom.plugins.retrieval.filters.MOST_COLUMNS", 3)
    keys = [f"key{number}" for number in range(6)]
    put(base, *(Document(document_id=key, text=f"words of {key}", metadata={key: 1}) for key in keys))
    with base.view() as view:
        for key in keys * 2:
            found = view.search(Query("words", {}, mode="sparse", where={key: 1}))
            assert [hit.passage.document_id for hit in found] == [key]
    assert len(base._columns._columns) == 3  # type: ignore[attr-defined]


def test_a_filter_sees_what_came_in_after_it_was_first_used(base: KnowledgeBase) -> None:
    kinds_of_router(base)
    query = Query("router", {SPACE: drawn_vector("x")}, where={"product": "modem"})
    with base.view() as view:
        assert ids(view.search(query)) == ["c#0"]
        put(base, Document(document_id="d", text="router four", metadata={"product": "modem"}))
        assert ids(view.search(query)) == ["c#0"]
    with base.view() as view:
        assert set(ids(view.search(query))) == {"c#0", "d#0"}
    base.remove(["c"])
    with base.view() as view:
        assert ids(view.search(query)) == ["d#0"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"limit": 0}, "at least one"),
        ({"where": {"year": ()}}, "no value"),
        ({"where": {"year": None}}, "no value of metadata"),
        ({"where": {"year": float("nan")}}, "finite"),
        ({"where": {"": 1}}, "key"),
        ({"vectors": {}}, "needs the query's vector"),
        ({"vectors": {"other": drawn_vector("x")}}, "'other'; there are: tiny@1"),
        ({"vectors": {SPACE: drawn_vector("x", 15)}}, "shape"),
        ({"vectors": {SPACE: drawn_vector("x") * 3}}, "length 3"),
    ],
)
def test_questions_that_make_no_sense_are_refused(base: KnowledgeBase, changed: dict[str, Any], message: str) -> None:
    put(base, *numbered(3))
    given: dict[str, Any] = {"text": "x", "vectors": {SPACE: drawn_vector("x")}} | changed
    with base.view() as view, pytest.raises(InvalidInputError, match=message):
        view.search(Query(**given))


def test_chinese_and_english_live_together_each_in_its_space(base: KnowledgeBase) -> None:
    documents = [
        Document(document_id="zh1", text="长按按钮十秒可以重置路由器", language="zh"),
        Document(document_id="zh2", text="如何更换电池", language="zh"),
        Document(document_id="en1", text="Hold the button to reset the router", language="en"),
        Document(document_id="en2", text="How to change the battery", language="en"),
    ]
    prepared = base.prepare(documents)
    sizes = {"zh": 24, "en": 16}
    base.put(
        prepared,
        [Embedded(one.passage_id, one.language, drawn_vector(one.text, sizes[one.language])) for one in prepared.passages],
    )
    with base.view() as view:
        assert ids(view.search(Query("路由器重置", {}, mode="sparse")))[0] == "zh1#0"
        assert ids(view.search(Query("resetting routers", {}, mode="sparse")))[0] == "en1#0"
        both = {"zh": drawn_vector(documents[1].text, 24), "en": drawn_vector(documents[3].text, 16)}
        hits = view.search(Query("电池 battery", both))
        assert set(ids(hits)[:2]) == {"zh2#0", "en2#0"}
        assert all(hit.dense == pytest.approx(1.0, abs=1e-3) for hit in hits[:2])
        only = view.search(Query("", {"zh": both["zh"]}, mode="dense"))
        assert set(ids(only)) == {"zh1#0", "zh2#0"}
        stats = view.stats()
    assert stats.languages == {"en": 2, "zh": 2}
    base.remove(["zh1", "zh2", "en2"])
    with base.view() as view:
        assert view.stats().languages == {"en": 1}
    assert {(index.space, index.vectors, index.dimensions) for index in stats.indexes} == {("zh", 2, 24), ("en", 2, 16)}


def test_a_search_finds_the_same_before_and_after_compaction_and_opening(create: Create) -> None:
    base = create(delta_limit=25)
    for start in range(0, 20, 5):
        put(base, *numbered(5, start=start))
    queries = [
        Query(f"number {n} subject3", {SPACE: drawn_vector(str(n))}, limit=8, mode=mode)  # type: ignore[arg-type]
        for n in range(6)
        for mode in ("dense", "sparse", "hybrid")
    ]
    put(base, *numbered(5, start=20))
    with base.view() as view:
        before = [view.search(query) for query in queries]
    put(base, *numbered(1, start=77))
    base.compact()
    base.remove(["d0077"])
    with base.view() as view:
        after = [view.search(query) for query in queries]
    for first, second in zip(before, after, strict=True):
        assert ids(first) == ids(second)
        assert [hit.dense for hit in first] == [hit.dense for hit in second]
