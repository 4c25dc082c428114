"""A recipe that holds the recipe of its backbone, which holds that of its own: general text, text of the domain, the task."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from taskloom.core.errors import ConfigError, DataError, UnsupportedError
from taskloom.core.loader import load_registry
from taskloom.core.ports import WorkItem
from taskloom.core.settings import Settings
from taskloom.core.store import ModelStore
from taskloom.core.types import InferCall, ModelRef
from taskloom.plugins._shared.checkpoints import CHECKPOINT
from taskloom.plugins.backbones.loading import published_digest
from taskloom.plugins.commands import telling
from taskloom.plugins.commands.evaluate import evaluate
from taskloom.plugins.commands.recipe import load_recipe, with_changes
from taskloom.plugins.commands.train import train
from taskloom.plugins.optimizing import DataFiles, Others, refuse_known_rows
from taskloom.server.builtin import open_local_engine
from taskloom.server.engine.host import ModelHost
from taskloom.server.engine.spec import ModelVersion, ReplicaSpec

SAMPLE = Path(__file__).parents[2] / "data" / "zhwiki-law-sample.txt"
RECIPE = """
task = "classification"
name = "topic"

[data]
train = "rows.jsonl"
evaluation = "unseen.jsonl"
licence = "CC0"

[config]
adapter = { r = 2, alpha = 4 }
epochs = 1
batch_size = 8
max_length = 32
validation_fraction = 0
precision = "fp32"

[backbone]
task = "fill-mask"
name = "backbone-law"
licence = "MIT"

[backbone.data]
train = "law.txt"
evaluation = "unread.txt"
licence = "CC BY"

[backbone.config]
frozen_layers = 1
train_length = 32
rows = 96
batch_size = 16
checkpoint_steps = 2
precision = "fp32"

[backbone.backbone]
task = "fill-mask"
name = "backbone-general"

[backbone.backbone.data]
train = "general.txt"
evaluation = "unread.txt"

[backbone.backbone.config]
train_length = 32
rows = 32
batch_size = 16
precision = "fp32"

[backbone.backbone.config.network]
layers = 2
width = 16
heads = 2
feed_forward = 32
positions = 128
vocabulary = 300
first_vectors = false
"""


class Context:
    """What the tool's root hands to commands."""

    def __init__(self, home: Path) -> None:
        self.registry = load_registry()
        self.settings = Settings(home=home)
        self.store = ModelStore([self.settings.models_folder])

    def print_json(self, data: object) -> None:
        click.echo(json.dumps(data))


def lay_out(folder: Path) -> Path:
    """The recipe and its files."""
    folder.mkdir(parents=True, exist_ok=True)
    documents = SAMPLE.read_text(encoding="utf-8").split("\n\n")[:14]
    (folder / "general.txt").write_text("\n\n".join(documents[:6]), encoding="utf-8")
    (folder / "law.txt").write_text("\n\n".join(documents[6:12]), encoding="utf-8")
    (folder / "unread.txt").write_text("\n\n".join(documents[12:]), encoding="utf-8")
    for name, count in (("rows.jsonl", 6), ("unseen.jsonl", 2)):
        rows = [{"text": text, "label": label} for text, label in (("列车在车站", "train"), ("法院的判决", "law"))] * count
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "topic.toml").write_text(RECIPE, encoding="utf-8")
    return folder / "topic.toml"


def run(command: click.Command, context: Context, *arguments: Any) -> Any:
    """The command's outcome; raises what it raises."""
    return CliRunner().invoke(command, [str(a) for a in arguments], obj=context, catch_exceptions=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Context, Path]:
    """A home in which the recipe was trained once, and the recipe."""
    folder = tmp_path_factory.mktemp("stages")
    recipe = lay_out(folder / "mine")
    context = Context(folder / "home")
    torch.set_num_threads(1)  # sums depend on how they are shared out: as many threads as in the other process
    run(train, context, recipe, "--no-progress")
    return context, recipe


@pytest.fixture
def place(made: tuple[Context, Path], tmp_path: Path) -> tuple[Context, Path]:
    """The same, for a test that adds to it."""
    shutil.copytree(made[0].settings.home, tmp_path / "home")
    return Context(tmp_path / "home"), lay_out(tmp_path / "mine")


def versions(context: Context) -> dict[str, int]:
    return {name: len(context.store.versions(name)) for name in context.store.models()}


def test_each_stage_is_a_model_of_its_own(made: tuple[Context, Path]) -> None:
    context, recipe = made
    assert versions(context) == {"backbone-general": 1, "backbone-law": 1, "topic": 1}
    general, law, topic = (context.store.resolve(f"{name}@candidate") for name in ("backbone-general", "backbone-law", "topic"))
    for artifact in (general, law, topic):
        artifact.verify()
        assert {"report.json", "MODEL_CARD.md"} <= artifact.manifest.files.keys()
        told = artifact.path("MODEL_CARD.md").read_text() + (artifact.folder / "manifest.json").read_text()
        assert str(recipe.parent) not in told, "no path of this machine"
        assert str(context.settings.home) not in told
    assert law.manifest.backbone is not None
    assert topic.manifest.backbone is not None
    assert (law.manifest.backbone.id, law.manifest.backbone.digest) == ("backbone-general@1", published_digest(general))
    assert (topic.manifest.backbone.id, topic.manifest.backbone.digest) == ("backbone-law@1", published_digest(law))
    assert topic.manifest.backbone.licence == "MIT"
    assert "backbone/model.safetensors" not in topic.manifest.files
    before, after = (load_file(artifact.path("backbone/model.safetensors")) for artifact in (general, law))
    changed = {name for name, tensor in before.items() if not tensor.equal(after[name])}
    assert any(".layer.1." in name for name in changed)
    assert not any("embeddings" in name or ".layer.0." in name for name in changed)
    card = topic.path("MODEL_CARD.md").read_text()
    assert "It was made from backbone-law@1, backbone-general@1, whose own cards say how those were made." in card
    assert not list((context.settings.home / "training").glob("*"))


def test_what_was_read_on_the_way_is_known(made: tuple[Context, Path]) -> None:
    context, recipe = made
    known = [(info.name, info.via, info.licence) for info in context.store.resolve("topic").manifest.data]
    assert known == [
        ("rows.jsonl", "", "CC0"),
        ("law.txt", "backbone-law@1", "CC BY"),
        ("general.txt", "backbone-general@1", ""),
    ]
    shown = run(evaluate, context, "backbone-law", recipe.parent / "general.txt")
    assert "backbone-general@1, which backbone-law@1 was made from, was trained on general.txt" in shown.stderr
    leak = DataFiles([recipe.parent / "rows.jsonl"], [recipe.parent / "law.txt"])
    with pytest.raises(DataError, match=r"backbone-law@1 was trained on it \(law\.txt\)"):
        refuse_known_rows(context.store.resolve("topic"), leak, Others((), ()))


def test_a_backbone_is_trained_once_and_anew_where_something_changed(place: tuple[Context, Path]) -> None:
    context, recipe = place
    told = run(train, context, recipe, "--set", "epochs=2", "--seed", 4, "--name", "other", "--no-progress").stderr
    assert "backbone backbone-law@1 is here from the same training" in told
    assert versions(context) == {"backbone-general": 1, "backbone-law": 1, "topic": 1, "other": 1}
    run(train, context, recipe, "--set", "backbone.config.seed=5", "--no-progress")
    assert versions(context) == {"backbone-general": 1, "backbone-law": 2, "topic": 2, "other": 1}
    newest = context.store.resolve("topic@2").manifest
    assert newest.backbone is not None
    assert newest.backbone.id == "backbone-law@2"
    assert "--set backbone.config.seed=5" in context.store.resolve("topic@2").path("MODEL_CARD.md").read_text()
    with (recipe.parent / "law.txt").open("a", encoding="utf-8") as file:
        file.write("\n\n法律\n第一条。")
    run(train, context, recipe, "--no-progress")
    assert versions(context)["backbone-law"] == 3, "other text"
    run(train, context, recipe, "--set", "backbone.backbone.config.seed=7", "--no-progress")
    assert versions(context) == {"backbone-general": 2, "backbone-law": 4, "topic": 4, "other": 1}, (
        "another backbone of its own"
    )


def test_a_backbone_that_exists_takes_the_place_of_its_recipe(place: tuple[Context, Path]) -> None:
    context, recipe = place
    run(train, context, recipe, "--set", "backbone=backbone-general", "--no-progress")
    assert versions(context)["backbone-law"] == 1
    manifest = context.store.resolve("topic@2").manifest
    assert manifest.backbone is not None
    assert manifest.backbone.digest == published_digest(context.store.resolve("backbone-general"))
    assert [(info.name, info.via) for info in manifest.data] == [("rows.jsonl", ""), ("general.txt", "backbone-general@1")]


def test_a_replica_and_the_local_engine_serve_what_stands_on_it(place: tuple[Context, Path]) -> None:
    """Two models on the backbone share it in a replica, which is told no more than where the store lies."""
    context, recipe = place
    run(train, context, recipe, "--set", "adapter.r=4", "--name", "other", "--no-progress")
    models = (ModelVersion("topic", "1"), ModelVersion("other", "1"))
    spec: ReplicaSpec = pickle.loads(pickle.dumps(ReplicaSpec("default", models, context.store.roots)))
    host = ModelHost.from_spec(spec)
    host.load()
    items = [WorkItem(request_id="r", model=m.model, input={"text": "法院的判决"}, params={}) for m in models]
    together = [_scores(result.output) for result in host.run(items).results]
    host.close()

    async def served() -> list[dict[str, float]]:
        engine = open_local_engine(context.settings, context.registry)
        await engine.start()
        try:
            calls = [InferCall(model=ModelRef(name=m.model), input={"text": "法院的判决"}) for m in models]
            return [_scores((await engine.infer(call)).output) for call in calls]
        finally:
            await engine.close()

    for answer, other in zip(asyncio.run(served()), together, strict=True):
        assert answer.keys() == {"train", "law"}
        assert answer == pytest.approx(other, abs=1e-2)


def _scores(output: Any) -> dict[str, float]:
    return {found["label"]: found["score"] for found in output["labels"]}


def test_a_killed_backbone_goes_on_and_the_model_after_it(made: tuple[Context, Path], tmp_path: Path) -> None:
    shutil.copytree(made[0].settings.home / "models" / "backbone-general", tmp_path / "home" / "models" / "backbone-general")
    recipe = lay_out(tmp_path / "mine")
    process = subprocess.run([sys.executable, __file__, str(tmp_path / "home"), str(recipe)], check=False)
    assert process.returncode == -signal.SIGKILL
    context = Context(tmp_path / "home")
    assert versions(context) == {"backbone-general": 1}
    assert [path.parent.name[:12] for path in (tmp_path / "home").rglob(CHECKPOINT)] == ["backbone-law"]
    torch.set_num_threads(1)
    told = run(train, context, recipe, "--no-progress").stderr
    assert "going on from step 2 of 6" in told
    assert versions(context) == {"backbone-general": 1, "backbone-law": 1, "topic": 1}
    assert published_digest(context.store.resolve("backbone-law")) == published_digest(made[0].store.resolve("backbone-law"))


@pytest.mark.parametrize(
    ("changes", "kind", "told"),
    [
        (["backbone.task=classification"], UnsupportedError, r"\[backbone\] is a recipe of task 'classification'.*: fill-mask"),
        (["backbone.backbone.task=ner"], UnsupportedError, r"\[backbone\.backbone\] is a recipe of task 'ner'"),
        (["backbone.config.epoch=3"], ConfigError, "epoch: "),
        (["backbone.data.train=gone.txt"], DataError, r"gone\.txt.*--set backbone\.data\.train=FILE"),
        (["backbone.config.backbone=other"], ConfigError, "give one of them"),
        (["backbone.licens=MIT"], ConfigError, "licens: "),
        (["backbone.name=topic"], ConfigError, "give it another"),
        (["epochs=none"], ConfigError, "epochs: "),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(
    tmp_path: Path, changes: list[str], kind: type[Exception], told: str
) -> None:
    recipe, context = lay_out(tmp_path), Context(tmp_path / "home")
    with pytest.raises(kind, match=told):
        run(train, context, recipe, *(word for change in changes for word in ("--set", change)))
    assert context.store.models() == []


def test_a_backbone_that_nothing_begins_from_is_refused(tmp_path: Path) -> None:
    recipe, context = lay_out(tmp_path), Context(tmp_path / "home")
    network = '[config.network]\nkind = "bilstm"\n'
    recipe.write_text(RECIPE.replace('"classification"', '"ner"').replace("[backbone]\n", f"{network}[backbone]\n", 1))
    with pytest.raises(ConfigError, match="network makes an encoder from scratch, and backbone"):
        run(train, context, recipe)
    recipe.write_text(RECIPE.replace("epochs = 1", 'backbone = "other"'))
    with pytest.raises(ConfigError, match="'backbone-law', and the settings name another"):
        run(train, context, recipe)


def test_files_of_the_inner_recipe_lie_beside_it_or_where_they_are_said_to(tmp_path: Path) -> None:
    recipe, rest = with_changes(load_recipe(lay_out(tmp_path)), ["epochs=2", "backbone.data.train=['a.txt', 'b.txt']"])
    assert rest == ("epochs=2",)
    assert recipe.backbone is not None
    assert recipe.backbone.data.train == (Path("a.txt"), Path("b.txt"))
    assert recipe.backbone.data.evaluation == (tmp_path / "unread.txt",)
    assert recipe.backbone.backbone is not None
    assert recipe.backbone.backbone.data.train == (tmp_path / "general.txt",)


if __name__ == "__main__":

    def kill_at_the_third_step(event: Mapping[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    telling.say_training = kill_at_the_third_step
    run(train, Context(Path(sys.argv[1])), sys.argv[2], "--no-progress")
