"""Dense indexes: what they find of what the exact search finds, also under masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from taskloom.plugins.retrieval.config import KnowledgeConfig
from taskloom.plugins.retrieval.dense import VectorSource, build, exact_neighbours, flat, kind_for
from taskloom.plugins.retrieval.segments import DenseSearch, Segment

KINDS = ["flat", "hnsw", "ivf", "ivf-rabitq"]


def clustered(count: int, size: int = 32, seed: int = 0) -> Any:
    """Unit vectors [count, size] around 40 centres, rounded to half precision as the store does."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((40, size))
    vectors = centres[rng.integers(40, size=count)] + 0.5 * rng.standard_normal((count, size))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float16).astype(np.float32)


def source_of(vectors: Any) -> VectorSource:
    return VectorSource(np.arange(len(vectors)), vectors.shape[1], lambda rows: vectors[rows])


def best(places: Any, scores: Any, count: int) -> list[int]:
    return places[np.lexsort((places, -scores))][:count].tolist()


@pytest.fixture(scope="module", params=KINDS)
def built(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    vectors = clustered(3000)
    return vectors, build(source_of(vectors), KnowledgeConfig(index=request.param))


def test_an_index_finds_what_the_exact_search_finds(built: tuple[Any, Any]) -> None:
    vectors, index = built
    assert index.recall >= 0.98
    shares = []
    for query in clustered(40, seed=7):
        truth = np.argsort(-(vectors @ query), kind="stable")[:10].tolist()
        found = best(*index.search(query, 10), 10)
        shares.append(len(set(truth) & set(found)) / 10)
    assert np.mean(shares) >= (1.0 if index.kind == "flat" else 0.95)


@pytest.mark.parametrize("share", [0.5, 0.05, 0.004])
def test_under_a_mask_only_the_allowed_are_found_and_enough_of_them(built: tuple[Any, Any], share: float) -> None:
    vectors, index = built
    allowed = np.random.default_rng(3).random(len(vectors)) < share
    shares = []
    for query in clustered(20, seed=8):
        places, scores = index.search(query, 10, allowed)
        assert allowed[places].all()
        truth = [place for place in np.argsort(-(vectors @ query), kind="stable").tolist() if allowed[place]][:10]
        found = best(places, scores, 10)
        assert len(found) == len(truth)
        shares.append(len(set(truth) & set(found)) / len(truth))
    assert np.mean(shares) >= 0.95


def test_scores_are_exact_cosines_whatever_the_codes(built: tuple[Any, Any]) -> None:
    vectors, index = built
    query = clustered(1, seed=9)[0]
    places, scores = index.search(query, 5)
    assert np.abs(scores - vectors[places] @ query).max() < 1e-6


def test_one_allowed_and_none(built: tuple[Any, Any]) -> None:
    vectors, index = built
    allowed = np.zeros(len(vectors), np.bool_)
    assert len(index.search(vectors[0], 5, allowed)[0]) == 0
    allowed[1234] = True
    assert index.search(vectors[0], 5, allowed)[0].tolist() == [1234]


def test_all_of_a_tie_is_seen_by_the_exact_search() -> None:
    vectors = np.repeat(clustered(2), [60, 40], axis=0)
    index = flat(source_of(vectors), vectors, half=True)
    assert set(range(60)) <= set(index.search(vectors[0], 3)[0].tolist())


def test_the_kind_follows_the_number_unless_it_is_told() -> None:
    config = KnowledgeConfig(flat_limit=10, hnsw_limit=20)
    assert [kind_for(count, config) for count in (10, 11, 20, 21)] == ["flat", "hnsw", "hnsw", "ivf-rabitq"]
    assert kind_for(5, KnowledgeConfig(index="ivf")) == "ivf"


def test_segments_are_few_and_find_what_one_index_would() -> None:
    vectors = clustered(300)
    whole = source_of(vectors)
    search = DenseSearch(1, 32, None, ())
    for at in range(300):
        here = np.array([at])
        rows = VectorSource(here, 32, whole.read)
        search = search.with_segment(Segment(flat(rows, vectors[here], half=True), here), half=True)
    assert len(search.later) <= 9
    assert sum(len(segment) for segment in search.later) == 300
    query = clustered(1, seed=5)[0]
    truth = np.argsort(-(vectors @ query), kind="stable")[:10].tolist()
    assert best(*search.search(query, 10, None), 10) == truth
    allowed = np.arange(300) % 3 == 0
    slots, _ = search.search(query, 10, allowed)
    assert allowed[slots].all()


def test_a_place_whose_passage_is_gone_is_never_found() -> None:
    vectors = clustered(50)
    slots = np.arange(50)
    slots[7] = -1
    segment = Segment(flat(source_of(vectors), vectors, half=True), slots)
    assert -1 not in segment.search(vectors[7], 50, None)[0]
    assert -1 not in segment.search(vectors[7], 50, np.ones(50, np.bool_))[0]


def test_half_precision_costs_no_recall() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((2000, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    halved = vectors.astype(np.float16).astype(np.float32)
    queries = vectors[:50]
    exact = exact_neighbours(source_of(vectors), queries, 10)
    rounded = exact_neighbours(source_of(halved), queries, 10)
    shares = [len(set(one) & set(other)) / 10 for one, other in zip(exact.tolist(), rounded.tolist(), strict=True)]
    assert np.mean(shares) >= 0.99
