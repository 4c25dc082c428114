"""Models in this process, behind the same calls as `Client`."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast

from taskloom.core.errors import DeadlineExceededError, MissingDependencyError, RequestCancelledError, UnsupportedError
from taskloom.core.types import InferCall, InferResult, ModelDescription, ModelInfo, ModelRef
from taskloom.sdk.dependencies import missing_dependency
from taskloom.sdk.knowledge_operations import Operation, StreamedOperation
from taskloom.sdk.requests import BatchOptions, model_ref
from taskloom.sdk.results import ItemResult
from taskloom.sdk.retries import RetryPolicy
from taskloom.sdk.surface import Pending, SyncCalls
from taskloom.sdk.text_streams import TextSource

if TYPE_CHECKING:
    from taskloom.core.knowledge_calls import KnowledgeEngine
    from taskloom.core.ports import InferenceEngine, PartSink
    from taskloom.core.registry import Registry
    from taskloom.core.settings import Settings

T = TypeVar("T")
R = TypeVar("R")


def local(
    models: Sequence[str] | None = None,
    *,
    home: str | Path | None = None,
    config: str | Path | None = None,
    timeout_s: float = 60.0,
    retry: RetryPolicy | None = None,
) -> LocalClient:
    """The calls of `Client`, answered in this process; no gateway, no key, no audit. Returns when the models are loaded.

    `models` are NAME or NAME@VERSION; left out, it is those that the settings name, or all that have a `production`
    version. `home` and `config` are as for the command line. It needs the extra `[local]`, and says so.

    Threads of models wait briefly for each other (`taskloom.core.openmp`), if torch was not imported before; GOMP_SPINCOUNT
    stays set for this process and those that it starts. A thread that begins to use torch while a small batch runs may find
    `torch.get_num_threads()` lowered: set your own where it matters.

        with taskloom.sdk.local(["intent-en"]) as client:
            client.classify("My card has not arrived", model="intent-en").label
    """
    from taskloom.core.loader import load_registry
    from taskloom.core.openmp import wait_briefly
    from taskloom.core.settings import load_settings

    wait_briefly()
    settings = load_settings(Path(config) if config else None, {"home": str(home)} if home else None)
    client = LocalClient(
        serving(settings, models) if models is not None else settings, load_registry(), timeout_s=timeout_s, retry=retry
    )
    try:
        client.start()
    except BaseException:
        client.close()
        raise
    return client


def serving(settings: Settings, models: Sequence[str]) -> Settings:
    """The settings with these models instead of theirs; a model that they name keeps its pool."""
    from taskloom.core.settings import ModelSettings

    wanted: dict[str, ModelSettings] = {}
    for model in models:
        ref = model_ref(model, None)
        known = settings.models.get(ref.name, ModelSettings())
        wanted[ref.name] = ModelSettings(version=ref.version if "@" in model else known.version, pool=known.pool)
    return settings.model_copy(update={"models": wanted})


class LocalClient(SyncCalls):
    """Models in this process. Thread-safe; made by `local`. An engine runs in an event loop of its own thread."""

    def __init__(
        self, settings: Settings, registry: Registry, *, timeout_s: float = 60.0, retry: RetryPolicy | None = None
    ) -> None:
        super().__init__(timeout_s, retry or RetryPolicy())
        self._settings = settings
        self._registry = registry
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._engine: InferenceEngine | None = None
        self._bases: KnowledgeEngine | None = None

    def __repr__(self) -> str:
        return f"LocalClient({str(self._settings.home)!r})"

    def start(self) -> None:
        """Loads the models; raises `MissingDependencyError` with the install line if the extra is not there."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="taskloom-local", daemon=True)
        self._thread.start()
        atexit.register(self.close)
        try:
            self._wait(self._open())
        except ModuleNotFoundError as exc:
            raise missing_dependency(exc) or exc from exc

    async def _open(self) -> None:
        hooks = self._registry.hooks
        found = hooks.hook.open_local_engine(settings=self._settings, registry=self._registry) if hooks else None
        engine: InferenceEngine | None = found
        if engine is None:
            raise MissingDependencyError(
                "no installed plugin can run models in this process; install one with: pip install 'taskloom[local]'"
            )
        self._engine = engine
        await engine.start()

    def models(self) -> list[ModelInfo]:
        return list(self._ready().models())

    def describe(self, model: str, *, version: str | None = None) -> ModelDescription:
        return self._ready().describe(model_ref(model, version))

    def stream(
        self,
        model: str,
        inputs: Iterable[Mapping[str, Any] | str],
        *,
        max_concurrency: int = 64,
        **options: Unpack[BatchOptions],
    ) -> Iterator[ItemResult]:
        """As `Client.stream`: answers as they are ready; here they come in order."""
        return self.infer_many(model, inputs, max_concurrency=max_concurrency, **options)

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        self._ready()

    def close(self) -> None:
        atexit.unregister(self.close)
        loop, self._loop = self._loop, None
        engine, self._engine = self._engine, None
        bases, self._bases = self._bases, None
        if loop is None:
            return
        try:
            asyncio.run_coroutine_threadsafe(_end_all(bases, engine), loop).result()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            cast(threading.Thread, self._thread).join()
            loop.close()

    # -- how one call is answered --------------------------------------------------------------------------------------------

    def _answer(self, call: InferCall, timeout_s: float) -> InferResult:
        return self._end(self._begin(call, timeout_s), call, timeout_s)

    def _begin(self, call: InferCall, timeout_s: float) -> Pending:
        return self._submit(self._ready().infer(call))

    def _end(self, pending: Pending, call: InferCall, timeout_s: float) -> InferResult:
        return _result(cast("concurrent.futures.Future[InferResult]", pending), call.request_id, timeout_s)

    def _attempt(self, operation: Operation[R], left_s: float) -> R:
        async def run() -> R:
            return await operation.run(self._opened_bases(), time.time() + left_s)

        try:
            return _result(self._submit(run()), operation.request_id, left_s)
        except ModuleNotFoundError as exc:
            raise missing_dependency(exc) or exc from exc

    def _opened_bases(self) -> KnowledgeEngine:
        """The knowledge bases of the home folder, opened when they are first asked for. In the event loop."""
        if self._bases is None:
            hooks, engine = self._registry.hooks, self._ready()
            found: KnowledgeEngine | None = None
            if hooks is not None:
                found = hooks.hook.open_knowledge(settings=self._settings, registry=self._registry, engine=engine)
            if found is None:
                raise MissingDependencyError(
                    "no installed plugin keeps knowledge bases; install one with: pip install 'taskloom[local]'"
                )
            self._bases = found
        return self._bases

    def _read_text(self, call: InferCall, timeout_s: float) -> TextSource[InferResult]:
        return self._in_parts(lambda send: self._ready().infer(call, send), call.request_id, timeout_s)

    def _read_answer(self, operation: StreamedOperation[R], timeout_s: float) -> TextSource[R]:
        async def run(send: PartSink) -> R:
            return await operation.run(self._opened_bases(), time.time() + timeout_s, send)

        return self._in_parts(run, operation.request_id, timeout_s)

    def _in_parts(self, run: Callable[[PartSink], Coroutine[Any, Any, R]], request_id: str, timeout_s: float) -> TextSource[R]:
        deadline = time.monotonic() + timeout_s
        pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        pending = self._submit(run(pieces.put))
        pending.add_done_callback(lambda _: pieces.put(None))  # the answer or the error is there

        def read() -> str | R:
            try:
                piece = pieces.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                pending.cancel()
                raise _late(request_id, timeout_s) from None
            return piece if piece is not None else _result(pending, request_id, timeout_s)

        return TextSource(read, pending.cancel)

    def _text_input(self, ref: ModelRef, timeout_s: float) -> tuple[str, str]:
        task = self._registry.tasks.get(self.describe(str(ref)).info.task)
        if task.text_field is None:
            fields = ", ".join(task.Input.model_fields)
            raise UnsupportedError(f"{ref.name} takes no bare text: its input has the fields {fields}; give a mapping")
        return task.name, task.text_field

    def _typed_as(self, task: str) -> str:
        return ""

    @property
    def _ever_answered(self) -> bool:
        return True

    def _ready(self) -> InferenceEngine:
        if self._engine is None:
            raise UnsupportedError("this LocalClient is closed; make a new one with local()")
        return self._engine

    def _submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        if self._loop is None:
            work.close()
            raise UnsupportedError("this LocalClient is closed; make a new one with local()")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self._submit(work).result()


def _result(pending: concurrent.futures.Future[R], request_id: str, timeout_s: float) -> R:
    """Waits for what runs in the loop."""
    try:
        return pending.result(timeout_s)
    except TimeoutError as exc:
        pending.cancel()
        raise _late(request_id, timeout_s) from exc
    except concurrent.futures.CancelledError as exc:
        raise RequestCancelledError("the LocalClient was closed before the answer was there") from exc


def _late(request_id: str, timeout_s: float) -> DeadlineExceededError:
    error = DeadlineExceededError(f"no answer within {timeout_s:.3g} s; raise timeout_s to wait longer")
    error.request_id = request_id
    return error


async def _end_all(*engines: KnowledgeEngine | InferenceEngine | None) -> None:
    """Closes the engines, and whatever still runs, so that nobody waits for an answer that can't come."""
    for engine in engines:
        if engine is not None:
            await engine.close()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
