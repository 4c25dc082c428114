"""Which of the measured models to take: those that fit what is asked for, best first, and why the others don't.

Models in the box come before those that have to be trained. Within each, the task's primary metric decides, then latency, then
size. Metrics on different rows are ordered by their figures as well, which proves nothing, and is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, field_validator

from taskloom.core.errors import unknown_name
from taskloom.core.selection import (
    Goal,
    MeasuredModel,
    MeasuredTable,
    Percentile,
    Quality,
    Remedy,
    Shape,
    Speed,
)
from taskloom.core.types import Frozen

MB = 1e6
MS = 1e-3
SMALLEST_VALUE = 1e-9
"""A metric of zero lacks so many times what is asked for that its exact number is no matter."""


class Wishes(Frozen):
    """What a model must be and may take; None leaves it open. `budget_s` is for one request of the given `shape`, in process,
    `memory_bytes` for the process that holds the model alone, `size_bytes` for its files and those of its backbone."""

    task: str
    language: str = ""
    """Its primary subtag decides: `zh-CN` is `zh`."""
    budget_s: float | None = Field(default=None, gt=0)
    percentile: Percentile = "p50"
    shape: Shape = "short"
    memory_bytes: float | None = Field(default=None, gt=0)
    size_bytes: float | None = Field(default=None, gt=0)
    least_metric: float | None = None
    """In the metric's own unit; for one that is better if lower, the most that it may be."""

    @field_validator("language")
    @classmethod
    def _primary(cls, language: str) -> str:
        return language.strip().partition("-")[0].partition("_")[0].casefold()


Broken = Literal["language", "latency", "memory", "size", "quality"]
"""Which wish."""


class Verdict(Frozen):
    """A model and how it stands to the wishes. `lacks` says by how many times, above 1, it misses each wish that it misses by a
    figure, and `excess` is the most of them: 1 for a model that misses none, None for one that reads another language.
    `broken` and `unmeasured` are wishes."""

    model: MeasuredModel
    speed: Speed | None
    broken: tuple[Broken, ...] = ()
    unmeasured: tuple[Broken, ...] = ()
    lacks: Mapping[Broken, float] = Field(default_factory=dict)
    excess: float | None = 1.0
    reasons: tuple[str, ...] = ()


class Advice(Frozen):
    """The answer: `fits`, best first; `unknown`, which miss nothing that was measured; `misses`, the nearest first; and, if
    nothing fits, what would help, each with the command that does it."""

    wishes: Wishes
    machine: str
    fits: tuple[Verdict, ...]
    unknown: tuple[Verdict, ...]
    misses: tuple[Verdict, ...]
    remedies: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Look:
    """One wish, looked up for one model: what it takes and may take, in `unit`; `taken` is None if nobody measured it."""

    wish: Broken
    what: str
    taken: float | None
    limit: float
    unit: str
    at_most: bool = True

    @property
    def holds(self) -> bool:
        assert self.taken is not None
        return self.taken <= self.limit if self.at_most else self.taken >= self.limit

    @property
    def excess(self) -> float:
        assert self.taken is not None
        high, low = (self.taken, self.limit) if self.at_most else (self.limit, self.taken)
        return high / max(low, SMALLEST_VALUE)

    def __str__(self) -> str:
        if self.taken is None:
            return f"{self.what}: not measured"
        taken, limit = told_apart(self.taken, self.limit)
        over, within = ("over", "within") if self.at_most else ("under", "at least")
        return f"{self.what}: {taken}{self.unit} is {within if self.holds else over} {limit}{self.unit}"


def told_apart(value: float, limit: float) -> tuple[str, str]:
    """Both as short as may be, with as many digits as it takes to show that they differ, if they do.

    >>> told_apart(38.04, 20), told_apart(20.004, 20), told_apart(20, 20)
    (('38', '20'), ('20.004', '20'), ('20', '20'))
    """
    for digits in range(3, 18):
        told = _plain(value, digits), _plain(limit, digits)
        if told[0] != told[1] or value == limit:
            break
    return told


def _plain(value: float, digits: int) -> str:
    short = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e+" in short else short


def advise(table: MeasuredTable, wishes: Wishes, machine: str) -> Advice:
    """Sorts the models of the task by the wishes, by their speeds on `machine`. Raises `NotFoundError` for a task, language or
    machine that the table hasn't got."""
    asked = [("measured task", wishes.task, table.tasks), ("measured machine", machine, tuple(table.machines))]
    if wishes.language:
        asked.append(("measured language", wishes.language, table.languages))
    for kind, name, known in asked:
        if name not in known:
            raise unknown_name(kind, name, known)
    verdicts = [_verdict(model, wishes, machine) for model in table.models if model.task == wishes.task]
    rank = _rank(wishes)
    fits = sorted((one for one in verdicts if not one.broken and not one.unmeasured), key=rank)
    unknown = sorted((one for one in verdicts if not one.broken and one.unmeasured), key=rank)
    misses = sorted((one for one in verdicts if one.broken), key=lambda one: (one.excess is None, one.excess or 0.0, rank(one)))
    return Advice(
        wishes=wishes,
        machine=machine,
        fits=_compared(fits),
        unknown=_compared(unknown),
        misses=tuple(misses),
        remedies=() if fits else tuple(_help(table, wishes, misses, readers=bool(unknown))),
    )


def machine_for(table: MeasuredTable, precision: str) -> str:
    """The table's machine whose models ran in this precision, else its first."""
    return next((name for name, facts in table.machines.items() if facts.precision == precision), next(iter(table.machines)))


def _verdict(model: MeasuredModel, wishes: Wishes, machine: str) -> Verdict:
    speed = model.speeds.get(machine)
    looks = list(_looks(model, speed, wishes))
    broken = [look for look in looks if look.taken is not None and not look.holds]
    unmeasured = [look for look in looks if look.taken is None]
    reads = model.reads(wishes.language)
    language = [] if reads else [f"reads {', '.join(model.languages)}, not {wishes.language}"]
    # A model that is out of question is told of by what puts it out.
    told = [str(look) for look in (broken if broken or language else looks)]
    return Verdict(
        model=model,
        speed=speed,
        broken=(*(() if reads else ("language",)), *(look.wish for look in broken)),
        unmeasured=tuple(look.wish for look in unmeasured),
        lacks={look.wish: look.excess for look in broken},
        excess=max((look.excess for look in broken), default=1.0) if reads else None,
        reasons=(*language, *told),
    )


def _looks(model: MeasuredModel, speed: Speed | None, wishes: Wishes) -> Iterable[_Look]:
    if wishes.budget_s is not None:
        taken = None if speed is None else speed.of(wishes.shape).at(wishes.percentile) / MS
        yield _Look("latency", f"{wishes.percentile} of a {wishes.shape} request", taken, wishes.budget_s / MS, " ms")
    if wishes.memory_bytes is not None:
        taken = None if speed is None else speed.peak_rss_bytes / MB
        yield _Look("memory", "memory", taken, wishes.memory_bytes / MB, " MB")
    if wishes.size_bytes is not None:
        yield _Look("size", "size", model.whole_bytes / MB, wishes.size_bytes / MB, " MB")
    if wishes.least_metric is not None:
        own = model.quality
        yield _Look("quality", own.metric, own.value, wishes.least_metric, "", at_most=not own.higher_is_better)


_Place = tuple[bool, float, float, int, str]


def _rank(wishes: Wishes) -> Callable[[Verdict], _Place]:
    def key(verdict: Verdict) -> _Place:
        model = verdict.model
        latency = verdict.speed.of(wishes.shape).at(wishes.percentile) if verdict.speed else float("inf")
        return not model.bundled, -_goodness(model.quality), latency, model.whole_bytes, model.name

    return key


def _goodness(quality: Quality) -> float:
    return quality.value if quality.higher_is_better else -quality.value


def _compared(ranked: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """Each with what is to say of it beside the first one, and of where it comes from."""
    if not ranked:
        return ()
    first = ranked[0].model
    found = []
    for place, verdict in enumerate(ranked):
        said = [] if place == 0 else [_beside(verdict.model, first)]
        found.append(verdict.model_copy(update={"reasons": (*said, *verdict.reasons, *_provenance(verdict.model))}))
    return tuple(found)


def _beside(model: MeasuredModel, first: MeasuredModel) -> str:
    own, best = model.quality, first.quality
    if (own.metric, own.data_sha256) != (best.metric, best.data_sha256):
        return f"measured on other rows than {first.name}: their {own.metric} can't be compared"
    difference = _goodness(own) - _goodness(best)
    if difference == 0:
        return f"{own.metric} as {first.name}'s on the same rows"
    better = "better" if difference > 0 else "worse"
    chance = ", which may be chance: the intervals overlap" if _overlap(own, best) else ""
    trained = ", but has to be trained first" if difference > 0 else ""
    return f"{own.metric} is {abs(difference):.3f} {better} than {first.name}'s on the same rows{chance}{trained}"


def _overlap(one: Quality, other: Quality) -> bool:
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return False
    return one.low <= other.high and other.low <= one.high


def _provenance(model: MeasuredModel) -> Iterable[str]:
    yield "in the box" if model.bundled else "has to be trained: the recipe says how to get its data"
    if model.quality.tier == "research":
        yield "its data has no licence that lets its weights be passed on: to measure with, or train it on rows of your own"
    if model.quality.tier == "unclear":
        yield "the licence of its data is only said to be free: see its card"


def _help(table: MeasuredTable, wishes: Wishes, misses: Sequence[Verdict], *, readers: bool) -> Iterable[str]:
    """What would make the nearest miss fit; without one, and without other `readers` of the language, what would make a model
    of the task at all."""
    nearest = next((one for one in misses if one.excess is not None), None)
    if nearest is not None:
        for goal in (goal for goal in _GOALS if goal in nearest.broken):
            yield from _optimized(table.remedies, goal, nearest.model, nearest.lacks[goal])
        if "quality" in nearest.broken:
            other, change = ("", "") if nearest.model.network else (", or another backbone,", " --set backbone=NAME")
            yield (
                f"rows of your own{other} may make it better: taskloom train {nearest.model.recipe} --data ROWS "
                f"--eval UNSEEN_ROWS{change}"
            )
    elif misses and not readers:
        yield (
            f"no model of {wishes.task} that reads {wishes.language} was measured. Train one: a recipe such as "
            f"{misses[0].model.recipe}, with a backbone that reads {wishes.language} and rows in it"
        )


_GOALS: tuple[Goal, ...] = ("latency", "memory", "size")


def _optimized(remedies: Sequence[Remedy], goal: Goal, model: MeasuredModel, lacks: float) -> Iterable[str]:
    fitting = [one for one in remedies if goal in one.helps and one.optimizer in model.optimizers]
    for remedy in sorted(fitting, key=lambda one: (_gain(one, goal) is None, -(_gain(one, goal) or 0))):
        settings = [f"--set {remedy.optimizer}.{setting}" for setting in remedy.settings]
        command = " ".join([f"taskloom optimize {model.name} --with {remedy.optimizer}", *settings])
        gain = _gain(remedy, goal)
        if gain is None:
            known = "nobody measured by how much"
        else:
            how = f"{gain:.2f} times as fast as" if goal == "latency" else f"{1 / gain:.2f} of its size"
            short = "" if gain >= lacks else "; that alone is not enough"
            known = f"{remedy.model} became {how} in {remedy.baseline}; {remedy.machine}, {remedy.measured}{short}"
        yield f"{goal}, {_ratio(lacks)} times what it may be: {command} ({known})"


def _ratio(times: float) -> str:
    return f"{times:.2f}" if times < 10 else f"{times:.0f}"


def _gain(remedy: Remedy, goal: Goal) -> float | None:
    """How many times less of it is taken."""
    if goal == "latency":
        return remedy.speedup
    return 1 / remedy.size_share if goal == "size" and remedy.size_share else None
