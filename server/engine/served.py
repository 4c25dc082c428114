"""Which models are to be served, in which versions, from which pools: what the settings ask for and the store has now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taskloom.core.artifact import Artifact
from taskloom.core.errors import InvalidInputError, NotFoundError, PluginError, TaskloomError, unknown_name
from taskloom.core.ports import WorkItem
from taskloom.core.predictor import validated
from taskloom.core.registry import Registry
from taskloom.core.settings import ModelSettings, Settings
from taskloom.core.store import ModelStore
from taskloom.core.task import TaskPlugin
from taskloom.core.types import PRODUCTION, InferCall, ModelDescription, ModelRef
from taskloom.server.engine.spec import ModelVersion


@dataclass(frozen=True)
class ServedModel:
    """A model that is served: the artifact, and where."""

    artifact: Artifact
    task: TaskPlugin[Any, Any, Any]
    pool: str

    @property
    def name(self) -> str:
        return self.artifact.manifest.model

    @property
    def version(self) -> ModelVersion:
        return ModelVersion(self.name, self.artifact.manifest.version)

    def label(self) -> str:
        aliases = f" ({', '.join(self.artifact.aliases)})" if self.artifact.aliases else ""
        return f"{self.version}{aliases}"


@dataclass(frozen=True, slots=True)
class PreparedCall:
    """A call that was found good: what it asks of which version, what it costs, and the item to schedule. `streams` says that
    there are models of its task whose answers can come in parts."""

    call: InferCall
    task: str
    version: str
    cost: int
    pool: str
    item: WorkItem
    streams: bool


def wanted_models(
    settings: Settings, registry: Registry, store: ModelStore, passed_over: dict[str, str]
) -> tuple[ServedModel, ...]:
    """What should be served now. Raises for a model that the settings name and that can't be served: the store has not got
    it, or no plugin its task. Where the settings name none, such a model is left out, and `passed_over` gets its reason."""
    asked: Mapping[str, ModelSettings] = settings.models
    if not asked:
        pool = "default" if "default" in settings.pools else next(iter(settings.pools))
        asked = {name: ModelSettings(pool=pool) for name in store.models() if PRODUCTION in store.aliases(name)}
    if not asked:
        raise NotFoundError(
            "there is no model to serve: the store has none with a `production` alias. Train or publish one "
            "(`taskloom train`), or name a model and its version in [models] of taskloom.toml."
        )
    found = []
    for name, model in sorted(asked.items()):
        try:
            artifact = store.resolve(ModelRef(name=name, version=model.version))
            found.append(ServedModel(artifact, registry.tasks.get(artifact.manifest.task), model.pool))
        except TaskloomError as exc:
            if settings.models:
                raise
            passed_over[name] = str(exc)
    if not found:
        raise NotFoundError(f"no model of the store can be served: {'; '.join(passed_over.values())}")
    return tuple(found)


class Catalogue:
    """Answers what is asked about the models being served. Immutable; a roll makes another."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self.models = tuple(models)
        self._by_name = {model.name: model for model in models}

    def find(self, ref: ModelRef) -> ServedModel:
        """The served model that `ref` means. A request that names no version means the one that is served, whatever alias
        the server was told to take it from; any other version or alias must be that one too."""
        model = self._by_name.get(ref.name)
        if model is None:
            raise unknown_name("served model", ref.name, self._by_name, "`taskloom models list` shows the store.")
        if ref.version not in (PRODUCTION, model.artifact.manifest.version, *model.artifact.aliases):
            raise NotFoundError(
                f"{ref} is not loaded here; this server serves {', '.join(m.label() for m in self.models)}. Leave the "
                f"version out to use {model.version}, or have the operator serve {ref.version!r} ([models] in taskloom.toml)."
            )
        return model

    def prepare(self, call: InferCall) -> PreparedCall:
        """Everything about a call that can be judged without running it; raises what is wrong with it."""
        model = self.find(call.model)
        task = model.task
        if call.typed_as not in ("", task.name):
            raise InvalidInputError(
                f"{model.name} is a model of task {task.name!r}, and the request carries a {call.typed_as!r} input; "
                f"send {task.name!r}, or `json` as the model's input schema says",
                field="input",
            )
        given = validated(task.Input, call.input, "input")
        params = validated(task.Params, call.params, "params")
        try:
            cost = max(1, int(task.cost(given, params)))
        except TaskloomError:
            raise
        except Exception as exc:
            raise PluginError(f"task {task.name!r} could not price an input ({type(exc).__name__})") from exc
        version = model.artifact.manifest.version
        # A caller who names the version gets that one or none; anyone else may be answered by old or new during a roll.
        pinned = call.model.version == version
        name = str(model.version) if pinned else model.name
        item = WorkItem(request_id=call.request_id, model=name, input=call.input, params=call.params, cost=cost)
        return PreparedCall(call, task.name, version, cost, model.pool, item, task.streams)

    def describe(self, ref: ModelRef, ready: bool) -> ModelDescription:
        model = self.find(ref)
        return ModelDescription(
            info=model.artifact.info(ready),
            input_schema=model.task.Input.model_json_schema(),
            output_schema=model.task.Output.model_json_schema(mode="serialization"),
            params_schema=model.task.Params.model_json_schema(),
            labels=model.artifact.manifest.labels,
            examples=model.artifact.manifest.examples,
        )
