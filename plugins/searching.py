"""Looking for the steps and settings that make the best versions: a study of three aims, by Optuna.

A trial is judged on the validation rows, so that the rows of the report stay unseen. Its steps are kept, so `optimize_model`
with the same data finds them made.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskloom.core.artifact import Artifact, file_digest
from taskloom.core.comparison import model_bytes
from taskloom.core.errors import ConfigError, MissingDependencyError, UnsupportedError
from taskloom.core.optimizing import Optimizing, StepRequest
from taskloom.core.performance import QUICK, REGISTRY, Effort, chosen_inputs, measure
from taskloom.core.predictor import load_predictor
from taskloom.core.registry import Registry
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.store import ModelStore
from taskloom.core.task import Example, TaskPlugin, TrainRun
from taskloom.core.types import Frozen
from taskloom.plugins.optimizing import (
    DataFiles,
    Others,
    chains,
    named_by,
    read_rows,
    refuse_known_rows,
    seeded,
)
from taskloom.plugins.optimizing_work import DATABASE, shared_folder, shared_work

SEED = 13
FIGURES = ("quality", "latency", "size")
MADE = "made"
"""What a trial says of itself: the names of its steps' folders."""


class Tried(Frozen):
    """A setting and what is tried for it: `choices`, or anything from `low` to `high` (whole numbers, if both are)."""

    step: str
    key: str
    choices: tuple[str | int | float | bool, ...] = ()
    low: int | float = 0
    high: int | float = 0

    @property
    def name(self) -> str:
        return f"{self.step}.{self.key}"


class Found(Frozen):
    """A trial. `quality` is the primary metric on the validation rows; `latency` (p50 of one request) and `size` are ratios to
    the parent's."""

    steps: tuple[StepRequest, ...]
    quality: float
    latency: float
    size: float


class SearchResult(Frozen):
    """`front` are the trials that no other one beats in all three, the best quality first; `refused` how many combinations
    make no sense."""

    metric: str
    parent_quality: float
    trials: int
    refused: int
    front: tuple[Found, ...]


def parse_tried(text: str) -> Tried:
    """
    >>> parse_tried("prune.keep=0.3..0.8").high
    0.8
    >>> parse_tried("quantize.mode=static|dynamic").choices
    ('static', 'dynamic')
    """
    found = re.fullmatch(r"([^.=\s]+)\.([^=\s]+)=(.+)", text)
    if found is None:
        raise ConfigError(f"--try {text!r}: write STEP.KEY=A|B|C, or STEP.KEY=LOW..HIGH")
    step, key, values = found.groups()
    low, dots, high = values.partition("..")
    if not dots:
        return Tried(step=step, key=key, choices=tuple(_value(one.strip()) for one in values.split("|")))
    ends = [_value(low), _value(high)]
    numbers = [end for end in ends if isinstance(end, int | float) and not isinstance(end, bool)]
    if len(numbers) < 2 or numbers[0] >= numbers[1]:
        raise ConfigError(f"--try {text!r}: LOW..HIGH must be two numbers, the smaller one first")
    return Tried(step=step, key=key, low=numbers[0], high=numbers[1])


def _value(text: str) -> str | int | float | bool:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, str | int | float | bool) else text


@dataclass
class _Search:
    """One study: what its trials have in common."""

    registry: Registry
    task: TaskPlugin[Any, Any, Any]
    parent: Artifact
    optimizing: Optimizing
    validation: Sequence[Example[Any]]
    steps: Sequence[StepRequest]
    tried: Sequence[Tried]
    effort: Effort
    runtime: RuntimeConfig | None
    factory: str

    def requests(self, value: Callable[[str, Tried | None], Any]) -> tuple[StepRequest, ...]:
        """The steps of a trial; `value` gives what it has for a setting, and for whether it has a step at all."""
        found = []
        for number, step in enumerate(self.steps):
            if len(self.steps) > 1 and not value(f"with {number + 1} {step.name}", None):
                continue
            config = {own.key: value(own.name, own) for own in self.tried if own.step == step.name}
            found.append(step.model_copy(update={"config": {**step.config, **config}}))
        return tuple(found)

    def judge(self, steps: Sequence[StepRequest]) -> tuple[float, float, float]:
        artifact = self.optimizing.run(steps).artifact
        inputs = chosen_inputs(self.task, self.validation)
        performance, ratios = measure(
            self.registry,
            [self.parent, artifact],
            inputs,
            effort=self.effort,
            runtime=self.runtime,
            factory=self.factory,
        )
        sizes = [
            max(model_bytes(one.manifest), own.weights_bytes)
            for one, own in zip((self.parent, artifact), performance, strict=True)
        ]
        return self.quality(artifact), ratios[0].p50, sizes[1] / sizes[0]

    def quality(self, artifact: Artifact) -> float:
        predictor = load_predictor(self.registry, artifact, self.runtime)
        try:
            return self.task.evaluate(predictor, self.validation).metrics[self.task.primary_metric]
        finally:
            predictor.close()


def search_model(
    store: ModelStore,
    registry: Registry,
    model: str,
    steps: Sequence[StepRequest],
    data: DataFiles,
    *,
    tried: Sequence[Tried] = (),
    trials: int,
    work_folder: Path,
    seed: int | None = None,
    runtime: RuntimeConfig | None = None,
    effort: Effort | None = None,
    on_event: Callable[[Mapping[str, Any]], None] = lambda _: None,
    factory: str = REGISTRY,
) -> SearchResult:
    """Tries combinations of the steps (in their order, each there or not) and of the settings in `tried`, until there are so
    many trials, those of an earlier search with the same arguments counted. Publishes nothing. What the trials of the front
    are made of is kept for `optimize_model`; of the others, only the figures."""
    optuna = _optuna()
    parent = store.resolve(model)
    task = registry.tasks.get(parent.manifest.task)
    asked = seeded(registry, steps, seed)
    others = named_by(store, registry, asked)
    refuse_known_rows(parent, data, others)
    _check(asked, tried)
    rows = read_rows(task, data, SEED if seed is None else seed)
    run = TrainRun(work_folder=shared_folder(work_folder, parent, rows.identity), show_progress=False, on_event=on_event)
    with shared_work(run.work_folder, keep=True) as work:
        optimizing = chains(store, registry, parent, rows, run, seed=seed, runtime=runtime)
        search = _Search(
            registry,
            task,
            parent,
            optimizing,
            rows.validation,
            asked,
            tried,
            effort or QUICK,
            runtime,
            factory,
        )
        better = next(spec.higher_is_better for spec in task.metrics if spec.name == task.primary_metric)
        study = optuna.create_study(
            study_name=_identity(asked, tried, others, [effort or QUICK, runtime, seed]),
            storage=_storage(run.work_folder),
            load_if_exists=True,
            directions=["maximize" if better else "minimize", "minimize", "minimize"],
            sampler=optuna.samplers.TPESampler(seed=SEED if seed is None else seed),
        )
        done = sum(trial.state.is_finished() for trial in study.trials)
        study.optimize(_objective(search, optuna), n_trials=max(0, trials - done))
        found = _result(search, study, task, better)
        work.drop(_beaten(optuna, run.work_folder))
        return found


def _beaten(optuna: Any, folder: Path) -> list[Path]:
    """The steps that trials have made and that no trial on the front of its search has; of all searches in the folder."""
    storage = _storage(folder)
    studies = [optuna.load_study(study_name=name, storage=storage) for name in optuna.get_all_study_names(storage)]
    made = {name for study in studies for trial in study.trials for name in trial.user_attrs.get(MADE, ())}
    kept = {name for study in studies for trial in study.best_trials for name in trial.user_attrs.get(MADE, ())}
    return [folder / name for name in sorted(made - kept)]


def _storage(folder: Path) -> str:
    return f"sqlite:///{folder / DATABASE}"


def _known(params: Mapping[str, Any]) -> Callable[[str, Tried | None], Any]:
    return lambda name, _: params[name]


def _identity(steps: Sequence[StepRequest], tried: Sequence[Tried], others: Others, measured: Sequence[Any]) -> str:
    """What a search is known by: what it tries, the models and files that the steps name, and how it is measured. Figures
    that were found in another way are no trials of it."""
    named = [*(model.digest for model in others.models), *(file_digest(path).sha256 for path in others.files)]
    named += [own.info.digest for own in others.backbones]
    asked = [[step.model_dump(mode="json") for step in steps], [own.model_dump() for own in tried]]
    return repr([*asked, named, *measured])


def _objective(search: _Search, optuna: Any) -> Callable[[Any], tuple[float, float, float]]:
    def objective(trial: Any) -> tuple[float, float, float]:
        def value(name: str, own: Tried | None) -> Any:
            if own is None:
                return trial.suggest_categorical(name, [True, False])
            if own.choices:
                return trial.suggest_categorical(name, list(own.choices))
            whole = isinstance(own.low, int) and isinstance(own.high, int)
            return (trial.suggest_int if whole else trial.suggest_float)(name, own.low, own.high)

        steps = search.requests(value)
        if not steps:
            raise optuna.TrialPruned("no step at all")
        trial.set_user_attr(MADE, [folder.name for folder in search.optimizing.folders(steps)])
        try:
            return search.judge(steps)
        except UnsupportedError as exc:
            raise optuna.TrialPruned(exc.message) from exc

    return objective


def _result(search: _Search, study: Any, task: TaskPlugin[Any, Any, Any], better: bool) -> SearchResult:
    front = {}
    for trial in study.best_trials:
        steps = search.requests(_known(trial.params))
        front[repr(steps)] = Found(steps=steps, **dict(zip(FIGURES, trial.values, strict=True)))
    return SearchResult(
        metric=task.primary_metric,
        parent_quality=search.quality(search.parent),
        trials=sum(trial.state.is_finished() for trial in study.trials),
        refused=sum(trial.state.name == "PRUNED" for trial in study.trials),
        front=tuple(sorted(front.values(), key=lambda own: -own.quality if better else own.quality)),
    )


def _check(steps: Sequence[StepRequest], tried: Sequence[Tried]) -> None:
    names = [step.name for step in steps]
    for own in tried:
        if own.step not in names:
            raise ConfigError(f"--try {own.name}: there is no step {own.step}; the steps are {', '.join(names)}")


def _optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError as exc:
        raise MissingDependencyError("a search needs Optuna; install it with: pip install 'taskloom[train]'") from exc
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
