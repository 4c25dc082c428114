"""Optimizing a published model, from data files to a new version that was compared with its parent."""

from __future__ import annotations

import random
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskloom.core.artifact import CARD, Artifact, DataInfo, ParentInfo, file_digest, file_label
from taskloom.core.comparing import Comparing, DrawPareto
from taskloom.core.digest import sha256_hex
from taskloom.core.errors import DataError
from taskloom.core.gate import breaches
from taskloom.core.model_card import told_in_card
from taskloom.core.optimizer import Needs, Pretrained
from taskloom.core.optimizing import Chain, Optimizing, StepRequest, digests_of, step_config, without_folders
from taskloom.core.performance import REGISTRY, Effort
from taskloom.core.publishing import ModelStory, publish_model, read_report
from taskloom.core.registry import Registry
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.settings import GateLimits
from taskloom.core.store import ModelStore
from taskloom.core.task import Example, TaskPlugin, TrainRun
from taskloom.core.types import PRODUCTION
from taskloom.plugins._shared.datasets import describe_data, rows_digest, stratified_split
from taskloom.plugins._shared.robustness import perturbations
from taskloom.plugins.optimizing_work import shared_folder, shared_work

VALIDATION_SHARE = 0.1
SEED = 13
CANDIDATE = "candidate"

Record = Callable[[str, TaskPlugin[Any, Any, Any], Mapping[str, Any], str], None]
"""Puts on record what happens: action, task, facts, and the version if there is one."""


@dataclass(frozen=True)
class DataFiles:
    """`train` is for recovery training and calibration. `validation` is what optimizers choose by: a tenth of `train` where it
    is empty. `evaluation` is what the report is made from; the model and its parent must not know it. `train_rows` and
    `evaluation_rows` take a sample of so many rows, the same share of each label; 0 takes all."""

    train: Sequence[Path]
    evaluation: Sequence[Path]
    validation: Sequence[Path] = ()
    licence: str = ""
    source: str = ""
    train_rows: int = 0
    evaluation_rows: int = 0


@dataclass(frozen=True)
class Rows:
    """What the files hold. `seen` describes each file that the new version is made with."""

    train: list[Example[Any]]
    validation: list[Example[Any]]
    evaluation: list[Example[Any]]
    seen: list[DataInfo]
    evaluation_data: DataInfo

    @property
    def identity(self) -> list[str]:
        """The rows that optimizers get, apart as they get them: the same files can be divided in many ways."""
        return [rows_digest(self.train), rows_digest(self.validation)]


@dataclass(frozen=True)
class Others:
    """The published models, the files and the pretrained encoders that the settings of a chain's steps name."""

    models: tuple[Artifact, ...]
    needs: tuple[Needs, ...]
    backbones: tuple[Pretrained, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(path for need in self.needs for path in need.files)

    @property
    def places(self) -> frozenset[Path]:
        """Those that a published version tells nobody."""
        return frozenset(path for need in self.needs for path in need.places)

    @property
    def data(self) -> tuple[DataInfo, ...]:
        """What a model that was made with them knows of."""
        own = (describe_data(path, _lines(path)) for path in self.files)
        known = (*(model.manifest.data for model in self.models), *(backbone.data for backbone in self.backbones))
        return (*(info for infos in known for info in infos), *own)


def optimize_model(
    store: ModelStore,
    registry: Registry,
    model: str,
    steps: Sequence[StepRequest],
    data: DataFiles,
    *,
    work_folder: Path,
    name: str = "",
    seed: int | None = None,
    aliases: Sequence[str] = ("candidate",),
    runtime: RuntimeConfig | None = None,
    effort: Effort | None = None,
    resume: bool = True,
    show_progress: bool = False,
    on_event: Callable[[Mapping[str, Any]], None] = lambda _: None,
    record: Record = lambda *_: None,
    factory: str = REGISTRY,
    limits: GateLimits | None = None,
    forget: bool = False,
) -> Artifact:
    """Runs the steps on `model` (NAME or NAME@VERSION), compares what they made with it and publishes that as a new version of
    the same name, or of `name`. `work_folder` keeps finished steps until that is done: the same call goes on where one was
    interrupted. `seed` goes to every step that has such a setting, over its default. The report's page says what a gate with
    `limits` makes of the new version; one that it refuses becomes no more than a candidate, whatever `aliases` says. With
    `forget` the trials of a search on the same model and data go as well.

    Raises `UnsupportedError` where a step makes no sense for what it is given, `ConfigError` for a setting that can't be,
    `DataError` for rows that can't be used, and for an evaluation file that the model was, or would be, trained on.

        optimize_model(store, registry, "intent-en", [StepRequest(name="quantize")],
                       DataFiles([Path("train.csv")], [Path("test.csv")]), work_folder=Path("work"))
    """
    parent = store.resolve(model)
    task = registry.tasks.get(parent.manifest.task)
    asked = seeded(registry, steps, seed)
    others = named_by(store, registry, asked)
    refuse_known_rows(parent, data, others)
    rows = read_rows(task, data, SEED if seed is None else seed)
    digests = [info.sha256 for info in rows.seen]
    run = TrainRun(
        work_folder=shared_folder(work_folder, parent, rows.identity),
        resume=resume,
        show_progress=show_progress,
        on_event=on_event,
    )
    with shared_work(run.work_folder, forget=forget):
        optimizing = chains(store, registry, parent, rows, run, seed=seed, runtime=runtime)
        optimizing.configs(asked)  # a setting that can't be is told before the first step is made
        asked_for = [step.model_dump(mode="json") for step in asked]
        record("model.optimize", task, {"parent": parent.digest, "steps": asked_for, "data": digests}, "")
        chain = optimizing.run(asked)
        on_event({"event": "compare"})
        artifact = _publish(
            store,
            registry,
            parent,
            task=task,
            chain=chain,
            rows=rows,
            others=others,
            story=_story(parent, task, name, others, _command(parent, steps, data, name, seed=seed, others=others.places)),
            comparing=Comparing(
                store,
                registry,
                parent,
                rows.evaluation,
                perturbations=perturbations(task),
                effort=effort,
                runtime=runtime,
                factory=factory,
                draw_pareto=_draw_pareto(),
                limits=limits,
            ),
            aliases=aliases,
            runtime=runtime,
            limits=limits,
        )
        published = artifact.manifest
        facts = {
            "digest": artifact.digest,
            "parent": parent.digest,
            "steps": [step.name for step in chain.steps],
            "data": digests,
            "metrics": dict(published.metrics),
        }
        record("model.publish", task, facts, published.version)
    return artifact


def _publish(
    store: ModelStore,
    registry: Registry,
    parent: Artifact,
    *,
    task: TaskPlugin[Any, Any, Any],
    chain: Chain,
    rows: Rows,
    others: Others,
    story: ModelStory,
    comparing: Comparing,
    aliases: Sequence[str],
    runtime: RuntimeConfig | None,
    limits: GateLimits | None,
) -> Artifact:
    """With `limits`, `production` moves only for a version that the gate lets pass."""
    known = parent.manifest
    goes_live = PRODUCTION in aliases or not store.versions(story.name)
    held = tuple(alias for alias in aliases if alias != PRODUCTION) or (CANDIDATE,)
    data = told_once((*known.data, *rows.seen, *others.data))
    artifact = publish_model(
        store,
        registry,
        task,
        chain.model,
        story,
        steps=(*known.steps, *chain.steps),
        data=data,
        evaluation=rows.evaluation,
        evaluation_data=rows.evaluation_data,
        parent=ParentInfo(model=known.model, version=known.version, digest=parent.digest),
        demanded_runtime=chain.runtime,
        files=chain.files,
        external=chain.external,
        compare=comparing,
        runtime=runtime,
        aliases=aliases if limits is None else held,
        first_is_live=limits is None,
    )
    comparison = read_report(artifact).comparison
    if limits is None or not goes_live or (comparison is not None and breaches(comparison, limits)):
        return artifact
    store.set_alias(story.name, PRODUCTION, artifact.manifest.version, "published; the gate let it pass")
    return store.resolve(artifact.name)


def told_once(data: Sequence[DataInfo]) -> tuple[DataInfo, ...]:
    """Each file once, as the last of its entries tells of it; but that a model was trained on it itself (no `via`) goes before
    that one was which it is made from."""
    found: dict[str, DataInfo] = {}
    for info in data:
        if not info.via or found.get(info.sha256, info).via:
            found[info.sha256] = info
    return tuple(found.values())


def named_by(store: ModelStore, registry: Registry, steps: Sequence[StepRequest]) -> Others:
    """What the steps' settings name. Raises `NotFoundError` and `DataError` for what isn't there."""
    plugins = [(registry.optimizers.get(step.name), step) for step in steps]
    needs = [plugin.needs(step_config(plugin, step.config)) for plugin, step in plugins]
    backbones = [need.pretrained(store.roots) for need in needs]
    for need, own in zip(needs, backbones, strict=True):
        digests_of(need, store.resolve, own)
    models = [store.resolve(model) for need in needs for model in need.models]
    return Others(tuple(models), tuple(needs), tuple(one for own in backbones for one in own))


def _lines(path: Path) -> int:
    with path.open("rb") as stream:
        return sum(bool(line.strip()) for line in stream)


def refuse_known_rows(parent: Artifact, data: DataFiles, others: Others) -> None:
    """Raises `DataError` for an evaluation file that the model was trained on, or a model that it was made from or that a step
    learns from, or that the optimizers would get: figures from it would say nothing."""
    given = {file_digest(path).sha256: path for path in (*data.train, *data.validation, *others.files) if path.is_file()}
    trained = [(own.info.id, own.data) for own in others.backbones]
    trained += [(model.name, model.manifest.data) for model in (*others.models, parent)]
    known = {info.sha256: (info.via or name, info.name) for name, data_of in trained for info in data_of}
    for path in data.evaluation:
        if not path.is_file():
            raise DataError(f"there is no data file {path}", path=str(path))
        digest = file_digest(path).sha256
        why = (
            f"it is the same as {given[digest]}, which the optimizers get"
            if digest in given
            else f"{known[digest][0]} was trained on it ({known[digest][1]})"
            if digest in known
            else ""
        )
        if why:
            raise DataError(f"{path} can't be evaluated on: {why}; give rows that no training has seen", path=str(path))


def read_rows(task: TaskPlugin[Any, Any, Any], data: DataFiles, seed: int) -> Rows:
    """Reads all files. Without validation files a tenth of the training rows is held out: of each label, where a row has
    one."""
    parts = [list(task.read_examples(path)) for path in (*data.train, *data.validation)]
    count = len(data.train)
    train = _sample([row for part in parts[:count] for row in part], data.train_rows, seed)
    evaluation = [row for path in data.evaluation for row in task.read_examples(path)]
    every_row = len(evaluation)
    evaluation = _sample(evaluation, data.evaluation_rows, seed)
    validation = [row for part in parts[count:] for row in part]
    seen = [
        describe_data(path, len(part), licence=data.licence, source=data.source)
        for path, part in zip((*data.train, *data.validation), parts, strict=True)
    ]
    if len(data.train) > 1:
        seen = [
            info.model_copy(update={"name": file_label(str(path))})
            for info, path in zip(seen, (*data.train, *data.validation), strict=True)
        ]
    if not validation:
        train, validation = stratified_split(train, _stratum, VALIDATION_SHARE, seed)
    validation = list(task.held_out(validation))
    if not (train and validation and evaluation):
        told = f"{len(train)} rows to optimize with, {len(validation)} to choose by, {len(evaluation)} to evaluate on"
        raise DataError(f"there are {told}; each needs one at least")
    info = describe_data(data.evaluation, len(evaluation), licence=data.licence, source=data.source)
    if len(evaluation) < every_row:  # figures of a sample are not compared with those of the whole file, or of another sample
        info = info.model_copy(update={"sha256": sha256_hex(f"{info.sha256} {rows_digest(evaluation)}".encode())})
    return Rows(train, validation, evaluation, seen, info)


def _sample(rows: list[Example[Any]], count: int, seed: int) -> list[Example[Any]]:
    """So many of the rows; all of them for 0, or where there are fewer."""
    if not 0 < count < len(rows):
        return rows
    numbers = stratified_split(range(len(rows)), lambda number: _stratum(rows[number]), count / len(rows), seed)[1]
    left = sorted(set(range(len(rows))).difference(numbers))  # of a label, one row at least is never split off
    numbers += random.Random(seed).sample(left, count - len(numbers))
    return [rows[number] for number in sorted(numbers)]


def _stratum(row: Example[Any]) -> str:
    return row.target if isinstance(row.target, str) else ""


def seeded(registry: Registry, steps: Sequence[StepRequest], seed: int | None) -> list[StepRequest]:
    """The steps, with the seed in the settings of those that have one and were not told another."""
    if seed is None:
        return list(steps)
    return [
        step.model_copy(update={"config": {"seed": seed, **step.config}})
        if "seed" in registry.optimizers.get(step.name).Config.model_fields
        else step
        for step in steps
    ]


def _story(parent: Artifact, task: TaskPlugin[Any, Any, Any], name: str, others: Others, command: str) -> ModelStory:
    """What people said about the parent is true of what was made from it; its licence, with those of the other models."""
    known = parent.manifest
    use, limits = "", ""
    if CARD in known.files:
        use, limits = told_in_card(parent.path(CARD).read_text(encoding="utf-8"), task)
    return ModelStory(
        name=name or known.model,
        description=known.description,
        languages=known.languages,
        licence=_licence([parent, *others.models], others.backbones),
        intended_use=use,
        limits=limits,
        examples=known.examples,
        reproduce=(command,),
    )


def _licence(models: Sequence[Artifact], backbones: Sequence[Pretrained] = ()) -> str:
    """The licences of all models that a version was made from, as one SPDX expression; a model that states none is named.
    Identifiers of SPDX don't mind the case of their letters."""
    named = [(model.name, model.manifest.licence) for model in models]
    named += [(file_label(own.info.id), own.info.licence) for own in backbones]
    if not any(licence for _, licence in named):
        return ""
    stated: dict[str, str] = {}
    for name, licence in named:
        told = licence or f"not stated by {name}"
        stated.setdefault(told.casefold(), told)
    return " AND ".join(stated.values())


def _command(
    parent: Artifact, steps: Sequence[StepRequest], data: DataFiles, name: str, *, seed: int | None, others: Collection[Path]
) -> str:
    """The command line that makes the version again, without the paths of this machine; `others` are files that its settings
    name."""
    words = ["taskloom", "optimize", parent.name, "--with", ",".join(step.name for step in steps)]
    for step in steps:
        for key, value in without_folders(step.config, others).items():
            words += ["--set", f"{step.name}.{key}={value}"]
    for flag, files in (("--data", data.train), ("--validation", data.validation), ("--eval", data.evaluation)):
        for path in files:
            words += [flag, file_label(str(path))]
    for flag, count in (("--rows", data.train_rows), ("--eval-rows", data.evaluation_rows)):
        words += [flag, str(count)] if count else []
    words += [] if seed is None else ["--seed", str(seed)]
    return shlex.join([*words, *(["--name", name] if name else [])])


def _draw_pareto() -> DrawPareto | None:
    try:
        from taskloom.plugins._shared.pareto import draw_pareto
    except ImportError:  # matplotlib comes with the extra `train`; the report does without its picture
        return None
    return draw_pareto


def chains(
    store: ModelStore,
    registry: Registry,
    parent: Artifact,
    rows: Rows,
    run: TrainRun,
    *,
    seed: int | None,
    runtime: RuntimeConfig | None,
) -> Optimizing:
    return Optimizing(
        registry,
        parent,
        train=rows.train,
        validation=rows.validation,
        identity=[*rows.identity, str(seed)],
        run=run,
        runtime=runtime,
        resolve=store.resolve,
    )
