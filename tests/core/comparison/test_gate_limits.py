"""What the gate's policy lets pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from taskloom.core.artifact import ParentInfo
from taskloom.core.comparison import Change, ClassChange, Comparison, LatencyRatio, RowChanges, Side
from taskloom.core.errors import ConfigError
from taskloom.core.gate import breaches
from taskloom.core.runtime import ExecutionPlan
from taskloom.core.settings import GateLimits, GateSettings, load_settings

SIDE = Side(size_bytes=1, artifact_bytes=1, plan=ExecutionPlan(runtime="torch", device="cpu", precision="fp32", threads=1))


def comparison(
    *, primary: Change | None = None, classes: tuple[ClassChange, ...] = (), latency: tuple[LatencyRatio, ...] = ()
) -> Comparison:
    return Comparison(
        parent=ParentInfo(model="m", version="1", digest="a" * 64),
        primary="accuracy",
        metrics=(primary or Change(name="accuracy", parent=0.9, candidate=0.9),),
        classes=classes,
        rows=RowChanges(rows=100, changed=0.0),
        before=SIDE,
        after=SIDE,
        latency=latency,
    )


def ratio(p99: float, low: float, *, batch: int = 1) -> LatencyRatio:
    return LatencyRatio(batch=batch, inputs="short", cpu=p99, p50=p99, p99=p99, p99_low=low, p99_high=2 * p99)


def broken(found: Comparison, **limits: Any) -> list[str]:
    return [breach.setting for breach in breaches(found, GateLimits(**limits))]


@pytest.mark.parametrize(("candidate", "refused"), [(0.88, True), (0.89, False), (0.95, False)])
def test_the_primary_metric_may_drop_by_one_point(candidate: float, refused: bool) -> None:
    found = comparison(primary=Change(name="accuracy", parent=0.9, candidate=candidate))
    assert broken(found) == (["max_primary_drop"] if refused else [])
    assert broken(found, max_primary_drop="off") == []


def test_a_metric_where_lower_is_better_drops_by_growing() -> None:
    found = comparison(primary=Change(name="accuracy", parent=0.1, candidate=0.2, higher_is_better=False))
    assert broken(found) == ["max_primary_drop"]
    better = comparison(primary=Change(name="accuracy", parent=0.2, candidate=0.1, higher_is_better=False))
    assert broken(better) == []


def test_the_worst_class_counts_if_its_loss_is_more_than_chance() -> None:
    lost = ClassChange(name="card", parent=0.9, candidate=0.8, low=-0.15, high=-0.05, support=80)
    few = ClassChange(name="rare", parent=1.0, candidate=0.6, low=-0.8, high=0.0, support=5)
    (breach,) = breaches(comparison(classes=(few, lost)), GateLimits())
    assert "'card' (80 rows) went from 0.9000 to 0.8000" in str(breach)
    assert "0.1, and max_worst_class_drop allows 0.03: 0.07 too much" in str(breach)
    assert broken(comparison(classes=(few,))) == []
    assert broken(comparison(classes=(lost,)), max_worst_class_drop=0.2) == []


def test_a_latency_counts_if_it_is_surely_beyond_and_of_one_request() -> None:
    assert broken(comparison(latency=(ratio(1.4, 1.2),))) == ["max_latency_ratio"]
    assert broken(comparison(latency=(ratio(1.1, 0.9),))) == []
    assert broken(comparison(latency=(ratio(1.4, 1.2, batch=8),))) == []
    assert broken(comparison(latency=(ratio(1.4, 1.2),)), max_latency_ratio=1.3) == []


def test_every_breach_is_told() -> None:
    found = comparison(primary=Change(name="accuracy", parent=0.9, candidate=0.5), latency=(ratio(3.0, 2.0),))
    told = [str(breach) for breach in breaches(found, GateLimits())]
    assert told == [
        "accuracy went from 0.9000 to 0.5000: a drop of 0.4, and max_primary_drop allows 0.01: 0.39 too much",
        "the p99 of one request (short inputs) over the parent's is 3, and max_latency_ratio allows 1: 2 too much",
    ]


def test_a_model_may_have_limits_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "taskloom.toml"
    file.write_text('[gate]\nmax_latency_ratio = 2.0\n[gate.models.intent-en]\nmax_primary_drop = "off"\n')
    gate = load_settings(file).gate
    assert gate.limits("intent-en") == GateLimits(max_primary_drop="off", max_latency_ratio=2.0)
    assert gate.limits("other") == GateLimits(max_latency_ratio=2.0)
    assert GateSettings().limits("intent-en") == GateLimits()


def test_a_limit_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKLOOM_GATE__MAX_PRIMARY_DROP", "0.02")
    monkeypatch.setenv("TASKLOOM_GATE__MAX_LATENCY_RATIO", "off")
    gate = load_settings().gate
    assert (gate.max_primary_drop, gate.max_latency_ratio) == (0.02, "off")


def test_a_limit_that_is_no_number_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "taskloom.toml"
    file.write_text('[gate]\nmax_primary_drop = "little"\n')
    with pytest.raises(ConfigError, match=r"gate\.max_primary_drop"):
        load_settings(file)


def test_a_speed_that_was_measured_for_a_moment_is_not_decided_by() -> None:
    glance = ratio(0.5, 0.1).model_copy(update={"turns": 2})
    (breach,) = breaches(comparison(latency=(glance,)), GateLimits())
    assert breach.setting == "max_latency_ratio"
    assert "without --quick" in str(breach)
    assert broken(comparison(latency=(glance,)), max_latency_ratio="off") == []
    assert broken(comparison(latency=(glance.model_copy(update={"turns": 4}),))) == []
