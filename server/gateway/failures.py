"""Errors as clients may see them."""

from __future__ import annotations

import logging
from typing import Any

import grpc

from taskloom.core.errors import InternalError, TaskloomError
from taskloom.core.wire.status import STATUS_BY_CODE, to_status

log = logging.getLogger(__name__)


def public_error(error: Exception, request_id: str) -> TaskloomError:
    """The error itself if it is the client's business. Anything else goes into the log under the request id, and the client
    learns this id alone: messages of exceptions hold paths, addresses and worse."""
    if isinstance(error, TaskloomError) and error.code in STATUS_BY_CODE:
        return error
    log.error("request %s failed: %s", request_id, error, exc_info=error)
    return InternalError(f"the server could not answer; its log says why under request id {request_id}")


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: Exception, request_id: str) -> None:
    """Ends the RPC with the status of `error`; never returns."""
    code, message, metadata = to_status(public_error(error, request_id), request_id)
    await context.abort(code, message, metadata)
