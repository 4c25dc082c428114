"""What an optimized model is worth beside its parent: both measured in one run, on the same rows and the same machine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pydantic import Field

from taskloom.core.artifact import CARD, REPORT, Manifest, ParentInfo
from taskloom.core.runtime import ExecutionPlan
from taskloom.core.types import Frozen

PAGE = "report.html"
FIGURES = "figures"
PARETO = f"{FIGURES}/pareto.png"
COVERAGE = 0.95


class Change(Frozen):
    """A figure of both. `low` and `high` bound the difference (candidate less parent) in 95% of the bootstrap's resamples, each
    drawn for both models alike; None where the figure has no replicates."""

    name: str
    parent: float
    candidate: float
    low: float | None = None
    high: float | None = None
    higher_is_better: bool = True

    @property
    def difference(self) -> float:
        return self.candidate - self.parent

    @property
    def drop(self) -> float:
        """How much worse the candidate is, in the figure's own unit; negative if it is better."""
        return -self.difference if self.higher_is_better else self.difference


class ClassChange(Change):
    """The F1 of a class, on the `support` rows that have it."""

    support: int


class WorstRow(Frozen):
    """A row that lost much, by the score that its task gives rows. `path` is the file's name, no more of where it lies."""

    path: str
    line: int
    parent: float
    candidate: float


class RowChanges(Frozen):
    """What became of single rows. `changed` is the share whose answer is another one, `worst_mean` the mean change of score of
    the one per cent that lost most (at least one row); None where a task gives rows no score."""

    rows: int
    changed: float
    worst_mean: float | None = None
    worst: tuple[WorstRow, ...] = ()


class Latency(Frozen):
    """Calls of one shape, in process: encode, run, decode. `inputs` is `short`, `long`, or `alike` where all cost the same."""

    batch: int
    inputs: str
    p50_s: float
    p99_s: float
    calls: int
    items_per_s: float


LEAST_TURNS = 4
"""Of a speed that is decided by."""


class LatencyRatio(Frozen):
    """Candidate over parent, below 1 for a faster one; `p99_low` and `p99_high` are a 95% interval, from how much the turns
    differ in which the two ran one after the other. `cpu` is the ratio of processor time for each call: it hardly minds what
    else the machine does, and says as much as `p50` where one thread computes."""

    batch: int
    inputs: str
    cpu: float
    p50: float
    p99: float
    p99_low: float
    p99_high: float
    turns: int = 0
    """How often each of the two was measured; 0 in reports that don't say it."""

    @property
    def is_a_glance(self) -> bool:
        """Measured in too few turns to decide by: their spread can't be told."""
        return 0 < self.turns < LEAST_TURNS


class Performance(Frozen):
    """A fresh process that loads this artifact alone. `cold_load_s` is from its start to the first answer, `cpu_s_per_1000`
    the processor time of a thousand requests one by one: a proxy for energy."""

    cold_load_s: float
    peak_rss_bytes: int
    cpu_s_per_1000: float
    weights_bytes: int
    latencies: tuple[Latency, ...]


class Side(Frozen):
    """One of the two. `size_bytes` is what its files take, and those of a shared backbone that it stands on; reports and
    pictures aside. `weights` is how many numbers of each type its `*.safetensors` hold; `layers` how many layers of a kind
    compute in which precision, as the optimizer that decided it says in its lineage."""

    size_bytes: int
    artifact_bytes: int
    plan: ExecutionPlan
    weights: Mapping[str, int] = Field(default_factory=dict)
    layers: Mapping[str, Mapping[str, int]] = Field(default_factory=dict)
    performance: Performance | None = None


class AnswerChanges(Change):
    """The share of rows whose answer is another one after the change, with 95% intervals of both shares; `agreed` is the share
    of changed rows that both answer alike."""

    parent_interval: tuple[float, float]
    candidate_interval: tuple[float, float]
    agreed: float


class RobustnessRow(Frozen):
    """The primary metric on `rows` rows as they are (`clean`) and as they were changed, and what became of their answers.

    `capability` is what the change tests. Without `keeps_answer`, nobody knows what should come out of the changed rows:
    `changed` is None, and that answers change is no failure. `answers` is None in reports from before they were counted."""

    name: str
    description: str
    rows: int
    clean: Change
    changed: Change | None = None
    capability: str = "robustness"
    keeps_answer: bool = True
    answers: AnswerChanges | None = None


class Comparison(Frozen):
    """`report.json`, `comparison`: the candidate is the artifact that holds the report."""

    parent: ParentInfo
    primary: str
    metrics: tuple[Change, ...]
    classes: tuple[ClassChange, ...] = ()
    rows: RowChanges
    before: Side
    after: Side
    latency: tuple[LatencyRatio, ...] = ()
    robustness: tuple[RobustnessRow, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def parent_name(self) -> str:
        return f"{self.parent.model}@{self.parent.version}"

    @property
    def primary_change(self) -> Change:
        return next(change for change in self.metrics if change.name == self.primary)

    @property
    def size_ratio(self) -> float:
        return self.after.size_bytes / self.before.size_bytes if self.before.size_bytes else math.nan

    @property
    def worst_class(self) -> ClassChange | None:
        """The class that lost most."""
        return max(self.classes, key=lambda own: own.drop, default=None)


class ParetoPoint(Frozen):
    """A version of a model in the picture of all: quality, the p50 of one request, size."""

    name: str
    quality: float
    latency_s: float
    size_bytes: int
    newest: bool = False


def difference_interval(parent: Sequence[float], candidate: Sequence[float]) -> tuple[float, float] | tuple[None, None]:
    """The interval of the difference, from replicates that are paired; None where there are none, or not as many."""
    if not parent or len(parent) != len(candidate):
        return None, None
    differences = sorted(after - before for before, after in zip(parent, candidate, strict=True))
    return quantile(differences, (1 - COVERAGE) / 2), quantile(differences, (1 + COVERAGE) / 2)


def quantile(ordered: Sequence[float], share: float) -> float:
    """Between the two nearest of the sorted values, linearly (Hyndman & Fan 1996, definition 7).

    >>> quantile([1.0, 2.0, 3.0, 4.0], 0.5)
    2.5
    """
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return float(ordered[low] + (ordered[high] - ordered[low]) * (place - low))


def model_bytes(manifest: Manifest) -> int:
    """What the files take that the model is made of: neither report, card nor pictures."""
    told = {REPORT, CARD, PAGE}
    return sum(
        file.size_bytes for name, file in manifest.files.items() if name not in told and not name.startswith(f"{FIGURES}/")
    )
