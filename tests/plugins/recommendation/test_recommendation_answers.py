"""What a recommender answers: filters, what was seen, reasons, newcomers, what it doesn't know."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from taskloom.core.errors import InvalidInputError
from taskloom.core.predictor import Predictor
from taskloom.plugins.tasks.recommendation.choosing import REASON_SIMILARITY
from taskloom.plugins.tasks.recommendation.schema import RecommendationInput, RecommendationOutput, RecommendationParams


def ask(predictor: Predictor[Any, Any, Any], params: dict[str, Any] | None = None, **given: Any) -> RecommendationOutput:
    answer: RecommendationOutput = predictor.predict_one(
        RecommendationInput.model_validate(given), RecommendationParams.model_validate(params or {})
    )
    return answer


def kinds(answer: RecommendationOutput, first: int = 5) -> list[str]:
    return [found.item.partition("-")[0] for found in answer.items[:first]]


@pytest.mark.parametrize("kind", ["card", "order", "hello"])
def test_a_history_of_one_kind_is_answered_with_that_kind(predictor: Predictor[Any, Any, Any], kind: str) -> None:
    assert kinds(ask(predictor, history=[f"{kind}-1", f"{kind}-4"])) == [kind] * 5


def test_scores_fall_and_items_do_not_repeat(predictor: Predictor[Any, Any, Any]) -> None:
    found = ask(predictor, {"top_k": 100}, history=["card-1"]).items
    scores = [item.score for item in found]
    assert scores == sorted(scores, reverse=True)
    assert len({item.item for item in found}) == len(found) == 35


def test_seen_items_are_left_out_unless_asked_for(predictor: Predictor[Any, Any, Any]) -> None:
    history = ["card-1", "card-2", "card-3"]
    unseen = {item.item for item in ask(predictor, {"top_k": 100}, history=history).items}
    assert not unseen & set(history)
    everything = {item.item for item in ask(predictor, {"top_k": 100, "include_seen": True}, history=history).items}
    assert everything == unseen | set(history)


def test_a_known_user_is_one_with_that_history(predictor: Predictor[Any, Any, Any]) -> None:
    _, history = predictor.model.users.find("user-1")  # type: ignore[attr-defined]
    by_name = ask(predictor, {"top_k": 100}, user="user-1")
    assert not {item.item for item in by_name.items} & set(history)
    assert kinds(by_name, 4) == ["order"] * 4
    assert by_name.unknown == ()


def test_filters_hold_together(predictor: Predictor[Any, Any, Any]) -> None:
    params = {
        "top_k": 100,
        "where": {"kind": "CARD", "age": ["old", "new"]},
        "where_not": {"age": "old"},
        "exclude": ["card-2"],
    }
    found = {item.item for item in ask(predictor, params, history=["hello-1"]).items}
    assert found == {f"card-{i}" for i in range(12) if i % 3} - {"card-2"}


def test_only_the_named_items_are_ranked_where_some_are_named(predictor: Predictor[Any, Any, Any]) -> None:
    params = {"among": ["hello-3", "card-11", "order-4", "no-such-item"]}
    found = [item.item for item in ask(predictor, params, history=["card-1", "card-2"]).items]
    assert sorted(found) == ["card-11", "hello-3", "order-4"]


def test_filters_that_leave_nothing_give_an_empty_answer(predictor: Predictor[Any, Any, Any]) -> None:
    assert ask(predictor, {"where": {"kind": "card"}, "where_not": {"kind": "card"}}).items == ()


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"where": {"colour": "red"}}, "no attribute 'colour'; they have: kind, age"),
        ({"where": {"kind": "crad"}}, "did you mean 'card'"),
        ({"where_not": {"kind": ["card", "tram"]}}, "no item has kind 'tram'"),
    ],
)
def test_a_filter_that_means_nothing_is_refused_with_what_there_is(
    predictor: Predictor[Any, Any, Any], params: dict[str, Any], told: str
) -> None:
    with pytest.raises(InvalidInputError) as refused:
        ask(predictor, params, history=["card-1"])
    assert told in str(refused.value)
    assert refused.value.field.startswith("params.where")


def test_reasons_are_the_nearest_of_the_history(predictor: Predictor[Any, Any, Any]) -> None:
    answer = ask(predictor, {"reasons": 2, "top_k": 100}, history=["hello-2", "card-1", "card-4"])
    assert {len(found.reasons) for found in answer.items} >= {0, 2}, "some items are like the history, some are not"
    vectors = predictor.model.vectors.item.numpy()  # type: ignore[attr-defined]
    places = predictor.model.catalogue.places  # type: ignore[attr-defined]
    for found in answer.items:
        one = vectors[places[found.item]]
        cosines = {
            item: float(one @ vectors[places[item]] / np.linalg.norm(one) / np.linalg.norm(vectors[places[item]]))
            for item in ("hello-2", "card-1", "card-4")
        }
        best = [item for item in sorted(cosines, key=lambda item: -cosines[item])[:2] if cosines[item] >= REASON_SIMILARITY]
        assert [reason.item for reason in found.reasons] == best
        assert [reason.similarity for reason in found.reasons] == pytest.approx([cosines[item] for item in best], abs=1e-5)


def test_a_title_among_the_likes_counts_as_the_item_in_any_language(predictor: Predictor[Any, Any, Any]) -> None:
    by_id = ask(predictor, history=["order-3"])
    assert ask(predictor, likes=["The ORDER d"]) == by_id
    assert ask(predictor, likes=["我的order3"]) == by_id
    assert ask(predictor, likes=["《我的order3》"]) == by_id
    assert "order-3" not in {item.item for item in by_id.items}


@pytest.mark.parametrize("kind", ["card", "order", "hello"])
def test_words_alone_make_a_user(predictor: Predictor[Any, Any, Any], kind: str) -> None:
    assert kinds(ask(predictor, likes=[f"the {kind} b. {kind}, item. new", f"the {kind} e. {kind}, item. new"]), 1) == [kind]


def test_what_is_unknown_is_told_and_passed_over(predictor: Predictor[Any, Any, Any]) -> None:
    answer = ask(predictor, user="nobody", history=["gone-1", "card-1", "gone-1"], features={"country": "JP"})
    assert answer.unknown == ("nobody", "gone-1", "country=JP")
    assert answer.items == ask(predictor, history=["card-1"]).items


def test_titles_come_in_the_language_that_is_asked_for(predictor: Predictor[Any, Any, Any]) -> None:
    params = {"among": ["card-3", "card-2"], "language": "zh"}
    assert {item.title for item in ask(predictor, params).items} == {"我的card3", "the card c"}


def test_an_item_that_was_chosen_twice_counts_once(predictor: Predictor[Any, Any, Any]) -> None:
    assert ask(predictor, history=["card-1", "card-2", "card-1"]) == ask(predictor, history=["card-2", "card-1"])


def test_what_was_seen_long_ago_is_left_out_too(predictor: Predictor[Any, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = predictor.model
    monkeypatch.setattr(model._lookup, "_max_history", 2)
    history = [f"card-{i}" for i in range(8)]
    found = ask(predictor, {"top_k": 100, "reasons": 20}, history=history)
    assert not {item.item for item in found.items} & set(history)
    assert {reason.item for item in found.items for reason in item.reasons} <= set(history[-2:]), "only these were read"
    assert [item.score for item in found.items[:3]] == pytest.approx(
        [item.score for item in ask(predictor, {"top_k": 3, "exclude": history}, history=history[-2:]).items]
    )


def test_a_history_of_unknown_items_is_read_once(predictor: Predictor[Any, Any, Any]) -> None:
    compared = 0

    class Counted(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    history = tuple(Counted(f"gone-{i}") for i in range(300))
    known = predictor.model._lookup.known(RecommendationInput.model_construct(history=history))  # type: ignore[attr-defined]
    assert known.unknown == history
    assert compared < 10 * len(history)


def test_unknown_items_of_the_filters_are_told(predictor: Predictor[Any, Any, Any]) -> None:
    params = {"among": ["card-1", "gone-1"], "exclude": ["gone-2", "gone-1", "card-2"]}
    answer = ask(predictor, params, history=["gone-3"])
    assert answer.unknown == ("gone-3", "gone-1", "gone-2")
    assert [item.item for item in answer.items] == ["card-1"]


def test_a_filter_that_means_nothing_is_refused_before_the_model_runs(
    predictor: Predictor[Any, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    run = predictor.executor.run
    monkeypatch.setattr(predictor.executor, "run", lambda batch: sizes.append(len(batch["users"])) or run(batch))
    params = [RecommendationParams(where={"colour": "red"}), RecommendationParams(where_not={"kind": "tram"})]
    answers = predictor.predict([RecommendationInput(history=("card-1",))] * 4, [*params, *[RecommendationParams()] * 2])
    assert [isinstance(answer, InvalidInputError) for answer in answers] == [True, True, False, False]
    assert sum(sizes) == 2
