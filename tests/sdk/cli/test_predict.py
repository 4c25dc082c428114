from __future__ import annotations

import json
from itertools import count

import pytest
from click.testing import CliRunner

from taskloom.core.errors import InvalidInputError, UnavailableError
from taskloom.sdk.cli.main import root


def run(*args, stdin=None):
    return CliRunner().invoke(root, ["predict", "m", *args], input=stdin, prog_name="taskloom")


@pytest.fixture
def ask(address, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TASKLOOM_ADDRESS", address)
    return run


def write(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def scores(path):
    return [round(json.loads(line)["output"]["labels"][0]["score"] * 100) for line in path.read_text().splitlines()]


def test_one_text_for_people_and_as_json(ask, gateway):
    assert "0.050" in ask("hello").stdout
    rows = json.loads(ask("你好", "hello", "--json", "--param", "top_k=3").stdout)["results"]
    assert [row["input"] for row in rows] == ["你好", "hello"]
    assert rows[1]["output"]["labels"][0]["score"] == 0.05
    assert gateway.requests[-1].params["top_k"] == 3


def test_an_error_of_the_one_text_is_the_commands(ask, gateway):
    def behave(request):
        raise InvalidInputError("too short", "input.text")

    gateway.behave = behave
    result = ask("x", "--json")
    assert result.exit_code == 1
    error = json.loads(result.stderr)["error"]
    assert (error["code"], error["field"]) == ("invalid_input", "input.text")


@pytest.mark.parametrize("restart", [[], ["--restart"]])
def test_answers_are_never_written_over_what_is_read(ask, gateway, tmp_path, restart):
    source = write(tmp_path / "in.jsonl", ["a", "b"])
    (tmp_path / "same.jsonl").hardlink_to(source)
    before = source.read_bytes()
    result = ask("--input", "in.jsonl", "--output", "same.jsonl", *restart)
    assert result.exit_code == 1
    assert "same.jsonl is what is read" in result.stderr
    assert source.read_bytes() == before


@pytest.mark.parametrize("line", ['"an error in a text"', "17", '["output"]', "{torn"])
def test_a_file_that_was_never_ours_is_left_alone(ask, gateway, tmp_path, line):
    source, target = write(tmp_path / "in.jsonl", ["a"]), tmp_path / "out.jsonl"
    target.write_text(line + "\n")
    result = ask("--input", str(source), "--output", str(target))
    assert "holds something else than answers" in result.stderr
    assert target.read_text() == line + "\n"


def test_a_file_keeps_order_and_errors(ask, gateway, tmp_path):
    def behave(request):
        if len(request.json["text"]) == 3:
            raise InvalidInputError("three")

    gateway.behave = behave
    source = write(tmp_path / "in.jsonl", ["x" * n for n in range(1, 9)])
    source.write_bytes(b"\xef\xbb\xbf" + source.read_bytes() + b'{torn\n\n{"text": "\xb2\xbb"}\n')
    target = tmp_path / "out.jsonl"
    result = ask("--input", str(source), "--output", str(target), "--json")
    assert result.exit_code == 5
    assert json.loads(result.stdout) == {"rows": 10, "failed": 3, "resumed": 0, "output": str(target)}
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert rows[2]["error"]["message"] == "three"
    assert rows[8]["error"]["code"] == "data"
    assert "line 9" in rows[8]["error"]["message"]
    assert f"line 11 of {source} is not UTF-8" in rows[9]["error"]["message"]
    assert [round(r["output"]["labels"][0]["score"] * 100) for r in rows if "output" in r] == [1, 2, 4, 5, 6, 7, 8]


def test_it_goes_on_after_a_torn_line(ask, gateway, tmp_path):
    source = write(tmp_path / "in.jsonl", ["x" * n for n in range(1, 9)])
    target = tmp_path / "out.jsonl"
    ask("--input", str(source), "--output", str(target))
    whole = target.read_bytes()
    lines = whole.splitlines(keepends=True)
    target.write_bytes(b"".join(lines[:4]) + lines[4][:20])
    gateway.requests.clear()
    result = ask("--input", str(source), "--output", str(target), "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["resumed"] == 4
    assert scores(target) == list(range(1, 9))
    assert sorted(len(r.json["text"]) for r in gateway.requests) == [5, 6, 7, 8]


def test_a_server_that_goes_away_stops_the_run_and_the_next_one_ends_it(ask, gateway, tmp_path):
    seen = count(1)

    def behave(request):
        if next(seen) > 5:
            raise UnavailableError("away")

    gateway.behave = behave
    source = write(tmp_path / "in.jsonl", ["x" * n for n in range(1, 13)])
    target = tmp_path / "out.jsonl"
    arguments = ("--input", str(source), "--output", str(target), "--concurrency", "2", "--timeout", "1")
    stopped = ask(*arguments)
    assert stopped.exit_code == 3
    assert "the same command goes on from there" in stopped.stderr
    assert 0 < len(target.read_text().splitlines()) < 12
    gateway.behave = lambda request: None
    assert ask(*arguments).exit_code == 0
    assert scores(target) == list(range(1, 13))


def test_an_output_of_something_else_is_not_touched(ask, tmp_path):
    source = write(tmp_path / "in.jsonl", ["x"])
    target = tmp_path / "out.jsonl"
    target.write_text("my diary\n")
    result = ask("--input", str(source), "--output", str(target))
    assert result.exit_code == 1
    assert "--restart" in result.stderr
    assert target.read_text() == "my diary\n"
    assert ask("--input", str(source), "--output", str(target), "--restart").exit_code == 0
    assert scores(target) == [1]


def test_an_output_longer_than_the_input(ask, tmp_path):
    target = tmp_path / "out.jsonl"
    ask("--input", str(write(tmp_path / "a.jsonl", ["x", "x"])), "--output", str(target))
    result = ask("--input", str(write(tmp_path / "b.jsonl", ["x"])), "--output", str(target))
    assert result.exit_code == 1
    assert "do not belong together" in result.stderr


def test_from_stdin_to_stdout(ask):
    result = ask("--input", "-", stdin='{"text": "abc"}\n"abcd"\n')
    assert result.exit_code == 0
    assert [round(json.loads(line)["output"]["labels"][0]["score"] * 100) for line in result.stdout.splitlines()] == [3, 4]


@pytest.mark.parametrize("arguments", [(), ("x", "--input", "f"), ("x", "--output", "f"), ("x", "--local", "--address", "h:1")])
def test_usage(ask, arguments):
    assert ask(*arguments).exit_code == 2
