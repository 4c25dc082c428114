"""Answers that a model writes piece by piece: what `stream_text` returns. How a piece is read is the client's business."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Self, TypeVar

from taskloom.core.errors import RequestCancelledError, TaskloomError, UnavailableError
from taskloom.core.types import InferResult
from taskloom.core.wire.codec import error_from_message, result_from_message
from taskloom.core.wire.gen import inference_pb2 as pb
from taskloom.sdk.retries import Attempts

W = TypeVar("W")
"""The whole answer."""


@dataclass(frozen=True, slots=True)
class TextSource(Generic[W]):
    """One attempt at an answer. `read` waits for the next piece of the text, or the whole answer, which ends it, and raises a
    `TaskloomError`; `cancel` may be called from another thread."""

    read: Callable[[], str | W]
    cancel: Callable[[], object]


@dataclass(frozen=True, slots=True)
class AsyncTextSource(Generic[W]):
    """As `TextSource`."""

    read: Callable[[], Awaitable[str | W]]
    cancel: Callable[[], object]


def piece_from_message(reply: pb.InferStreamResponse) -> str | InferResult:
    """What a reply brings; raises the error that it brings."""
    kind = reply.WhichOneof("result")
    if kind == "partial":
        return reply.partial.text
    if kind == "error":
        error = error_from_message(reply.error).to_error()
        error.request_id = reply.request_id
        raise error
    return result_from_message(reply.response)


def was_cancelled() -> bool:
    """Whether the task that runs is being cancelled, rather than what it waited for."""
    task = asyncio.current_task()
    return task is not None and bool(task.cancelling())


def ended_early() -> UnavailableError:
    """For a stream that ends without the answer."""
    return UnavailableError("the server ended the stream before the whole answer had come; ask again")


class _Progress(Generic[W]):
    """What has come so far, and whether a failure may be made good: only before the first piece, since a second attempt might
    begin with other words."""

    def __init__(self, attempts: Attempts) -> None:
        self.attempts = attempts
        self.pieces: list[str] = []
        self.result: W | None = None
        self.error: TaskloomError | None = None

    def over(self) -> bool:
        """Whether the answer is there; raises what it failed with."""
        if self.error is not None:
            raise self.error
        return self.result is not None

    def take(self, piece: str | W) -> str | None:
        """The text to hand on; None at the end."""
        if isinstance(piece, str):
            self.pieces.append(piece)
            return piece
        self.result = piece
        return None

    def wait_after(self, error: TaskloomError, *, hopeless: bool) -> float:
        """Seconds until the next attempt; raises `error` if there is to be none."""
        try:
            if self.pieces:
                raise error
            return self.attempts.wait_after(error, hopeless=hopeless)
        except TaskloomError as final:
            self.error = final
            raise

    def whole(self) -> W:
        if self.result is None:
            raise RequestCancelledError("the stream was closed before the whole answer had come")
        return self.result


class TextStream(Iterator[str], Generic[W]):
    """An answer that a model writes. Iterating gives its text piece by piece, as it is written; `result()` is the whole
    answer. A model that answers as a whole gives no pieces, and the result.

        with client.stream_text("summary-en", document) as stream:
            for piece in stream:
                print(piece, end="", flush=True)
        stream.result().output

    Nothing is sent before the first piece is asked for. `close`, which may be called from another thread, stops the model.
    """

    def __init__(
        self, attempts: Attempts, open_source: Callable[[float], TextSource[W]], ever_answered: Callable[[], bool]
    ) -> None:
        self._progress = _Progress[W](attempts)
        self._open = open_source
        self._ever_answered = ever_answered
        self._source: TextSource[W] | None = None
        self._closed = threading.Event()

    @property
    def text(self) -> str:
        """What has come so far."""
        return "".join(self._progress.pieces)

    def __next__(self) -> str:
        progress = self._progress
        while not self._closed.is_set() and not progress.over():
            try:
                if (piece := progress.take(self._opened().read())) is not None:
                    return piece
            except TaskloomError as error:
                self._source = None
                if not self._closed.is_set():
                    self._closed.wait(progress.wait_after(error, hopeless=not self._ever_answered()))
        raise StopIteration

    def result(self) -> W:
        """The whole answer, waited for: pieces that were not read are passed over. Raises what the call failed with,
        `RequestCancelledError` if the stream was closed before."""
        for _ in self:
            pass
        return self._progress.whole()

    def close(self) -> None:
        """Stops the model, if it is still writing. Closing twice does no harm."""
        self._closed.set()
        if (source := self._source) is not None and self._progress.result is None:
            source.cancel()

    def _opened(self) -> TextSource[W]:
        if self._source is None:
            self._source = self._open(self._progress.attempts.remaining_s())
            if self._closed.is_set():  # meanwhile, by another thread, which found nothing to cancel
                self._source.cancel()
        return self._source

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class AsyncTextStream(AsyncIterator[str], Generic[W]):
    """As `TextStream`, for asyncio: `async with`, `async for`, `await stream.result()`."""

    def __init__(
        self,
        attempts: Attempts,
        open_source: Callable[[float], Awaitable[AsyncTextSource[W]]],
        ever_answered: Callable[[], bool],
    ) -> None:
        self._progress = _Progress[W](attempts)
        self._open = open_source
        self._ever_answered = ever_answered
        self._source: AsyncTextSource[W] | None = None
        self._closed = False

    @property
    def text(self) -> str:
        """What has come so far."""
        return "".join(self._progress.pieces)

    async def __anext__(self) -> str:
        progress = self._progress
        while not self._closed and not progress.over():
            try:
                if (piece := progress.take(await self._read())) is not None:
                    return piece
            except TaskloomError as error:
                self._source = None
                if not self._closed:
                    await asyncio.sleep(progress.wait_after(error, hopeless=not self._ever_answered()))
        raise StopAsyncIteration

    async def result(self) -> W:
        """As `TextStream.result`."""
        async for _ in self:
            pass
        return self._progress.whole()

    async def close(self) -> None:
        """As `TextStream.close`."""
        self._closed = True
        if self._source is not None and self._progress.result is None:
            self._source.cancel()

    async def _read(self) -> str | W:
        if self._source is None:
            self._source = await self._open(self._progress.attempts.remaining_s())
        try:
            return await self._source.read()
        except asyncio.CancelledError:
            if self._closed and not was_cancelled():
                raise RequestCancelledError("the stream was closed") from None
            await self.close()
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()
