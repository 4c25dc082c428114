"""Optimizing: steps in a row, each on what the one before it saved.

Steps hand each other artifacts, not live models: what a step gets is what its successor, or a server, would read from disk. So
an interrupted chain goes on with the step that it was in, and chains that begin alike share their beginnings.
"""

from __future__ import annotations

import dataclasses
import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from taskloom.core.artifact import MANIFEST, Artifact, LineageStep, Manifest, file_digest, file_label
from taskloom.core.digest import canonical_json, sha256_hex
from taskloom.core.errors import ArtifactError, ConfigError, DataError, UnsupportedError
from taskloom.core.optimizer import Needs, OptimizeContext, Optimized, OptimizerPlugin, Pretrained, no_store
from taskloom.core.predictor import load_predictor
from taskloom.core.publishing import draft_artifact, write_model
from taskloom.core.registry import Registry
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.task import Example, SharedParts, TaskModel, TaskPlugin, TrainRun
from taskloom.core.types import Frozen

STEP = "step.json"

log = logging.getLogger(__name__)


class StepRequest(Frozen):
    """An optimizer's name and what is asked of it."""

    name: str
    config: Mapping[str, Any] = Field(default_factory=dict)


class _Done(Frozen):
    """`step.json`, beside the artifact that a finished step left: what `Optimized` says beside its model."""

    lineage: LineageStep
    files: tuple[str, ...]
    runtime: str
    external: bool


@dataclass(frozen=True)
class Chain:
    """What all steps made of a parent: arguments of `publishing.publish_model`. `artifact` is what the last step saved, in the
    work folder."""

    artifact: Artifact
    model: TaskModel[Any, Any, Any]
    steps: tuple[LineageStep, ...]
    files: Mapping[str, Path]
    runtime: str
    external: bool


class Optimizing:
    """One parent and its data. `folder` keeps finished steps and the work of the one that was interrupted; whoever is done
    with it removes it. `identity` names the data, so that other rows make other steps. `resolve` finds the other models that a
    step's settings may name."""

    def __init__(
        self,
        registry: Registry,
        parent: Artifact,
        *,
        train: Sequence[Example[Any]],
        validation: Sequence[Example[Any]],
        identity: Sequence[str],
        run: TrainRun,
        runtime: RuntimeConfig | None = None,
        resolve: Callable[[str], Artifact] = no_store,
    ) -> None:
        self._registry = registry
        self._task: TaskPlugin[Any, Any, Any] = registry.tasks.get(parent.manifest.task)
        self._parent = parent
        self._train = train
        self._validation = validation
        self._identity = [parent.digest, *identity]
        self._run = run
        self._runtime = runtime
        self._resolve = resolve

    def configs(self, steps: Sequence[StepRequest]) -> list[tuple[OptimizerPlugin, BaseModel]]:
        """The optimizers with their settings, checked; raises `ConfigError` for a setting that can't be."""
        if not steps:
            raise ConfigError("there is nothing to do: name at least one optimizer")
        return [
            (plugin, step_config(plugin, step.config))
            for step in steps
            for plugin in [self._registry.optimizers.get(step.name)]
        ]

    def run(self, steps: Sequence[StepRequest]) -> Chain:
        """All steps, one after the other. Raises `UnsupportedError` where one can't be made on what it is given, and
        `ArtifactError` for a parent that was altered since it was published."""
        self._parent.verify()
        artifact, finished = self._parent, list[_Done]()
        for (plugin, config), folder in zip(self.configs(steps), self.folders(steps), strict=True):
            if finished and finished[-1].external:
                raise UnsupportedError(
                    f"{plugin.name} can't follow {finished[-1].lineage.name}, which put the weights into files of its runtime; "
                    f"let {finished[-1].lineage.name} be the last step"
                )
            plugin.check(self._task, artifact, config)
            with _held(lock_of(folder)):  # who makes the same step at the same time waits, and has it
                kept = self._kept(folder)
                self._run.on_event({"event": "kept" if kept else "optimizer", "name": plugin.name})
                if kept is None:
                    self._step(plugin, config, artifact, folder)
            artifact = kept or self._open(folder)
            finished.append(_Done.model_validate_json((folder / STEP).read_bytes()))
        last = finished[-1]
        return Chain(
            artifact,
            self._task.load(artifact, SharedParts()),
            tuple(done.lineage for done in finished),
            {name: artifact.path(name) for name in last.files},
            last.runtime,
            last.external,
        )

    def folders(self, steps: Sequence[StepRequest]) -> list[Path]:
        """Where each step of a chain is kept once it is made; none for no steps."""
        history, found = list[Any](self._identity), list[Path]()
        for plugin, config in self.configs(steps) if steps else ():
            needs, roots = plugin.needs(config), self._parent.store_roots
            history += [plugin.name, config.model_dump(mode="json"), *digests_of(needs, self._resolve, needs.pretrained(roots))]
            found.append(self._run.work_folder / sha256_hex(canonical_json(history))[:16])
        return found

    def _open(self, folder: Path) -> Artifact:
        """What a step saved. It names what its parent named, and that is in the parent's store."""
        return Artifact.open(folder / "artifact", roots=self._parent.store_roots)

    def _kept(self, folder: Path) -> Artifact | None:
        """What a step left here, if it was finished and nothing has happened to it since."""
        if not self._run.resume:
            shutil.rmtree(folder, ignore_errors=True)
        try:
            found = self._open(folder)
            found.verify()
        except ArtifactError:
            shutil.rmtree(folder / "artifact", ignore_errors=True)
            return None
        return found

    def _step(self, plugin: OptimizerPlugin, config: BaseModel, artifact: Artifact, folder: Path) -> None:
        work = folder / "work"
        work.mkdir(parents=True, exist_ok=True)
        model = self._task.load(artifact, SharedParts())
        context = OptimizeContext(
            self._task,
            self._parent,
            _learnable(model, self._train),
            self._validation,
            dataclasses.replace(self._run, work_folder=work),
            partial(self._score, artifact.manifest, work),
            self._verified,
        )
        made = plugin.apply(model, config, context)
        told = without_folders(config.model_dump(mode="json"), plugin.needs(config).places)
        done = _Done(
            lineage=LineageStep(name=plugin.name, config=told, facts=made.facts),
            files=tuple(made.files),
            runtime=made.runtime,
            external=made.external,
        )
        (folder / STEP).write_text(done.model_dump_json(indent=1), encoding="utf-8")
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            draft = Path(scratch) / "artifact"
            draft.mkdir()
            written = self._written(draft, made, artifact.manifest, done.lineage)
            (draft / MANIFEST).write_text(written.manifest.model_dump_json(indent=1), encoding="utf-8")
            os.rename(draft, folder / "artifact")
        shutil.rmtree(work)

    def _written(self, folder: Path, made: Optimized, before: Manifest, *step: LineageStep) -> Artifact:
        """The model as an artifact that tells the next step, or a runtime, all that a published one would."""
        config = write_model(folder, made.model, made.files, external=made.external)
        manifest = before.model_copy(
            update={
                "version": "draft",
                "runtime": made.runtime,
                "backbone": made.model.backbone,
                "config": config,
                "labels": made.model.labels,
                "steps": (*before.steps, *step),
            }
        )
        return draft_artifact(folder, manifest, self._parent.store_roots)

    def _verified(self, model: str) -> Artifact:
        found = self._resolve(model)
        found.verify()
        return found

    def _score(self, before: Manifest, work: Path, made: Optimized) -> Mapping[str, float]:
        with tempfile.TemporaryDirectory(dir=work) as folder:
            predictor = load_predictor(self._registry, self._written(Path(folder), made, before), self._runtime)
            try:
                return self._task.evaluate(predictor, self._validation).metrics
            finally:
                predictor.close()


def _learnable(model: TaskModel[Any, Any, Any], rows: Sequence[Example[Any]]) -> list[Example[Any]]:
    """The rows that the model can learn from. All of them if there are none: a step that trains says what is wrong with them,
    and others don't mind."""
    found = [row for row in rows if model.can_learn(row)]
    if found and len(found) < len(rows):
        log.warning("%d of %d rows are left out: the model can't learn from them", len(rows) - len(found), len(rows))
    return found or list(rows)


def digests_of(needs: Needs, resolve: Callable[[str], Artifact], encoders: Sequence[Pretrained]) -> list[str]:
    """What the models, the files and the `encoders` are. Raises `NotFoundError` for a model, `DataError` for a file that isn't
    there."""
    for path in needs.files:
        if not path.is_file():
            raise DataError(f"there is no data file {path}", path=str(path))
    return [
        *(resolve(model).digest for model in needs.models),
        *(file_digest(path).sha256 for path in needs.files),
        *(own.info.digest for own in encoders),
    ]


def without_folders(value: Any, files: Collection[Path]) -> Any:
    """A step's settings with the paths of `files` (and folders) as `file_label` has them: a published version tells nobody how
    the folders of this machine are called."""
    if isinstance(value, Mapping):
        return {key: without_folders(item, files) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(item, files) for item in value]
    if isinstance(value, str | Path):
        return file_label(str(value)) if Path(os.path.expanduser(value)) in files else value
    return value


def lock_of(folder: Path) -> Path:
    """The file beside a working folder that is locked by who works there."""
    return folder.with_name(f"{folder.name}.lock")


@contextmanager
def _held(lock: Path) -> Iterator[None]:
    """Holds a lock file; waits until it can be had."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def step_config(plugin: OptimizerPlugin, raw: Mapping[str, Any]) -> BaseModel:
    """An optimizer's settings, checked; raises `ConfigError` for one that can't be."""
    try:
        return plugin.Config.model_validate(dict(raw))
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        where = ".".join([plugin.name, *(str(part) for part in first["loc"])])
        known = ", ".join(plugin.Config.model_fields) or "none"
        raise ConfigError(f"{where}: {first['msg']}; settings of {plugin.name}: {known}") from exc
