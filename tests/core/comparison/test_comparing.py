"""A candidate beside its parent: figures of one run, each process fresh."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import guessing_task
import pytest
from guessing_task import FACTORY, GuessModel, Nature

from taskloom.core import comparing
from taskloom.core.artifact import Artifact, DataInfo, LineageStep, ParentInfo
from taskloom.core.comparing import Comparing, class_changes, metric_changes
from taskloom.core.comparison import Comparison, difference_interval
from taskloom.core.errors import ArtifactError
from taskloom.core.performance import QUICK
from taskloom.core.publishing import ModelStory, publish_model, read_report
from taskloom.core.registry import Registry
from taskloom.core.robustness import Perturbation, answer_changes
from taskloom.core.settings import GateLimits
from taskloom.core.store import ModelStore
from taskloom.core.task import EvaluationResult, Example, Pairing

ROWS = guessing_task.rows(0, 400)
UNSEEN = DataInfo(name="unseen.jsonl", sha256="c" * 64, rows=len(ROWS))
SHRUNK = LineageStep(
    name="shrink", config={"bits": 8, "<b>": "<script>"}, facts={"layers": {"linear": {"int8": 24, "fp32": 1}}}
)


def without_number(row: Example[Any], _: random.Random) -> Example[Any]:
    text = row.input.text.replace("number", "numbre")
    return row.model_copy(update={"input": row.input.model_copy(update={"text": text})})


def unchanged(row: Example[Any], _: random.Random) -> Example[Any]:
    return row


class Bench:
    def __init__(self, folder: Path) -> None:
        self.registry: Registry = guessing_task.registry()
        self.store = ModelStore([folder / "models"])
        self.parent: Artifact = guessing_task.publish_parent(self.store, self.registry)

    def publish(self, nature: Nature, *perturbations: Perturbation, **options: Any) -> Artifact:
        known = self.parent.manifest
        compare = Comparing(
            self.store, self.registry, self.parent, ROWS, perturbations=perturbations, effort=QUICK, factory=FACTORY, **options
        )
        return publish_model(
            self.store,
            self.registry,
            self.registry.tasks.get("guess"),
            GuessModel(nature),
            ModelStory(name="guess-en"),
            steps=(*known.steps, SHRUNK),
            data=known.data,
            evaluation=ROWS,
            evaluation_data=UNSEEN,
            parent=ParentInfo(model=known.model, version=known.version, digest=self.parent.digest),
            compare=compare,
        )


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def worse(bench: Bench) -> Artifact:
    """A tenth of the parent's size, 5 points worse, slower, and easily misled."""
    return bench.publish(
        Nature(wrong=0.1, bulk_bytes=10_000, sleep_s=0.03, fragile=True),
        Perturbation("typos", "number is misspelt", without_number),
        Perturbation("nothing", "nothing to change here", unchanged),
        Perturbation("negation", "the number's name is denied", without_number, capability="negation", keeps_answer=False),
    )


@pytest.fixture(scope="module")
def comparison(worse: Artifact) -> Comparison:
    found = read_report(worse).comparison
    assert found is not None
    return found


def test_both_are_measured_on_the_same_rows_and_the_difference_has_an_interval(comparison: Comparison) -> None:
    change = comparison.primary_change
    assert (comparison.parent_name, change.name) == ("guess-en@1", "accuracy")
    assert (change.parent, change.candidate) == (pytest.approx(0.95), pytest.approx(0.9))
    assert change.low is not None
    assert change.high is not None
    assert change.low < change.difference < change.high < 0
    error = comparison.metrics[1]
    assert (error.drop, error.difference) == (pytest.approx(0.05), pytest.approx(0.05))
    assert change.drop == pytest.approx(0.05)


def test_what_was_measured_is_published_as_it_is(worse: Artifact, bench: Bench) -> None:
    worse.verify()
    assert {"report.html", "report.json", "nature.json"} <= worse.manifest.files.keys()
    assert worse.aliases == ("candidate",)
    assert worse.manifest.parent is not None
    assert worse.manifest.parent.digest == bench.parent.digest
    assert "pairing" not in worse.path("report.json").read_text(), "replicates are no figures for people"


def test_every_class_is_compared_the_worst_first(comparison: Comparison) -> None:
    assert {change.name for change in comparison.classes} == {"even", "odd"}
    assert [change.support for change in comparison.classes] == [200, 200]
    assert comparison.classes[0].drop == max(change.drop for change in comparison.classes) > 0
    assert comparison.worst_class == comparison.classes[0]
    assert all(change.high is not None for change in comparison.classes)


def test_rows_that_changed_are_counted_and_the_worst_are_named(comparison: Comparison) -> None:
    rows = comparison.rows
    assert (rows.rows, rows.changed) == (400, pytest.approx(0.05))
    assert rows.worst_mean == -1.0
    assert len(rows.worst) == 20
    assert {(row.path, row.parent, row.candidate) for row in rows.worst} == {("rows.jsonl", 1.0, 0.0)}
    assert all(5 <= row.line * 37 % 100 < 10 for row in rows.worst)


def test_robustness_is_of_both_and_what_changes_nothing_is_left_out(comparison: Comparison) -> None:
    row, denied = comparison.robustness
    assert (row.name, row.rows, row.capability) == ("typos", QUICK.robustness_rows, "robustness")
    assert row.changed is not None
    assert row.clean.parent == row.changed.parent
    assert row.changed.candidate < row.clean.candidate - 0.2
    assert (denied.name, denied.changed, denied.keeps_answer) == ("negation", None, False), "nobody knows what should come out"


def test_answers_that_a_change_makes_others_are_counted_in_both(comparison: Comparison) -> None:
    for row in comparison.robustness:
        answers = row.answers
        assert answers is not None
        assert answers.parent == 0.0
        assert answers.candidate > 0.8, "misled in all rows but those that it got wrong before"
        assert answers.parent_interval == (0.0, pytest.approx(0.138, abs=0.001))
        assert answers.candidate_interval[0] < answers.candidate < answers.candidate_interval[1] <= 1.0
        assert answers.low is not None
        assert answers.high is not None
        assert 0 < answers.low <= answers.difference <= answers.high
        assert answers.agreed < 0.2


def test_the_interval_of_two_shares_is_paired() -> None:
    before = [1.0, 0.0] * 100
    same = answer_changes(before, before, agreed=1.0)
    assert (same.low, same.high) == (0.0, 0.0)
    other = answer_changes(before, before[1:] + before[:1], agreed=0.0)
    assert other.low is not None
    assert other.high is not None
    assert other.low < -0.1 < 0.1 < other.high


def test_speed_size_and_memory_are_those_of_a_process_of_its_own(comparison: Comparison) -> None:
    before, after = comparison.before, comparison.after
    assert before.performance is not None
    assert after.performance is not None
    assert before.size_bytes > 100_000 > 11_000 > after.size_bytes > 10_000
    assert comparison.size_ratio == pytest.approx(0.1, abs=0.01)
    shapes = [(one.batch, one.inputs) for one in after.performance.latencies]
    assert shapes == [(1, "short"), (8, "short"), (1, "long"), (8, "long")]
    assert all(0.03 <= one.p50_s <= one.p99_s for one in after.performance.latencies)
    assert all(ratio.p50 > 1 and ratio.p99_low <= ratio.p99 <= ratio.p99_high for ratio in comparison.latency)
    for performance in (before.performance, after.performance):
        assert performance.cold_load_s > 0.05, "the start of a process takes its time"
        assert 10e6 < performance.peak_rss_bytes < 2e9
        assert performance.cpu_s_per_1000 > 0


def test_the_memory_is_not_that_of_the_process_that_measures(bench: Bench) -> None:
    ballast = b"x" * 200_000_000
    found = read_report(bench.publish(Nature(bulk_bytes=10))).comparison
    assert found is not None
    assert found.after.performance is not None
    assert found.after.performance.peak_rss_bytes < len(ballast)


def test_the_page_stands_alone_and_is_safe(worse: Artifact) -> None:
    page = worse.path("report.html").read_text(encoding="utf-8")
    for told in ("guess-en@1", "accuracy", "number is misspelt", "latency of a call", "peak memory", "24 int8, 1 fp32"):
        assert told in page
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page
    assert "src=" not in page.replace('src="data:image/png;base64,', "")


def test_the_page_says_what_the_gate_makes_of_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "measure", guessing_task.imagined_speed)

    def page(wrong: float, limits: GateLimits | None) -> str:
        return bench.publish(Nature(wrong=wrong), limits=limits).path("report.html").read_text(encoding="utf-8")

    assert "✓ The gate lets it pass" in page(0.05, GateLimits())
    refused = page(0.1, GateLimits())
    assert "✕ The gate refuses it" in refused
    assert "accuracy went from 0.9500 to 0.9000: a drop of 0.05" in refused
    assert "The gate" not in page(0.1, None)
    assert '<div class="better"><b>2.00 ×</b>' in refused, "p50 and the p99's whole interval are below the parent's"
    unsure = (
        guessing_task.imagined_speed()[0],
        [ratio.model_copy(update={"p99_high": 1.2}) for ratio in guessing_task.imagined_speed()[1]],
    )
    monkeypatch.setattr(comparing, "measure", lambda *_, **__: unsure)
    assert '<div class="unsure"><b>2.00 ×</b>' in page(0.1, None)


def test_the_card_has_the_comparison_in_short(worse: Artifact, bench: Bench) -> None:
    card = worse.path("MODEL_CARD.md").read_text(encoding="utf-8")
    section = card.partition("## Compared with its parent")[2].partition("\n## ")[0]
    for told in ("guess-en@1", "**accuracy** | 0.9500 | 0.9000 | -0.0500", "size", "answers 5.0% of 400 rows differently"):
        assert told in section
    assert "Compared with" not in bench.parent.path("MODEL_CARD.md").read_text()


def test_what_can_not_be_run_in_a_fresh_process_is_not_published(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    before = bench.store.versions("guess-en")
    task = bench.registry.tasks.get("guess")
    monkeypatch.setattr(task, "load", lambda artifact, shared: GuessModel(Nature()))  # here it can be read, there it can't
    with pytest.raises(ArtifactError, match="fresh process: this model can't be read again"):
        bench.publish(Nature(broken=True))
    assert bench.store.versions("guess-en") == before


def test_a_process_that_dies_is_told_with_its_last_words(bench: Bench) -> None:
    compared = Comparing(bench.store, bench.registry, bench.parent, ROWS, effort=QUICK, factory="no_such_module:registry")
    evaluation = EvaluationResult(metrics={"accuracy": 1.0, "error": 0.0}, examples=400)
    with pytest.raises(ArtifactError, match="No module named 'no_such_module'"):
        compared.compare(bench.parent, evaluation)


def test_the_picture_has_every_version_that_was_measured_on_these_rows(
    bench: Bench, worse: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "measure", guessing_task.imagined_speed)
    drawn: list[Any] = []

    def draw(points: Any, metric: str, path: Path) -> None:
        drawn.extend([metric, *points])
        path.write_bytes(b"png")

    last = bench.publish(Nature(wrong=0.0, bulk_bytes=500), draw_pareto=draw)
    metric, *points = drawn
    assert metric == "accuracy"
    assert {point.name for point in points} >= {"this version", "guess-en@1", worse.name}
    found = {point.name: point for point in points}
    assert found["this version"].newest
    assert not found["guess-en@1"].newest
    assert (found["this version"].quality, found[worse.name].quality) == (1.0, pytest.approx(0.9))
    assert last.path("figures/pareto.png").read_bytes() == b"png"
    assert "data:image/png;base64,cG5n" in last.path("report.html").read_text()


def result(hits: Mapping[str, list[float]]) -> EvaluationResult:
    """Of one metric, whose replicates are drawn as every task draws them."""
    import numpy as np

    from taskloom.plugins._shared.bootstrap import intervals_of, replicates

    values = np.array(hits["accuracy"])
    drawn = replicates(lambda rows: {"accuracy": float(values[rows].mean()), "error": 0.0}, len(values))
    return EvaluationResult(
        metrics={"accuracy": float(values.mean()), "error": 0.0},
        intervals=intervals_of(drawn),
        examples=len(values),
        pairing=Pairing(metrics=drawn),
    )


def test_paired_intervals_are_narrower_than_what_two_reports_could_tell(bench: Bench) -> None:
    task = bench.registry.tasks.get("guess")
    chance = random.Random(5)
    before = [float(chance.random() < 0.8) for _ in range(500)]
    after = [0.0 if i % 50 == 0 else hit for i, hit in enumerate(before)]  # two per cent of the rows, no other
    one, other = result({"accuracy": before}), result({"accuracy": after})
    change = metric_changes(task, one, other)[0]
    assert change.low is not None
    assert change.high is not None
    (low_1, high_1), (low_2, high_2) = one.intervals["accuracy"], other.intervals["accuracy"]
    unpaired = ((high_1 - low_1) ** 2 + (high_2 - low_2) ** 2) ** 0.5
    assert change.high - change.low < unpaired / 2
    assert change.high < 0, "paired, a loss of eight rows is certain"
    assert max(low_1, low_2) < min(high_1, high_2), "unpaired, it is not"


def test_without_replicates_a_difference_has_no_interval(bench: Bench) -> None:
    plain = EvaluationResult(metrics={"accuracy": 0.5, "error": 0.5}, examples=2)
    change = metric_changes(bench.registry.tasks.get("guess"), plain, plain)[0]
    assert (change.low, change.high) == (None, None)
    assert class_changes(plain, plain) == ()
    assert difference_interval([0.1, 0.2], [0.1]) == (None, None)
