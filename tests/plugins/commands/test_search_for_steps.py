"""`taskloom optimize --search`: what is tried, judged and kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import guessing_task
import optuna
import pytest
from click.testing import CliRunner, Result

from taskloom.core import comparing, publishing
from taskloom.core.errors import ConfigError, TaskloomError
from taskloom.core.settings import Settings
from taskloom.core.store import ModelStore
from taskloom.plugins import optimizing, searching
from taskloom.plugins.commands.optimize import optimize
from taskloom.plugins.optimizing_work import shared_work


class Cli:
    def __init__(self, folder: Path) -> None:
        self.registry = guessing_task.registry()
        self.settings = Settings(home=folder / "home")
        self.store = ModelStore([self.settings.models_folder])
        self.files = [
            "--data",
            str(guessing_task.write_rows(folder / "rows.jsonl", 0, 100)),
            "--eval",
            str(guessing_task.write_rows(folder / "unseen.jsonl", 1000, 1100)),
        ]
        guessing_task.publish_parent(self.store, self.registry)
        self.shrink: Any = self.registry.optimizers.get("shrink")

    def print_json(self, data: Any) -> None:
        print(json.dumps(data))

    def search(self, trials: int, *words: str) -> Result:
        told = ["guess-en", "--with", "shrink,polish", *self.files, "--search", str(trials), *words]
        return CliRunner().invoke(optimize, told, obj=self)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setattr(searching, "measure", guessing_task.imagined_speed)
    monkeypatch.setattr(optimizing, "_draw_pareto", lambda: None)
    monkeypatch.setattr(publishing, "packages_in_use", dict)
    return Cli(tmp_path)


def test_the_front_is_shown_and_nothing_is_published(cli: Cli) -> None:
    result = cli.search(5, "--try", "shrink.bulk_bytes=100|50000", "--try", "polish.wrong=0.0..0.5", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["trials"] == 5
    assert found["parent_quality"] >= 0.9
    assert found["front"]
    for one in found["front"]:
        assert {step["name"] for step in one["steps"]} <= {"shrink", "polish"}
        beaten = [
            own
            for own in found["front"]
            if own["quality"] > one["quality"] and own["size"] < one["size"] and own["latency"] < one["latency"]
        ]
        assert not beaten
    assert cli.store.versions("guess-en") == ["1"]


def test_a_search_goes_on_where_it_was(cli: Cli) -> None:
    words = ["--try", "shrink.wrong=0.0..0.3"]
    cli.search(3, *words)
    applied = cli.shrink.applied
    found = json.loads(cli.search(3, *words, "--json").stdout)
    assert found["trials"] == 3
    assert cli.shrink.applied == applied, "no trial was made again"


def test_what_was_found_is_published_from_the_steps_that_were_kept(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "measure", guessing_task.imagined_speed)
    result = cli.search(3, "--try", "shrink.bulk_bytes=100|200")
    assert result.exit_code == 0, result.output
    assert "--with" in result.stdout
    applied = cli.shrink.applied
    assert applied
    made = CliRunner().invoke(
        optimize, ["guess-en", "--with", "shrink", *cli.files, "--set", "shrink.bulk_bytes=100", "--quick"], obj=cli
    )
    assert made.exit_code == 0, made.output
    assert cli.shrink.applied <= applied + 1
    again = json.loads(cli.search(3, "--try", "shrink.bulk_bytes=100|200", "--json").stdout)
    assert again["trials"] == 3
    assert cli.shrink.applied <= applied + 1, "publishing one line leaves the search where it was"


def test_trials_that_were_measured_otherwise_are_not_counted(cli: Cli) -> None:
    words = ["--try", "shrink.wrong=0.0..0.3"]
    cli.search(2, *words)
    cli.search(2, *words, "--quick")
    (found,) = cli.settings.home.rglob("search.db")
    names = optuna.get_all_study_names(f"sqlite:///{found}")
    assert len(names) == 2, "figures of another effort are another search's"


def step_folders(cli: Cli) -> set[str]:
    return {path.parent.name for path in cli.settings.home.rglob("step.json")}


def test_of_trials_that_are_beaten_the_figures_alone_are_kept(cli: Cli) -> None:
    found = json.loads(cli.search(6, "--try", "shrink.wrong=0.0..0.6", "--json").stdout)
    (database,) = cli.settings.home.rglob("search.db")
    (study,) = optuna.get_all_study_summaries(f"sqlite:///{database}")
    trials = optuna.load_study(study_name=study.study_name, storage=f"sqlite:///{database}")
    made = {name for trial in trials.trials for name in trial.user_attrs.get("made", ())}
    front = {name for trial in trials.best_trials for name in trial.user_attrs["made"]}
    assert found["trials"] == 6
    assert front < made, "some trial is beaten"
    assert step_folders(cli) == front


def test_the_folder_is_there_although_the_one_before_removed_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While this one waits for the lock, who holds it is done and clears up."""
    folder = tmp_path / "work"

    def waits(*_: object) -> None:
        shutil.rmtree(folder, ignore_errors=True)

    monkeypatch.setattr("taskloom.plugins.optimizing_work.fcntl.flock", waits)
    with shared_work(folder, keep=True):
        assert folder.is_dir()


def test_steps_stay_while_others_work_with_them(tmp_path: Path) -> None:
    step = tmp_path / "work" / "step"
    with shared_work(tmp_path / "work", keep=True) as one, shared_work(tmp_path / "work", keep=True) as other:
        step.mkdir(parents=True)
        assert not one.drop([step])
        assert not other.drop([step])
        assert step.exists()
    with shared_work(tmp_path / "work", keep=True) as alone:
        assert alone.drop([step])
    assert not step.exists()


def test_what_a_search_has_kept_goes_when_it_is_asked_for(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "measure", guessing_task.imagined_speed)
    cli.search(2)
    work = cli.settings.home / "optimizing"
    (kept,) = (path for path in work.iterdir() if path.is_dir())
    other = work / f"{kept.name.rpartition('-')[0]}-small-0123456789ab"
    other.mkdir()
    (other / "search.db").touch()
    with shared_work(kept, keep=True):
        busy = CliRunner().invoke(optimize, ["guess-en", "--forget", "--json"], obj=cli)
        assert json.loads(busy.stdout) == {"removed": 0, "busy": 1}
        assert kept.exists()
    done = CliRunner().invoke(optimize, ["guess-en", "--forget"], obj=cli)
    assert done.output == "removed what 1 searches had kept\n"
    assert (kept.exists(), other.exists()) == (False, True), "a model whose name begins alike has its own"
    cli.search(2)
    assert kept.exists()
    made = CliRunner().invoke(optimize, ["guess-en", "--with", "shrink", *cli.files, "--quick", "--forget"], obj=cli)
    assert made.exit_code == 0, made.output
    assert not kept.exists()
    assert cli.search(1, "--forget").exit_code == 2, "it would remove what it makes"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--try", "prune.x=1|2"], "there is no step prune"),
        (["--try", "shrink.wrong"], "STEP.KEY=A|B|C"),
        (["--try", "shrink.wrong=3..1"], "the smaller one first"),
    ],
)
def test_what_can_not_be_tried_is_told(cli: Cli, words: list[str], told: str) -> None:
    result = cli.search(1, *words)
    assert isinstance(result.exception, ConfigError | TaskloomError)
    assert told in result.exception.message
