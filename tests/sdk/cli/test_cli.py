from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from importlib.metadata import EntryPoint, entry_points

import click
import pytest
from click.testing import CliRunner

from taskloom.core.artifact import Manifest
from taskloom.core.errors import (
    DeadlineExceededError,
    InvalidInputError,
    OverloadedError,
    PermissionDeniedError,
    UnavailableError,
)
from taskloom.core.hookspecs import CommandSpec, hookimpl
from taskloom.core.loader import load_registry
from taskloom.core.store import open_store
from taskloom.sdk.cli.context import CliContext
from taskloom.sdk.cli.main import root


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("TASKLOOM_CONFIG", "TASKLOOM_ADDRESS", "TASKLOOM_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TASKLOOM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def run(*args, obj=None):
    return CliRunner().invoke(root, list(args), obj=obj, prog_name="taskloom")


def publish(home, note="", task="classification", **metrics):
    store = open_store(home / "models")
    manifest = Manifest(model="toy", task=task, created="2026-11-21", description="中文", metrics=metrics)
    with store.draft("toy") as draft:
        (draft / "notes.txt").write_text(note)
        return store.publish(draft, manifest)


class Recorder:
    """An audit log that keeps its entries."""

    def __init__(self):
        self.entries = []

    @hookimpl
    def open_audit_log(self, settings):
        return self

    async def append(self, entry):
        self.entries.append(entry)

    async def close(self):
        pass


def failing_command(error):
    @click.command()
    @click.option("--json", is_flag=True, expose_value=False)
    def fail():
        raise error

    return fail


def with_command(monkeypatch, command):
    """A context whose registry has the command `fail`."""
    monkeypatch.setattr(sys.modules[__name__], "command_under_test", command, raising=False)
    cli = CliContext()
    monkeypatch.setitem(sys.modules, "command_under_test", sys.modules[__name__])
    cli.registry.commands.add(CommandSpec(name="fail", summary="", target="command_under_test:command_under_test"), "test")
    return cli


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidInputError("bad"), 1),
        (UnavailableError("away"), 3),
        (DeadlineExceededError("late"), 3),
        (OverloadedError("full", 2.0), 3),
        (PermissionDeniedError("no"), 4),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 141),
        (ZeroDivisionError("oops"), 1),
        (click.UsageError("how"), 2),
    ],
)
def test_exit_status_of_each_failure(error, status, monkeypatch, home):
    result = run("fail", obj=with_command(monkeypatch, failing_command(error)))
    assert result.exit_code == status
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_errors_as_json(monkeypatch, home):
    error = OverloadedError("full", 2.0)
    error.request_id = "r1"
    result = run("fail", "--json", obj=with_command(monkeypatch, failing_command(error)))
    assert json.loads(result.stderr) == {
        "error": {"code": "overloaded", "message": "full", "request_id": "r1", "retry_after_s": 2.0}
    }


def test_the_unexpected_has_a_traceback_with_v_only(monkeypatch, home):
    short = run("fail", obj=with_command(monkeypatch, failing_command(ZeroDivisionError("oops"))))
    assert short.stderr == "error: unexpected ZeroDivisionError: oops; run `taskloom -v ...` for the traceback\n"
    root_logger = logging.getLogger()
    before = list(root_logger.handlers)
    try:
        long = run("-v", "fail", obj=with_command(monkeypatch, failing_command(ZeroDivisionError("oops"))))
    finally:
        root_logger.handlers = before
    assert "Traceback (most recent call last)" in long.stderr


def test_a_command_that_needs_an_extra_names_it(monkeypatch, home):
    error = ModuleNotFoundError("No module named 'torch'", name="torch")
    result = run("fail", obj=with_command(monkeypatch, failing_command(error)))
    assert "pip install 'taskloom[local]'" in result.stderr


def test_an_unknown_command_is_told_what_there_is(home):
    result = run("modles")
    assert result.exit_code == 2
    assert "did you mean 'models'" in result.stderr


def test_a_broken_third_party_plugin_breaks_nothing(home, caplog):
    ours = list(entry_points(group="taskloom"))
    broken = EntryPoint(name="bad", group="taskloom", value="there_is_no_such_module_at_all")
    cli = CliContext()
    cli.registry = load_registry([*ours, broken])
    result = run("plugin", "list", "--json", obj=cli)
    assert result.exit_code == 0
    plugins = json.loads(result.stdout)["plugins"]
    bad = next(plugin for plugin in plugins if plugin["owner"] == "unknown:bad")
    assert "ModuleNotFoundError" in bad["error"]
    assert "command:predict" in next(plugin for plugin in plugins if plugin["owner"] == "taskloom:sdk")["provides"]
    assert "broken" in run("plugin", "list", obj=cli).stdout
    assert sum("unknown:bad is skipped" in record.message for record in caplog.records) == 1


def test_promote_and_rollback_move_the_alias_and_are_audited(home):
    publish(home, "one")
    publish(home, "two")
    log, cli = Recorder(), CliContext()
    cli.registry.hooks.register(log)
    moved = run("models", "promote", "toy", "2", "--reason", "better", "--json", obj=cli)
    assert moved.exit_code == 0, moved.output
    assert json.loads(moved.stdout)["after"] == "2"
    assert open_store(home / "models").resolve("toy").manifest.version == "2"
    back = run("models", "rollback", "toy", obj=cli)
    assert back.stdout == "production of toy: 2 -> 1\n"
    assert [(e.action, e.model, e.version, e.facts["before"], e.code) for e in log.entries] == [
        ("model.promote", "toy", "2", "1", ""),
        ("model.rollback", "toy", "1", "2", ""),
    ]
    assert log.entries[0].facts["reason"] == "better"


def test_an_alias_goes_back_where_a_model_has_no_production_version(home):
    publish(home, "one")
    publish(home, "two")
    table = home / "models" / "toy" / "aliases.json"
    told = json.loads(table.read_text())
    del told["aliases"]["production"]
    table.write_text(json.dumps(told))
    assert run("models", "rollback", "toy", "--alias", "candidate").stdout == "candidate of toy: 2 -> 1\n"
    missing = run("models", "rollback", "toi")
    assert "did you mean 'toy'" in missing.stderr


def test_nothing_is_promoted_without_its_record(home):
    publish(home, "one")
    publish(home, "two")

    class FullDisk(Recorder):
        async def append(self, entry):
            raise UnavailableError("disk full")

    cli = CliContext()
    cli.registry.hooks.register(FullDisk())
    assert run("models", "promote", "toy", "2", obj=cli).exit_code == 3
    assert open_store(home / "models").resolve("toy").manifest.version == "1"


def test_list_and_show(home):
    publish(home)
    listed = json.loads(run("models", "list", "--json").stdout)["models"]
    assert ("toy", "1") in [(m["name"], m["version"]) for m in listed]
    assert "toy" in run("models", "list").stdout
    shown = json.loads(run("models", "show", "toy@1", "--json").stdout)
    assert shown["description"] == "中文"
    assert shown["aliases"] == ["candidate", "production"]
    assert shown["input_schema"]["required"] == ["text"]
    missing = run("models", "show", "toi")
    assert missing.exit_code == 1
    assert "did you mean 'toy'" in missing.stderr


def test_list_shows_the_primary_metric_and_how_sure_it_is(home):
    publish(home, a_first=0.25, accuracy=0.5)
    publish(home, task="somebody-elses", second=0.5, first=0.25)
    lines = [" ".join(line.split()) for line in run("models", "list").stdout.splitlines()]
    assert any("intent-en@1 classification 5.9 MB accuracy 0.937 (0.921–0.952) en Apache-2.0" in line for line in lines)
    assert "toy@1 classification accuracy 0.500 production" in lines
    assert any(line.startswith("toy@2 somebody-elses first 0.250") for line in lines)


def test_show_names_pictures_by_where_they_are(home):
    shown = "".join(run("models", "show", "intent-en").stdout.split())
    assert "intent-en/1/figures/confusion.png" in shown


def test_show_says_what_a_model_takes(home):
    lines = [" ".join(line.split()) for line in run("models", "show", "intent-en").stdout.splitlines()]
    assert "text text, at most 100,000 characters required" in lines
    assert "top_k whole number, at least 1 5" in lines
    publish(home, task="somebody-elses")
    assert "somebody-elses" in run("models", "show", "toy").stdout


def test_models_of_a_gateway(home, address):
    assert "m@7" in run("models", "list", "--address", address).stdout
    shown = [" ".join(line.split()) for line in run("models", "show", "m", "--address", address).stdout.splitlines()]
    assert "task classification" in shown
    assert "text text required" in shown


def test_config_says_where_each_setting_came_from_and_hides_secrets(home, monkeypatch, tmp_path):
    (tmp_path / "taskloom.toml").write_text('[server]\nport = 50099\n[audit]\nurl = "postgresql://u:hunter2@db/a"\n')
    monkeypatch.setenv("TASKLOOM_SERVER__DRAIN_S", "5")
    result = run("config", "show", "--json")
    rows = {row["name"]: row for row in json.loads(result.stdout)["settings"]}
    assert (rows["server.port"]["value"], rows["server.port"]["origin"]) == (50099, "file")
    assert (rows["server.drain_s"]["value"], rows["server.drain_s"]["origin"]) == (5.0, "TASKLOOM_SERVER__DRAIN_S")
    assert rows["server.host"]["origin"] == "default"
    assert rows["home"]["origin"] == "TASKLOOM_HOME"
    assert "hunter2" not in result.stdout + run("config", "show").stdout
    assert json.loads(run("config", "check", "--json").stdout)["ok"] is True


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[server]\nhost = '0.0.0.0'", "there is no TLS"),
        ("[models.intnt-en]", "did you mean 'intent-en'"),
        ("[models.intent-en]\nversion = '77'", "no version of intent-en named '77'"),
        ("[knowledge]\nretriever = 'fais'", "did you mean 'faiss'"),
        ("[pools.default.runtime]\nruntime = 'torhc'", "did you mean 'torch'"),
        ("[tls]\ncertificate = 'a.pem'\nkey = 'b.pem'", "tls.certificate is a.pem, and there is no such file"),
        ("[tls]\ncertificate = 'taskloom.toml'\nkey = 'taskloom.toml'", "can't be used together"),
    ],
)
def test_settings_that_a_server_would_refuse_are_refused_by_the_check(home, tmp_path, text, told):
    (tmp_path / "taskloom.toml").write_text(text)
    result = run("config", "check", "--json")
    assert result.exit_code == 1
    assert told in json.loads(result.stderr)["error"]["message"]


def test_bad_settings_are_an_error_that_names_them(home, tmp_path):
    (tmp_path / "taskloom.toml").write_text("[server]\nport = 'x'\nprot = 1\n")
    result = run("config", "check", "--json")
    assert result.exit_code == 1
    assert "server.prot" in json.loads(result.stderr)["error"]["message"]


def test_the_real_process(home):
    code = "from taskloom.sdk.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "predict" in done.stdout
    reader, writer = os.pipe()
    os.close(reader)
    piped = subprocess.run(
        [sys.executable, "-c", code, "config", "show"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (piped.returncode, piped.stderr) == (141, "")
