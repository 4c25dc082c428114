"""The models that one replica holds, ready to answer batches that may mix them."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from taskloom.core.artifact import Artifact
from taskloom.core.errors import ArtifactError, InternalError, InvalidInputError, ModelFailedError, NotFoundError, TaskloomError
from taskloom.core.ports import BatchResult, WorkItem, WorkResult
from taskloom.core.predictor import Predictor, load_predictor, validated
from taskloom.core.registry import Registry
from taskloom.core.runtime import Executor, JoiningExecutor
from taskloom.core.store import ModelStore
from taskloom.core.task import Batch, Outputs, SharedParts
from taskloom.core.together import Share, predict_together
from taskloom.core.types import ErrorInfo, ModelRef
from taskloom.server.engine.spec import ReplicaSpec

log = logging.getLogger(__name__)


class _Device:
    """The device, which runs some forwards at a time, and how long this thread has waited for it. First come, first served:
    with a plain lock, a thread that asks again as soon as it is done, step after step, would leave the others standing."""

    def __init__(self) -> None:
        self.lanes = 1
        """How many forwards run at a time. Set before the first."""
        self._taken = 0
        self._lock = threading.Lock()
        self._line: deque[tuple[int, threading.Lock]] = deque()
        self._waited = threading.local()

    @contextmanager
    def turn(self, lanes: int) -> Iterator[None]:
        """Holds a forward's part of the lanes: no more than `lanes` like it run, and one that must be alone has all of them."""
        places = -(-self.lanes // lanes)
        with self._lock:
            called = None if not self._line and self._taken + places <= self.lanes else threading.Lock()
            if called is None:
                self._taken += places
            else:
                called.acquire()
                self._line.append((places, called))
        if called is not None:
            asked = time.perf_counter()
            called.acquire()
            self._waited.seconds = self.waited_s() + time.perf_counter() - asked
        try:
            yield
        finally:
            with self._lock:
                self._taken -= places
                while self._line and self._taken + self._line[0][0] <= self.lanes:
                    more, following = self._line.popleft()
                    self._taken += more
                    following.release()

    def waited_s(self) -> float:
        return float(getattr(self._waited, "seconds", 0.0))


class _InTurn:
    """An executor that takes its turn at the device, so that one thread can tokenise while others run models."""

    def __init__(self, executor: Executor, device: _Device) -> None:
        self.plan = executor.plan
        self._executor = executor
        self._device = device

    def run(self, batch: Batch) -> Outputs:
        with self._device.turn(self.plan.lanes):
            return self._executor.run(batch)

    def run_together(self, parts: Sequence[tuple[Executor, Batch]]) -> list[Outputs]:
        bare = [(executor._executor if isinstance(executor, _InTurn) else executor, batch) for executor, batch in parts]
        with self._device.turn(self.plan.lanes):
            if isinstance(self._executor, JoiningExecutor):
                return self._executor.run_together(bare)
            return [executor.run(batch) for executor, batch in bare]

    def close(self) -> None:
        self._executor.close()


@dataclass(frozen=True)
class _Held:
    version: str
    predictor: Predictor[Any, Any, Any]


@dataclass(frozen=True)
class _Asked:
    """What a batch asks of one model: the inputs that are good, and where they stand in the batch."""

    held: _Held
    places: list[int]
    inputs: list[BaseModel]
    params: list[BaseModel]

    def share(self) -> Share:
        return Share(self.held.predictor, self.inputs, self.params)


class ModelHost:
    """Sync. `run` may be called from several threads: encoding and decoding overlap, forwards take turns."""

    def __init__(self, spec: ReplicaSpec, registry: Registry, store: ModelStore) -> None:
        self.spec = spec
        self._registry = registry
        self._store = store
        self._device = _Device()
        self._held: dict[str, _Held] = {}

    @classmethod
    def from_spec(cls, spec: ReplicaSpec) -> ModelHost:
        return cls(spec, spec.registry(), spec.store())

    def load(self) -> None:
        """Verifies, loads and warms up every model of the spec; raises the `TaskloomError` of the first that fails."""
        artifacts = [self._store.resolve(ModelRef(name=w.model, version=w.version)) for w in self.spec.models]
        backbones = Counter(a.manifest.backbone.digest for a in artifacts if a.manifest.backbone is not None)
        shared = SharedParts(digest for digest, models in backbones.items() if models > 1)
        for wanted, artifact in zip(self.spec.models, artifacts, strict=True):
            try:
                self._held[wanted.model] = self._load(artifact, shared)
            except TaskloomError:
                raise
            except Exception as exc:
                raise ArtifactError(f"{wanted} does not load ({type(exc).__name__}: {exc})") from exc
        self._device.lanes = max((held.predictor.executor.plan.lanes for held in self._held.values()), default=1)

    @property
    def lanes(self) -> int:
        """How many batches run side by side, at most."""
        return self._device.lanes

    def _load(self, artifact: Artifact, shared: SharedParts) -> _Held:
        loaded = load_predictor(self._registry, artifact, self.spec.settings.runtime, shared)
        predictor = Predictor(loaded.task, loaded.model, _InTurn(loaded.executor, self._device))
        predictor.warm_up(self.spec.settings.batch.max_cost)
        return _Held(artifact.manifest.version, predictor)

    def run(self, items: Sequence[WorkItem]) -> BatchResult:
        """One result per item, in order. What an item does wrong is its own result's error; never raises for it.

        An item names its model as `name`, for whatever version is here, or `name@version` for that version alone.
        """
        started, waited = time.perf_counter(), self._device.waited_s()
        results: list[WorkResult | None] = [None] * len(items)
        groups: dict[str, list[int]] = {}
        for place, item in enumerate(items):
            groups.setdefault(item.model, []).append(place)
        asked = [self._asked(model, places, items, results) for model, places in groups.items()]
        good = [part for part in asked if part is not None and part.places]
        for part, answers in zip(good, predict_together([part.share() for part in good]), strict=True):
            for place, outcome in zip(part.places, _one_each(part, answers), strict=True):
                results[place] = _result(part.held.version, outcome)
        took_s = time.perf_counter() - started - (self._device.waited_s() - waited)
        return BatchResult([result for result in results if result is not None], took_s)

    def stream(self, item: WorkItem, send: Callable[[str], None], check: Callable[[], None]) -> BatchResult:
        """As `run` for one item. What its model writes on the way goes to `send`, if it is one that streams: at the device it
        takes a turn for each step. `check` is called before each, and ends the work by raising a `TaskloomError`."""
        started, waited = time.perf_counter(), self._device.waited_s()
        version, outcome = "", None
        try:
            held = self._find(item.model)
            version, task = held.version, held.predictor.task
            given, params = validated(task.Input, item.input, "input"), validated(task.Params, item.params, "params")
            outcome = held.predictor.stream(given, send, params, check=check)
        except TaskloomError as exc:
            outcome = exc
        took_s = time.perf_counter() - started - (self._device.waited_s() - waited)
        return BatchResult([_result(version, outcome)], took_s)

    def _asked(
        self, model: str, places: Sequence[int], items: Sequence[WorkItem], results: list[WorkResult | None]
    ) -> _Asked | None:
        """What a batch asks of `model`; where that can't be run, `results` say why. None if the model is not here."""
        try:
            held = self._find(model)
        except TaskloomError as exc:
            for place in places:
                results[place] = WorkResult("", error=ErrorInfo.of(exc))
            return None
        task = held.predictor.task
        asked = _Asked(held, [], [], [])
        for place in places:
            item = items[place]
            try:
                parsed = validated(task.Input, item.input, "input"), validated(task.Params, item.params, "params")
            except TaskloomError as exc:
                results[place] = WorkResult(held.version, error=ErrorInfo.of(exc))
            else:
                asked.places.append(place)
                asked.inputs.append(parsed[0])
                asked.params.append(parsed[1])
        return asked

    def _find(self, asked: str) -> _Held:
        name, _, version = asked.partition("@")
        held = self._held.get(name)
        if held is None or version not in ("", held.version):
            # Names no other model: the caller may not be allowed to know of it.
            there = f"{name}@{held.version} is here now" if held is not None else "it was unloaded just now"
            raise NotFoundError(f"{asked} is not here any more: {there}; ask again, without a version for the newest one")
        return held

    def self_check(self) -> None:
        """A real prediction of every model on the first example of its input schema that it takes (a model of pairs takes no
        single text); raises what goes wrong. A model whose schema has no example is only known to be loaded."""
        for name, held in self._held.items():
            refused: TaskloomError | None = None
            for example in _examples(held.predictor.task.Input):
                try:
                    held.predictor.predict_one(validated(held.predictor.task.Input, example, "input"))
                except InvalidInputError as exc:
                    refused = refused or exc
                except TaskloomError as exc:
                    raise ModelFailedError(f"{name}@{held.version} does not answer its own example: {exc}") from exc
                else:
                    refused = None
                    break
            if refused is not None:
                raise ModelFailedError(f"{name}@{held.version} does not answer its own example: {refused}") from refused

    def close(self) -> None:
        for held in self._held.values():
            held.predictor.close()
        self._held.clear()


def _one_each(asked: _Asked, outcomes: list[Any]) -> list[Any]:
    if len(outcomes) == len(asked.inputs):
        return outcomes
    told = f"task {asked.held.predictor.task.name!r} decoded {len(outcomes)} outputs for {len(asked.inputs)} inputs"
    log.error("%s", told)
    return [InternalError(told)] * len(asked.inputs)


def _result(version: str, outcome: Any) -> WorkResult:
    if isinstance(outcome, TaskloomError):
        return WorkResult(version, error=ErrorInfo.of(outcome))
    try:
        return WorkResult(version, output=outcome.model_dump(mode="json"))
    except Exception as exc:
        log.exception("an output is no JSON data", exc_info=exc)
        return WorkResult(version, error=ErrorInfo.of(ModelFailedError(f"the answer is no JSON data ({type(exc).__name__})")))


def _examples(schema: type[BaseModel]) -> Sequence[Mapping[str, Any]]:
    """The `examples` of the schema, or one made of the examples of its required fields, if they all have some."""
    described = schema.model_json_schema()
    examples = described.get("examples")
    if examples:
        return [dict(example) for example in examples]
    fields = described.get("properties", {})
    found = {name: fields[name]["examples"][0] for name in fields if fields[name].get("examples")}
    return [found] if all(name in found for name in described.get("required", ())) else []
