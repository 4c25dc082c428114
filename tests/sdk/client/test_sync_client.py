from __future__ import annotations

import os
import threading
import time
from itertools import count

import pytest

from taskloom.core.errors import OverloadedError, PermissionDeniedError, ReplicaLostError, UnsupportedError
from taskloom.sdk import (
    Client,
    ConfigError,
    DeadlineExceededError,
    InvalidInputError,
    NotFoundError,
    RetryPolicy,
    UnavailableError,
)


@pytest.fixture
def client(address):
    with Client(address, api_key="k-secret", timeout_s=20, retry=RetryPolicy(initial_wait_s=0.05)) as client:
        yield client


def fail_times(n, error):
    left = count()

    def behave(request):
        if next(left) < n:
            raise error

    return behave


def test_classify_gives_a_typed_result_and_sends_what_was_asked(client, gateway):
    result = client.classify("hello", model="m@candidate", text_pair="you", top_k=2, priority=3)
    assert (result.label, result.score, result.model, result.version) == ("a", 0.05, "m", "7")
    sent = gateway.requests[0]
    assert (sent.model, sent.version, sent.priority, sent.params["top_k"]) == ("m", "candidate", 3, 2)
    assert (sent.classification.text, sent.classification.text_pair) == ("hello", "you")
    assert result.request_id == sent.request_id
    assert gateway.metadata[0]["authorization"] == "Bearer k-secret"


def test_every_call_has_a_deadline(client, gateway):
    client.classify("x", model="m")
    client.classify("x", model="m", timeout_s=3)
    assert 15 < gateway.remaining[0] <= 20.1
    assert 0 < gateway.remaining[1] <= 3.1


def test_what_a_text_is_to_the_model_is_asked_within_the_calls_time(client, gateway):
    gateway.describes_after_s = 0.4
    assert client.infer("m", "hello", timeout_s=5).output
    assert gateway.remaining[0] < 4.7
    began = time.monotonic()
    for call in (
        lambda: client.infer("other", "hello", timeout_s=0.1),
        lambda: client.stream_text("other", "hello", timeout_s=0.1).result(),
        lambda: list(client.infer_many("other", ["hello"] * 50, timeout_s=0.1)),
    ):
        with pytest.raises(DeadlineExceededError):
            call()
    assert time.monotonic() - began < 3, "it was asked for each of fifty texts"


def test_a_text_for_a_model_that_takes_none_keeps_no_other_item_out(client, gateway):
    gateway.input_schema = {
        "properties": {"question": {"type": "string"}, "context": {"type": "string"}},
        "required": ["question", "context"],
    }
    found = list(client.infer_many("m", ["hello", {"text": "ab"}, "you"]))
    assert [item.ok for item in found] == [False, True, False]
    assert isinstance(found[0].error, UnsupportedError)


def test_a_string_goes_into_the_text_field(client, gateway):
    assert client.infer("m", "hello").output == {"labels": [{"label": "a", "score": 0.05}], "truncated": False}
    assert gateway.requests[0].classification.text == "hello"


def test_json_and_typed_inputs_get_the_same_output(client):
    assert client.infer("m", {"text": "hello"}).output == client.infer("m", "hello").output


def test_repetitions_carry_the_same_idempotency_key(client, gateway):
    gateway.behave = fail_times(8, ReplicaLostError("gone"))  # more than gRPC repeats by itself
    client.classify("x", model="m")
    assert len(gateway.requests) == 9
    assert len({r.idempotency_key for r in gateway.requests}) == 1
    assert gateway.requests[0].idempotency_key


def test_no_retries_when_they_are_switched_off(address, gateway):
    gateway.behave = fail_times(1, ReplicaLostError("gone"))
    with Client(address, retry=RetryPolicy(max_retries=0)) as client, pytest.raises(ReplicaLostError, match="gone"):
        client.classify("x", model="m")
    assert len(gateway.requests) == 1


def test_a_throttled_call_waits_as_long_as_it_was_told(client, gateway):
    gateway.behave = fail_times(1, OverloadedError("full", 0.4))
    started = time.monotonic()
    client.classify("x", model="m")
    assert time.monotonic() - started >= 0.4


def test_waiting_for_a_throttling_server_can_be_switched_off(address, gateway):
    gateway.behave = fail_times(1, OverloadedError("full", 0.4))
    with (
        Client(address, retry=RetryPolicy(wait_when_throttled=False)) as client,
        pytest.raises(OverloadedError) as caught,
    ):
        client.classify("x", model="m")
    assert caught.value.retry_after_s == 0.4


def test_no_waiting_beyond_the_deadline(client, gateway):
    gateway.behave = fail_times(99, OverloadedError("full", 60))
    started = time.monotonic()
    with pytest.raises(OverloadedError):
        client.classify("x", model="m", timeout_s=1)
    assert time.monotonic() - started < 1


def test_an_error_keeps_its_class_its_field_and_the_request_id(client, gateway):
    gateway.behave = fail_times(1, InvalidInputError("too short", "input.text"))
    with pytest.raises(InvalidInputError, match="too short") as caught:
        client.classify("x", model="m", request_id="mine-1")
    assert (caught.value.field, caught.value.request_id) == ("input.text", "mine-1")
    assert len(gateway.requests) == 1


def test_a_late_answer_is_a_deadline_error(client, gateway):
    gateway.behave = lambda request: time.sleep(1)
    with pytest.raises(DeadlineExceededError, match=r"within 0\.2 s") as caught:
        client.classify("x", model="m", timeout_s=0.2, request_id="late")
    assert caught.value.request_id == "late"


def test_nobody_there_says_so_soon_and_says_what_to_do():
    started = time.monotonic()
    with (
        Client("127.0.0.1:1", api_key="k") as client,
        pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1 \(connection refused\).*taskloom serve"),
    ):
        client.classify("x", model="m")
    assert time.monotonic() - started < 15


def test_a_restart_of_the_gateway_is_survived(gateway, serve_gateway):
    server, port = serve_gateway(gateway)
    with Client(f"127.0.0.1:{port}", api_key="k", timeout_s=60) as client:
        client.classify("x", model="m")
        server.stop(None).wait()
        back = []
        timer = threading.Timer(4, lambda: back.append(serve_gateway(gateway, port)[0]))
        timer.start()
        assert client.classify("yy", model="m").score == 0.02
        timer.join()
    back[0].stop(None).wait()


def test_many_keeps_the_order_the_bound_and_one_error_per_item(client, gateway):
    def behave(request):
        text = request.json["text"]
        time.sleep(0.03 if len(text) % 3 == 0 else 0.001)
        if len(text) == 7:
            raise InvalidInputError("seven")

    gateway.behave = behave
    items = list(client.infer_many("m", [{"text": "x" * n} for n in range(1, 31)] + [5], max_concurrency=4))
    assert [item.index for item in items] == list(range(31))
    assert [round(item.value().output["labels"][0]["score"] * 100) for item in items if item.ok] == [
        n for n in range(1, 31) if n != 7
    ]
    assert [item.index for item in items if not item.ok] == [6, 30]
    assert str(items[6].error) == "seven"
    assert 1 < gateway.most <= 4


def test_an_item_of_which_no_message_can_be_made_fails_alone(client):
    items = list(client.infer_many("m", [{"text": "x"}, {"text": object()}, "half \ud800", {"text": "y"}]))
    assert [item.ok for item in items] == [True, False, False, True]
    assert all(isinstance(items[place].error, InvalidInputError) for place in (1, 2))


def test_many_reads_no_further_than_it_may(client):
    read = []

    def endless():
        for n in count():
            read.append(n)
            yield {"text": "x"}

    answers = client.infer_many("m", endless(), max_concurrency=8)
    for _ in range(3):
        next(answers)
    answers.close()
    assert len(read) <= 3 + 8


def test_many_repeats_items_that_a_lost_replica_had(client, gateway):
    gateway.behave = fail_times(20, ReplicaLostError("gone"))
    assert all(item.ok for item in client.infer_many("m", [{"text": "x"}] * 10, max_concurrency=5))


def test_many_raises_what_no_item_could_escape(client, gateway):
    gateway.behave = fail_times(999, PermissionDeniedError("not yours"))
    with pytest.raises(PermissionDeniedError, match="not yours"):
        list(client.infer_many("m", [{"text": "x"}] * 1000))
    assert len(gateway.requests) < 100


def test_a_stream_says_whose_each_answer_is(client, gateway):
    def behave(request):
        if request.json["text"] == "xxxx":
            raise InvalidInputError("four")

    gateway.behave = behave
    items = list(client.stream("m", [{"text": "x" * n} for n in range(1, 8)] + [3], max_concurrency=3))
    assert sorted(item.index for item in items) == list(range(8))
    for item in items:
        if item.index in (3, 7):
            assert isinstance(item.error, InvalidInputError)
        else:
            assert round(item.value().output["labels"][0]["score"] * 100) == item.index + 1


def test_a_stream_raises_what_its_inputs_raise(client):
    def inputs():
        yield {"text": "x"}
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        list(client.stream("m", inputs()))


def test_models_and_describe(client):
    assert client.models()[0].aliases == ("production",)
    assert client.describe("m").input_schema["required"] == ["text"]


def test_ready_when_the_server_says_so(client, gateway, serve_gateway):
    client.wait_ready(5)
    server, port = serve_gateway(gateway, serving=False)
    with Client(f"127.0.0.1:{port}") as other, pytest.raises(UnavailableError, match="not serving yet"):
        other.wait_ready(0.4)
    server.stop(None).wait()


def test_bad_names_are_refused_before_anything_is_sent(client, gateway):
    with pytest.raises(InvalidInputError, match="names no model"):
        client.classify("x", model="Bad Name")
    with pytest.raises(InvalidInputError, match="give one"):
        client.classify("x", model="m@1", version="2")
    assert not gateway.requests


def test_one_client_serves_many_threads(client, gateway):
    results = []
    threads = [
        threading.Thread(target=lambda n=n: results.append((n, client.classify("x" * n, model="m").score)))
        for n in range(1, 21)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [(n, n / 100) for n in range(1, 21)]


def test_after_a_fork_it_says_so(client, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(UnsupportedError, match="fork"):
        client.classify("x", model="m")


def test_a_closed_client_says_so(client):
    client.close()
    client.close()
    with pytest.raises(UnsupportedError, match="closed"):
        client.models()


def test_unknown_model_is_not_found(client, gateway):
    gateway.behave = fail_times(1, NotFoundError("no model named 'm'"))
    with pytest.raises(NotFoundError):
        client.classify("x", model="m")


@pytest.mark.parametrize("address", ["nonsense", "host:", "host:99999999"])
def test_an_address_that_is_none(address):
    with pytest.raises(ConfigError, match="HOST:PORT"):
        Client(address)


def test_no_secret_in_a_repr(client):
    assert "k-secret" not in repr(client) + repr(client._connection)


def test_remote_addresses_get_tls_unless_it_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TASKLOOM_HOME", str(tmp_path))
    (tmp_path / "key").write_text("from-file\n")
    with Client("gateway.example:50051") as client:
        assert client._connection.secure
        assert client._connection.api_key is None
    with Client("gateway.example:50051", insecure=True) as client:
        assert not client._connection.secure
    with pytest.raises(ConfigError, match="leave one"):
        Client("127.0.0.1:1", insecure=True, ca_certificate="ca.pem")


def test_the_key_of_this_machines_server_is_sent_to_no_other_machine(home, monkeypatch):
    from taskloom.sdk.connection import Connection

    home.mkdir(parents=True, exist_ok=True)
    (home / "key").write_text("tl_local_secret\n")
    rest = dict.fromkeys(("api_key", "ca_certificate", "client_certificate", "client_key", "insecure"))
    assert Connection.resolve("127.0.0.1:50051", **rest).api_key == "tl_local_secret"
    assert Connection.resolve("gateway.example:50051", **rest).api_key is None
    monkeypatch.setenv("TASKLOOM_API_KEY", "tl_given")
    assert Connection.resolve("gateway.example:50051", **rest).api_key == "tl_given"
