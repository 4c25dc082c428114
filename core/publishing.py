"""Publishing a model: save it, load it again, measure what was saved, write its report and card, and give it a version.

The measured model is the one that the files make, not the one in memory, so that a report never praises what can't be
served.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from taskloom.core.artifact import (
    CARD,
    MANIFEST,
    REPORT,
    Artifact,
    DataInfo,
    LineageStep,
    Manifest,
    ParentInfo,
    file_digest,
    folder_files,
)
from taskloom.core.comparison import Comparison
from taskloom.core.digest import sha256_hex
from taskloom.core.errors import ArtifactError, InvalidInputError
from taskloom.core.model_card import model_card
from taskloom.core.predictor import load_predictor, validated
from taskloom.core.registry import Registry
from taskloom.core.runtime import ExecutionPlan, RuntimeConfig
from taskloom.core.store import ModelStore
from taskloom.core.task import EvaluationResult, Example, TaskModel, TaskPlugin, Trained
from taskloom.core.types import Frozen, Name

FIGURES = "figures"
DISTRIBUTION = "taskloom"


class ModelStory(Frozen):
    """What people say about a model, where its numbers can't: for its card."""

    name: Name
    description: str = ""
    languages: tuple[str, ...] = ()
    licence: str = ""
    intended_use: str = ""
    limits: str = ""
    examples: tuple[Mapping[str, Any], ...] = ()
    """Inputs worth trying on the model."""
    reproduce: tuple[str, ...] = ()
    """The commands that make the model again."""


class MachineInfo(Frozen):
    """Where a report's figures were measured."""

    system: str
    processor: str
    cores: int
    python: str


class Timings(Frozen):
    """How long the evaluation took on that machine, metrics and figures included; no benchmark."""

    evaluation_s: float
    examples_per_s: float


class Report(Frozen):
    """`report.json`: what the model is worth, on which data, and what it ran with."""

    created: str
    evaluation: EvaluationResult
    evaluation_data: DataInfo
    plan: ExecutionPlan
    machine: MachineInfo
    timings: Timings
    history: tuple[Mapping[str, float], ...] = ()
    """The training's epochs: loss and validation metrics."""
    comparison: Comparison | None = None
    """With the parent, for a model that was made from one."""


Compare = Callable[[Artifact, Report], Report]
"""Takes a draft that can be loaded and its report; gives the report with a comparison in it, and may add files to the draft."""


def publish_trained(
    store: ModelStore,
    registry: Registry,
    task: TaskPlugin[Any, Any, Any],
    trained: Trained[Any, Any, Any],
    story: ModelStory,
    *,
    config: Mapping[str, Any],
    earlier: Sequence[LineageStep] = (),
    data: Sequence[DataInfo],
    evaluation: Sequence[Example[Any]],
    evaluation_data: DataInfo,
    runtime: RuntimeConfig | None = None,
    aliases: Sequence[str] = ("candidate",),
) -> Artifact:
    """Publishes a model that a training has made. `config` and `trained.facts` become a step of the lineage, behind
    the `earlier` ones whose weights it started from; `data` are the files that it was trained on, `evaluation` rows that it has
    not seen."""
    step = LineageStep(name="train", config=config, facts=trained.facts)
    return publish_model(
        store,
        registry,
        task,
        trained.model,
        story,
        steps=(*earlier, step),
        data=data,
        evaluation=evaluation,
        evaluation_data=evaluation_data,
        history=trained.history,
        demanded_runtime=trained.runtime,
        runtime=runtime,
        aliases=aliases,
    )


def publish_model(
    store: ModelStore,
    registry: Registry,
    task: TaskPlugin[Any, Any, Any],
    model: TaskModel[Any, Any, Any],
    story: ModelStory,
    *,
    steps: Sequence[LineageStep],
    data: Sequence[DataInfo],
    evaluation: Sequence[Example[Any]] = (),
    evaluation_data: DataInfo | None = None,
    report: Report | None = None,
    history: Sequence[Mapping[str, float]] = (),
    parent: ParentInfo | None = None,
    demanded_runtime: str = "",
    files: Mapping[str, Path] | None = None,
    external: bool = False,
    compare: Compare | None = None,
    runtime: RuntimeConfig | None = None,
    aliases: Sequence[str] = ("candidate",),
    first_is_live: bool = True,
) -> Artifact:
    """Publishes a model with its whole lineage (`steps`). `files` are put into the artifact as they are, by name;
    with `external` they hold the weights of its graph. `demanded_runtime` is the one that must serve it, empty for any. Nothing
    is published if any part of it fails.

    It is measured on `evaluation`, rows of `evaluation_data`; or it takes over a parent's `report`, and is then only loaded,
    to see that it can be: for changes that are no matter of quality. Its story should say so. `compare` holds what was measured
    against a parent."""
    with store.draft(story.name) as draft:
        saved = write_model(draft, model, files or {}, external=external)
        manifest = Manifest(
            model=story.name,
            version="draft",
            task=task.name,
            created=_now(),
            description=story.description,
            languages=story.languages,
            licence=story.licence,
            runtime=demanded_runtime,
            backbone=model.backbone,
            config=saved,
            labels=model.labels,
            streams=model.streams,
            examples=_valid_examples(story, task),
            parent=parent,
            steps=tuple(steps),
            data=tuple(data),
            packages=packages_in_use(),
        )
        if report is not None:
            load_predictor(registry, draft_artifact(draft, manifest), runtime).close()
        elif evaluation_data is not None:
            report = measure(
                draft,
                manifest,
                registry,
                task,
                evaluation=evaluation,
                evaluation_data=evaluation_data,
                history=history,
                runtime=runtime,
            )
            manifest = manifest.model_copy(update={"metrics": dict(report.evaluation.metrics)})
            report = compare(draft_artifact(draft, manifest), report) if compare is not None else report
        else:
            raise InvalidInputError("a model is published with rows to measure it on, or with a report to take over")
        manifest = manifest.model_copy(update={"metrics": dict(report.evaluation.metrics)})
        (draft / REPORT).write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
        (draft / CARD).write_text(model_card(manifest, report, story, task), encoding="utf-8")
        return store.publish(draft, manifest, aliases, reason="published", first_is_live=first_is_live)


def write_model(
    folder: Path, model: TaskModel[Any, Any, Any], files: Mapping[str, Path], *, external: bool = False
) -> Mapping[str, Any]:
    """Everything of a model but its manifest, report and card; returns the manifest's `config`."""
    config = model.save_rest(folder) if external else model.save(folder)
    for name, path in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
    return config


def _valid_examples(story: ModelStory, task: TaskPlugin[Any, Any, Any]) -> tuple[Mapping[str, Any], ...]:
    """The story's examples; raises `InvalidInputError` for one that the task would refuse."""
    for example in story.examples:
        validated(task.Input, example, "examples")
    return story.examples


def measure(
    draft: Path,
    manifest: Manifest,
    registry: Registry,
    task: TaskPlugin[Any, Any, Any],
    *,
    evaluation: Sequence[Example[Any]],
    evaluation_data: DataInfo,
    history: Sequence[Mapping[str, float]] = (),
    runtime: RuntimeConfig | None = None,
) -> Report:
    """Loads the files in `draft` as a server would and evaluates what they make; figures go into the draft."""
    predictor = load_predictor(registry, draft_artifact(draft, manifest), runtime)
    try:
        began = time.perf_counter()
        result = task.evaluate(predictor, evaluation, draft / FIGURES)
        took = time.perf_counter() - began
        plan = predictor.executor.plan
    finally:
        predictor.close()
    missing = [metric.name for metric in task.metrics if metric.name not in result.metrics]
    if missing:
        raise ArtifactError(f"the evaluation of task {task.name} gave no {', '.join(missing)}, which it declares")
    result = result.model_copy(update={"figures": tuple(f"{FIGURES}/{name}" for name in result.figures)})
    return Report(
        created=_now(),
        evaluation=result,
        evaluation_data=evaluation_data,
        plan=plan,
        machine=this_machine(),
        timings=Timings(evaluation_s=round(took, 3), examples_per_s=round(result.examples / took, 1)),
        history=tuple(history),
    )


def draft_artifact(draft: Path, manifest: Manifest, roots: tuple[Path, ...] = ()) -> Artifact:
    """What lies in a folder as an artifact that can be verified and loaded, before it is published. `roots` are those of the
    store whose models it may name, where that is not the one that the draft lies in."""
    files = {name: file_digest(path) for name, path in folder_files(draft).items() if name != MANIFEST}
    return Artifact(draft, manifest.model_copy(update={"files": files}), roots=roots)


def read_report(artifact: Artifact) -> Report:
    """The report of an artifact; raises `ArtifactError` if it has none that can be understood, and for one that was edited."""
    path = artifact.path(REPORT)
    try:
        content = path.read_bytes()
        if sha256_hex(content) != artifact.manifest.files[REPORT].sha256:
            raise ArtifactError(f"{artifact.name} was altered: {REPORT} is not the file in its manifest; install it again")
        return Report.model_validate_json(content)
    except (OSError, ValueError) as exc:
        raise ArtifactError(f"{REPORT} of {artifact.name} can't be read: {exc}") from exc


def packages_in_use() -> dict[str, str]:
    """The versions of Taskloom and of the packages it depends on that are loaded in this process: what made the model."""
    loaded = {name.partition(".")[0] for name in sys.modules}
    owners = metadata.packages_distributions()
    in_use = {_plain(owner) for module in loaded for owner in owners.get(module, ())}
    try:
        declared = {_plain(re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]) for line in metadata.requires(DISTRIBUTION) or ()}
    except metadata.PackageNotFoundError:
        declared = in_use
    names = sorted((in_use & declared) | ({DISTRIBUTION} if DISTRIBUTION in in_use else set()))
    return {name: metadata.version(name) for name in names}


def this_machine() -> MachineInfo:
    return MachineInfo(
        system=f"{platform.system()} {platform.machine()}",
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        python=platform.python_version(),
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
