"""Who is behind the RPC that runs, from the interceptors to the servicers and the log."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any

import grpc

from taskloom.core.types import Principal, new_request_id
from taskloom.server.records import NO_FACTS

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Caller:
    """`principal` is None for RPCs that need no key. `request_id` is the caller's, or made when it is first needed.
    `authenticate` looks the key up again, for RPCs that outlive what was known of it; it raises `UnauthenticatedError`."""

    __slots__ = ("_request_id", "authenticate", "facts", "principal")

    def __init__(self) -> None:
        self.principal: Principal | None = None
        self.authenticate: Callable[[], Awaitable[Principal]] | None = None
        self.facts: Mapping[str, Any] = NO_FACTS
        self._request_id = ""

    @property
    def request_id(self) -> str:
        if not self._request_id:
            self._request_id = new_request_id()
        return self._request_id

    @request_id.setter
    def request_id(self, value: str) -> None:
        """What is no request id is ignored: it would end up in records and logs."""
        if _REQUEST_ID.fullmatch(value):
            self._request_id = value

    def identity(self) -> Principal:
        """The principal of an RPC that needs a key."""
        if self.principal is None:
            raise AssertionError("an RPC that needs a key ran without one: its rule in server/auth/policy.py is wrong")
        return self.principal


CALLER: ContextVar[Caller] = ContextVar("taskloom_caller")
"""Set by the access interceptor, once for each RPC; gRPC runs each in a context of its own."""


def current_request_id() -> str:
    """The request id for log lines; empty outside of an RPC."""
    caller = CALLER.get(None)
    return caller.request_id if caller is not None else ""


def named_caller(context: grpc.aio.ServicerContext[Any, Any], mutual_tls: bool) -> Caller:
    """The caller, with the name in its certificate where clients must show one."""
    caller = CALLER.get()
    if mutual_tls and (names := context.auth_context().get("x509_common_name")):
        caller.facts = {"tls_client": next(iter(names)).decode("utf-8", "replace")}
    return caller


def deadline_of(context: grpc.aio.ServicerContext[Any, Any], default_timeout_s: float) -> float:
    """When the RPC ends, on the `time.time()` clock."""
    remaining_s = context.time_remaining()
    return time.time() + (default_timeout_s if remaining_s is None else remaining_s)
