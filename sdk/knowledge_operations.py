"""A call on a knowledge base, ready to be made by any client: over gRPC or in process, blocking or not. No I/O."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from taskloom.core.errors import InvalidInputError, TaskloomError, ThrottledError
from taskloom.core.knowledge_calls import KnowledgeEngine
from taskloom.core.ports import PartSink
from taskloom.core.wire.gen import knowledge_pb2 as pb

R = TypeVar("R")

TENANT = "default"
"""Whose the bases are that are used without a server."""


@dataclass(frozen=True, slots=True)
class Operation(Generic[R]):
    """One call. `send` makes what the RPC `method` takes: a message, or for `Upsert` a `Feed`. `run` does the same in process,
    by a deadline on the `time.time()` clock."""

    method: str
    send: Callable[[], Any]
    read: Callable[[Any], R]
    run: Callable[[KnowledgeEngine, float], Awaitable[R]]
    request_id: str
    timeout_s: float | None = None
    repeat: Literal["always", "unless-begun", "never"] = "always"

    def timeout(self, default_s: float) -> float:
        return checked_timeout(self.timeout_s, default_s)

    def may_follow(self, error: TaskloomError) -> bool:
        """Whether the call may be made again after this error, with no fear that it is then done twice."""
        return self.repeat == "always" or (self.repeat == "unless-begun" and isinstance(error, ThrottledError))


@dataclass(frozen=True, slots=True)
class StreamedOperation(Generic[R]):
    """A call whose answer comes in parts: `read` makes of each message a part of the text or the whole, and `run` gives the
    parts to a sink first. Else as `Operation`."""

    method: str
    send: Callable[[], Any]
    read: Callable[[Any], str | R]
    run: Callable[[KnowledgeEngine, float, PartSink], Awaitable[R]]
    request_id: str
    timeout_s: float | None = None

    def timeout(self, default_s: float) -> float:
        return checked_timeout(self.timeout_s, default_s)


def checked_timeout(timeout_s: float | None, default_s: float) -> float:
    """The seconds that a call has; raises `InvalidInputError` for none."""
    timeout_s = default_s if timeout_s is None else timeout_s
    if timeout_s <= 0:
        raise InvalidInputError(f"timeout_s is {timeout_s}; a call needs more than 0 seconds", field="timeout_s")
    return timeout_s


def given_only(**fields: Any) -> dict[str, Any]:
    """Without what was left out, so that the defaults of the call hold."""
    return {name: value for name, value in fields.items() if value is not None}


class Feed(Iterator[pb.UpsertRequest]):
    """The messages of a stream. gRPC loses what is raised while it reads them: it stays here as `failure`."""

    def __init__(self, messages: Iterator[pb.UpsertRequest]) -> None:
        self._messages = messages
        self.failure: BaseException | None = None

    def __next__(self) -> pb.UpsertRequest:
        try:
            return next(self._messages)
        except StopIteration:
            raise
        except BaseException as exc:
            self.failure = exc
            raise
