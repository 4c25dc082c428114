"""`taskloom optimize` from data files to a published version, with optimizers that need no ML library."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import guessing_task
import pytest
from click.testing import CliRunner, Result
from guessing_task import FACTORY, Nature

from taskloom.core import comparing, publishing
from taskloom.core.artifact import DataInfo, file_digest
from taskloom.core.errors import ConfigError, DataError, TaskloomError
from taskloom.core.hookspecs import hookimpl
from taskloom.core.loader import load_registry
from taskloom.core.optimizing import StepRequest
from taskloom.core.ports import AuditEntry, AuditReceipt
from taskloom.core.publishing import read_report
from taskloom.core.settings import Settings
from taskloom.core.store import ModelStore
from taskloom.core.task import Example
from taskloom.plugins import optimizing
from taskloom.plugins.commands.optimize import optimize
from taskloom.plugins.commands.optimize_recipe import settled_recipe
from taskloom.plugins.optimizing import DataFiles
from taskloom.plugins.optimizing_work import shared_folder


class Recorder:
    """An audit log that keeps its entries."""

    def __init__(self) -> None:
        self.entries: list[AuditEntry] = []

    @hookimpl
    def open_audit_log(self, settings: Settings) -> Any:
        return self

    async def append(self, entry: AuditEntry) -> AuditReceipt:
        self.entries.append(entry)
        return AuditReceipt(sequence=len(self.entries), digest="0" * 64)

    async def close(self) -> None: ...


class Cli:
    """What a command gets, and the files that it is told of."""

    def __init__(self, folder: Path) -> None:
        self.registry = guessing_task.registry()
        self.registry.hooks = load_registry([]).hooks
        self.log = Recorder()
        assert self.registry.hooks is not None
        self.registry.hooks.register(self.log)
        self.settings = Settings(home=folder / "home")
        self.store = ModelStore([self.settings.models_folder])
        self.folder = folder
        self.data = guessing_task.write_rows(folder / "rows.jsonl", 0, 60)
        self.eval = guessing_task.write_rows(folder / "unseen.jsonl", 1000, 1200)
        self.known = guessing_task.write_rows(folder / "known.jsonl", 100, 160)
        known = DataInfo(name="known.jsonl", sha256=file_digest(self.known).sha256, rows=60)
        guessing_task.publish_parent(self.store, self.registry, data=[known])

    def print_json(self, data: Any) -> None:
        print(json.dumps(data))

    def run(self, *args: Any, model: str | None = "guess-en") -> Result:
        words = [str(word) for word in ([model] if model else []) + list(args)]
        return CliRunner().invoke(optimize, [*words, "--quick", "--no-progress"], obj=self)

    def files(self) -> list[Any]:
        return ["--data", self.data, "--eval", self.eval]


@pytest.fixture
def everything() -> None:
    """For a test that measures the speed and draws the picture, which takes seconds."""


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Cli:
    whole = optimizing.optimize_model
    if "everything" not in request.fixturenames:
        monkeypatch.setattr(comparing, "measure", guessing_task.imagined_speed)
        monkeypatch.setattr(optimizing, "_draw_pareto", lambda: None)
        monkeypatch.setattr(publishing, "packages_in_use", dict)
    monkeypatch.setattr(optimizing, "optimize_model", lambda *args, **options: whole(*args, factory=FACTORY, **options))
    return Cli(tmp_path)


def failure(result: Result, kind: type[TaskloomError]) -> str:
    assert isinstance(result.exception, kind), result.output
    return result.exception.message


@pytest.mark.usefixtures("everything")
def test_a_new_version_of_the_same_model_with_its_lineage_and_what_people_said_of_it(cli: Cli) -> None:
    result = cli.run(
        "--with", "shrink,polish", *cli.files(), "--set", "shrink.bulk_bytes=500", "--set", "polish.wrong=0.02", "--json"
    )
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["model"], told["aliases"], told["gate"]["passed"]) == ("guess-en@2", ["candidate"], False)
    assert [breach for breach in told["gate"]["breaches"] if "without --quick" not in breach] == []
    assert told["comparison"]["notes"] == ["speed: a glance of 2 turns for each model, not to decide by"]
    assert cli.store.resolve("guess-en").manifest.version == "1", "production stays where it was"
    artifact = cli.store.resolve("guess-en@candidate")
    known, parent = artifact.manifest, cli.store.resolve("guess-en@1")
    assert known.parent is not None
    assert (known.parent.version, known.parent.digest) == ("1", parent.digest)
    assert [step.name for step in known.steps] == ["train", "shrink", "polish"]
    assert known.steps[1].config["bulk_bytes"] == 500
    assert [info.name for info in known.data] == ["known.jsonl", "rows.jsonl"]
    assert (known.description, known.languages, known.licence) == ("It guesses numbers.", ("en",), "Apache-2.0")
    assert known.examples == parent.manifest.examples
    card = artifact.path("MODEL_CARD.md").read_text()
    for words in (
        "Guessing in tests.",
        "Whole numbers alone.",
        "taskloom optimize guess-en@1 --with shrink,polish",
        "Compared with",
    ):
        assert words in card
    assert card.count("It guesses.\n") == 1, "the task's caution stands there once, however long the lineage"
    assert str(cli.folder) not in card
    report = read_report(artifact)
    assert report.comparison is not None
    assert report.comparison.robustness, "typing errors and the like are tried on the texts"
    assert report.evaluation.examples == 200


def test_what_people_said_survives_a_second_optimizing(cli: Cli) -> None:
    cli.run("--with", "shrink", *cli.files())
    cli.run("--with", "polish", *cli.files(), model="guess-en@2")
    card = cli.store.resolve("guess-en@3").path("MODEL_CARD.md").read_text()
    assert "Guessing in tests." in card
    assert card.count("Whole numbers alone.") == card.count("It guesses.\n") == 1


def test_the_tables_for_people_say_what_became_of_it(cli: Cli) -> None:
    result = cli.run("--with", "shrink", *cli.files(), "--set", "shrink.wrong=0.5")
    assert result.exit_code == 0, result.output
    for told in ("published guess-en@2 (candidate)", "report.html", "accuracy", "latency p99", "the gate refuses it:"):
        assert told in result.stdout
    assert "max_primary_drop allows 0.01" in result.stdout


def test_without_a_bar_each_step_and_each_epoch_is_a_line(cli: Cli) -> None:
    result = cli.run("--with", "shrink,polish", *cli.files())
    assert result.exit_code == 0
    told = result.stderr.splitlines()
    epoch = "epoch 1: step 1/1, loss 0.5000"
    assert told[:5] == ["shrink ...", epoch, "polish ...", epoch, "comparing it with its parent ..."]


def test_training_and_publishing_are_on_record(cli: Cli) -> None:
    cli.run("--with", "shrink", *cli.files())
    first, second = cli.log.entries
    assert (first.action, first.model, first.version) == ("model.optimize", "guess-en", "")
    assert first.facts["steps"] == [{"name": "shrink", "config": {}}]
    assert (second.action, second.version) == ("model.publish", "2")
    assert second.facts["digest"] == cli.store.resolve("guess-en@2").digest
    assert second.facts["parent"] == cli.store.resolve("guess-en@1").digest


def test_the_same_command_goes_on_and_leaves_nothing_behind(cli: Cli) -> None:
    shrink: Any = cli.registry.optimizers.get("shrink")
    polish: Any = cli.registry.optimizers.get("polish")
    polish.fails = True
    assert cli.run("--with", "shrink,polish", *cli.files()).exit_code != 0
    assert cli.store.versions("guess-en") == ["1"]
    assert list((cli.settings.home / "optimizing").glob("*/*/artifact"))
    polish.fails = False
    result = cli.run("--with", "shrink,polish", *cli.files())
    assert result.exit_code == 0, result.output
    assert "shrink: kept from before" in result.stderr
    assert (shrink.applied, polish.applied) == (1, 1)
    assert not [path for path in (cli.settings.home / "optimizing").iterdir() if path.is_dir()]
    cli.run("--with", "shrink", *cli.files())
    assert shrink.applied == 2


def test_optimizers_get_rows_to_choose_by_that_they_are_not_trained_on(cli: Cli) -> None:
    cli.run("--with", "shrink", *cli.files())
    (context,) = cli.registry.optimizers.get("shrink").contexts  # type: ignore[attr-defined]
    train, validation = ({row.input.text for row in rows} for rows in (context.train, context.validation))
    assert (len(train), len(validation)) == (54, 6)
    assert not train & validation
    assert sorted(row.target for row in context.validation) == ["even"] * 3 + ["odd"] * 3


def test_a_sample_of_the_rows_is_the_same_one_each_time(cli: Cli) -> None:
    plugin = cli.registry.optimizers.get("shrink")
    for _ in range(2):
        result = cli.run("--with", "shrink", *cli.files(), "--rows", 20, "--eval-rows", 50, "--json")
        assert result.exit_code == 0, result.output
    first, second = ([row.line for row in context.train] for context in plugin.contexts)
    assert len(first) == 18  # a tenth of the 20 is to choose by
    assert first == second
    artifact = cli.store.resolve("guess-en@candidate")
    assert read_report(artifact).evaluation.examples == 50
    assert "--rows 20 --eval-rows 50" in artifact.path("MODEL_CARD.md").read_text()


def test_a_sample_has_as_many_rows_as_were_asked_for_whatever_their_labels() -> None:
    rows = [Example(input=guessing_task.Question(text="x"), target=str(number // 2), line=number) for number in range(154)]
    assert [len(optimizing._sample(rows, count, 13)) for count in (1, 100, 120, 153, 154, 0)] == [1, 100, 120, 153, 154, 154]
    alone = [Example(input=guessing_task.Question(text="x"), target=str(number), line=number) for number in range(50)]
    lines = [row.line for row in optimizing._sample(alone, 20, 13)]
    assert len(lines) == 20
    assert lines == sorted(lines) == [row.line for row in optimizing._sample(alone, 20, 13)]


@pytest.mark.parametrize("which", ["data", "known"])
def test_rows_that_were_trained_on_are_no_evaluation(cli: Cli, which: str) -> None:
    copied = cli.folder / "innocent.jsonl"
    copied.write_bytes((cli.data if which == "data" else cli.known).read_bytes())
    result = cli.run("--with", "shrink", "--data", cli.data, "--eval", copied)
    told = failure(result, DataError)
    assert "innocent.jsonl can't be evaluated on" in told
    assert ("the optimizers get" if which == "data" else "trained on it (known.jsonl)") in told
    assert cli.store.versions("guess-en") == ["1"]
    assert cli.log.entries == []


def test_a_recipe_says_all_of_it_and_the_command_line_more(cli: Cli) -> None:
    recipe = cli.folder / "small.toml"
    recipe.write_text(
        'model = "guess-en"\n[[steps]]\nname = "shrink"\n[steps.config]\nbulk_bytes = 700\nwrong = 0.3\n'
        '[data]\ntrain = "rows.jsonl"\nevaluation = "unseen.jsonl"\nlicence = "CC0-1.0"\n'
    )
    result = cli.run("--recipe", recipe, "--set", "shrink.wrong=0.04", "--seed", 7, model=None)
    assert result.exit_code == 0, result.output
    known = cli.store.resolve("guess-en@2").manifest
    config = known.steps[-1].config
    assert (config["bulk_bytes"], config["wrong"], config["seed"]) == (700, 0.04, 7)
    assert known.data[-1].licence == "CC0-1.0"


def test_the_command_in_the_card_names_files_without_their_folders_and_the_seed() -> None:
    parent: Any = SimpleNamespace(name="guess-en@1")
    mails = Path("/home/someone/mails/new.txt")
    steps = [StepRequest(name="distill", config={"unlabelled": [str(mails)], "layers": 2})]
    told = optimizing._command(parent, steps, DataFiles([Path("/a/b/rows.csv")], [Path("e.csv")]), "", seed=7, others=[mails])
    assert "someone" not in told
    assert "mails/new.txt" in told
    assert told.endswith("--data b/rows.csv --eval e.csv --seed 7")


def test_a_sample_of_the_evaluation_rows_is_other_data_than_the_file(tmp_path: Path) -> None:
    rows, unseen = (guessing_task.write_rows(tmp_path / f"{first}.jsonl", first, first + 50) for first in (0, 100))
    task = guessing_task.GuessTask()
    digests = [
        optimizing.read_rows(task, DataFiles([rows], [unseen], evaluation_rows=count), seed).evaluation_data.sha256
        for count, seed in ((0, 13), (50, 13), (10, 13), (10, 13), (10, 14))
    ]
    assert digests[0] == digests[1] == file_digest(unseen).sha256
    assert digests[2] == digests[3]
    assert len(set(digests)) == 3


def test_the_licence_is_that_of_all_models_that_it_was_made_from() -> None:
    models: list[Any] = [
        SimpleNamespace(name=f"m@{i}", manifest=SimpleNamespace(licence=licence))
        for i, licence in enumerate(["Apache-2.0", "Apache-2.0", "CC-BY-NC-4.0", ""])
    ]
    assert optimizing._licence(models[:2]) == "Apache-2.0"
    assert optimizing._licence(models) == "Apache-2.0 AND CC-BY-NC-4.0 AND not stated by m@3"
    assert optimizing._licence(models[3:]) == ""


def test_the_same_files_divided_otherwise_are_other_work(tmp_path: Path) -> None:
    task = guessing_task.GuessTask()
    one, two = (guessing_task.write_rows(tmp_path / f"{first}.jsonl", first, first + 50) for first in (0, 100))
    unseen = guessing_task.write_rows(tmp_path / "unseen.jsonl", 200, 220)
    both = optimizing.read_rows(task, DataFiles([one, two], [unseen]), 13)
    apart = optimizing.read_rows(task, DataFiles([one], [unseen], [two]), 13)
    assert [info.sha256 for info in both.seen] == [info.sha256 for info in apart.seen]
    parent: Any = SimpleNamespace(digest="d", manifest=SimpleNamespace(model="m"))
    other = optimizing.read_rows(task, DataFiles([one, two], [unseen]), 14)
    assert len(other.train) == len(both.train)
    assert len({shared_folder(tmp_path, parent, rows.identity) for rows in (both, apart, other)}) == 3
    again = optimizing.read_rows(task, DataFiles([one, two], [unseen]), 13)
    assert shared_folder(tmp_path, parent, again.identity) == shared_folder(tmp_path, parent, both.identity)


def test_files_that_a_steps_settings_name_lie_beside_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(
        'model = "m"\n[[steps]]\nname = "distill"\nconfig = {unlabelled = ["new.txt", "~/old.txt"], layers = 2}\n'
        '[data]\ntrain = "rows.jsonl"\nevaluation = "unseen.jsonl"\n'
    )
    (step,) = settled_recipe(
        recipe, model=None, steps=None, train=(), evaluation=(), validation=(), changes=(), registry=load_registry()
    ).steps
    assert step.config == {"unlabelled": [str(tmp_path / "new.txt"), str(Path.home() / "old.txt")], "layers": 2}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--with", "shrink"], "--data, --eval must be given"),
        (["--data", "x.jsonl", "--eval", "y.jsonl"], "--with must be given"),
        (["--with", "shrink", "--data", "x", "--eval", "y", "--set", "polish.wrong=1"], "the steps are shrink"),
        (["--with", "shrink", "--data", "x", "--eval", "y", "--set", "shrink.wrong"], "write STEP.KEY=VALUE"),
    ],
)
def test_what_is_missing_or_makes_no_sense_is_told(cli: Cli, words: list[str], told: str) -> None:
    assert told in failure(cli.run(*words), ConfigError)


def test_a_setting_that_can_not_be_is_told_before_any_step(cli: Cli) -> None:
    result = cli.run("--with", "shrink,polish", *cli.files(), "--set", "polish.wrong=much")
    assert "polish.wrong" in failure(result, ConfigError)
    assert cli.registry.optimizers.get("shrink").applied == 0  # type: ignore[attr-defined]
    assert cli.log.entries == []


@pytest.mark.parametrize(
    "words", [["--alias", "production"], ["--name", "guess-small", "--alias", "production"], ["--name", "guess-small"]]
)
def test_what_the_gate_refuses_does_not_go_live_by_being_published(cli: Cli, words: list[str]) -> None:
    result = cli.run("--with", "shrink", *cli.files(), "--set", "shrink.wrong=0.4", "--json", *words)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["aliases"], told["gate"]["passed"]) == (["candidate"], False)
    assert cli.store.resolve("guess-en").manifest.version == "1"
    assert "production" not in cli.store.aliases(told["model"].partition("@")[0]) or words[0] == "--alias"
    again = cli.run("--with", "shrink", *cli.files(), "--set", "shrink.wrong=0.05", "--json", *words)
    assert ("production" in json.loads(again.stdout)["aliases"]) == ("--alias" in words)


def test_it_may_be_published_under_another_name(cli: Cli) -> None:
    result = cli.run("--with", "shrink", *cli.files(), "--name", "guess-small", "--alias", "trial")
    assert result.exit_code == 0, result.output
    artifact = cli.store.resolve("guess-small@trial")
    assert artifact.manifest.parent is not None
    assert artifact.manifest.parent.model == "guess-en"
    assert cli.log.entries[-1].model == "guess-small"
    assert Nature.model_validate_json(artifact.path("nature.json").read_text()).wrong == 0.05
