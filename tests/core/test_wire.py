from __future__ import annotations

import base64
import math
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom.core.errors import (
    ERRORS_BY_CODE,
    InternalError,
    InvalidInputError,
    OverloadedError,
    TaskloomError,
    UnavailableError,
)
from taskloom.core.types import ErrorInfo, InferCall, InferResult, ModelDescription, ModelInfo, ModelRef, Timings
from taskloom.core.wire import codec, status
from taskloom.core.wire.gen import inference_pb2 as pb

text = st.text(st.characters(codec="utf-8"), max_size=30)
json_data = st.dictionaries(
    text,
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | text,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
        max_leaves=12,
    ),
    max_size=5,
)


@given(
    data=json_data,
    params=json_data,
    priority=st.integers(-100, 100),
    version=st.sampled_from(["production", "candidate", "12"]),
)
def test_any_call_survives_the_wire(data: dict[str, Any], params: dict[str, Any], priority: int, version: str) -> None:
    call = InferCall(
        model=ModelRef(name="m", version=version), input=data, params=params, priority=priority, idempotency_key="k"
    )
    message = pb.InferRequest.FromString(codec.request_to_message(call).SerializeToString())
    assert codec.request_from_message(message, None) == call


@given(scores=st.lists(st.floats(0, 1), max_size=5), truncated=st.booleans(), label=text)
def test_a_typed_result_survives_the_wire(scores: list[float], truncated: bool, label: str) -> None:
    output = {"labels": [{"label": label, "score": score} for score in scores], "truncated": truncated}
    result = InferResult(
        request_id="r", model="m", version="1", task="classification", output=output, timings=Timings(queue_s=0.5, batch_size=3)
    )
    message = pb.InferResponse.FromString(codec.result_to_message(result, "classification").SerializeToString())
    assert message.WhichOneof("output") == "classification"
    assert codec.result_from_message(message) == result
    assert codec.result_from_message(codec.result_to_message(result, "")) == result


def test_an_absent_optional_field_is_absent_and_an_empty_one_is_not() -> None:
    def round_trip(data: dict[str, Any]) -> dict[str, Any]:
        call = InferCall(model=ModelRef(name="m"), input=data, typed_as="classification")
        return dict(codec.request_from_message(codec.request_to_message(call), None).input)

    assert round_trip({"text": "", "text_pair": None}) == {"text": ""}
    assert round_trip({"text": "a", "text_pair": ""}) == {"text": "a", "text_pair": ""}


@pytest.mark.parametrize("value", [object(), b"bytes", "\ud800", {1: "a"}])
def test_data_that_is_no_json_is_a_typed_error(value: Any) -> None:
    for field in ("input", "params"):
        call = InferCall(model=ModelRef(name="m"), **{"input": {}, field: {"x": value}})
        with pytest.raises(InvalidInputError, match="no JSON data") as caught:
            codec.request_to_message(call)
        assert caught.value.field == field


def test_offsets_of_a_task_without_a_message_of_its_own_are_integers() -> None:
    output = {"found": [{"start": 7, "end": 13, "score": 0.5}], "depth": [1, -2.0, 1e300, True, None]}
    result = InferResult(request_id="r", model="m", version="1", task="keywords", output=output)
    read = codec.result_from_message(codec.result_to_message(result, "")).output
    (found,) = read["found"]
    assert "0123456[MASK]ef"[found["start"] : found["end"]] == "[MASK]"
    assert [type(value) for value in found.values()] == [type(output["found"][0][name]) for name in found]
    assert read["depth"] == [1, -2, 1e300, True, None]
    assert read["depth"][3] is True


def test_an_error_keeps_the_field_that_it_is_about() -> None:
    info = ErrorInfo.of(InvalidInputError("no words", field="input.text"))
    crossed = codec.error_from_message(codec.error_to_message(info)).to_error()
    assert (crossed.message, crossed.field) == ("no words", "input.text")
    assert codec.error_from_message(codec.error_to_message(ErrorInfo.of(OverloadedError("full", 2.0)))).retry_after_s == 2


def test_data_that_does_not_fit_its_message_is_a_typed_error() -> None:
    call = InferCall(model=ModelRef(name="m"), input={"text": 5}, typed_as="classification")
    with pytest.raises(InvalidInputError, match="classification"):
        codec.request_to_message(call)
    with pytest.raises(InvalidInputError, match="there are: classification"):
        codec.request_to_message(call.model_copy(update={"typed_as": "telepathy"}))


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.InferRequest(model="m"), "input"),
        (pb.InferRequest(classification=pb.ClassificationInput(text="a")), "model"),
        (pb.InferRequest(model="../x", classification=pb.ClassificationInput(text="a")), "model"),
        (pb.InferRequest(model="m", request_id="a b", classification=pb.ClassificationInput(text="a")), "request_id"),
        (pb.InferRequest(model="m", priority=101, classification=pb.ClassificationInput(text="a")), "priority"),
    ],
)
def test_a_request_that_can_not_be_understood_names_the_field(message: pb.InferRequest, field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        codec.request_from_message(message, None)
    assert caught.value.field == field


def test_descriptions_survive_the_wire() -> None:
    info = ModelInfo(
        name="m", version="1", task="t", aliases=("production",), metrics={"accuracy": 0.9}, size_bytes=5, ready=True
    )
    described = ModelDescription(
        info=info,
        input_schema={"type": "object", "examples": [{"text": "你好"}]},
        output_schema={},
        params_schema={},
        labels=("a", "b"),
        examples=({"text": "你好"},),
    )
    assert codec.description_from_message(codec.description_to_message(described)) == described


class FailedCall(Exception):
    """What gRPC raises, made from what the server sends."""

    def __init__(self, code: grpc.StatusCode, details: str, trailing: Any = ()) -> None:
        super().__init__(details)
        self._parts = (code, details, trailing)

    def code(self) -> grpc.StatusCode:
        return self._parts[0]

    def details(self) -> str:
        return self._parts[1]

    def trailing_metadata(self) -> Any:
        return self._parts[2]


@pytest.mark.parametrize("code", sorted(status.STATUS_BY_CODE))
def test_every_error_with_a_status_survives_the_wire(code: str) -> None:
    error = ERRORS_BY_CODE[code]("what happened")
    again = status.from_rpc_error(FailedCall(*status.to_status(error, "r1")))
    assert type(again) is type(error)
    assert str(again) == "what happened"
    assert again.request_id == "r1"


def test_fields_and_delays_survive_the_wire() -> None:
    again = status.from_rpc_error(FailedCall(*status.to_status(InvalidInputError("no", "input.text"), "r")))
    assert isinstance(again, InvalidInputError)
    assert again.field == "input.text"
    again = status.from_rpc_error(FailedCall(*status.to_status(OverloadedError("full", 1.25), "r")))
    assert isinstance(again, OverloadedError)
    assert math.isclose(again.retry_after_s, 1.25)


@pytest.mark.parametrize("code", sorted(ERRORS_BY_CODE.keys() - status.STATUS_BY_CODE.keys()))
def test_the_servers_own_troubles_stay_on_the_server(code: str) -> None:
    sent, message, _ = status.to_status(ERRORS_BY_CODE[code]("/etc/secret is unreadable"), "r9")
    assert sent is grpc.StatusCode.INTERNAL
    assert "secret" not in message
    assert "r9" in message


def test_a_status_from_elsewhere_becomes_the_nearest_error() -> None:
    assert type(status.from_rpc_error(FailedCall(grpc.StatusCode.UNAVAILABLE, "refused"))) is UnavailableError
    assert type(status.from_rpc_error(FailedCall(grpc.StatusCode.DATA_LOSS, "?"))) is InternalError
    assert isinstance(status.from_rpc_error(FailedCall(grpc.StatusCode.OK, "")), TaskloomError)


@given(st.binary(max_size=200))
def test_bytes_are_base64_in_json_data_and_bytes_on_the_wire(image: bytes) -> None:
    told = {"image": base64.b64encode(image).decode()}
    call = InferCall(model=ModelRef(name="m"), input=told, typed_as="vision")
    message = pb.InferRequest.FromString(codec.request_to_message(call).SerializeToString())
    assert message.vision.image == image
    assert codec.request_from_message(message, None).input == told


def test_what_is_no_base64_is_a_typed_error() -> None:
    with pytest.raises(InvalidInputError, match="image is no base64"):
        codec.request_to_message(InferCall(model=ModelRef(name="m"), input={"image": "!"}, typed_as="vision"))


def test_lists_maps_and_messages_inside_survive_the_wire() -> None:
    asked = {"user": "", "history": ["1", "2"], "likes": [], "features": {"age": "30"}}
    call = InferCall(model=ModelRef(name="m"), input=asked, typed_as="recommendation")
    assert codec.request_from_message(codec.request_to_message(call), None).input == asked
    reason = {"item": "1", "title": "One", "similarity": 0.5}
    output = {"items": [{"item": "3", "title": "Three", "score": 1.0, "reasons": [reason]}], "unknown": ["2"]}
    result = InferResult(request_id="r", model="m", version="1", task="recommendation", output=output)
    assert codec.result_from_message(codec.result_to_message(result, "recommendation")) == result


def test_examples_of_a_description_come_in_the_order_of_the_schema() -> None:
    fields = ["zebra", "apple", "mango", "kiwi"]
    description = ModelDescription(
        info=ModelInfo(name="m", version="1", task="qa"),
        input_schema={"properties": {name: {} for name in fields}},
        output_schema={},
        params_schema={},
        examples=({name: name for name in fields},),
    )
    sent = pb.DescribeModelResponse.FromString(codec.description_to_message(description).SerializeToString())
    assert list(codec.description_from_message(sent).examples[0]) == fields
