"""What every RPC passes: `AccessInterceptor` decides who may call, `ErrorInterceptor` turns errors into statuses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Protocol

import grpc

from taskloom.core.errors import (
    DeadlineExceededError,
    InvalidInputError,
    OverloadedError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from taskloom.core.types import Principal
from taskloom.core.wire.status import REQUEST_ID_KEY
from taskloom.server.auth.policy import RULES, Rule, check_role
from taskloom.server.gateway.caller import CALLER, Caller
from taskloom.server.gateway.failures import abort
from taskloom.server.service import InferenceService

KEYLESS_WAIT_S = 5.0
"""How long the message of a call that needs no key may take to come."""
KEYLESS_AT_ONCE = 128
"""How many such calls may be under way. Whoever holds them takes no place from those who have a key: there is room for twice as
many above `max_concurrent_requests`."""

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]
END: object = grpc.aio.EOF  # type: ignore[attr-defined] # the stubs lack it
Handler = Any
"""A `grpc.RpcMethodHandler`, which is generic for type checkers alone."""

AUTHORIZATION = "authorization"


class KeyAuthenticator(Protocol):
    """Finds the principal of an API key."""

    async def authenticate(self, secret: str) -> Principal:
        """Raises `UnauthenticatedError` for a key that is unknown, revoked or expired."""


class AccessInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg] # not generic when it runs
    """Lets an RPC through if the rules name it and the key has a role that they ask for. Nothing of the request is read
    before that. What no rule names is refused, whatever servicers are registered."""

    def __init__(self, authenticator: KeyAuthenticator, service: InferenceService, rules: Mapping[str, Rule] = RULES) -> None:
        self._authenticator = authenticator
        self._service = service
        self._rules = rules
        self._closed = False
        self._keyless = 0
        self.arrivals = 0
        """How many RPCs have come, refused ones included."""

    def close(self) -> None:
        """From now on every RPC that needs a key is sent away to be tried elsewhere."""
        self._closed = True

    async def intercept_service(self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails) -> Any:
        self.arrivals += 1
        caller = Caller()
        CALLER.set(caller)
        try:
            await self._admit(handler_call_details, caller)
        except Exception as error:
            return _refusal(error)
        handler = await continuation(handler_call_details)
        return handler if caller.authenticate is not None or handler is None else self._promptly(handler)

    def _promptly(self, handler: Handler) -> Handler:
        """A unary handler for callers without a key, as one that reads: gRPC itself waits for a message for ever, and anybody
        could hold all the places that there are by never sending one."""

        async def answer(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            if self._keyless >= KEYLESS_AT_ONCE:
                return await abort(context, OverloadedError("too many calls without a key are under way"), "")
            self._keyless += 1
            try:
                async with asyncio.timeout(KEYLESS_WAIT_S):
                    request = await context.read()
            except TimeoutError:
                return await abort(context, DeadlineExceededError("the request did not come in time"), "")
            finally:
                self._keyless -= 1
            if request is END:
                return await abort(context, InvalidInputError("the call came without a message"), "")
            return await handler.unary_unary(request, context)

        return grpc.stream_unary_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)

    async def _admit(self, details: grpc.HandlerCallDetails, caller: Caller) -> None:
        authorization: str | bytes | None = None
        for name, value in details.invocation_metadata:
            if name == AUTHORIZATION:
                authorization = value
            elif name == REQUEST_ID_KEY and isinstance(value, str):
                caller.request_id = value
        rule = self._rules.get(details.method)
        if rule is not None and rule.open:
            return
        if self._closed:
            raise UnavailableError("the server is shutting down; try again, here or at another server")
        if rule is None and authorization is None:
            raise _unlisted(details.method)
        caller.authenticate = partial(self._authenticator.authenticate, _secret(authorization))
        principal = caller.principal = await caller.authenticate()
        try:
            if rule is None:
                raise _unlisted(details.method)
            check_role(principal, rule.roles, f"call {details.method.rpartition('/')[2]}")
        except PermissionDeniedError as error:
            facts = {"method": details.method[:200]}
            await self._service.record_refusal(principal, error, caller.request_id, facts=facts, counted=True)
            raise


def _secret(authorization: str | bytes | None) -> str:
    scheme, _, secret = authorization.partition(" ") if isinstance(authorization, str) else ("", "", "")
    if scheme.lower() != "bearer" or not secret.strip():
        raise UnauthenticatedError(
            "this call needs an API key: send the metadata `authorization: Bearer KEY`; "
            "an administrator makes keys with: taskloom key create NAME"
        )
    return secret.strip()


def _unlisted(method: str) -> PermissionDeniedError:
    return PermissionDeniedError(f"{method[:200]} may not be called here; ask for the services by reflection")


def _refusal(error: Exception) -> Handler:
    """A handler that only says no. It is a streaming one, so that no message is read or understood first; clients of unary
    methods see the same status."""

    async def refuse(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await abort(context, error, CALLER.get().request_id)

    return grpc.stream_stream_rpc_method_handler(refuse)


class ErrorInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Turns what a handler raises into a status, by the one table; see `failures`."""

    def __init__(self) -> None:
        self._wrapped: dict[str, Handler] = {}
        """By method: handlers don't change while a server runs."""

    async def intercept_service(self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails) -> Any:
        wrapped = self._wrapped.get(handler_call_details.method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            wrapped = self._wrapped[handler_call_details.method] = _answering_errors(handler)
        return wrapped


def _answering_errors(handler: Handler) -> Handler:
    """The handler, whose coroutine now ends every error with a status. All of the gateway's handlers are coroutines."""
    kind = {
        (False, False): "unary_unary",
        (False, True): "unary_stream",
        (True, False): "stream_unary",
        (True, True): "stream_stream",
    }[handler.request_streaming, handler.response_streaming]
    behaviour = getattr(handler, kind)

    async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await behaviour(request, context)
        except grpc.aio.BaseError:
            raise  # the RPC was aborted, or its client is gone: gRPC's own business
        except Exception as error:
            return await abort(context, error, CALLER.get().request_id)

    make = getattr(grpc, f"{kind}_rpc_method_handler")
    wrapped: Handler = make(answer, handler.request_deserializer, handler.response_serializer)
    return wrapped
