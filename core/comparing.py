"""Comparing what is about to be published with its parent, in one run: rows, classes, single answers, speed, robustness.

The parent is measured again rather than believed: its report may be of other rows, another machine or another day.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskloom.core.artifact import MANIFEST, REPORT, Artifact, ParentInfo
from taskloom.core.comparison import (
    PAGE,
    PARETO,
    Change,
    ClassChange,
    Comparison,
    ParetoPoint,
    Performance,
    RobustnessRow,
    RowChanges,
    Side,
    WorstRow,
    difference_interval,
    model_bytes,
)
from taskloom.core.errors import ArtifactError, TaskloomError
from taskloom.core.gate import breaches
from taskloom.core.performance import REGISTRY, Effort, chosen_inputs, measure
from taskloom.core.predictor import load_predictor
from taskloom.core.registry import Registry
from taskloom.core.report_page import report_page
from taskloom.core.robustness import BATCH, Model, Perturbation, RobustnessTest, said
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.settings import GateLimits
from taskloom.core.store import ModelStore
from taskloom.core.task import EvaluationResult, Example, TaskPlugin

if TYPE_CHECKING:
    from taskloom.core.publishing import Report

WORST_SHARE = 0.01
WORST_LISTED = 20
DrawPareto = Callable[[Sequence[ParetoPoint], str, Path], None]
"""Draws points (the name of the metric beside them) into a PNG file."""


class Comparing:
    """What `publish_model` asks for a candidate's comparison with its parent, on `rows`, which neither was trained on. The page
    says what a gate with `limits` makes of it; None leaves that out."""

    def __init__(
        self,
        store: ModelStore,
        registry: Registry,
        parent: Artifact,
        rows: Sequence[Example[Any]],
        *,
        perturbations: Sequence[Perturbation] = (),
        effort: Effort | None = None,
        runtime: RuntimeConfig | None = None,
        factory: str = REGISTRY,
        draw_pareto: DrawPareto | None = None,
        limits: GateLimits | None = None,
    ) -> None:
        self._store = store
        self._registry = registry
        self._task: TaskPlugin[Any, Any, Any] = registry.tasks.get(parent.manifest.task)
        self._parent = parent
        self._rows = rows
        self._perturbations = perturbations
        self._effort = effort or Effort()
        self._runtime = runtime
        self._factory = factory
        self._draw_pareto = draw_pareto
        self._limits = limits

    def __call__(self, candidate: Artifact, report: Report) -> Report:
        """The report with the comparison in it. `candidate` is a draft: the page and the picture are put into its folder."""
        comparison = self.compare(candidate, report.evaluation)
        compared = report.model_copy(update={"comparison": comparison})
        picture = candidate.folder / PARETO
        if self._draw_pareto is not None:
            picture.parent.mkdir(exist_ok=True)
            points = pareto_points(self._store, candidate.manifest.model, compared)
            self._draw_pareto(points, comparison.primary, picture)
        pictures = [candidate.folder / name for name in compared.evaluation.figures]
        drawn = [*([picture] if picture.is_file() else []), *pictures]
        broken = None if self._limits is None else [str(breach) for breach in breaches(comparison, self._limits)]
        page = report_page(candidate.manifest, compared, self._task, drawn, broken)
        (candidate.folder / PAGE).write_text(page, encoding="utf-8")
        return compared

    def compare(self, candidate: Artifact, evaluation: EvaluationResult) -> Comparison:
        """`evaluation` is the candidate's, on the same rows. Raises what the parent's evaluation raises."""
        # A server reads whole artifacts only, so the process that measures it does as well; publishing writes the last word.
        (candidate.folder / MANIFEST).write_text(candidate.manifest.model_dump_json(), encoding="utf-8")
        notes: list[str] = []
        before = load_predictor(self._registry, self._parent, self._runtime)
        after = load_predictor(self._registry, candidate, self._runtime)
        try:
            parent = self._task.evaluate(before, self._rows)
            rows = self._row_changes(before, after, parent, evaluation)
            robustness = self._robustness(before, after, notes)
            plans = before.executor.plan, after.executor.plan
        finally:
            before.close()
            after.close()
        performance, ratios = measure(
            self._registry,
            [self._parent, candidate],
            chosen_inputs(self._task, self._rows),
            effort=self._effort,
            runtime=self._runtime,
            factory=self._factory,
        )
        if any(ratio.is_a_glance for ratio in ratios):
            notes.append(f"speed: a glance of {ratios[0].turns} turns for each model, not to decide by")
        known = self._parent.manifest
        notes += [note for step in candidate.manifest.steps[len(known.steps) :] for note in _notes(step.facts)]
        return Comparison(
            parent=ParentInfo(model=known.model, version=known.version, digest=self._parent.digest),
            primary=self._task.primary_metric,
            metrics=metric_changes(self._task, parent, evaluation),
            classes=class_changes(parent, evaluation),
            rows=rows,
            before=_side(self._parent, plans[0], performance[0]),
            after=_side(candidate, plans[1], performance[1]),
            latency=tuple(ratios),
            robustness=robustness,
            notes=tuple(notes),
        )

    def _row_changes(self, before: Model, after: Model, parent: EvaluationResult, candidate: EvaluationResult) -> RowChanges:
        changed = 0
        for start in range(0, len(self._rows), BATCH):
            inputs = [row.input for row in self._rows[start : start + BATCH]]
            pairs = zip(before.predict(inputs), after.predict(inputs), strict=True)
            changed += sum(said(self._task, one) != said(self._task, other) for one, other in pairs)
        scores = [result.pairing.rows if result.pairing else () for result in (parent, candidate)]
        found = RowChanges(rows=len(self._rows), changed=changed / len(self._rows))
        if not scores[0] or len(scores[0]) != len(scores[1]):
            return found
        order = sorted(range(len(scores[0])), key=lambda i: scores[1][i] - scores[0][i])
        worst = order[: max(1, round(WORST_SHARE * len(order)))]
        mean = sum(scores[1][i] - scores[0][i] for i in worst) / len(worst)
        listed: list[WorstRow] = []
        if len(order) == len(self._rows):  # else nobody knows which row a score is of
            lost = [i for i in order[:WORST_LISTED] if scores[1][i] < scores[0][i]]
            listed = [
                WorstRow(
                    path=Path(self._rows[i].path).name, line=self._rows[i].line, parent=scores[0][i], candidate=scores[1][i]
                )
                for i in lost
            ]
        return found.model_copy(update={"worst_mean": mean, "worst": tuple(listed)})

    def _robustness(self, before: Model, after: Model, notes: list[str]) -> tuple[RobustnessRow, ...]:
        if not self._perturbations:
            return ()
        changes = partial(metric_changes, self._task)
        test = RobustnessTest(self._task, (before, after), self._rows, self._effort.robustness_rows, changes)
        found = []
        for perturbation in self._perturbations:
            try:
                found.append(test.run(perturbation))
            except TaskloomError as exc:
                notes.append(f"robustness, {perturbation.name}: not measured, as {exc.message}")
        return tuple(row for row in found if row is not None)


def metric_changes(
    task: TaskPlugin[Any, Any, Any], parent: EvaluationResult, candidate: EvaluationResult
) -> tuple[Change, ...]:
    """Every metric of both, with the paired interval of its difference where both have replicates."""
    drawn = [result.pairing.metrics if result.pairing else {} for result in (parent, candidate)]
    found = []
    for metric in task.metrics:
        low, high = difference_interval(*(own.get(metric.name, ()) for own in drawn))
        found.append(
            Change(
                name=metric.name,
                parent=parent.metrics[metric.name],
                candidate=candidate.metrics[metric.name],
                low=low,
                high=high,
                higher_is_better=metric.higher_is_better,
            )
        )
    return tuple(found)


def class_changes(parent: EvaluationResult, candidate: EvaluationResult) -> tuple[ClassChange, ...]:
    """The classes that rows have, by their F1 in the two `per_class` tables; the worst first."""
    before, after = _by_class(parent), _by_class(candidate)
    drawn = [result.pairing.classes if result.pairing else {} for result in (parent, candidate)]
    found = []
    for label, (f1, support) in after.items():
        if label in before and support:
            low, high = difference_interval(*(own.get(label, ()) for own in drawn))
            found.append(ClassChange(name=label, parent=before[label][0], candidate=f1, low=low, high=high, support=support))
    return tuple(sorted(found, key=lambda change: (-change.drop, change.name)))


def _by_class(result: EvaluationResult) -> dict[str, tuple[float, int]]:
    header, *rows = result.tables.get("per_class") or ((),)
    if not {"label", "f1", "support"} <= set(header):
        return {}
    label, f1, support = (header.index(name) for name in ("label", "f1", "support"))
    return {str(row[label]): (float(row[f1]), int(row[support])) for row in rows}


def _side(artifact: Artifact, plan: Any, performance: Performance) -> Side:
    own = model_bytes(artifact.manifest)
    # What is in memory and not among the files lies in a shared backbone. An engine's own files are not counted twice.
    return Side(
        size_bytes=max(own, performance.weights_bytes),
        artifact_bytes=own,
        plan=plan,
        weights=weight_types(artifact),
        layers=_layer_precisions(artifact),
        performance=performance,
    )


def _notes(facts: Mapping[str, Any]) -> list[str]:
    """The fact `notes` of a step: what whoever compares should know of it."""
    told = facts.get("notes", ())
    return [str(note) for note in told] if isinstance(told, list | tuple) else []


def _layer_precisions(artifact: Artifact) -> dict[str, dict[str, int]]:
    """The fact `layers` of the last step that has one: {kind: {precision: how many}}."""
    for step in reversed(artifact.manifest.steps):
        told = step.facts.get("layers")
        if isinstance(told, Mapping) and all(isinstance(counts, Mapping) for counts in told.values()):
            return {str(kind): {str(name): int(count) for name, count in counts.items()} for kind, counts in told.items()}
    return {}


def weight_types(artifact: Artifact) -> dict[str, int]:
    """How many numbers of each type the artifact's `*.safetensors` hold, by their headers (8 bytes of length, then JSON:
    https://github.com/huggingface/safetensors#format)."""
    found: dict[str, int] = {}
    for name in artifact.manifest.files:
        if name.endswith(".safetensors"):
            with artifact.path(name).open("rb") as stream:
                header: Mapping[str, Any] = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
            for tensor, told in header.items():
                if tensor != "__metadata__":
                    count = 1
                    for size in told["shape"]:
                        count *= size
                    found[told["dtype"]] = found.get(told["dtype"], 0) + count
    return found


def pareto_points(store: ModelStore, model: str, newest: Report) -> list[ParetoPoint]:
    """Every version of the model that was compared on the same rows as the newest one, and their parents. Where two
    comparisons measured one version, the later one counts."""
    from taskloom.core.publishing import read_report

    reports = [("this version", newest)]
    if model in store.models():
        for version in reversed(store.versions(model)):
            try:
                artifact = store.resolve(f"{model}@{version}")
                if REPORT in artifact.manifest.files:
                    reports.append((artifact.name, read_report(artifact)))
            except ArtifactError:
                continue  # a version that can't be read hides no other
    points: dict[str, ParetoPoint] = {}
    for own, report in reports:
        compared = report.comparison
        if compared is None or report.evaluation_data.sha256 != newest.evaluation_data.sha256:
            continue
        change = compared.primary_change
        both = ((own, compared.after, change.candidate), (compared.parent_name, compared.before, change.parent))
        for name, side, quality in both:
            if side.performance is not None and name not in points:
                points[name] = ParetoPoint(
                    name=name,
                    quality=quality,
                    latency_s=side.performance.latencies[0].p50_s,
                    size_bytes=side.size_bytes,
                    newest=report is newest and name == own,
                )
    return list(points.values())
