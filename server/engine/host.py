"""The models that one replica holds, ready to answer batches that may mix them."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from pydantic import BaseModel

from taskloom.core.errors import ArtifactError, InternalError, ModelFailedError, NotFoundError, TaskloomError
from taskloom.core.ports import BatchResult, WorkItem, WorkResult
from taskloom.core.predictor import Predictor, load_predictor, validated
from taskloom.core.registry import Registry
from taskloom.core.runtime import Executor
from taskloom.core.store import ModelStore
from taskloom.core.task import Batch, Outputs
from taskloom.core.types import ErrorInfo, ModelRef
from taskloom.server.engine.spec import ModelVersion, ReplicaSpec

log = logging.getLogger(__name__)


class _Turn:
    """The device, which runs one forward at a time, and how long this thread has waited for it. First come, first served:
    with a plain lock, a thread that asks again as soon as it is done, step after step, would leave the others standing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False
        self._line: deque[threading.Lock] = deque()
        self._waited = threading.local()

    def __enter__(self) -> None:
        with self._lock:
            if not self._taken:
                self._taken = True
                return
            called = threading.Lock()
            called.acquire()
            self._line.append(called)
        asked = time.perf_counter()
        called.acquire()
        self._waited.seconds = self.waited_s() + time.perf_counter() - asked

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            if self._line:
                self._line.popleft().release()
            else:
                self._taken = False

    def waited_s(self) -> float:
        return float(getattr(self._waited, "seconds", 0.0))


class _InTurn:
    """An executor that takes its turn at the device, so that one thread can tokenise while another runs the model."""

    def __init__(self, executor: Executor, turn: _Turn) -> None:
        self.plan = executor.plan
        self._executor = executor
        self._turn = turn

    def run(self, batch: Batch) -> Outputs:
        with self._turn:
            return self._executor.run(batch)

    def close(self) -> None:
        self._executor.close()


@dataclass(frozen=True)
class _Held:
    version: str
    predictor: Predictor[Any, Any, Any]


class ModelHost:
    """Sync. `run` may be called from several threads: encoding and decoding overlap, forwards take turns."""

    def __init__(self, spec: ReplicaSpec, registry: Registry, store: ModelStore) -> None:
        self.spec = spec
        self._registry = registry
        self._store = store
        self._turn = _Turn()
        self._held: dict[str, _Held] = {}

    @classmethod
    def from_spec(cls, spec: ReplicaSpec) -> ModelHost:
        return cls(spec, spec.registry(), spec.store())

    def load(self) -> None:
        """Verifies, loads and warms up every model of the spec; raises the `TaskloomError` of the first that fails."""
        for wanted in self.spec.models:
            try:
                self._held[wanted.model] = self._load(wanted)
            except TaskloomError:
                raise
            except Exception as exc:
                raise ArtifactError(f"{wanted} does not load ({type(exc).__name__}: {exc})") from exc

    def _load(self, wanted: ModelVersion) -> _Held:
        artifact = self._store.resolve(ModelRef(name=wanted.model, version=wanted.version))
        loaded = load_predictor(self._registry, artifact, self.spec.settings.runtime)
        predictor = Predictor(loaded.task, loaded.model, _InTurn(loaded.executor, self._turn))
        predictor.warm_up(self.spec.settings.batch.max_cost)
        return _Held(wanted.version, predictor)

    def run(self, items: Sequence[WorkItem]) -> BatchResult:
        """One result per item, in order. What an item does wrong is its own result's error; never raises for it.

        An item names its model as `name`, for whatever version is here, or `name@version` for that version alone.
        """
        started, waited = time.perf_counter(), self._turn.waited_s()
        results: list[WorkResult | None] = [None] * len(items)
        groups: dict[str, list[int]] = {}
        for place, item in enumerate(items):
            groups.setdefault(item.model, []).append(place)
        for model, places in groups.items():
            answers = self._run_model(model, [items[place] for place in places])
            for place, answer in zip(places, answers, strict=True):
                results[place] = answer
        took_s = time.perf_counter() - started - (self._turn.waited_s() - waited)
        return BatchResult([result for result in results if result is not None], took_s)

    def stream(self, item: WorkItem, send: Callable[[str], None], check: Callable[[], None]) -> BatchResult:
        """As `run` for one item. What its model writes on the way goes to `send`, if it is one that streams: at the device it
        takes a turn for each step. `check` is called before each, and ends the work by raising a `TaskloomError`."""
        started, waited = time.perf_counter(), self._turn.waited_s()
        version, outcome = "", None
        try:
            held = self._find(item.model)
            version, task = held.version, held.predictor.task
            given, params = validated(task.Input, item.input, "input"), validated(task.Params, item.params, "params")
            outcome = held.predictor.stream(given, send, params, check=check)
        except TaskloomError as exc:
            outcome = exc
        took_s = time.perf_counter() - started - (self._turn.waited_s() - waited)
        return BatchResult([_result(version, outcome)], took_s)

    def _run_model(self, asked: str, items: Sequence[WorkItem]) -> list[WorkResult]:
        try:
            held = self._find(asked)
        except TaskloomError as exc:
            return [WorkResult("", error=ErrorInfo.of(exc))] * len(items)
        task = held.predictor.task
        answers: list[WorkResult | None] = [None] * len(items)
        good: list[int] = []
        inputs: list[BaseModel] = []
        params: list[BaseModel] = []
        for place, item in enumerate(items):
            try:
                parsed = validated(task.Input, item.input, "input"), validated(task.Params, item.params, "params")
            except TaskloomError as exc:
                answers[place] = WorkResult(held.version, error=ErrorInfo.of(exc))
            else:
                good.append(place)
                inputs.append(parsed[0])
                params.append(parsed[1])
        for place, outcome in zip(good, self._predict(held, inputs, params), strict=True):
            answers[place] = _result(held.version, outcome)
        return [answer for answer in answers if answer is not None]

    def _predict(self, held: _Held, inputs: list[BaseModel], params: list[BaseModel]) -> list[Any]:
        outcomes = held.predictor.predict(inputs, params)
        if len(outcomes) == len(inputs):
            return outcomes
        told = f"task {held.predictor.task.name!r} decoded {len(outcomes)} outputs for {len(inputs)} inputs"
        log.error("%s", told)
        return [InternalError(told)] * len(inputs)

    def _find(self, asked: str) -> _Held:
        name, _, version = asked.partition("@")
        held = self._held.get(name)
        if held is None or version not in ("", held.version):
            # Names no other model: the caller may not be allowed to know of it.
            there = f"{name}@{held.version} is here now" if held is not None else "it was unloaded just now"
            raise NotFoundError(f"{asked} is not here any more: {there}; ask again, without a version for the newest one")
        return held

    def self_check(self) -> None:
        """A real prediction of every model on the first example of its input schema; raises what goes wrong. A model whose
        schema has no example is only known to be loaded."""
        for name, held in self._held.items():
            example = _example(held.predictor.task.Input)
            if example is not None:
                try:
                    held.predictor.predict_one(validated(held.predictor.task.Input, example, "input"))
                except TaskloomError as exc:
                    raise ModelFailedError(f"{name}@{held.version} does not answer its own example: {exc}") from exc

    def close(self) -> None:
        for held in self._held.values():
            held.predictor.close()
        self._held.clear()


def _result(version: str, outcome: Any) -> WorkResult:
    if isinstance(outcome, TaskloomError):
        return WorkResult(version, error=ErrorInfo.of(outcome))
    try:
        return WorkResult(version, output=outcome.model_dump(mode="json"))
    except Exception as exc:
        log.exception("an output is no JSON data", exc_info=exc)
        return WorkResult(version, error=ErrorInfo.of(ModelFailedError(f"the answer is no JSON data ({type(exc).__name__})")))


def _example(schema: type[BaseModel]) -> Mapping[str, Any] | None:
    """The first of `examples` of the schema, or one made of the examples of its required fields."""
    described = schema.model_json_schema()
    examples = described.get("examples")
    if examples:
        return dict(examples[0])
    fields = described.get("properties", {})
    found = {name: fields[name]["examples"][0] for name in fields if fields[name].get("examples")}
    return found if all(name in found for name in described.get("required", ())) else None
