"""A loaded model, ready for batches: validate, encode, run, decode, and keep one bad input from failing the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from taskloom.core.artifact import Artifact
from taskloom.core.errors import InvalidInputError, MissingDependencyError, ModelFailedError, PluginError, TaskloomError
from taskloom.core.registry import Registry
from taskloom.core.runtime import Executor, RuntimeConfig, RuntimePlugin
from taskloom.core.task import Batch, In, Out, Outputs, Par, SharedParts, TaskModel, TaskPlugin

log = logging.getLogger(__name__)

M = TypeVar("M", bound=BaseModel)


def validated(schema: type[M], raw: Mapping[str, Any] | BaseModel, where: str) -> M:
    """`raw` as a `schema`, or an `InvalidInputError` whose `field` is the path of the first offending value.

    `where` is `input` or `params`. Values are JSON data; no value of another type is coerced.
    """
    if isinstance(raw, schema):
        return raw
    try:
        return schema.model_validate(raw.model_dump() if isinstance(raw, BaseModel) else dict(raw))
    except ValidationError as exc:
        problems = [
            (".".join([where, *(str(part) for part in e["loc"])]), e["msg"].removeprefix("Value error, "))
            for e in exc.errors(include_url=False)
        ]
        told = "; ".join(f"{path}: {problem}" for path, problem in problems[:5])
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        fields = ", ".join(schema.model_fields)
        raise InvalidInputError(f"{told}{more}. Fields of {where}: {fields or 'none'}.", field=problems[0][0]) from exc


class Predictor(Generic[In, Out, Par]):
    """A model, its task and its executor. As many threads may call it at a time as the executor's plan has lanes."""

    def __init__(self, task: TaskPlugin[In, Out, Par], model: TaskModel[In, Out, Par], executor: Executor) -> None:
        self.task = task
        self.model = model
        self.executor = executor

    def predict(self, inputs: Sequence[In], params: Sequence[Par] | None = None) -> list[Out | TaskloomError]:
        """One Output or one error per input, in order. Never raises for what an input does to the model."""
        if not inputs:
            return []
        settings = list(params) if params is not None else [self.task.Params()] * len(inputs)
        try:
            outputs = self.executor.run(self.model.prepare(inputs, settings))
            return list(self.model.decode(outputs, inputs, settings))
        except Exception as exc:
            if len(inputs) == 1:
                return [self._blame(exc)]
        # Something in the batch is at fault: halve until the culprits stand alone. k culprits among n cost O(k log n) runs.
        middle = len(inputs) // 2
        return [
            *self.predict(inputs[:middle], settings[:middle]),
            *self.predict(inputs[middle:], settings[middle:]),
        ]

    def _blame(self, exc: Exception) -> TaskloomError:
        if isinstance(exc, TaskloomError):
            return exc
        log.exception("model of task %s failed on one input", self.task.name, exc_info=exc)
        return ModelFailedError(
            f"the model failed on this input ({type(exc).__name__}); the cause is in the log of the process that ran it"
        )

    def predict_one(self, input: In, params: Par | None = None) -> Out:
        """The Output for one input; raises what is wrong with it."""
        answer = self.predict([input], None if params is None else [params])[0]
        if isinstance(answer, TaskloomError):
            raise answer
        return answer

    def stream(
        self,
        input: In,
        send: Callable[[str], None],
        params: Par | None = None,
        *,
        check: Callable[[], None] = lambda: None,
    ) -> Out:
        """The Output for one input; raises what is wrong with it. What a model writes goes to `send` on the way, piece by
        piece, before this returns; a model that does not stream sends nothing. `check` is called before each step on the
        device: what it raises, or `send`, ends the work and is raised here."""
        if not self.model.streams:
            check()
            return self.predict_one(input, params)

        def run(batch: Batch) -> Outputs:
            check()
            return self.executor.run(batch)

        def pieces() -> Generator[str, None, Out]:
            return (yield from self.model.stream(input, params if params is not None else self.task.Params(), run))

        with closing(pieces()) as writing:
            while isinstance(written := self._next(writing), str):
                if written:
                    send(written)
        if isinstance(written, self.task.Output):
            return written
        raise PluginError(
            f"`stream` of a model of task {self.task.name!r} returned {type(written).__name__}; it must yield text and return "
            f"the whole answer, a {self.task.Output.__name__}"
        )

    def _next(self, writing: Generator[str, None, Out]) -> str | Out:
        try:
            written = next(writing)
            if isinstance(written, str):
                written.encode()  # half a surrogate pair is no text: no message could carry it
            return written
        except StopIteration as end:
            answer: Out = end.value
            return answer
        except TaskloomError:
            raise
        except Exception as exc:
            raise self._blame(exc) from exc

    def close(self) -> None:
        self.executor.close()

    def warm_up(self, max_cost: int) -> None:
        """Runs the shapes that batches of up to `max_cost` will have, so that no request pays for the first of its kind.
        Where shapes are not compiled, the smallest and the largest are enough to claim memory and load code."""
        batches = list(self.model.warm_up(max_cost))
        for batch in batches if self.executor.plan.compiles_shapes else [*batches[:1], *batches[-1:]]:
            self.executor.run(batch)


def choose_runtime(registry: Registry, asked: str, artifact: Artifact | None = None) -> RuntimePlugin:
    """The runtime that the artifact demands, else the one that was asked for, else the best that works here."""
    demanded = artifact.manifest.runtime if artifact else ""
    if demanded or asked != "auto":
        runtime = registry.runtimes.get(demanded or asked)
        if reason := runtime.unavailable():
            raise MissingDependencyError(f"runtime {runtime.name!r} can't be used: {reason}")
        return runtime
    usable = [runtime for runtime in registry.runtimes if runtime.unavailable() is None and runtime.preference >= 0]
    if not usable:
        raise MissingDependencyError("no runtime can be used here; install one with: pip install 'taskloom[local]'")
    return max(usable, key=lambda runtime: runtime.preference)


def load_predictor(
    registry: Registry, artifact: Artifact, config: RuntimeConfig | None = None, shared: SharedParts | None = None
) -> Predictor[Any, Any, Any]:
    """Verifies the artifact's files, then loads them, with what it has in `shared` with other models. Raises `ArtifactError`
    before anything of a bad file is used."""
    config = config or RuntimeConfig()
    task = registry.tasks.get(artifact.manifest.task)
    runtime = choose_runtime(registry, config.runtime, artifact)
    plan = runtime.plan(config.asked_of(runtime.name))
    artifact.verify()
    model = task.load(artifact, shared or SharedParts())
    return Predictor(task, model, runtime.load(model, artifact, plan))
