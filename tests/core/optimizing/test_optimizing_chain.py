"""Steps in a row, with optimizers that need no ML library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import guessing_task
import pytest
from guessing_task import Alter, Nature

from taskloom.core.artifact import Artifact
from taskloom.core.errors import ArtifactError, ConfigError, NotFoundError, UnsupportedError
from taskloom.core.optimizing import Chain, Optimizing, StepRequest
from taskloom.core.registry import Registry
from taskloom.core.store import ModelStore
from taskloom.core.task import TrainRun

SHRINK = StepRequest(name="shrink", config={"bulk_bytes": 40, "wrong": 0.2})
POLISH = StepRequest(name="polish", config={"wrong": 0.1})


class Bench:
    """A parent, and chains on it in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry: Registry = guessing_task.registry()
        self.parent: Artifact = guessing_task.publish_parent(ModelStore([folder / "models"]), self.registry)
        self.shrink: Any = self.registry.optimizers.get("shrink")
        self.polish: Any = self.registry.optimizers.get("polish")
        self.events: list[tuple[str, str]] = []

    def run(self, *steps: StepRequest, resume: bool = True, identity: str = "rows") -> Chain:
        self.events.clear()
        optimizing = Optimizing(
            self.registry,
            self.parent,
            train=guessing_task.rows(0, 20),
            validation=guessing_task.rows(0, 1000),
            identity=[identity],
            run=TrainRun(
                work_folder=self.folder / "work",
                resume=resume,
                on_event=lambda event: self.events.append((event["event"], event.get("name"))),
            ),
        )
        return optimizing.run(steps)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_each_step_gets_what_the_one_before_it_saved(bench: Bench) -> None:
    chain = bench.run(SHRINK, POLISH)
    assert isinstance(chain.model, guessing_task.GuessModel)
    assert chain.model.nature == Nature(wrong=0.1, bulk_bytes=40)
    assert [(step.name, step.config["wrong"], step.facts) for step in chain.steps] == [
        ("shrink", 0.2, {"bytes": 40}),
        ("polish", 0.1, {"bytes": 40}),
    ]
    seen = bench.polish.saw[0]
    assert seen.manifest.files["bulk.bin"].size_bytes == 40
    assert [step.name for step in seen.manifest.steps] == ["train", "shrink"]
    roots = (bench.folder / "models",)
    assert chain.artifact.store_roots == seen.store_roots == roots, "what the parent names is found from the work folder too"


def test_an_interrupted_chain_goes_on_with_the_step_that_it_was_in(bench: Bench) -> None:
    bench.polish.fails = True
    with pytest.raises(KeyboardInterrupt):
        bench.run(SHRINK, POLISH)
    bench.polish.fails = False
    chain = bench.run(SHRINK, POLISH)
    assert (bench.shrink.applied, bench.polish.applied) == (1, 1)
    assert [told for told in bench.events if told[1]] == [("kept", "shrink"), ("optimizer", "polish")]
    assert chain.model.nature.wrong == 0.1  # type: ignore[attr-defined]
    first, second = (context.run.work_folder for context in bench.polish.contexts)
    assert first == second, "an interrupted step must find its checkpoints again"


def test_chains_that_begin_alike_share_their_beginning(bench: Bench) -> None:
    bench.run(SHRINK, POLISH)
    bench.run(SHRINK, StepRequest(name="polish", config={"wrong": 0.3}))
    assert (bench.shrink.applied, bench.polish.applied) == (1, 2)


def test_other_rows_or_settings_make_other_steps(bench: Bench) -> None:
    bench.run(SHRINK)
    bench.run(SHRINK, identity="other rows")
    bench.run(StepRequest(name="shrink", config={"bulk_bytes": 41}))
    assert bench.shrink.applied == 3


def test_without_resuming_every_step_is_made_again(bench: Bench) -> None:
    bench.run(SHRINK, POLISH)
    bench.run(SHRINK, POLISH, resume=False)
    assert (bench.shrink.applied, bench.polish.applied) == (2, 2)


def test_a_kept_step_that_was_altered_is_made_again(bench: Bench) -> None:
    bench.run(SHRINK)
    next(bench.folder.glob("work/*/artifact/nature.json")).write_text('{"wrong": 1.0}')
    chain = bench.run(SHRINK)
    assert bench.shrink.applied == 2
    assert chain.model.nature.wrong == 0.2  # type: ignore[attr-defined]


def test_a_score_is_of_what_was_saved_and_read_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.run(StepRequest(name="shrink", config={"wrong": 0.25}))
    assert bench.shrink.scored[0]["accuracy"] == pytest.approx(0.75)
    forgetful = lambda artifact, shared: guessing_task.GuessModel(Nature(wrong=0.5))  # noqa: E731
    monkeypatch.setattr(bench.registry.tasks.get("guess"), "load", forgetful)
    bench.run(StepRequest(name="shrink", config={"wrong": 0.3}))
    assert bench.shrink.scored[1]["accuracy"] == pytest.approx(0.5)


def test_steps_get_the_rows_that_the_model_can_learn_from(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    known = guessing_task.rows(0, 20)
    monkeypatch.setattr(guessing_task.GuessModel, "can_learn", lambda _, row: row != known[3], raising=False)
    bench.run(SHRINK)
    assert bench.shrink.contexts[0].train == [row for row in known if row != known[3]]
    monkeypatch.setattr(guessing_task.GuessModel, "can_learn", lambda *_: False)
    bench.run(POLISH)
    assert bench.polish.contexts[0].train == known, "a step that trains on them says itself what is wrong"


def test_the_work_of_a_finished_step_is_cleared_away(bench: Bench) -> None:
    bench.run(SHRINK)
    assert not list(bench.folder.glob("work/**/checkpoint"))


def test_what_a_runtime_needs_comes_along_and_nothing_may_follow_it(bench: Bench) -> None:
    graph = StepRequest(name="shrink", config={"external": True})
    chain = bench.run(POLISH, graph)
    assert (chain.runtime, chain.external, list(chain.files)) == ("direct", True, ["graph/model.bin"])
    assert chain.files["graph/model.bin"].read_bytes() == b"graph"
    with pytest.raises(UnsupportedError, match="let shrink be the last step"):
        bench.run(POLISH, graph, POLISH)


def test_a_refused_step_costs_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise UnsupportedError("makes no sense")

    monkeypatch.setattr(Alter, "check", refuse)
    with pytest.raises(UnsupportedError, match="makes no sense"):
        bench.run(SHRINK)
    assert bench.shrink.applied == 0


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (StepRequest(name="shrink", config={"wrnog": 1}), r"shrink\.wrnog.*settings of shrink: wrong"),
        (StepRequest(name="shrink", config={"wrong": "much"}), r"shrink\.wrong"),
    ],
)
def test_a_setting_that_can_not_be_is_named(bench: Bench, step: StepRequest, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        bench.run(SHRINK, step)
    assert bench.shrink.applied == 0, "nothing is made before all settings are known to be good"


def test_an_unknown_optimizer_is_told_which_there_are(bench: Bench) -> None:
    with pytest.raises(NotFoundError, match="polish, shrink"):
        bench.run(StepRequest(name="shrnk"))
    with pytest.raises(ConfigError, match="at least one"):
        bench.run()


def test_a_parent_that_was_altered_is_refused_before_any_step(bench: Bench) -> None:
    nature = bench.parent.path("nature.json")
    nature.chmod(0o644)
    nature.write_text('{"wrong": 0.5}')
    with pytest.raises(ArtifactError, match=r"nature\.json is not the file in its manifest"):
        bench.run(SHRINK)
    assert bench.shrink.applied == 0
