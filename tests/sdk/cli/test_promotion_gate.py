"""`taskloom models promote` and the versions that the gate refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from taskloom.core.artifact import DataInfo, Manifest, ParentInfo
from taskloom.core.comparison import Change, Comparison, RowChanges, Side
from taskloom.core.errors import ArtifactError
from taskloom.core.hookspecs import hookimpl
from taskloom.core.publishing import MachineInfo, Report, Timings, read_report
from taskloom.core.runtime import ExecutionPlan
from taskloom.core.store import ModelStore, open_store
from taskloom.core.task import EvaluationResult
from taskloom.sdk.cli.context import CliContext
from taskloom.sdk.cli.main import root

PLAN = ExecutionPlan(runtime="torch", device="cpu", precision="fp32", threads=1)


class Recorder:
    """An audit log that keeps its entries."""

    def __init__(self) -> None:
        self.entries: list[Any] = []

    @hookimpl
    def open_audit_log(self, settings: Any) -> Any:
        return self

    async def append(self, entry: Any) -> None:
        self.entries.append(entry)

    async def close(self) -> None: ...


def comparison(candidate: float) -> Comparison:
    side = Side(size_bytes=1, artifact_bytes=1, plan=PLAN)
    return Comparison(
        parent=ParentInfo(model="toy", version="1", digest="a" * 64),
        primary="accuracy",
        metrics=(Change(name="accuracy", parent=0.9, candidate=candidate),),
        rows=RowChanges(rows=10, changed=0.1),
        before=side,
        after=side,
    )


def publish(store: ModelStore, compared: Comparison | None = None) -> None:
    report = Report(
        created="2026-11-21T00:00:00Z",
        evaluation=EvaluationResult(metrics={"accuracy": 0.5}, examples=10),
        evaluation_data=DataInfo(name="unseen.jsonl", sha256="b" * 64, rows=10),
        plan=PLAN,
        machine=MachineInfo(system="Linux", processor="", cores=2, python="3.11"),
        timings=Timings(evaluation_s=1.0, examples_per_s=10.0),
        comparison=compared,
    )
    with store.draft("toy") as draft:
        (draft / "report.json").write_text(report.model_dump_json())
        store.publish(draft, Manifest(model="toy", task="classification", created="2026-11-21"))


class Desk:
    """A home with a first version, one that lost 20 points, and one that lost nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = open_store(folder / "home" / "models")
        publish(self.store)
        publish(self.store, comparison(0.7))
        publish(self.store, comparison(0.9))
        self.log = Recorder()
        self.cli = CliContext()
        assert self.cli.registry.hooks is not None
        self.cli.registry.hooks.register(self.log)

    def run(self, *words: str) -> Any:
        return CliRunner().invoke(root, ["models", "promote", "toy", *words], obj=self.cli, prog_name="taskloom")

    def production(self) -> str:
        return self.store.resolve("toy").manifest.version


@pytest.fixture
def desk(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.chdir(tmp_path)
    return Desk(tmp_path)


def test_a_version_that_lost_too_much_is_refused_and_the_figure_is_named(desk: Desk) -> None:
    result = desk.run("2")
    assert result.exit_code == 6, result.output
    for told in ("toy@2", "accuracy went from 0.9000 to 0.7000", "max_primary_drop allows 0.01", "0.19 too much", "--force"):
        assert told in result.stderr
    assert desk.production() == "1"
    (entry,) = desk.log.entries
    assert (entry.action, entry.version, entry.code) == ("model.promote", "2", "gate_refused")


def test_the_refusal_as_json(desk: Desk) -> None:
    assert json.loads(desk.run("2", "--json").stderr)["error"]["code"] == "gate_refused"


def test_it_can_be_forced_with_a_reason_that_stays_on_record(desk: Desk) -> None:
    result = desk.run("2", "--force", "--reason", "the old one leaks")
    assert result.exit_code == 0, result.output
    assert desk.production() == "2"
    (entry,) = desk.log.entries
    assert (entry.facts["reason"], entry.facts["forced"], entry.code) == ("the old one leaks", True, "")
    assert "accuracy went from 0.9000 to 0.7000" in entry.facts["gate"][0]
    move = desk.store.history("toy")[-1]
    assert "the old one leaks" in move.reason
    assert "max_primary_drop" in move.reason


@pytest.mark.parametrize("words", [["--force"], ["--force", "--reason", "  "]])
def test_force_without_a_reason_is_no_command(desk: Desk, words: list[str]) -> None:
    result = desk.run("2", *words)
    assert result.exit_code == 2
    assert "--force needs --reason" in result.stderr
    assert desk.production() == "1"
    assert desk.log.entries == []


def test_what_lost_nothing_or_was_made_from_nothing_passes(desk: Desk) -> None:
    assert desk.run("3").exit_code == 0
    assert desk.production() == "3"
    assert desk.run("1").exit_code == 0
    assert "gate" not in desk.log.entries[0].facts


def test_the_policy_is_in_the_settings(desk: Desk) -> None:
    (desk.folder / "taskloom.toml").write_text("[gate.models.toy]\nmax_primary_drop = 0.25\n")
    assert desk.run("2").exit_code == 0


def test_going_back_is_never_refused(desk: Desk) -> None:
    desk.run("2", "--force", "--reason", "a try")
    desk.run("3")
    result = CliRunner().invoke(root, ["models", "rollback", "toy"], obj=desk.cli, prog_name="taskloom")
    assert (result.exit_code, desk.production()) == (0, "2")


def test_a_version_that_was_edited_is_not_promoted(desk: Desk) -> None:
    artifact = desk.store.resolve("toy@2")
    report = artifact.path("report.json")
    kept = report.read_text()
    report.chmod(0o644)
    report.write_text(kept.replace('"candidate":0.7', '"candidate":0.9'))
    assert report.read_text() != kept
    with pytest.raises(ArtifactError, match=r"report\.json is not the file in its manifest"):
        read_report(artifact)
    result = desk.run("2", "--force", "--reason", "a try")
    assert result.exit_code != 0
    assert "was altered" in result.stderr
    report.write_text(kept)
    artifact.folder.chmod(0o755)
    (artifact.folder / "more.bin").write_bytes(b"more")
    assert "does not list" in desk.run("2", "--force", "--reason", "a try").stderr
    assert desk.production() == "1"
