"""Errors to gRPC statuses and back: the one table, used by the gateway and by the SDK."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from taskloom.core.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    RequestCancelledError,
    TaskloomError,
    ThrottledError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
    error_from_code,
)

DOMAIN = "taskloom"
DETAILS_KEY = "grpc-status-details-bin"
REQUEST_ID_KEY = "taskloom-request-id"

STATUS_BY_CODE: dict[str, grpc.StatusCode] = {
    "invalid_input": grpc.StatusCode.INVALID_ARGUMENT,
    "input_too_large": grpc.StatusCode.INVALID_ARGUMENT,
    "data": grpc.StatusCode.INVALID_ARGUMENT,
    "not_found": grpc.StatusCode.NOT_FOUND,
    "already_exists": grpc.StatusCode.ALREADY_EXISTS,
    "unsupported": grpc.StatusCode.FAILED_PRECONDITION,
    "artifact": grpc.StatusCode.FAILED_PRECONDITION,
    "unauthenticated": grpc.StatusCode.UNAUTHENTICATED,
    "permission_denied": grpc.StatusCode.PERMISSION_DENIED,
    "throttled": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "rate_limited": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "overloaded": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "deadline_exceeded": grpc.StatusCode.DEADLINE_EXCEEDED,
    "cancelled": grpc.StatusCode.CANCELLED,
    "unavailable": grpc.StatusCode.UNAVAILABLE,
    "replica_lost": grpc.StatusCode.UNAVAILABLE,
    "audit_unavailable": grpc.StatusCode.UNAVAILABLE,
    "model_failed": grpc.StatusCode.INTERNAL,
    "internal": grpc.StatusCode.INTERNAL,
}
"""A code that is not here is one of the server's own troubles: INTERNAL, and its message stays in the log."""

MAX_MESSAGE_BYTES = 1500
"""Of an error's message. It is sent twice, and text beyond ASCII grows threefold on the way; gRPC's clients take 8 KiB of
metadata in all, and make RESOURCE_EXHAUSTED of more."""

MAX_FIELD_CHARACTERS = 128

_ERROR_BY_STATUS: dict[grpc.StatusCode, type[TaskloomError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInputError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidInputError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.CANCELLED: RequestCancelledError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.UNIMPLEMENTED: UnsupportedError,
    grpc.StatusCode.FAILED_PRECONDITION: UnsupportedError,
}
"""For statuses that carry no details of ours: made by gRPC itself, or by something between."""


def to_status(error: TaskloomError, request_id: str) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str | bytes], ...]]:
    """Status code, message and trailing metadata for an error."""
    code = STATUS_BY_CODE.get(error.code)
    if code is None:
        error = InternalError(f"the server could not answer; its log says why under request id {request_id or 'unknown'}")
        code = grpc.StatusCode.INTERNAL
    info = error_details_pb2.ErrorInfo(reason=error.code, domain=DOMAIN, metadata={"request_id": request_id})
    if isinstance(error, InvalidInputError) and error.field:
        info.metadata["field"] = error.field[:MAX_FIELD_CHARACTERS]
    details = [_packed(info)]
    if isinstance(error, ThrottledError):
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    message = _shortened(error.message)
    status = status_pb2.Status(code=code.value[0], message=message, details=details)
    return code, message, ((DETAILS_KEY, status.SerializeToString()), (REQUEST_ID_KEY, request_id))


def _shortened(message: str) -> str:
    content = message.encode("utf-8", "replace")
    if len(content) <= MAX_MESSAGE_BYTES:
        return message
    return content[:MAX_MESSAGE_BYTES].decode("utf-8", "ignore") + " ..."


def from_rpc_error(exc: Any) -> TaskloomError:
    """The error that a failed call means. `exc` is a `grpc.RpcError` of either API."""
    metadata = dict(exc.trailing_metadata() or ())
    request_id = metadata.get(REQUEST_ID_KEY)
    error = _detailed(metadata.get(DETAILS_KEY))
    if error is None:
        error = _ERROR_BY_STATUS.get(exc.code(), InternalError)(exc.details() or str(exc.code()))
    error.request_id = request_id if isinstance(request_id, str) else None
    return error


def _detailed(content: Any) -> TaskloomError | None:
    if not isinstance(content, bytes):
        return None
    status = status_pb2.Status.FromString(content)
    reason, retry_after_s, field = "", None, ""
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
            reason, field = (info.reason, info.metadata.get("field", "")) if info.domain == DOMAIN else ("", "")
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
    if not reason:
        return None
    return error_from_code(reason, status.message, retry_after_s, field)


def _packed(message: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
