"""A knowledge base as an object of a client: `client.knowledge("handbook").ask("...")`."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

from taskloom.core.errors import TaskloomError
from taskloom.sdk import knowledge_calls as calls
from taskloom.sdk import knowledge_questions as questions
from taskloom.sdk.knowledge_operations import Operation, StreamedOperation
from taskloom.sdk.retries import Attempts, RetryPolicy
from taskloom.sdk.tasks import as_method
from taskloom.sdk.text_streams import AsyncTextSource, AsyncTextStream, TextSource, TextStream

P = ParamSpec("P")
R = TypeVar("R")


# -- blocking --------------------------------------------------------------------------------------------------------------


def _of_base(make: Callable[Concatenate[str, P], Operation[R]]) -> Callable[Concatenate[Knowledge, P], R]:
    def method(self: Knowledge, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._client._perform(make(self.name, *args, **kwargs))

    return as_method(method, make, known=1)


def _streamed_of_base(
    make: Callable[Concatenate[str, P], StreamedOperation[R]],
) -> Callable[Concatenate[Knowledge, P], TextStream[R]]:
    def method(self: Knowledge, /, *args: P.args, **kwargs: P.kwargs) -> TextStream[R]:
        return self._client._stream(make(self.name, *args, **kwargs))

    return as_method(method, make, known=1)


def _of_client(make: Callable[P, Operation[R]]) -> Callable[Concatenate[KnowledgeCalls, P], R]:
    def method(self: KnowledgeCalls, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._perform(make(*args, **kwargs))

    return as_method(method, make)


class Knowledge:
    """One knowledge base, by its name; made by `client.knowledge(name)`, which asks nobody whether it is there.

    handbook = client.knowledge("handbook")
    handbook.upsert([("wifi", "Hold the reset button for ten seconds.")])
    handbook.ask("How do I reset the router?").answer
    """

    def __init__(self, client: KnowledgeCalls, name: str) -> None:
        self._client = client
        self.name = name

    def __repr__(self) -> str:
        return f"Knowledge({self.name!r})"

    ask = _of_base(questions.ask)
    ask_stream = _streamed_of_base(questions.ask_stream)
    search = _of_base(questions.search)
    graph = _of_base(questions.graph)
    upsert = _of_base(calls.upsert)
    delete = _of_base(calls.delete)
    stats = _of_base(calls.stats)
    versions = _of_base(calls.versions)
    configure = _of_base(calls.configure)
    snapshot = _of_base(calls.snapshot)
    drop_snapshot = _of_base(calls.drop_snapshot)
    rollback = _of_base(calls.rollback)


class KnowledgeCalls(ABC):
    """What a blocking client can do with knowledge bases."""

    timeout_s: float
    retry: RetryPolicy

    @property
    @abstractmethod
    def _ever_answered(self) -> bool: ...

    @abstractmethod
    def _attempt(self, operation: Operation[R], left_s: float) -> R:
        """One attempt; raises a `TaskloomError`."""

    @abstractmethod
    def _read_answer(self, operation: StreamedOperation[R], timeout_s: float) -> TextSource[R]:
        """Starts one attempt at an answer in parts."""

    def _stream(self, operation: StreamedOperation[R]) -> TextStream[R]:
        attempts = Attempts(self.retry, operation.timeout(self.timeout_s))
        return TextStream(attempts, lambda left_s: self._read_answer(operation, left_s), lambda: self._ever_answered)

    def _perform(self, operation: Operation[R]) -> R:
        """Repeats a call as the policy says, and as it may be repeated."""
        attempts = Attempts(self.retry, operation.timeout(self.timeout_s))
        while True:
            try:
                return self._attempt(operation, attempts.remaining_s())
            except TaskloomError as error:
                hopeless = not self._ever_answered or not operation.may_follow(error)
                time.sleep(attempts.wait_after(error, hopeless=hopeless))

    def knowledge(self, name: str) -> Knowledge:
        """A knowledge base to ask and to change."""
        return Knowledge(self, name)

    knowledge_bases = _of_client(calls.knowledge_bases)
    create_knowledge = _of_client(calls.create_knowledge)
    drop_knowledge = _of_client(calls.drop_knowledge)


# -- asynchronous -----------------------------------------------------------------------------------------------------------


def _awaited_of_base(
    make: Callable[Concatenate[str, P], Operation[R]],
) -> Callable[Concatenate[AsyncKnowledge, P], Coroutine[Any, Any, R]]:
    async def method(self: AsyncKnowledge, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._client._perform(make(self.name, *args, **kwargs))

    return as_method(method, make, known=1)


def _awaited_stream_of_base(
    make: Callable[Concatenate[str, P], StreamedOperation[R]],
) -> Callable[Concatenate[AsyncKnowledge, P], AsyncTextStream[R]]:
    def method(self: AsyncKnowledge, /, *args: P.args, **kwargs: P.kwargs) -> AsyncTextStream[R]:
        return self._client._stream(make(self.name, *args, **kwargs))

    return as_method(method, make, known=1)


def _awaited_of_client(
    make: Callable[P, Operation[R]],
) -> Callable[Concatenate[AsyncKnowledgeCalls, P], Coroutine[Any, Any, R]]:
    async def method(self: AsyncKnowledgeCalls, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._perform(make(*args, **kwargs))

    return as_method(method, make)


class AsyncKnowledge:
    """`Knowledge` for asyncio: the same calls, awaited; `ask_stream` is not to be awaited:
    `async with base.ask_stream(...) as stream`."""

    def __init__(self, client: AsyncKnowledgeCalls, name: str) -> None:
        self._client = client
        self.name = name

    def __repr__(self) -> str:
        return f"AsyncKnowledge({self.name!r})"

    ask = _awaited_of_base(questions.ask)
    ask_stream = _awaited_stream_of_base(questions.ask_stream)
    search = _awaited_of_base(questions.search)
    graph = _awaited_of_base(questions.graph)
    upsert = _awaited_of_base(calls.upsert)
    delete = _awaited_of_base(calls.delete)
    stats = _awaited_of_base(calls.stats)
    versions = _awaited_of_base(calls.versions)
    configure = _awaited_of_base(calls.configure)
    snapshot = _awaited_of_base(calls.snapshot)
    drop_snapshot = _awaited_of_base(calls.drop_snapshot)
    rollback = _awaited_of_base(calls.rollback)


class AsyncKnowledgeCalls(ABC):
    """What an asynchronous client can do with knowledge bases."""

    timeout_s: float
    retry: RetryPolicy
    _answered: bool

    @abstractmethod
    async def _attempt(self, operation: Operation[R], left_s: float) -> R:
        """One attempt; raises a `TaskloomError`."""

    @abstractmethod
    async def _read_answer(self, operation: StreamedOperation[R], timeout_s: float) -> AsyncTextSource[R]:
        """Starts one attempt at an answer in parts."""

    def _stream(self, operation: StreamedOperation[R]) -> AsyncTextStream[R]:
        attempts = Attempts(self.retry, operation.timeout(self.timeout_s))
        return AsyncTextStream(attempts, lambda left_s: self._read_answer(operation, left_s), lambda: self._answered)

    async def _perform(self, operation: Operation[R]) -> R:
        """Repeats a call as the policy says, and as it may be repeated."""
        attempts = Attempts(self.retry, operation.timeout(self.timeout_s))
        while True:
            try:
                return await self._attempt(operation, attempts.remaining_s())
            except TaskloomError as error:
                hopeless = not self._answered or not operation.may_follow(error)
                await asyncio.sleep(attempts.wait_after(error, hopeless=hopeless))

    def knowledge(self, name: str) -> AsyncKnowledge:
        """A knowledge base to ask and to change."""
        return AsyncKnowledge(self, name)

    knowledge_bases = _awaited_of_client(calls.knowledge_bases)
    create_knowledge = _awaited_of_client(calls.create_knowledge)
    drop_knowledge = _awaited_of_client(calls.drop_knowledge)
