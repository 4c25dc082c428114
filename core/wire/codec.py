"""Boundary types to protobuf messages and back. It learns the typed tasks from the descriptors, so a new typed message in
the `.proto` needs no change here: the `oneof` field named as the task carries the task's Input and Output field by field."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from google.protobuf import struct_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from taskloom.core.errors import InvalidInputError
from taskloom.core.types import (
    PRODUCTION,
    ErrorInfo,
    InferCall,
    InferResult,
    ModelDescription,
    ModelInfo,
    ModelRef,
    Timings,
    new_request_id,
)
from taskloom.core.wire.gen import inference_pb2 as pb

JSON = "json"


@lru_cache(maxsize=1)
def typed_tasks() -> frozenset[str]:
    """The tasks whose inputs and outputs have messages of their own."""
    return frozenset(field.name for field in pb.InferRequest.DESCRIPTOR.oneofs_by_name["input"].fields) - {JSON}


# -- requests -------------------------------------------------------------------------------------------------------------


def request_to_message(call: InferCall) -> pb.InferRequest:
    message = pb.InferRequest(
        model=call.model.name,
        version="" if call.model.version == PRODUCTION else call.model.version,
        request_id=call.request_id,
        idempotency_key=call.idempotency_key,
        priority=call.priority,
        partials=call.partials,
    )
    if call.params:
        _fill(message.params, call.params, "params")
    _put(message, call.typed_as, call.input)
    return message


def request_from_message(message: pb.InferRequest, deadline_s: float | None) -> InferCall:
    """The call that a message asks for; raises `InvalidInputError` for one that names no model or has no input."""
    kind = message.WhichOneof("input")
    if kind is None:
        raise InvalidInputError(
            f"the request has no input; set one of: {', '.join([JSON, *sorted(typed_tasks())])}", field="input"
        )
    model = ModelRef.parse(f"{message.model}@{message.version}" if message.version else message.model)
    try:
        return InferCall(
            model=model,
            input=_take(message, kind),
            params=struct_to_dict(message.params) if message.HasField("params") else {},
            typed_as="" if kind == JSON else kind,
            request_id=message.request_id or new_request_id(),
            idempotency_key=message.idempotency_key,
            priority=message.priority,
            deadline_s=deadline_s,
            partials=message.partials,
        )
    except ValueError as exc:
        first = exc.errors(include_url=False)[0] if hasattr(exc, "errors") else {"loc": (), "msg": str(exc)}
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidInputError(f"{field}: {first['msg']}", field=field) from exc


# -- answers --------------------------------------------------------------------------------------------------------------


def result_to_message(result: InferResult, typed_as: str) -> pb.InferResponse:
    timings = result.timings
    message = pb.InferResponse(
        request_id=result.request_id,
        model=result.model,
        version=result.version,
        task=result.task,
        timings=pb.Timings(
            queue_s=timings.queue_s,
            compute_s=timings.compute_s,
            total_s=timings.total_s,
            batch_size=timings.batch_size,
        ),
    )
    _put(message, typed_as, result.output)
    return message


def result_from_message(message: pb.InferResponse) -> InferResult:
    kind = message.WhichOneof("output")
    timings = message.timings
    return InferResult(
        request_id=message.request_id,
        model=message.model,
        version=message.version,
        task=message.task,
        output=_take(message, kind) if kind else {},
        timings=Timings(
            queue_s=timings.queue_s,
            compute_s=timings.compute_s,
            total_s=timings.total_s,
            batch_size=max(1, timings.batch_size),
        ),
    )


def error_to_message(info: ErrorInfo) -> pb.Error:
    return pb.Error(code=info.code, message=info.message, retry_after_s=info.retry_after_s or 0.0, field=info.field)


def error_from_message(message: pb.Error) -> ErrorInfo:
    return ErrorInfo(
        code=message.code, message=message.message, retry_after_s=message.retry_after_s or None, field=message.field
    )


# -- models ---------------------------------------------------------------------------------------------------------------


def model_to_message(info: ModelInfo) -> pb.Model:
    return pb.Model(**info.model_dump())


def model_from_message(message: pb.Model) -> ModelInfo:
    return ModelInfo(**message_to_dict(message))


def description_to_message(description: ModelDescription) -> pb.DescribeModelResponse:
    message = pb.DescribeModelResponse(
        model=model_to_message(description.info),
        input_schema=json.dumps(description.input_schema, ensure_ascii=False),
        output_schema=json.dumps(description.output_schema, ensure_ascii=False),
        params_schema=json.dumps(description.params_schema, ensure_ascii=False),
        labels=description.labels,
    )
    for example in description.examples:
        message.examples.add().update(example)
    return message


def description_from_message(message: pb.DescribeModelResponse) -> ModelDescription:
    input_schema = json.loads(message.input_schema)
    return ModelDescription(
        info=model_from_message(message.model),
        input_schema=input_schema,
        output_schema=json.loads(message.output_schema),
        params_schema=json.loads(message.params_schema),
        labels=tuple(message.labels),
        examples=tuple(_in_order(struct_to_dict(example), input_schema) for example in message.examples),
    )


def _in_order(example: dict[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """The fields in the order of the schema: a Struct keeps none, and people read examples."""
    known = {name: example[name] for name in schema.get("properties", {}) if name in example}
    return {**known, **example}


# -- messages and JSON data -----------------------------------------------------------------------------------------------


def _put(message: Any, typed_as: str, data: Mapping[str, Any]) -> None:
    if not typed_as:
        message.json.SetInParent()
        _fill(message.json, data, "input")
        return
    if typed_as not in typed_tasks():
        raise InvalidInputError(
            f"there is no typed message for task {typed_as!r}; there are: {', '.join(sorted(typed_tasks()))}"
        )
    try:
        slot = getattr(message, typed_as)
        slot.CopyFrom(type(slot)(**_with_bytes(slot.DESCRIPTOR, data)))
    except (TypeError, ValueError) as exc:
        raise InvalidInputError(f"the data does not fit the message of task {typed_as!r}: {exc}") from exc


def _with_bytes(descriptor: Descriptor, data: Mapping[str, Any]) -> Mapping[str, Any]:
    """JSON data has no bytes: they are base64 there, as in protobuf's own JSON form."""
    told = {name: data[name] for name in _bytes_fields(descriptor) if isinstance(data.get(name), str)}
    try:
        return {**data, **{name: base64.b64decode(text, validate=True) for name, text in told.items()}} if told else data
    except binascii.Error as exc:
        raise ValueError(f"{', '.join(told)} is no base64 ({exc})") from exc


@lru_cache(maxsize=256)
def _bytes_fields(descriptor: Descriptor) -> tuple[str, ...]:
    return tuple(field.name for field in descriptor.fields if field.type == FieldDescriptor.TYPE_BYTES)


def _fill(struct: struct_pb2.Struct, data: Mapping[str, Any], where: str) -> None:
    try:
        struct.update(data)
    except (TypeError, ValueError) as exc:
        told = f"{where} is no JSON data ({exc}): send text, numbers, booleans, lists or objects"
        raise InvalidInputError(told, where) from exc


def _take(message: Any, kind: str) -> dict[str, Any]:
    value = getattr(message, kind)
    return struct_to_dict(value) if kind == JSON else message_to_dict(value)


def struct_to_dict(struct: struct_pb2.Struct) -> dict[str, Any]:
    """JSON data. On the wire all numbers are doubles; one without a fraction is read as an integer, as JSON writes it, so that
    offsets can be counted with."""
    return {key: _from_value(value) for key, value in struct.fields.items()}


def _from_value(value: struct_pb2.Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return struct_to_dict(value.struct_value)
    if kind == "list_value":
        return [_from_value(item) for item in value.list_value.values]
    if kind is None or kind == "null_value":
        return None
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() else number
    return getattr(value, kind)


@lru_cache(maxsize=256)
def _fields(descriptor: Descriptor) -> tuple[tuple[str, bool, bool, bool, bool], ...]:
    """(name, has presence, is repeated, is map, is message) of each field."""
    return tuple(
        (
            field.name,
            field.has_presence,
            field.is_repeated,
            field.message_type is not None and field.message_type.GetOptions().map_entry,
            field.type == FieldDescriptor.TYPE_MESSAGE,
        )
        for field in descriptor.fields
    )


def message_to_dict(message: Message) -> dict[str, Any]:
    """Every field that is set or has no notion of being unset, by its name in the `.proto`; bytes as base64."""
    data: dict[str, Any] = {}
    for name, presence, repeated, is_map, is_message in _fields(message.DESCRIPTOR):
        if presence and not message.HasField(name):
            continue
        value = getattr(message, name)
        if is_map:
            data[name] = dict(value)
        elif repeated:
            data[name] = [message_to_dict(item) for item in value] if is_message else list(value)
        elif isinstance(value, struct_pb2.Struct):
            data[name] = struct_to_dict(value)
        elif isinstance(value, bytes):
            data[name] = base64.b64encode(value).decode("ascii")
        else:
            data[name] = message_to_dict(value) if is_message else value
    return data
