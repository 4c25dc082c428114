"""From a recipe to a model that can be evaluated, by the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

from click.testing import CliRunner
from command_context import Context

from taskloom.core.loader import load_registry
from taskloom.core.publishing import read_report
from taskloom.plugins.commands.evaluate import evaluate
from taskloom.plugins.commands.recipe import load_recipe, train_configs
from taskloom.plugins.commands.train import train
from taskloom.plugins.tasks.fill_mask.schema import FillMaskInput, TrainConfig

ROOT = Path(__file__).parents[3]
SAMPLE = ROOT / "tests" / "data" / "zhwiki-law-sample.txt"
RECIPE = """
task = "fill-mask"
name = "tiny-zh"
[data]
train = "read.txt"
evaluation = "unread.txt"
[config]
train_length = 32
rows = 128
batch_size = 32
[config.network]
layers = 1
width = 16
heads = 2
feed_forward = 32
positions = 128
vocabulary = 900
[[stages]]
seed = 14
learning_rate = 5e-4
"""


def test_a_recipe_becomes_a_model(tmp_path: Path) -> None:
    documents = SAMPLE.read_text(encoding="utf-8").split("\n\n")
    (tmp_path / "read.txt").write_text("\n\n".join(documents[2:]), encoding="utf-8")
    (tmp_path / "unread.txt").write_text("\n\n".join(documents[:2]), encoding="utf-8")
    (tmp_path / "tiny.toml").write_text(RECIPE, encoding="utf-8")
    context = Context(tmp_path / "home")
    done = CliRunner().invoke(train, [str(tmp_path / "tiny.toml"), "--json"], obj=context, catch_exceptions=False)
    printed = json.loads(done.stdout)
    assert printed["metrics"].keys() == {"masked_accuracy", "pseudo_perplexity", "word_accuracy"}
    artifact = context.store.resolve("tiny-zh@candidate")
    assert set(artifact.manifest.files) >= {
        "backbone/config.json",
        "backbone/model.safetensors",
        "backbone/tokenizer.json",
        "backbone/tokenizer_config.json",
        "backbone/vocab.txt",
        "training_curve.json",
        "figures/training_loss.png",
        "report.json",
        "MODEL_CARD.md",
    }
    steps = artifact.manifest.steps
    assert [step.facts["steps"] for step in steps] == [4, 4]
    assert read_report(artifact).evaluation.figures == ("figures/training_loss.png",)
    curve = json.loads((artifact.folder / "training_curve.json").read_text())["points"]
    assert curve[-1]["step"] == 8
    assert curve[-1]["tokens"] == 8 * 32 * 32
    arguments = ["tiny-zh@candidate", str(tmp_path / "unread.txt"), "--json"]
    again = json.loads(CliRunner().invoke(evaluate, arguments, obj=context, catch_exceptions=False).stdout)
    assert again["evaluation"]["metrics"] == printed["metrics"]


def test_the_recipe_in_the_docs_is_valid(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "pretraining.md").read_text(encoding="utf-8")
    [block] = re.findall(r"^```toml\n(.*?)^```$", page, re.S | re.M)
    (tmp_path / "ner-law.toml").write_text(block, encoding="utf-8")
    recipe = load_recipe(tmp_path / "ner-law.toml")
    assert recipe.backbone is not None
    [inner] = train_configs(TrainConfig, recipe.backbone, (), None)
    assert inner.frozen_layers == 2
    outer = load_registry().tasks.get(recipe.task)
    [config] = train_configs(outer.TrainConfig, recipe.standing_on("backbone-law@1"), (), None)
    assert outer.starts_from(config) == ("backbone-law@1",)


def test_the_recipe_in_the_box_is_valid() -> None:
    recipe = load_recipe(ROOT / "models" / "recipes" / "backbone-zh.toml")
    for config in train_configs(TrainConfig, recipe, (), None):
        assert config.network is not None
        assert (config.network.layers, config.network.width) == (3, 384)
    for example in recipe.examples:
        FillMaskInput.model_validate(example)
