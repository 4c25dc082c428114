"""From the names in a question over the graph to passages, and these among the others that are found."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_graphs import extraction, put_extracted, put_texts
from small_knowledge import SPACE, drawn_vector, embedded, put

from taskloom.core.errors import UnsupportedError
from taskloom.core.knowledge import Document, Hit, KnowledgeBase, Query, View
from taskloom.plugins.retrieval.graph import expansion
from taskloom.plugins.retrieval.graph.names import Spoken, normalised

Create = Callable[..., KnowledgeBase]


def found(view: View, text: str, **more: Any) -> dict[str, Hit]:
    hits = view.search(Query(text, {}, mode="graph", limit=50, **more))
    return {hit.passage.document_id: hit for hit in hits}


def led(view: View, text: str, **more: Any) -> dict[str, float]:
    """The documents that the graph leads to, and how strongly."""
    return {name: hit.graph for name, hit in found(view, text, **more).items() if hit.graph is not None}


TEXTS = {
    "own": "Ann owns Bolt.",
    "made": "Bolt made Ships.",
    "far": "Ships near Rome.",
    "other": "Nobody speaks of Cid here.",
}


def test_names_are_the_same_however_they_are_written() -> None:
    assert {normalised(one) for one in ("The Vatican", "VATICAN", "Vatican's", " “Vatican” ")} == {"vatican"}
    assert normalised("U.S.") == normalised("U.S") == "u.s"
    assert normalised("北京 ") == "北京"


@given(st.text(max_size=40))
def test_a_name_in_its_form_is_in_its_form(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)


def test_the_longest_known_name_at_each_place_is_asked_for() -> None:
    known = {"new york", "york", "new york times", "us", "at&t", "北京大学", "北京"}
    assert Spoken("Did the New York Times of New York name us?").known(known) == ["new york times", "new york"]
    assert Spoken("What did the US tell AT&T?").known(known) == ["us", "at&t"]
    assert Spoken("北京大学在哪里").known(known) == ["北京大学"]
    assert Spoken("!?").known(known) == []


def test_passages_of_the_questions_names_and_of_their_neighbours_are_found(create: Create) -> None:
    base = create(graph=True)
    put_texts(base, **TEXTS)
    with base.view() as view:
        assert set(led(view, "what does Ann have?")) == {"own", "made"}
        assert led(view, "what is there?") == {}
        strength = led(view, "what has ANN got?")
    specific, shared = math.log(1 + 4 / 1), math.log(1 + 4 / 2)
    near = expansion.DECAY * 0.8
    assert strength["own"] == pytest.approx(specific + near * shared)
    assert strength["made"] == pytest.approx(near * shared)


@pytest.mark.parametrize(("hops", "reached"), [(0, {"own"}), (1, {"own", "made"}), (2, {"own", "made", "far"})])
def test_as_many_relations_are_followed_as_are_set(create: Create, hops: int, reached: set[str]) -> None:
    base = create(graph=True, graph_hops=hops)
    put_texts(base, **TEXTS)
    with base.view() as view:
        assert set(led(view, "Ann")) == reached


def test_names_that_a_model_found_lead_on_although_nobody_else_would_see_them(create: Create) -> None:
    base = create(graph=True)
    put_texts(base, **TEXTS)
    with base.view() as view:
        assert led(view, "whose is she?") == {}
        assert set(led(view, "whose is she?", entities=("The Ships", "Unknown"))) == {"made", "far", "own"}


def test_no_more_neighbours_are_followed_than_are_set(create: Create) -> None:
    base = create(graph=True, graph_neighbours=3)
    put_texts(
        base, **{f"d{n:02}": f"Hub owns Part{n:02}." for n in range(20)}, **{f"p{n:02}": f"Part{n:02}." for n in range(20)}
    )
    with base.view() as view:
        reached = led(view, "Hub")
        assert sum(name.startswith("p") for name in reached) == 3
        around = view.neighbourhood("Hub", hops=2, limit=5)
    assert (len(around.mentions), len(around.relations)) == (5, 5)


def test_a_name_that_is_nearly_everywhere_leads_nowhere(create: Create, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expansion, "MOST_MENTIONS", 3)
    base = create(graph=True)
    put_texts(base, **{f"d{n}": f"Hub speaks to Name{n}." for n in range(4)})
    with base.view() as view:
        assert set(led(view, "Hub and Name2")) == {"d2"}
        assert led(view, "Hub") == {}


def test_what_a_model_was_not_sure_of_leads_nowhere(create: Create) -> None:
    base = create(graph=True, graph_score=0.85)  # the names have 0.9, the relations 0.8
    put_texts(base, **TEXTS)
    with base.view() as view:
        assert set(led(view, "Ann")) == {"own"}


def test_the_graph_keeps_to_the_filter_and_to_the_version(create: Create) -> None:
    base = create(graph=True)
    documents = [
        Document(document_id=name, text=text, metadata={"year": 2025 if name == "own" else 2026})
        for name, text in TEXTS.items()
    ]
    put_extracted(base, *documents)
    with base.view() as view:
        assert led(view, "Ann", where={"year": 2026}) == {}, "the relation stands in a document that may not be found"
        assert set(led(view, "Bolt", where={"year": 2026})) == {"made", "far"}
    base.remove(["own"])
    with base.view() as view, base.view(1) as old:
        assert led(view, "Ann") == {}
        assert set(led(old, "Ann")) == {"own", "made"}


def test_ranks_are_fused_with_the_weight_that_is_set(create: Create) -> None:
    base = create(graph=True, graph_weight=0.25, fusion="ranks", rrf_k=10, sparse_weight=1.0)
    put_texts(base, **TEXTS)
    with base.view() as view:
        hits = found(view, "Ann")
        plain = {hit.passage.document_id for hit in view.search(Query("ann", {}, mode="sparse", limit=50))}
    assert plain == {"own"}
    assert set(hits) == {"own", "made"}
    assert hits["own"].score == pytest.approx(1 / 11 + 0.25 / 11)
    assert hits["made"].score == pytest.approx(0.25 / 12)
    assert (hits["made"].sparse, hits["made"].dense) == (None, None)


def test_without_a_weight_the_graph_changes_no_order(create: Create) -> None:
    base = create(graph=True, graph_weight=0.0)
    put_texts(base, **TEXTS)
    vectors = {SPACE: drawn_vector("Ann")}
    with base.view() as view:
        both = [view.search(Query("Ann Bolt", vectors, mode=mode, limit=4)) for mode in ("hybrid", "graph")]
    plain, led_besides = ([(hit.passage.passage_id, hit.score) for hit in hits] for hits in both)
    assert plain == led_besides


def test_passages_with_the_same_names_are_ranked_by_their_texts(create: Create) -> None:
    base = create(graph=True, graph_weight=5.0)
    put_texts(base, **{f"d{n}": f"Ann went to town on day{n}." for n in range(6)})
    with base.view() as view:
        hits = view.search(Query("which town did Ann see on day4", {}, mode="graph", limit=6))
    assert hits[0].passage.document_id == "d4"
    assert {hit.graph for hit in hits} == {hits[0].graph}


def test_an_empty_base_leads_nowhere(create: Create) -> None:
    base = create(graph=True)
    with base.view() as view:
        assert found(view, "Ann") == {}


def test_a_base_without_a_graph_refuses_the_mode(create: Create) -> None:
    base = create()
    put(base, Document(document_id="a", text="Ann owns Bolt."))
    with base.view() as view, pytest.raises(UnsupportedError, match="keeps no graph"):
        view.search(Query("Ann", {}, mode="graph"))


def test_a_base_whose_old_versions_had_a_longer_name_goes_by_the_names_that_it_has(create: Create) -> None:
    base = create(graph=True)
    prepared = base.prepare([Document(document_id="a", text="Ann Bolt speaks.")])
    (known,) = [extraction(passage) for passage in prepared.passages]
    whole = known.entities[0].model_copy(update={"text": "Ann Bolt", "end": 8})
    base.put_extracted(prepared, embedded(prepared), [known.model_copy(update={"entities": (whole,)})])
    put_texts(base, a="Ann speaks.")
    with base.view() as view:
        assert set(led(view, "Ann Bolt")) == {"a"}


def test_a_name_counts_once_whatever_labels_it_was_given(create: Create) -> None:
    base = create(graph=True)
    prepared = base.prepare([Document(document_id="a", text="Ann met Ann."), Document(document_id="b", text="Ann sleeps.")])
    one, other = (extraction(passage) for passage in prepared.passages)
    first, second = one.entities
    two_labels = one.model_copy(update={"entities": (first, second.model_copy(update={"label": "OTHER"}))})
    base.put_extracted(prepared, embedded(prepared), [two_labels, other])
    with base.view() as view:
        assert led(view, "Ann") == {"a": pytest.approx(math.log(2)), "b": pytest.approx(math.log(2))}
