"""The example plugin: installed as its page says, beside a broken one, served and asked without a change to Taskloom."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskloom.sdk import Client
from taskloom.sdk.cli.server_process import RunningServer, running_server, taskloom_command

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

EXAMPLE = Path(__file__).parents[2] / "examples" / "langid"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages that holds the example and a plugin that can't be imported."""
    folder = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(folder)]
    subprocess.run([*install, str(EXAMPLE)], check=True, capture_output=True)
    (folder / "broken_plugin.py").write_text("import a_library_that_nobody_has\n", encoding="utf-8")
    info = folder / "broken_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[taskloom]\nbroken = broken_plugin\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def environment(site: Path) -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])}


@pytest.fixture(scope="module")
def trained_home(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    home = tmp_path_factory.mktemp("home")
    train = [*taskloom_command(home), "train", str(EXAMPLE / "recipe.toml"), "--json"]
    done = subprocess.run(train, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"]["accuracy"] >= 0.9
    return home


@pytest.fixture(scope="module")
def server(trained_home: Path, environment: dict[str, str]) -> Iterator[RunningServer]:
    with running_server(["langid", "intent-en"], home=trained_home, environment=environment) as running:
        yield running


def test_the_plugin_is_served_beside_the_built_in_task(server: RunningServer) -> None:
    with Client(server.address, api_key=server.api_key) as client:
        for text, language in [
            ("Wo ist der Bahnhof?", "de"),
            ("图书馆明天几点开门？", "zh"),
            ("Il fait beau aujourd'hui.", "fr"),
        ]:
            result = client.infer("langid", {"text": text})
            assert result.task == "langid"
            assert result.output["languages"][0]["language"] == language
        assert {info.name for info in client.models()} == {"langid", "intent-en"}
        assert client.classify("I lost my card", model="intent-en").label


def test_its_description_and_its_errors_are_those_of_any_task(server: RunningServer) -> None:
    with Client(server.address, api_key=server.api_key) as client:
        described = client.describe("langid")
        assert described.input_schema["properties"]["text"]["minLength"] == 1
        items = list(client.infer_many("langid", [{"text": "Good morning"}, {"text": ""}, {"txt": "x"}]))
        assert [item.error.code if item.error else "ok" for item in items] == ["ok", "invalid_input", "invalid_input"]


def test_its_requests_are_audited(server: RunningServer) -> None:
    with Client(server.address, api_key=server.api_key) as client:
        result = client.infer("langid", {"text": "¿Dónde está la estación?"})
    records = server.rows("audit", "query", "--request-id", result.request_id)
    assert [(record["kind"], record["task"]) for record in records] == [("accepted", "langid"), ("completed", "langid")]


def test_the_broken_plugin_is_listed_and_skipped(server: RunningServer, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [*taskloom_command(server.home), "plugin", "list", "--json"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    reports = {report["distribution"]: report for report in json.loads(done.stdout)["plugins"]}
    assert "a_library_that_nobody_has" in reports["broken-plugin"]["error"]
    assert reports["taskloom-langid"]["provides"] == ["task:langid"]
