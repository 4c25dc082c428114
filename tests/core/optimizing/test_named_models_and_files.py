"""Steps whose settings name published models and files: what these hold is part of what the step is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import guessing_task
import pytest
from guessing_task import Alter, AlterConfig

from taskloom.core.artifact import Artifact
from taskloom.core.errors import ArtifactError, DataError, NotFoundError, UnsupportedError
from taskloom.core.optimizer import Needs, OptimizeContext, Optimized
from taskloom.core.optimizing import Chain, Optimizing, StepRequest
from taskloom.core.store import ModelStore
from taskloom.core.task import TrainRun


class LearnConfig(AlterConfig):
    teacher: str = ""
    texts: Path | None = None


class Learn(Alter):
    """Looks its teacher up."""

    Config = LearnConfig

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.versions: list[str] = []

    def needs(self, config: LearnConfig) -> Needs:
        return Needs((config.teacher,) if config.teacher else (), (config.texts,) if config.texts else ())

    def apply(self, model: Any, config: Any, context: OptimizeContext) -> Optimized:
        self.versions.append(context.resolve(config.teacher).manifest.version)
        return super().apply(model, config, context)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = guessing_task.registry()
        self.learn = Learn("learn")
        self.registry.optimizers.add(self.learn, "test")
        self.store = ModelStore([folder / "models"])
        self.parent = self.publish()

    def publish(self) -> Artifact:
        return guessing_task.publish_parent(self.store, self.registry)

    def run(self, with_store: bool = True, **config: Any) -> Chain:
        rows = guessing_task.rows(0, 20)
        run = TrainRun(work_folder=self.folder / "work", show_progress=False)
        parts: dict[str, Any] = {"resolve": self.store.resolve} if with_store else {}
        chain = Optimizing(self.registry, self.parent, train=rows, validation=rows, identity=["rows"], run=run, **parts)
        return chain.run([StepRequest(name="learn", config=config)])


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_kept_step_is_not_taken_for_that_of_another_teacher(bench: Bench) -> None:
    name = bench.parent.manifest.model
    bench.run(teacher=f"{name}@production")
    bench.run(teacher=f"{name}@production")
    assert bench.learn.applied == 1
    other = bench.publish()
    bench.store.set_alias(name, "production", other.manifest.version, reason="test")
    bench.run(teacher=f"{name}@production")
    assert bench.learn.applied == 2
    assert bench.learn.versions == ["1", "2"]


def test_a_kept_step_is_not_taken_for_that_of_another_file(bench: Bench) -> None:
    texts = bench.folder / "texts.txt"
    texts.write_text("one\n")
    for _ in range(2):
        bench.run(teacher=bench.parent.name, texts=texts)
    assert bench.learn.applied == 1
    texts.write_text("two\n")
    bench.run(teacher=bench.parent.name, texts=texts)
    assert bench.learn.applied == 2


def test_what_is_not_there_is_told_before_anything_is_made(bench: Bench) -> None:
    with pytest.raises(NotFoundError, match="nobody"):
        bench.run(teacher="nobody")
    with pytest.raises(DataError, match=r"no data file .*absent\.txt"):
        bench.run(teacher=bench.parent.name, texts=bench.folder / "absent.txt")
    with pytest.raises(UnsupportedError, match="given no store"):
        bench.run(with_store=False, teacher="anybody")
    assert bench.learn.applied == 0


def test_an_altered_teacher_is_refused(bench: Bench) -> None:
    other = bench.publish()
    next(path for path in other.folder.iterdir() if path.name == "nature.json").write_text('{"wrong": 1.0}')
    with pytest.raises(ArtifactError, match="was altered"):
        bench.run(teacher=other.name)


def test_the_lineage_says_nothing_of_the_folders_that_files_lie_in(bench: Bench) -> None:
    texts = bench.folder / "mails" / "texts.txt"
    texts.parent.mkdir()
    texts.write_text("one\n")
    chain = bench.run(teacher=bench.parent.name, texts=texts)
    assert chain.steps[0].config["texts"] == "mails/texts.txt"
    assert str(bench.folder) not in chain.artifact.manifest.model_dump_json()
