"""Training, publishing and evaluating classifiers end to end, on a tiny random backbone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner
from optimizer_steps import published
from PIL import Image

from taskloom.core.errors import AuditUnavailableError, ConfigError, DataError, TaskloomError
from taskloom.core.loader import load_registry
from taskloom.core.ports import AuditEntry, AuditReceipt
from taskloom.core.predictor import load_predictor
from taskloom.core.registry import Registry
from taskloom.core.settings import Settings
from taskloom.core.store import ModelStore
from taskloom.core.task import Example, SharedParts, TrainRun
from taskloom.core.testing.conformance import publish
from taskloom.plugins.backbones.settings import LoraSettings
from taskloom.plugins.commands.evaluate import evaluate as eval_command
from taskloom.plugins.commands.train import train as train_command
from taskloom.plugins.tasks.classification.model import ClassificationModel, load
from taskloom.plugins.tasks.classification.plugin import ClassificationTask
from taskloom.plugins.tasks.classification.schema import ClassificationInput, TrainConfig
from taskloom.plugins.tasks.classification.train import balanced_weights, check_targets, train

FAST: dict[str, Any] = {
    "epochs": 25,
    "batch_size": 8,
    "validation_fraction": 0,
    "learning_rate": 5e-3,
    "head_learning_rate": 0.1,
    "ema_decay": 0.5,
    "dropout": 0.0,
    "adapter": None,
}


def example(text: str, target: Any, pair: str | None = None) -> Example[Any]:
    return Example(input=ClassificationInput(text=text, text_pair=pair), target=target, path="d.jsonl", line=1)


def card_or_order(count: int = 40) -> list[Example[Any]]:
    words = {
        "card": ["where is my card", "lost my card", "card ?"],
        "order": ["where is my order", "refund the order", "order !"],
    }
    return [example(f"{words[label][i % 3]} {'abcdefg'[i % 7]}", label) for i in range(count // 2) for label in words]


def trained(rows: Sequence[Example[Any]], folder: Path, backbone: str, **settings: Any) -> Any:
    config = TrainConfig(backbone=backbone, **{**FAST, **settings})
    return train(config, rows, [], TrainRun(folder, True, False))


def answers(model: Any, rows: Sequence[Example[Any]]) -> list[set[str]]:
    inputs = [row.input for row in rows]
    outputs = model.decode(model.forward(model.encode(inputs)), inputs, [_params(model)] * len(inputs))
    return [{score.label for score in output.labels} for output in outputs]


def _params(model: Any) -> Any:
    from taskloom.plugins.tasks.classification.schema import ClassificationParams

    return ClassificationParams(top_k=None if model.saved.multi_label else 1)


def test_a_classifier_learns_and_the_same_seed_gives_the_same_one(tmp_path: Path, tiny_bert: str) -> None:
    rows = card_or_order()
    first = trained(rows, tmp_path, tiny_bert)
    assert answers(first.model, rows) == [{row.target} for row in rows]
    again = trained(rows, tmp_path / "again", tiny_bert)
    pairs = zip(first.model.module.parameters(), again.model.module.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_a_pretrained_cross_encoder_is_taken_as_it_is(tmp_path: Path, checkpoint: Callable[..., Path]) -> None:
    folder = str(checkpoint("bert", head=["LABEL_0"], seed=8))
    config = TrainConfig(backbone=folder, pretrained=True, pair=True, labels=("relevant",))
    found = train(config, [], [], TrainRun(tmp_path, True, False))
    own = ClassificationModel.import_checkpoint(folder, pair=True)
    batch = own.encode([ClassificationInput(text="where is my card", text_pair="here")])
    assert (found.model.labels, found.model.saved.pair) == (("relevant",), True)
    torch.testing.assert_close(found.model.forward(batch)["logits"], own.forward(batch)["logits"])
    with pytest.raises(ConfigError, match="trains nothing"):
        train(config, card_or_order(), [], TrainRun(tmp_path, True, False))


def test_rows_are_held_out_of_the_training_to_judge_it(tmp_path: Path, tiny_bert: str) -> None:
    found = trained(card_or_order(), tmp_path, tiny_bert, validation_fraction=0.1, early_stopping_patience=2)
    assert (found.facts["rows"], found.facts["validation_rows"]) == (36, 4)
    assert all(0 <= row["accuracy"] <= 1 for row in found.history)
    assert len(found.history) < FAST["epochs"], "it stopped early"


def test_several_labels_a_text(tmp_path: Path, tiny_bert: str) -> None:
    kinds = [
        ("where is my card", ("card",)),
        ("refund the order", ("order",)),
        ("card , order", ("card", "order")),
        ("hello", ()),
    ]
    rows = [example(f"{text} {'abcdefg'[i % 7]}", target) for i in range(12) for text, target in kinds]
    slower = {"epochs": 40, "learning_rate": 2e-3, "head_learning_rate": 0.02}
    config: dict[str, Any] = {"multi_label": True, "class_weights": "balanced", "label_smoothing": 0.02, **slower}
    model = trained(rows, tmp_path, tiny_bert, **config).model
    right = [found == set(row.target) for found, row in zip(answers(model, rows), rows, strict=True)]
    assert sum(right) >= 0.9 * len(rows)


def test_pairs_of_texts(tmp_path: Path, tiny_bert: str) -> None:
    rows = [
        example(text, "same" if pair == "card" else "other", pair)
        for i in range(12)
        for text in ["lost", "where is it ?"]
        for pair in ["card", "order"]
    ]
    model = trained(rows, tmp_path, tiny_bert, pair=True).model
    assert answers(model, rows) == [{row.target} for row in rows]


def test_frozen_layers_stay_as_they_are_with_an_adapter_and_without(tmp_path: Path, tiny_bert: str) -> None:
    for adapter in ({"r": 4, "alpha": 8}, None):
        model = trained(card_or_order(), tmp_path, tiny_bert, frozen_layers=1, adapter=adapter, epochs=1).model
        free = {name for name, p in model.module.named_parameters() if p.requires_grad and "layer." in name}
        assert free
        assert all("layer.1." in name for name in free), free


def test_weights_kept_in_bf16_are_measured_as_they_are_kept_and_take_half_the_room(tmp_path: Path, tiny_bert: str) -> None:
    found, sizes = {}, {}
    for kept_in in ("fp32", "bf16"):
        settings = {"adapter": LoraSettings(r=8), "kept_in": kept_in, "epochs": 1}
        model = trained(card_or_order(), tmp_path / kept_in, tiny_bert, **settings).model
        artifact = publish(ClassificationTask(), model, ModelStore([tmp_path / f"store-{kept_in}"]))
        weights = ("head.safetensors", "adapter/adapter_model.safetensors")
        sizes[kept_in] = sum(artifact.path(name).stat().st_size for name in weights)
        inputs = [row.input for row in card_or_order(6)]
        found[kept_in] = model.forward(model.encode(inputs))["logits"]
        digest = artifact.manifest.backbone.digest if artifact.manifest.backbone else ""
        for shared in (SharedParts(), SharedParts([digest])):  # merged, and beside a backbone that others use as well
            again = load(artifact, shared)
            again.module.eval()
            assert {p.dtype for p in again.module.parameters()} == {torch.float32}
            torch.testing.assert_close(again.forward(again.encode(inputs))["logits"], found[kept_in], atol=1e-5, rtol=1e-5)
    assert sizes["bf16"] < 0.6 * sizes["fp32"]
    assert not torch.equal(found["bf16"], found["fp32"])


def test_a_stage_that_freezes_the_backbone_keeps_what_the_stage_before_made_of_it(tmp_path: Path, tiny_bert: str) -> None:
    rows, first = card_or_order(), tmp_path / "first"
    config = TrainConfig(**{**FAST, "backbone": tiny_bert, "adapter": None, "epochs": 1, "validation_fraction": 0})
    task = load_registry().tasks.get("classification")
    task.train(config, rows, [], TrainRun(first, show_progress=False))
    frozen = config.model_copy(update={"frozen_layers": 2})
    for _ in range(2):  # the second time it is found finished
        made = task.train(frozen, rows, [], TrainRun(tmp_path / "second", start=first, show_progress=False)).model
        saved = published("classification", made, tmp_path / "store")
        read = task.load(saved, SharedParts())
        inputs = [row.input for row in rows]
        with torch.inference_mode():
            logits = [model.forward(model.encode(inputs))["logits"] for model in (made, read)]
        assert torch.allclose(*logits, atol=1e-5)


def test_rows_that_do_not_fit_the_settings_are_refused(tmp_path: Path, tiny_bert: str) -> None:
    for rows, settings, told in [
        ([example("x", ("a", "b"))], {}, "multi_label = true"),
        ([example("x", "a", "y")], {}, "pair = true"),
        ([example("x", "a")], {"pair": True}, "no `text_pair`"),
        ([example("x", "a"), example("y", "a")], {}, "fewer than two labels"),
    ]:
        with pytest.raises(DataError, match=told):
            trained(rows, tmp_path, tiny_bert, **settings)


def test_balanced_weights_make_classes_weigh_the_same() -> None:
    rows = [example("x", "a")] * 30 + [example("x", "b")] * 10
    weights = balanced_weights(rows, ["a", "b"], False)
    assert float(weights[0]) * 30 == pytest.approx(float(weights[1]) * 10)


# -- the commands ---------------------------------------------------------------------------------------------------------


class ListedLog:
    """An audit log in a list."""

    def __init__(self) -> None:
        self.entries: list[AuditEntry] = []
        self.closed = False

    async def append(self, entry: AuditEntry) -> AuditReceipt:
        self.entries.append(entry)
        return AuditReceipt(sequence=len(self.entries), digest="0" * 64)

    async def close(self) -> None:
        self.closed = True


class Context:
    """What the tool's root hands to commands."""

    def __init__(self, home: Path) -> None:
        self.registry: Registry = load_registry()
        self.settings = Settings(home=home)
        self.store = ModelStore([home / "bundled", home / "models"])

    def print_json(self, data: Any) -> None:
        click.echo(json.dumps(data))


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(tmp_path / "home")


RECIPE = """
task = "classification"
name = "tiny"
description = "Card or order."
languages = ["en"]
licence = "Apache-2.0"
limits = "A test."

[data]
train = "rows.jsonl"
evaluation = "unseen.jsonl"
licence = "CC0"
obtain = "Run make-rows."

[config]
backbone = "{backbone}"
epochs = 6
batch_size = 8
learning_rate = 5e-3
head_learning_rate = 0.02
ema_decay = 0.5
adapter = {{ r = 4, alpha = 8 }}
"""


@pytest.fixture
def recipe(tmp_path: Path, tiny_bert: str) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE.format(backbone=tiny_bert))
    return path


def write_rows(path: Path, rows: Sequence[Example[Any]]) -> None:
    path.write_text("".join(json.dumps({"text": row.input.text, "label": row.target}) + "\n" for row in rows))


def run(command: click.Command, context: Context, *arguments: Any) -> Any:
    """The command's outcome; raises what it raises."""
    return CliRunner().invoke(command, [str(a) for a in arguments], obj=context, catch_exceptions=False)


def test_a_recipe_becomes_a_published_model_that_gives_its_figures_again(
    context: Context, recipe: Path, tmp_path: Path
) -> None:
    write_rows(tmp_path / "rows.jsonl", card_or_order())
    write_rows(tmp_path / "unseen.jsonl", [*card_or_order(12), example("my lost card", "order")])
    log = ListedLog()
    assert context.registry.hooks is not None
    context.registry.hooks.register(AuditPlugin(log))
    printed = json.loads(run(train_command, context, recipe, "--json", "--set", "adapter.r=2", "--seed", 5).stdout)
    assert printed["model"] == "tiny@1"
    assert printed["aliases"] == ["candidate", "production"]
    artifact = context.store.resolve("tiny")
    assert artifact.manifest.steps[0].config["adapter"]["r"] == 2
    assert artifact.manifest.steps[0].config["seed"] == 5
    assert artifact.manifest.data[0].rows == 40
    assert artifact.manifest.metrics == printed["metrics"]
    card = artifact.path("MODEL_CARD.md").read_text()
    assert "taskloom train tiny.toml --set adapter.r=2 --seed 5" in card
    assert str(tmp_path) not in card.replace(artifact.manifest.backbone.id if artifact.manifest.backbone else "", "")
    with Image.open(artifact.path("figures/confusion.png")) as picture:
        assert min(picture.size) > 300
    assert [(entry.action, entry.model, entry.version) for entry in log.entries] == [
        ("model.train", "tiny", ""),
        ("model.publish", "tiny", "1"),
    ]
    assert log.closed
    evaluated = json.loads(run(eval_command, context, "tiny@1", tmp_path / "unseen.jsonl", "--json").stdout)
    assert evaluated["evaluation"]["metrics"] == printed["metrics"]
    assert not list((context.settings.home / "training").rglob("*.safetensors"))
    shown = run(eval_command, context, "tiny", tmp_path / "rows.jsonl", "--figures", tmp_path / "f")
    assert "per class" in shown.stdout
    assert "was trained on rows.jsonl" in shown.stderr
    assert (tmp_path / "f" / "reliability.png").is_file()


def test_a_recipe_may_name_several_files(context: Context, recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(
        recipe.read_text()
        .replace('"rows.jsonl"', '["one/rows.jsonl", "two/rows.jsonl"]')
        .replace('"unseen.jsonl"', '["one/unseen.jsonl", "two/unseen.jsonl"]')
    )
    files = [tmp_path / folder / name for folder in ("one", "two") for name in ("rows.jsonl", "unseen.jsonl")]
    for i, path in enumerate(files):
        path.parent.mkdir(exist_ok=True)
        write_rows(path, [*card_or_order(12), example(f"my order {'abcd'[i]}", "order")])
    printed = json.loads(run(train_command, context, recipe, "--json", "--set", "epochs=1").stdout)
    artifact = context.store.resolve("tiny")
    assert [(info.name, info.rows) for info in artifact.manifest.data] == [("one/rows.jsonl", 13), ("two/rows.jsonl", 13)]
    assert len({info.sha256 for info in artifact.manifest.data}) == 2
    assert printed["examples"] == 26
    card = artifact.path("MODEL_CARD.md").read_text()
    assert "one/unseen.jsonl, two/unseen.jsonl" in card
    evaluated = json.loads(run(eval_command, context, "tiny", files[1], files[3], "--json").stdout)
    assert evaluated["evaluation"]["metrics"] == printed["metrics"]
    assert "trained on rows.jsonl" in run(eval_command, context, "tiny", files[1], files[2]).stderr


def test_a_training_that_can_not_be_put_on_record_publishes_nothing(context: Context, recipe: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", card_or_order())
    write_rows(tmp_path / "unseen.jsonl", card_or_order(12))
    assert context.registry.hooks is not None
    context.registry.hooks.register(AuditPlugin(FullLog()))
    with pytest.raises(AuditUnavailableError):
        run(train_command, context, recipe, "--set", "epochs=1")
    assert context.store.models() == []


class FullLog:
    """An audit log on a full disk."""

    async def append(self, entry: AuditEntry) -> AuditReceipt:
        raise AuditUnavailableError("no space left")

    async def close(self) -> None: ...


class AuditPlugin:
    """A plugin that has an audit log."""

    def __init__(self, log: ListedLog | FullLog) -> None:
        self.log = log

    from taskloom.core.hookspecs import hookimpl

    @hookimpl(tryfirst=True)
    def open_audit_log(self, settings: Settings) -> Any:
        return self.log


def test_missing_data_says_how_to_get_it_and_trains_nothing(context: Context, recipe: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", card_or_order())
    with pytest.raises(DataError, match=r"unseen\.jsonl.*\s+Run make-rows\.\s+.*--eval"):
        run(train_command, context, recipe)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--set", "epoch=3"], "epoch: .*Keys: epochs"),
        (["--set", "epochs"], "key=value"),
        (["--set", "epochs=many"], "epochs: "),
        (["--set", "epochs.x=1"], "not a table"),
    ],
)
def test_settings_that_cannot_be_used_are_named(context: Context, recipe: Path, arguments: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        run(train_command, context, recipe, *arguments)


def test_an_unknown_key_in_a_recipe_is_an_error(context: Context, recipe: Path) -> None:
    recipe.write_text('licens = "x"\n' + recipe.read_text())
    with pytest.raises(ConfigError, match="licens: "):
        run(train_command, context, recipe)


def test_an_unknown_label_in_evaluation_data_names_its_line(context: Context, recipe: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", card_or_order())
    write_rows(tmp_path / "unseen.jsonl", [example("card", "card"), example("hello", "greeting")])
    with pytest.raises(DataError, match=r"line 2: .*'greeting'"):
        run(train_command, context, recipe)
    with pytest.raises(TaskloomError, match="no model named"):
        context.store.resolve("tiny")


def test_rows_that_are_trained_on_tell_nothing_and_are_refused(context: Context, recipe: Path, tmp_path: Path) -> None:
    for name in ("rows.jsonl", "unseen.jsonl"):
        write_rows(tmp_path / name, card_or_order())
    with pytest.raises(DataError, match=r"unseen\.jsonl can't be evaluated on: tiny is trained on it \(rows\.jsonl\)"):
        run(train_command, context, recipe)
    assert context.store.models() == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--name", "My Model/.."], "name: String should match"),
        (["--alias", "2"], "'2' can't be an alias"),
        (["--first", "rows.jsonl"], "there are no \\[\\[stages"),
    ],
)
def test_what_can_not_be_published_is_told_before_anything_is_trained(
    context: Context, recipe: Path, tmp_path: Path, arguments: list[str], told: str
) -> None:
    write_rows(tmp_path / "rows.jsonl", card_or_order())
    write_rows(tmp_path / "unseen.jsonl", card_or_order(12))
    with pytest.raises(TaskloomError, match=told):
        run(train_command, context, recipe, *arguments)
    assert not (context.settings.home / "training").exists()


@pytest.mark.parametrize(("multi_label", "target"), [(True, "card"), (False, ("card",))])
def test_a_target_of_the_other_kind_is_refused(multi_label: bool, target: Any) -> None:
    rows = [example("x", target), example("y", target)]
    with pytest.raises(DataError, match=f"multi_label is {str(multi_label).lower()}"):
        check_targets(rows, TrainConfig(multi_label=multi_label))


def test_labels_to_judge_by_that_none_is_trained_on_are_told_first(tiny_bert: str, tmp_path: Path) -> None:
    config = TrainConfig(backbone=tiny_bert, adapter=LoraSettings(r=2))
    with pytest.raises(DataError, match="no row that is trained on has the label 'greeting'"):
        train(config, card_or_order(), [example("hello", "greeting"), example("card", "card")], TrainRun(work_folder=tmp_path))


def test_the_published_model_answers_through_a_predictor(context: Context, recipe: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", card_or_order())
    write_rows(tmp_path / "unseen.jsonl", card_or_order(12))
    run(train_command, context, recipe)
    predictor = load_predictor(context.registry, context.store.resolve("tiny"))
    output: Mapping[str, Any] = predictor.predict_one(ClassificationInput(text="where is my card")).model_dump()
    assert output["labels"][0]["label"] == "card"
    predictor.close()
