"""Arguments to calls: the same for every client."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from typing import Any, TypedDict

from pydantic import ValidationError

from taskloom.core.errors import (
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
    TaskloomError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)
from taskloom.core.types import PRODUCTION, InferCall, ModelDescription, ModelRef, new_request_id
from taskloom.core.wire.gen import inference_pb2 as pb
from taskloom.sdk.retries import LEAST_S


class BatchOptions(TypedDict, total=False):
    """What a call for many inputs may be told beside them; each may be left out."""

    params: Mapping[str, Any] | None
    """More parameters of the task, as its params schema says (`describe` shows it)."""
    version: str | None
    """A version or an alias of the model; else what `production` points at."""
    priority: int
    """-100 to 100; higher goes first."""
    timeout_s: float | None
    """Seconds until the call gives up; else the client's."""


class CallOptions(BatchOptions, total=False):
    """What a call for one input may be told beside it; each may be left out."""

    request_id: str | None
    """Your name for the request, in the audit log and in errors; else one is made."""
    idempotency_key: str | None
    """Two calls with the same key are one request: the second gets the first one's answer."""


def check_options(options: Mapping[str, Any], form: type[BatchOptions | CallOptions]) -> None:
    """Raises `TypeError`, as Python does for a misspelt argument."""
    known = form.__annotations__
    unknown = ", ".join(sorted(options.keys() - known.keys()))
    if unknown:
        raise TypeError(f"unexpected keyword argument {unknown}; there are {', '.join(known)}")


def timeout_of(options: BatchOptions, default_s: float) -> float:
    given = options.get("timeout_s")
    return default_s if given is None else given


def check_timeout(timeout_s: float) -> None:
    if timeout_s <= 0:
        raise InvalidInputError(f"timeout_s is {timeout_s}; a call needs more than 0 seconds", field="timeout_s")


def left_since(began: float, timeout_s: float) -> float:
    """Seconds that are left of a time that began then (`time.monotonic()`)."""
    return max(timeout_s - (time.monotonic() - began), LEAST_S)


def model_ref(model: str, version: str | None) -> ModelRef:
    """`model` may be NAME or NAME@VERSION; a `version` beside NAME@VERSION is an error."""
    if version is None:
        return ModelRef.parse(model)
    if "@" in model:
        raise InvalidInputError(f"{model!r} names a version, and version={version!r} another; give one", field="version")
    return ModelRef.parse(f"{model}@{version}")


def build_call(
    ref: ModelRef,
    input: object,
    *,
    params: Mapping[str, Any] | None = None,
    typed_as: str = "",
    priority: int = 0,
    request_id: str | None = None,
    idempotency_key: str | None = None,
    timeout_s: float,
) -> InferCall:
    """The call; raises `InvalidInputError` for what no server could understand. Every call gets an idempotency key, which
    all of its repetitions carry."""
    name = request_id or new_request_id()
    check_timeout(timeout_s)
    if not isinstance(input, Mapping):
        kind = type(input).__name__
        raise InvalidInputError(f"the input is of type {kind}; it must be a mapping, or a string for a text", field="input")
    try:
        return InferCall(
            model=ref,
            input={name: _json_value(value) for name, value in input.items()},
            params=params or {},
            typed_as=typed_as,
            request_id=name,
            idempotency_key=idempotency_key or name,
            priority=priority,
            deadline_s=time.time() + timeout_s,
        )
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidInputError(f"{field}: {first['msg']}", field=field) from exc


def _json_value(value: Any) -> Any:
    """JSON data has no bytes: they are base64 there."""
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes | bytearray | memoryview) else value


def sole_text_field(schema: Mapping[str, Any]) -> str | None:
    """The input field that a bare string means: the one string that is required, or else the one called `text`."""
    properties: Mapping[str, Any] = schema.get("properties", {})
    required = list(schema.get("required", ()))
    only = properties.get(required[0], {}) if len(required) == 1 else {}
    if only.get("type") == "string" and not only.keys() & {"contentEncoding", "format"}:
        return str(required[0])
    return "text" if "text" in properties and set(required) <= {"text"} else None


def text_field(description: ModelDescription) -> str:
    """The input field that a bare string means; raises `UnsupportedError` if there is none."""
    schema = description.input_schema
    found = sole_text_field(schema)
    if found is None:
        fields, required = ", ".join(schema.get("properties", ())), ", ".join(schema.get("required", ()))
        raise UnsupportedError(
            f"{description.info.name} takes no bare text: its input has the fields {fields or 'none'} "
            f"(required: {required or 'none'}); give a mapping"
        )
    return found


def describe_request(ref: ModelRef) -> pb.DescribeModelRequest:
    version = "" if ref.version == PRODUCTION else ref.version
    return pb.DescribeModelRequest(model=ref.name, version=version)


def check_concurrency(max_concurrency: int) -> None:
    if max_concurrency < 1:
        raise InvalidInputError(f"max_concurrency is {max_concurrency}; it must be at least 1", field="max_concurrency")


def concerns_every_item(error: TaskloomError, ever_answered: bool) -> bool:
    """Whether the other items of a batch would meet the same error."""
    if isinstance(error, UnavailableError):
        return not ever_answered
    return isinstance(error, UnauthenticatedError | PermissionDeniedError | NotFoundError)
