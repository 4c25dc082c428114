"""Which models fit, in which order, and what is said of them."""

from __future__ import annotations

import doctest
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from measured_models import FAST, SLOW, model, speed, table
from pydantic import ValidationError

from taskloom.core import advice as module
from taskloom.core.advice import Advice, Verdict, Wishes, advise, machine_for, told_apart
from taskloom.core.errors import NotFoundError
from taskloom.core.selection import MeasuredModel, MeasuredTable, Remedy

QUANTIZED = Remedy(
    optimizer="quantize",
    settings=("mode=dynamic",),
    helps=("latency", "size"),
    speedup=2.9,
    size_share=0.26,
    model="intent",
    baseline="fp32",
    machine="a processor",
    measured="2026-11-21",
)
PRUNED = Remedy(optimizer="prune", helps=("latency", "size", "memory"))


def names(verdicts: tuple[Verdict, ...]) -> list[str]:
    return [verdict.model.name for verdict in verdicts]


def asked(table: MeasuredTable, **wishes: Any) -> Advice:
    return advise(table, Wishes.model_validate({"task": "ner", **wishes}), FAST)


# -- properties --------------------------------------------------------------------------------------------------------

amounts = st.floats(min_value=0.5, max_value=200, allow_nan=False)


@st.composite
def models(draw: st.DrawFn) -> tuple[MeasuredModel, ...]:
    found = []
    for number in range(draw(st.integers(0, 8))):
        found.append(
            model(
                f"m{number}",
                value=draw(st.sampled_from([0.0, 0.5, 0.6, 0.9])),
                margin=draw(st.sampled_from([None, 0.02, 0.2])),
                ms=draw(st.none() | amounts),
                speed={"memory_mb": draw(amounts)},
                task=draw(st.sampled_from(["ner", "ner", "ner", "qa"])),
                languages=draw(st.sampled_from([(), ("en",), ("zh",), ("en", "zh")])),
                bundled=draw(st.booleans()),
                size_bytes=int(1e6 * draw(amounts)),
                data=draw(st.sampled_from(["these", "those"])),
            )
        )
    return (*found, model("anchor", languages=("en", "zh"), ms=400.0, value=0.1))


wishes = st.builds(
    Wishes,
    task=st.just("ner"),
    language=st.sampled_from(["", "en", "zh"]),
    budget_s=st.none() | amounts.map(lambda ms: ms / 1000),
    percentile=st.sampled_from(["p50", "p99"]),
    shape=st.sampled_from(["short", "long"]),
    memory_bytes=st.none() | amounts.map(lambda mb: mb * 1e6),
    size_bytes=st.none() | amounts.map(lambda mb: mb * 1e6),
    least_metric=st.none() | st.sampled_from([0.5, 0.6, 0.95]),
)


@given(models(), wishes)
def test_every_model_of_the_task_is_in_one_place_and_rightly(rows: tuple[MeasuredModel, ...], wanted: Wishes) -> None:
    found = advise(table(*rows), wanted, FAST)
    everywhere = names(found.fits) + names(found.unknown) + names(found.misses)
    assert sorted(everywhere) == sorted(row.name for row in rows if row.task == "ner")
    for verdict in (*found.fits, *found.unknown, *found.misses):
        holds = what_holds(verdict.model, wanted)
        assert set(verdict.broken) == {wish for wish, true in holds.items() if true is False}
        assert set(verdict.unmeasured) == {wish for wish, true in holds.items() if true is None}
    assert all(not verdict.broken and not verdict.unmeasured for verdict in found.fits)
    assert all(verdict.unmeasured and not verdict.broken for verdict in found.unknown)
    assert all(verdict.broken and verdict.reasons for verdict in found.misses)


def what_holds(row: MeasuredModel, wanted: Wishes) -> dict[str, bool | None]:
    """By the definition of each wish; None where it was not measured."""
    own = row.speeds.get(FAST)
    times = {} if own is None else {("short", "p50"): own.short.p50_s, ("short", "p99"): own.short.p99_s}
    times |= {} if own is None else {("long", "p50"): own.long.p50_s, ("long", "p99"): own.long.p99_s}
    holds: dict[str, bool | None] = {"language": wanted.language in ("", *row.languages) or not row.languages}
    if wanted.budget_s is not None:
        taken = times.get((wanted.shape, wanted.percentile))
        holds["latency"] = None if taken is None else taken <= wanted.budget_s
    if wanted.memory_bytes is not None:
        holds["memory"] = None if own is None else own.peak_rss_bytes <= wanted.memory_bytes
    if wanted.size_bytes is not None:
        holds["size"] = row.size_bytes + row.backbone_bytes <= wanted.size_bytes
    if wanted.least_metric is not None:
        holds["quality"] = row.quality.value >= wanted.least_metric
    return holds


@given(models(), wishes, st.randoms(use_true_random=False))
def test_the_order_of_the_table_is_no_matter(rows: tuple[MeasuredModel, ...], wanted: Wishes, random: Any) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert advise(table(*shuffled), wanted, FAST) == advise(table(*rows), wanted, FAST)


@given(models(), wishes, st.sampled_from(["budget_s", "memory_bytes", "size_bytes"]), st.floats(1.0, 10.0))
def test_who_asks_for_less_loses_nothing(rows: tuple[MeasuredModel, ...], wanted: Wishes, name: str, factor: float) -> None:
    limit = getattr(wanted, name)
    looser = wanted.model_copy(update={name: None if limit is None else limit * factor})
    before, after = names(advise(table(*rows), wanted, FAST).fits), names(advise(table(*rows), looser, FAST).fits)
    assert [name for name in after if name in before] == before


@given(models(), wishes)
def test_nobody_stands_behind_a_model_that_it_beats_in_everything(rows: tuple[MeasuredModel, ...], wanted: Wishes) -> None:
    fits = advise(table(*rows), wanted, FAST).fits
    for place, verdict in enumerate(fits):
        for ahead in fits[:place]:
            own, other = verdict.model, ahead.model
            assert not (
                own.bundled >= other.bundled
                and own.quality.value > other.quality.value
                and own.whole_bytes < other.whole_bytes
                and took(verdict) < took(ahead)
            )


def took(verdict: Verdict) -> float:
    return verdict.speed.short.p50_s if verdict.speed else math.inf


@given(models(), wishes)
def test_the_nearest_miss_comes_first(rows: tuple[MeasuredModel, ...], wanted: Wishes) -> None:
    found = advise(table(*rows), wanted, FAST)
    excesses = [verdict.excess for verdict in found.misses]
    measured = [excess for excess in excesses if excess is not None]
    assert excesses == [*sorted(measured), *[None] * (len(excesses) - len(measured))]
    assert all(excess > 1 for excess in measured)


@given(st.floats(1e-3, 1e7), st.floats(1e-3, 1e7))
def test_figures_that_differ_look_different(value: float, limit: float) -> None:
    told, told_limit = told_apart(value, limit)
    assert (told == told_limit) == (value == limit)
    if value != limit:
        assert (float(told) < float(told_limit)) == (value < limit)


# -- what is said ------------------------------------------------------------------------------------------------------


def test_the_box_comes_first_and_the_better_recipe_says_so() -> None:
    found = asked(table(model("boxed", value=0.7), model("trained", value=0.75, bundled=False)))
    assert names(found.fits) == ["boxed", "trained"]
    assert found.fits[0].reasons == ("in the box",)
    assert found.fits[1].reasons[0] == "f1 is 0.050 better than boxed's on the same rows, but has to be trained first"


def test_a_difference_within_the_intervals_is_told_as_chance() -> None:
    found = asked(
        table(model("a", value=0.80, margin=0.02), model("b", value=0.79, margin=0.02), model("c", value=0.7, margin=0.02))
    )
    assert "which may be chance" in found.fits[1].reasons[0]
    assert found.fits[2].reasons[0] == "f1 is 0.100 worse than a's on the same rows"


def test_figures_on_other_rows_are_not_compared() -> None:
    found = asked(table(model("a", value=0.9, data="news"), model("b", value=0.8, data="chat")))
    assert found.fits[1].reasons[0] == "measured on other rows than a: their f1 can't be compared"


def test_a_metric_that_is_better_lower_is_ranked_and_limited_the_other_way_round() -> None:
    found = asked(
        table(*(model(f"p{value}", value=value, higher_is_better=False) for value in (30.0, 10.0, 20.0))), least_metric=20
    )
    assert names(found.fits) == ["p10.0", "p20.0"]
    assert found.misses[0].reasons == ("f1: 30 is over 20",)


def test_what_fits_says_by_how_much() -> None:
    found = asked(table(model("a", ms=15)), budget_s=0.02, memory_bytes=700e6, size_bytes=100e6, least_metric=0.7)
    assert found.fits[0].reasons == (
        "p50 of a short request: 15 ms is within 20 ms",
        "memory: 500 MB is within 700 MB",
        "size: 96 MB is within 100 MB",
        "f1: 0.8 is at least 0.7",
        "in the box",
    )


def test_the_percentile_and_the_length_that_are_asked_for_count() -> None:
    rows = table(model("a", ms=10))
    assert names(asked(rows, budget_s=0.015).fits) == ["a"]
    assert asked(rows, budget_s=0.015, percentile="p99").misses[0].reasons == ("p99 of a short request: 20 ms is over 15 ms",)
    assert asked(rows, budget_s=0.015, shape="long").misses[0].reasons == ("p50 of a long request: 30 ms is over 15 ms",)


def test_the_machine_that_is_asked_for_counts() -> None:
    two = model("a").model_copy(update={"speeds": {FAST: speed(10), SLOW: speed(40)}})
    wanted = Wishes(task="ner", budget_s=0.02)
    assert names(advise(table(two), wanted, FAST).fits) == ["a"]
    assert names(advise(table(two), wanted, SLOW).misses) == ["a"]
    assert machine_for(table(two), "fp32") == SLOW
    assert machine_for(table(two), "int4") == FAST


def test_what_nobody_measured_neither_fits_nor_misses() -> None:
    rows = table(model("unknown", ms=None), model("known", value=0.1))
    found = asked(rows, budget_s=0.02)
    assert (names(found.fits), names(found.unknown)) == (["known"], ["unknown"])
    assert "p50 of a short request: not measured" in found.unknown[0].reasons
    assert names(asked(rows, budget_s=0.02, least_metric=0.9).misses) == ["unknown", "known"]
    assert names(asked(rows).fits) == ["unknown", "known"]


def test_where_nothing_fits_the_nearest_is_told_what_would_help() -> None:
    rows = table(model("near", ms=30, optimizers=("quantize", "prune")), model("far", ms=300), remedies=(PRUNED, QUANTIZED))
    found = asked(rows, budget_s=0.02)
    assert names(found.misses) == ["near", "far"]
    assert found.remedies == (
        "latency, 1.50 times what it may be: taskloom optimize near --with quantize --set quantize.mode=dynamic (intent became "
        "2.90 times as fast as in fp32; a processor, 2026-11-21)",
        "latency, 1.50 times what it may be: taskloom optimize near --with prune (nobody measured by how much)",
    )
    assert asked(rows, size_bytes=90e6).remedies[0].startswith("size, 1.07 times what it may be: ")
    assert "near became" not in asked(rows, size_bytes=90e6).remedies[0]
    assert "intent became 0.26 of its size in fp32;" in asked(rows, size_bytes=90e6).remedies[0]
    assert asked(rows, memory_bytes=1e6, budget_s=0.04).remedies == (
        "memory, 500 times what it may be: taskloom optimize near --with prune (nobody measured by how much)",
    )
    assert "taskloom train models/recipes/near.toml" in asked(rows, least_metric=0.9).remedies[0]
    assert asked(rows, least_metric=0.9).remedies[0].endswith("--set backbone=NAME")
    of_its_own = table(model("near", backbone="", network="bilstm hidden 256"))
    assert "backbone" not in asked(of_its_own, least_metric=0.9).remedies[0], "it stands on none"
    assert "not enough" not in asked(rows, budget_s=0.02).remedies[0]
    assert "that alone is not enough" in asked(rows, budget_s=0.005).remedies[0]
    assert asked(rows, budget_s=0.5).remedies == ()


def test_an_optimizer_that_can_do_nothing_for_it_is_not_named() -> None:
    rows = table(model("a", ms=30, optimizers=()), remedies=(PRUNED, QUANTIZED))
    assert asked(rows, budget_s=0.02).remedies == ()


def test_a_language_that_no_model_of_the_task_reads() -> None:
    found = asked(table(model("a"), model("b", task="qa", languages=("zh",))), language="zh-CN")
    assert found.misses[0].reasons == ("reads en, not zh",)
    assert found.misses[0].excess is None
    assert "a backbone that reads zh" in found.remedies[0]
    slow = table(model("a"), model("b", languages=("zh",), ms=None))
    found = asked(slow, language="zh", budget_s=0.02)
    assert (names(found.unknown), found.remedies) == (["b"], ()), "one reads it; nobody measured how fast"
    mixed = table(model("pictures", languages=()), model("b", languages=("zh",)), model("c"))
    assert names(asked(mixed, language="zh").fits) == ["b", "pictures"]


@pytest.mark.parametrize(
    ("wanted", "machine", "told"),
    [
        ({"task": "nr"}, FAST, "did you mean 'ner'? There are: ner, qa."),
        ({"task": ""}, FAST, "There are: ner, qa."),
        ({"task": "ner", "language": "fr"}, FAST, "no measured language named 'fr'. There are: en, zh."),
        ({"task": "ner"}, "gpu", "There are: cpu-bf16, cpu-fp32."),
    ],
)
def test_what_the_table_has_not_got_is_told_with_what_it_has(wanted: dict[str, Any], machine: str, told: str) -> None:
    rows = table(model("a"), model("b", task="qa", languages=("zh",)))
    with pytest.raises(NotFoundError, match="There are") as caught:
        advise(rows, Wishes.model_validate(wanted), machine)
    assert told in caught.value.message


@pytest.mark.parametrize("name", ["budget_s", "memory_bytes", "size_bytes"])
def test_a_budget_is_more_than_nothing(name: str) -> None:
    with pytest.raises(ValidationError):
        Wishes.model_validate({"task": "ner", name: 0})


def test_data_without_a_licence_is_told() -> None:
    reasons = asked(table(model("a", tier="research", bundled=False), model("b", tier="unclear"))).fits
    assert "its data has no licence" in reasons[1].reasons[-1]
    assert "only said to be free" in reasons[0].reasons[-1]


def test_the_examples_of_the_docstrings() -> None:
    assert doctest.testmod(module).failed == 0
