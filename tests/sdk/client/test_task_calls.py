"""The six typed calls, over a real channel: what each sends, and what comes back."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from taskloom.core.errors import InternalError, InvalidInputError, UnsupportedError
from taskloom.sdk import AsyncClient, Client

PNG = b"\x89PNG\r\n\x1a\n rest"

OUTPUTS = {
    "classification": {"labels": [{"label": "card", "score": 0.9}, {"label": "fee", "score": 0.1}], "truncated": True},
    "ner": {
        "entities": [
            {"label": "PER", "start": 0, "end": 2, "text": "马云", "score": 0.98, "source": "model"},
            {"label": "ORG", "start": 8, "end": 12, "text": "阿里巴巴", "score": 1.0, "source": "dictionary"},
            {"label": "PER", "start": 13, "end": 14, "text": "🙂", "score": 0.5, "source": "model"},
        ]
    },
    "qa": {"answers": [{"text": "York", "start": 63, "end": 67, "score": 0.91}], "no_answer_score": 0.04},
    "summarization": {"summary": "Short.", "sentences": [{"text": "Short.", "start": 3, "end": 9, "score": 0.7}]},
    "recommendation": {
        "items": [
            {
                "item": "20",
                "title": "Cowboy Bebop",
                "score": 7.25,
                "reasons": [{"item": "5", "title": "Trigun", "similarity": 0.61}],
            },
            {"item": "6", "title": "", "score": 1.5, "reasons": []},
        ],
        "unknown": ["x"],
    },
    "vision": {"labels": [{"label": "Sneaker", "score": 0.97}], "width": 28, "height": 27},
}

CALLS = {
    "classification": ("classify", ("hello",), {"labels": ("card", "fee"), "threshold": 0.2}),
    "ner": ("ner", ("马云在杭州创办了阿里巴巴。🙂",), {"labels": ["PER"], "dictionary": {"阿里巴巴": "ORG"}}),
    "qa": ("answer", ("Where?", "In York."), {"top_k": 3, "no_answer_threshold": 1.0}),
    "summarization": ("summarize", ("Oh. Short.",), {"max_sentences": 1}),
    "recommendation": (
        "recommend",
        (),
        {"history": [5, "x"], "likes": ("robots",), "where": {"genres": ("Comedy", "Parody")}, "exclude": [9], "top_k": 2},
    ),
    "vision": ("classify_image", (PNG,), {"top_k": 1}),
}

SENT = {
    "classification": ({"text": "hello"}, {"labels": ["card", "fee"], "threshold": 0.2}),
    "ner": ({"text": "马云在杭州创办了阿里巴巴。🙂"}, {"labels": ["PER"], "dictionary": {"阿里巴巴": "ORG"}}),
    "qa": ({"question": "Where?", "context": "In York."}, {"top_k": 3, "no_answer_threshold": 1}),
    "summarization": ({"document": "Oh. Short."}, {"max_sentences": 1}),
    "recommendation": (
        {"user": "", "history": ["5", "x"], "likes": ["robots"], "features": {}},
        {"where": {"genres": ["Comedy", "Parody"]}, "exclude": ["9"], "top_k": 2},
    ),
    "vision": ({"image": PNG}, {"top_k": 1}),
}


@pytest.fixture
def client(address):
    with Client(address, api_key="k", timeout_s=20) as client:
        yield client


@pytest.fixture(autouse=True)
def answers(gateway):
    gateway.outputs = OUTPUTS


def plain(struct):
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(struct)


@pytest.mark.parametrize("task", CALLS)
async def test_both_clients_send_and_read_the_same(task, address, client, gateway):
    gateway.task = task
    name, arguments, options = CALLS[task]
    blocking = getattr(client, name)(*arguments, model="m@2", request_id="r1", priority=5, **options)
    async with AsyncClient(address, api_key="k", timeout_s=20) as other:
        awaited = await getattr(other, name)(*arguments, model="m", version="2", request_id="r1", priority=5, **options)
    assert blocking == replace(awaited, timings=blocking.timings)
    for request in gateway.requests:
        input_, params = SENT[task]
        message = getattr(request, request.WhichOneof("input"))
        sent = {field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields}
        sent.pop("text_pair", None)
        assert (request.WhichOneof("input"), sent) == (task, input_)
        assert plain(request.params) == params
        assert (request.model, request.version, request.request_id, request.priority) == ("m", "2", "r1", 5)
    assert (blocking.model, blocking.version, blocking.request_id) == ("m", "7", "r1")


def test_what_was_not_given_is_not_sent(client, gateway):
    gateway.task = "qa"
    client.answer("q", "c", model="m")
    assert not gateway.requests[0].HasField("params")


def test_named_arguments_go_before_params(client, gateway):
    gateway.task = "qa"
    client.answer("q", "c", model="m", top_k=2, params={"top_k": 9, "max_answer_tokens": 4})
    assert plain(gateway.requests[0].params) == {"top_k": 2, "max_answer_tokens": 4}


def test_results_read_well(client, gateway):
    gateway.task = "ner"
    names = client.ner("马云在杭州创办了阿里巴巴。🙂", model="m")
    assert [entity.text for entity in names.by_label["PER"]] == ["马云", "🙂"]
    assert list(names.by_label) == ["PER", "ORG"]
    gateway.task = "qa"
    found = client.answer("q", "c", model="m")
    assert (found.answer, found.score, found.best.start, found.no_answer_score) == ("York", 0.91, 63, 0.04)
    gateway.outputs = {**OUTPUTS, "qa": {"answers": [], "no_answer_score": 0.97}}
    none = client.answer("q", "c", model="m")
    assert (none.answer, none.score, none.best) == (None, None, None)
    gateway.task = "summarization"
    assert str(client.summarize("d", model="m")) == "Short."
    gateway.task = "recommendation"
    told = client.recommend(model="m", likes=["robots"])
    assert (told.ids, told.unknown, told.items[0].reasons[0].title) == (("20", "6"), ("x",), "Trigun")
    gateway.task = "vision"
    seen = client.classify_image(PNG, model="m")
    assert (seen.label, seen.score, seen.width, seen.height) == ("Sneaker", 0.97, 28, 27)


def test_an_image_from_a_path_a_file_or_a_buffer(client, gateway, tmp_path, monkeypatch):
    gateway.task = "vision"
    path = tmp_path / "shirt.png"
    path.write_bytes(PNG)
    monkeypatch.chdir(tmp_path)
    with path.open("rb") as stream:
        for image in (path, str(path), "shirt.png", stream, io.BytesIO(PNG), bytearray(PNG), memoryview(PNG)):
            client.classify_image(image, model="m")
    assert [request.vision.image for request in gateway.requests] == [PNG] * 7


@pytest.mark.parametrize(
    ("image", "told"),
    [
        ("shirt.png", "there is no file 'shirt.png'"),
        (".", "can't be read: Is a directory"),
        ("https://example.org/shirt.png", "is a URL"),
        (io.StringIO("text"), "mode 'rb'"),
        (42, "bytes, a path, or a file"),
        ("a\0b", "can't be read"),
    ],
)
def test_what_is_no_image_is_said_before_anything_is_sent(client, gateway, image, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError, match=told) as caught:
        client.classify_image(image, model="m")
    assert caught.value.field == "image"
    assert gateway.requests == []


def test_bytes_in_json_are_base64(client, gateway):
    gateway.task = "vision"
    client.infer("m", {"image": b"\x00\x01"})
    assert gateway.requests[0].json["image"] == "AAE="


@pytest.mark.parametrize("call", [lambda c: c.recommend(model="m", history="5"), lambda c: c.ner("x", model="m", labels="PER")])
def test_one_string_is_no_list_of_letters(client, gateway, call):
    with pytest.raises(InvalidInputError, match="is one string; it takes a list"):
        call(client)
    assert gateway.requests == []


def test_a_misspelt_option_is_a_type_error(client, gateway):
    for call in (
        lambda: client.answer("q", "c", model="m", prioritty=1),
        lambda: client.infer("m", {"text": "x"}, prioritty=1),
        lambda: client.stream_text("m", {"text": "x"}, prioritty=1),
        lambda: client.infer_many("m", [{"text": "x"}], prioritty=1),
        lambda: next(client.stream("m", [{"text": "x"}], prioritty=1)),
    ):
        with pytest.raises(TypeError, match=r"prioritty.*params, version, priority, timeout_s"):
            call()
    with pytest.raises(TypeError, match="request_id"):  # of many inputs each has its own
        client.infer_many("m", [{"text": "x"}], request_id="r")
    assert gateway.requests == []


def test_a_model_of_another_task_is_named(client, gateway):
    gateway.task = "qa"
    with pytest.raises(UnsupportedError, match="m is a model for qa, not ner"):
        client.ner("x", model="m")


def test_an_answer_of_another_version(client, gateway):
    gateway.task = "ner"
    newer = {"entities": [{"label": "PER", "start": 0, "end": 2, "text": "马云", "score": 1, "source": "oracle"}]}
    gateway.outputs = {"ner": newer}
    assert client.ner("x", model="m").entities[0].source == "oracle"
    from taskloom.core.types import InferResult
    from taskloom.sdk import NerResult

    result = InferResult(request_id="r", model="m", version="1", task="ner", output={"spans": []})
    with pytest.raises(InternalError, match=r"entities: Field required.*infer\(\)"):
        NerResult.of(result)
    more = InferResult(request_id="r", model="m", version="1", task="ner", output={"entities": [], "certainty": 1})
    assert NerResult.of(more).entities == ()
