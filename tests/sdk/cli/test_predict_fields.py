"""FIELD=VALUE words and @FILE, for models that take more than one text: the input schema says what they mean."""

from __future__ import annotations

import base64
import json

import pytest
from click.testing import CliRunner

from taskloom.core.types import ModelDescription, ModelInfo
from taskloom.sdk.cli.inputs import InputForm, Kind
from taskloom.sdk.cli.main import root

PNG = b"\x89PNG\r\n\x1a\n\x00rest"
TEXT = {"type": "string"}
QA = {"properties": {"question": TEXT, "context": TEXT}, "required": ["question", "context"]}
VISION = {"properties": {"image": {"type": "string", "contentEncoding": "base64"}}, "required": ["image"]}
USER = {
    "properties": {
        "user": {"anyOf": [TEXT, {"type": "null"}]},
        "history": {"type": "array", "items": TEXT},
        "likes": {"$ref": "#/$defs/Likes"},
        "features": {"type": "object"},
    },
    "$defs": {"Likes": {"type": "array", "items": TEXT}},
}


@pytest.fixture
def ask(address, gateway, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TASKLOOM_ADDRESS", address)
    gateway.outputs = {gateway.task: {"labels": [], "truncated": False}}

    def run(schema, *words, stdin=None):
        gateway.input_schema = schema
        gateway.requests.clear()
        return CliRunner().invoke(root, ["predict", "m", *words], input=stdin, prog_name="taskloom")

    return run


def sent(gateway):
    from google.protobuf.json_format import MessageToDict

    return [MessageToDict(request.json) for request in gateway.requests]


def test_fields_make_one_input(ask, gateway, tmp_path):
    (tmp_path / "page.txt").write_text("\ufeffBuilt by 张三 = 李四.\n", encoding="utf-8")
    result = ask(QA, "question=Who = it?", "context=@page.txt", "--json")
    assert result.exit_code == 0, result.output
    assert sent(gateway) == [{"question": "Who = it?", "context": "Built by 张三 = 李四.\n"}]
    assert json.loads(result.stdout)["results"][0]["input"] == {"question": "Who = it?", "context": "@page.txt"}


ONE_TEXT = {"properties": {"text": TEXT}, "required": ["text"]}


def test_a_bare_word_may_stand_for_a_file_too(ask, gateway, tmp_path):
    (tmp_path / "page.txt").write_text("my card is lost", encoding="utf-8")
    result = ask(ONE_TEXT, "@page.txt", "@@page.txt", "an@example.org")
    assert result.exit_code == 0, result.output
    texts = sorted(given["text"] for given in sent(gateway))  # several calls are under way at a time, in any order
    assert texts == ["@page.txt", "an@example.org", "my card is lost"]
    missing = ask(ONE_TEXT, "@nothing.txt")
    assert missing.exit_code != 0
    assert "nothing.txt" in missing.output


def test_stdin_and_a_text_that_begins_with_at(ask, gateway):
    ask(QA, "question=@@taskloom who?", "context=@-", stdin="by mail")
    assert sent(gateway) == [{"question": "@taskloom who?", "context": "by mail"}]


def test_lists_take_words_or_json(ask, gateway):
    assert ask(USER, "history=5", "history=20", 'likes=["a, b", "c"]', "likes=d", "user=7").exit_code == 0
    ask(USER, 'features={"country": "JP"}')
    assert sent(gateway) == [{"features": {"country": "JP"}}]
    ask(USER, "history=5", "history=20", 'likes=["a, b", "c"]', "likes=d", "user=7")
    assert sent(gateway) == [{"history": ["5", "20"], "likes": ["a, b", "c", "d"], "user": "7"}]


def test_bytes_are_read_from_files_by_field_or_bare_path(ask, gateway, tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(PNG)
    encoded = base64.b64encode(PNG).decode()
    ask(VISION, "image=@a.png")
    assert sent(gateway) == [{"image": encoded}]
    result = ask(VISION, "a.png", "b.png", "--json")
    assert sent(gateway) == [{"image": encoded}] * 2
    assert [row["input"] for row in json.loads(result.stdout)["results"]] == ["a.png", "b.png"]
    ask(VISION, f"image={encoded}")
    assert sent(gateway) == [{"image": encoded}]
    for words in (["a.png", "b.png"], ["image=@a.png"]):
        shown = ask(VISION, *words).stdout
        assert all(word.removeprefix("image=@") in shown for word in words)
        assert encoded not in shown


def test_a_text_with_an_equals_sign_stays_a_text(ask, gateway):
    schema = {"properties": {"text": TEXT}, "required": ["text"]}
    ask(schema, "x=5 and y=6", "@@home")
    # several calls are under way at a time, in any order
    assert sorted(given["text"] for given in sent(gateway)) == ["@home", "x=5 and y=6"]


@pytest.mark.parametrize(
    ("schema", "words", "status", "told"),
    [
        (QA, ["hello"], 2, "takes no bare text; give its fields: question=... context=..."),
        (QA, ["question=a", "hello"], 2, "'hello' is not FIELD=VALUE"),
        (QA, ["question=a", "question=b"], 2, "question is given twice"),
        (QA, ["question=a", "context=@nowhere.txt"], 1, "there is no file 'nowhere.txt'"),
        (QA, ["question=a", "context=@binary"], 1, "not UTF-8"),
        (USER, ["features=JP"], 1, "not JSON"),
        (VISION, ["nowhere.png"], 1, "there is no file 'nowhere.png'"),
    ],
)
def test_what_cannot_be_read_is_said_before_anything_is_sent(ask, gateway, tmp_path, schema, words, status, told):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xff")
    result = ask(schema, *words)
    assert (result.exit_code, gateway.requests) == (status, [])
    assert told in " ".join(result.stderr.split())


def test_rows_may_name_files_beside_them(ask, gateway, tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.png").write_bytes(PNG)
    rows = tmp_path / "rows" / "in.jsonl"
    rows.write_text('{"image": "@a.png"}\n{"image": "@b.png"}\n{"image": "AAE="}\n')
    result = ask(VISION, "--input", str(rows))
    assert result.exit_code == 5
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert ["error" in answer for answer in answers] == [False, True, False]
    assert "b.png" in answers[1]["error"]["message"]
    assert sorted(row["image"] for row in sent(gateway)) == sorted([base64.b64encode(PNG).decode(), "AAE="])


def test_rows_of_text_are_left_as_they_are(ask, gateway, tmp_path):
    rows = tmp_path / "in.jsonl"
    rows.write_text('{"question": "@home", "context": "@page.txt"}\n')
    assert ask(QA, "--input", str(rows)).exit_code == 0
    assert sent(gateway) == [{"question": "@home", "context": "@page.txt"}]


def test_kinds_of_the_schemas_that_pydantic_writes():
    from pydantic import Base64Bytes, BaseModel

    class Input(BaseModel):
        image: Base64Bytes | None = None
        raw: bytes = b""
        name: str | None = None
        tags: tuple[str, ...] = ()
        box: dict[str, int] | None = None

    info = ModelInfo(name="m", version="1", task="t")
    schema = Input.model_json_schema()
    form = InputForm.of(ModelDescription(info=info, input_schema=schema, output_schema={}, params_schema={}))
    assert form.kinds == {
        "image": Kind.BINARY,
        "raw": Kind.BINARY,
        "name": Kind.TEXT,
        "tags": Kind.LIST,
        "box": Kind.JSON,
    }
    assert form.bare is None
