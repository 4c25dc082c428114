"""The calls that `Client` and `LocalClient` have in common: what differs is how one call is answered."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar, Unpack

from taskloom.core.errors import InvalidInputError, TaskloomError, UnsupportedError
from taskloom.core.types import InferCall, InferResult, ModelDescription, ModelInfo, ModelRef
from taskloom.sdk import tasks
from taskloom.sdk.knowledge import KnowledgeCalls
from taskloom.sdk.requests import (
    BatchOptions,
    CallOptions,
    build_call,
    check_concurrency,
    check_options,
    check_timeout,
    concerns_every_item,
    left_since,
    model_ref,
    timeout_of,
)
from taskloom.sdk.results import ItemResult, TaskResult
from taskloom.sdk.retries import Attempts, RetryPolicy
from taskloom.sdk.text_streams import TextSource, TextStream

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R", bound=TaskResult)


class Pending(Protocol):
    """A call that is under way."""

    def cancel(self) -> Any: ...

    def done(self) -> bool: ...


def blocking(ask: Callable[P, tasks.Question[R]]) -> Callable[Concatenate[SyncCalls, P], R]:
    """The call of a task as a method that waits for the answer."""

    def method(self: SyncCalls, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._ask(ask(*args, **kwargs))

    return tasks.as_method(method, ask)


class SyncCalls(KnowledgeCalls):
    """Blocking calls. Thread-safe. Every call has a deadline: `timeout_s`, or the client's."""

    def __init__(self, timeout_s: float, retry: RetryPolicy) -> None:
        self.timeout_s = timeout_s
        self.retry = retry
        self._text_inputs: dict[ModelRef, tuple[str, str]] = {}

    # -- how one call is answered ------------------------------------------------------------------------------------------

    @abstractmethod
    def _answer(self, call: InferCall, timeout_s: float) -> InferResult:
        """One attempt; raises a `TaskloomError`."""

    @abstractmethod
    def _begin(self, call: InferCall, timeout_s: float) -> Pending:
        """Starts one attempt and returns at once."""

    @abstractmethod
    def _end(self, pending: Pending, call: InferCall, timeout_s: float) -> InferResult:
        """Waits for an attempt; raises a `TaskloomError`."""

    @abstractmethod
    def _read_text(self, call: InferCall, timeout_s: float) -> TextSource[InferResult]:
        """Starts one attempt at an answer in parts."""

    @abstractmethod
    def _text_input(self, ref: ModelRef, timeout_s: float) -> tuple[str, str]:
        """The task of a model and the input field that a bare string means; raises `UnsupportedError` if there is none."""

    @abstractmethod
    def _typed_as(self, task: str) -> str:
        """`task` if calls carry its input in a message of its own."""

    @property
    @abstractmethod
    def _ever_answered(self) -> bool:
        """Whether anything has answered here yet: if nothing has, waiting for it to come back makes no sense."""

    @abstractmethod
    def models(self) -> list[ModelInfo]:
        """The models that may be called."""

    @abstractmethod
    def describe(self, model: str, *, version: str | None = None) -> ModelDescription:
        """What a model takes and gives, as JSON Schemas."""

    @abstractmethod
    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Returns when calls can be answered; raises `UnavailableError` if that is not so within `timeout_s`."""

    @abstractmethod
    def close(self) -> None:
        """Ends every call that is under way. Closing twice does no harm."""

    # -- calls ---------------------------------------------------------------------------------------------------------------

    def infer(
        self,
        model: str,
        input: Mapping[str, Any] | str,
        **options: Unpack[CallOptions],
    ) -> InferResult:
        """The answer of any model, as JSON data. `model` is NAME or NAME@VERSION; `input` is what the task's schema says
        (`describe` shows it), or a string for a task that takes one text; bytes in it become base64. `options` are those of
        every call: see `CallOptions`."""
        check_options(options, CallOptions)
        options["timeout_s"] = timeout_s = self._looked_up(model, input, options)
        call = self._call(model, input, **options)
        return self._patiently(lambda left_s: self._answer(call, left_s), timeout_s)

    classify = blocking(tasks.classify)
    ner = blocking(tasks.ner)
    answer = blocking(tasks.answer)
    summarize = blocking(tasks.summarize)
    recommend = blocking(tasks.recommend)
    classify_image = blocking(tasks.classify_image)

    def stream_text(
        self,
        model: str,
        input: Mapping[str, Any] | str,
        **options: Unpack[CallOptions],
    ) -> TextStream[InferResult]:
        """As `infer`, but the text comes piece by piece while the model writes it; `result()` of the stream is what `infer`
        gives. `timeout_s` is for the whole answer. A failure is made good by another attempt only before the first piece."""
        check_options(options, CallOptions)
        options["timeout_s"] = timeout_s = self._looked_up(model, input, options)
        call = self._call(model, input, **options).model_copy(update={"partials": True})
        attempts = Attempts(self.retry, timeout_s)
        return TextStream(attempts, lambda left_s: self._read_text(call, left_s), lambda: self._ever_answered)

    def infer_many(
        self,
        model: str,
        inputs: Iterable[Mapping[str, Any] | str],
        *,
        max_concurrency: int = 32,
        **options: Unpack[BatchOptions],
    ) -> Iterator[ItemResult]:
        """One `ItemResult` per input, in order, each with a result or an error. `inputs` may be endless: it is read no
        further than `max_concurrency` ahead. `timeout_s` is for each item. What no item could escape (no permission, no such
        model, no server) is raised."""
        check_concurrency(max_concurrency)
        check_options(options, BatchOptions)
        items = (self._begun(index, model, item, options) for index, item in enumerate(inputs))
        return self._in_order(items, max_concurrency)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # -- the steps of a call ---------------------------------------------------------------------------------------------------

    def _ask(self, question: tasks.Question[R]) -> R:
        timeout_s = timeout_of(question.options, self.timeout_s)
        call = question.call(timeout_s, typed_as=self._typed_as(question.result.task))
        return question.result.of(self._patiently(lambda left_s: self._answer(call, left_s), timeout_s))

    def _looked_up(self, model: str, input: Mapping[str, Any] | str, options: BatchOptions | CallOptions) -> float:
        """Seconds that are left of a call's when it is known what a text is to the model."""
        timeout_s = timeout_of(options, self.timeout_s)
        ref = model_ref(model, options.get("version"))
        if isinstance(input, str) and ref not in self._text_inputs:
            check_timeout(timeout_s)
            began = time.monotonic()
            self._text_inputs[ref] = self._text_input(ref, timeout_s)
            return left_since(began, timeout_s)
        return timeout_s

    def _call(self, model: str, input: Mapping[str, Any] | str, *, version: str | None = None, **options: Any) -> InferCall:
        ref = model_ref(model, version)
        if not isinstance(input, str):
            return build_call(ref, input, **options)
        task, field = self._text_inputs[ref]
        return build_call(ref, {field: input}, typed_as=self._typed_as(task), **options)

    def _patiently(self, attempt: Callable[[float], T], timeout_s: float) -> T:
        """Repeats an attempt as the policy says."""
        attempts = Attempts(self.retry, timeout_s)
        while True:
            try:
                return attempt(attempts.remaining_s())
            except TaskloomError as error:
                time.sleep(attempts.wait_after(error, hopeless=not self._ever_answered))

    def _begun(self, index: int, model: str, input: Mapping[str, Any] | str, options: BatchOptions) -> _Item:
        try:
            timeout_s = self._looked_up(model, input, options)
        except UnsupportedError as error:  # the model takes no bare text, and answers other items
            return _Item(index, error=error)
        options = {**options, "timeout_s": timeout_s}
        try:
            call = self._call(model, input, **options)
        except TaskloomError as error:
            if concerns_every_item(error, self._ever_answered):
                raise
            return _Item(index, error=error)
        try:
            return _Item(index, call, self._begin(call, timeout_s), timeout_s)
        except InvalidInputError as error:  # no message can be made of it
            return _Item(index, error=error)

    def _in_order(self, items: Iterator[_Item], max_concurrency: int) -> Iterator[ItemResult]:
        window: deque[_Item] = deque()
        try:
            for item in items:
                window.append(item)
                while window and (len(window) >= max_concurrency or window[0].done()):
                    yield self._finished(window.popleft())
            while window:
                yield self._finished(window.popleft())
        finally:
            for item in window:
                if item.pending is not None:
                    item.pending.cancel()

    def _finished(self, item: _Item) -> ItemResult:
        """Waits for the item. Its first attempt ran beside others; if it has to be repeated, that happens here, while
        the others of the window go on."""
        call, pending = item.call, item.pending
        if call is None or pending is None:
            return ItemResult(item.index, error=item.error)

        def attempt(left_s: float) -> InferResult:
            nonlocal pending
            first, pending = pending, None
            return self._end(first, call, item.timeout_s) if first is not None else self._answer(call, left_s)

        try:
            return ItemResult(item.index, self._patiently(attempt, item.timeout_s))
        except TaskloomError as error:
            if concerns_every_item(error, self._ever_answered):
                raise
            return ItemResult(item.index, error=error)


class _Item:
    """One input of a batch on its way."""

    __slots__ = ("call", "error", "index", "pending", "timeout_s")

    def __init__(
        self,
        index: int,
        call: InferCall | None = None,
        pending: Pending | None = None,
        timeout_s: float = 0.0,
        error: TaskloomError | None = None,
    ) -> None:
        self.index = index
        self.call = call
        self.pending = pending
        self.timeout_s = timeout_s
        self.error = error

    def done(self) -> bool:
        return self.pending is None or self.pending.done()
