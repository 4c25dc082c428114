"""The requests of one stream that wait for an answer. Answers come in any order and carry the request id."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from taskloom.core.errors import InternalError, TaskloomError
from taskloom.core.wire.codec import error_from_message, result_from_message
from taskloom.core.wire.gen import inference_pb2 as pb
from taskloom.sdk.results import ItemResult


class Outstanding:
    """Which input each request id stands for. `sent` and `answered` may be called from two threads."""

    def __init__(self) -> None:
        self._index_of: dict[str, int] = {}
        self._refused: deque[ItemResult] = deque()

    def sent(self, index: int, request_id: str) -> None:
        self._index_of[request_id] = index

    def refused(self, index: int, error: TaskloomError) -> None:
        """An input that was not sent, because nothing could be made of it."""
        self._refused.append(ItemResult(index, error=error))

    def take_refused(self) -> Iterator[ItemResult]:
        while self._refused:
            yield self._refused.popleft()

    def answered(self, reply: pb.InferStreamResponse) -> ItemResult:
        index = self._index_of.pop(reply.request_id, None)
        if index is None:
            raise InternalError(f"the server answered request {reply.request_id!r}, which this stream did not send")
        if reply.WhichOneof("result") == "error":
            error = error_from_message(reply.error).to_error()
            error.request_id = reply.request_id
            return ItemResult(index, error=error)
        return ItemResult(index, result_from_message(reply.response))

    def broken(self, error: TaskloomError) -> TaskloomError:
        """The same error, saying how many answers will not come."""
        error.args = (f"{error.message} (the stream ended with {len(self._index_of)} requests unanswered)", *error.args[1:])
        return error
