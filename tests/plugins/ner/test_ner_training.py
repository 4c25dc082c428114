"""Training, publishing and evaluating recognisers end to end, on a tiny random backbone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from taskloom.core.errors import DataError
from taskloom.core.loader import load_registry
from taskloom.core.settings import Settings
from taskloom.core.store import ModelStore
from taskloom.core.task import Example, TrainRun
from taskloom.plugins.commands.evaluate import evaluate as eval_command
from taskloom.plugins.commands.train import train as train_command
from taskloom.plugins.tasks.ner.reading import read_examples
from taskloom.plugins.tasks.ner.schema import NerInput, TrainConfig
from taskloom.plugins.tasks.ner.train import train

FAST: dict[str, Any] = {
    "epochs": 8,
    "batch_size": 8,
    "validation_fraction": 0,
    "learning_rate": 5e-3,
    "head_learning_rate": 0.02,
    "ema_decay": 0.5,
    "dropout": 0.0,
    "adapter": None,
}
SAMPLE = Path(__file__).parents[2] / "data" / "wikigold-sample.jsonl"


def rows(count: int = 48, path: str = "d.jsonl") -> list[Example[Any]]:
    """Cards (one word, or two with `my`) and orders."""
    found = []
    for i in range(count):
        text = f"{'abcdefg'[i % 7]} my card , the order {'hijk'[i % 4]}" if i % 2 else f"order {'abcdefg'[i % 7]} ? my card"
        card, order = text.index("my card"), text.index("order")
        target = ((card, card + 7, "CARD"), (order, order + 5, "ORDER"))
        found.append(Example(input=NerInput(text=text), target=tuple(sorted(target)), path=path, line=i + 1))
    return found


def trained(data: list[Example[Any]], folder: Path, backbone: str, **settings: Any) -> Any:
    return train(TrainConfig(backbone=backbone, **{**FAST, **settings}), data, [], TrainRun(folder, True, False))


@pytest.mark.parametrize(("head", "scheme"), [("crf", "BIO"), ("token", "BIOES"), ("span", "BIO")])
def test_a_recogniser_learns(tmp_path: Path, tiny_bert: str, ask: Callable[..., Any], head: str, scheme: str) -> None:
    data = rows()
    model = trained(data, tmp_path, tiny_bert, head=head, scheme=scheme, max_span_words=4, span_size=8).model
    answers = ask(model, *(row.input.text for row in data))
    found = [tuple((e.start, e.end, e.label) for e in answer) for answer in answers]
    assert sum(one == row.target for one, row in zip(found, data, strict=True)) >= 0.9 * len(data)
    assert all(0.5 < entity.score <= 1 for answer in answers for entity in answer)


def test_names_within_names_are_learnt(tmp_path: Path, tiny_bert: str, ask: Callable[..., Any]) -> None:
    data = []
    for row in rows():
        start, end = next((i, j) for i, j, label in row.target if label == "CARD")
        data.append(row.model_copy(update={"target": ((start, end, "CARD"), (end - 4, end, "THING"))}))
    with pytest.raises(DataError, match="'CARD' and 'THING' overlap; set head = 'span'"):
        trained(data, tmp_path, tiny_bert)
    model = trained(data, tmp_path, tiny_bert, head="span", max_span_words=4, span_size=8).model
    answer = ask(model, data[0].input.text)[0]
    assert [(e.label, e.text) for e in answer] == [("CARD", "my card"), ("THING", "card")]


def test_rows_are_held_out_to_judge_and_the_best_weights_kept(tmp_path: Path, tiny_bert: str) -> None:
    found = trained(rows(), tmp_path, tiny_bert, validation_fraction=0.25, epochs=2)
    assert (found.facts["rows"], found.facts["validation_rows"]) == (36, 12)
    assert {"f1", "precision", "recall"} <= set(found.history[0])


def test_data_without_entities_is_refused(tmp_path: Path, tiny_bert: str) -> None:
    with pytest.raises(DataError, match="no entities"):
        trained([row.model_copy(update={"target": ()}) for row in rows(4)], tmp_path, tiny_bert)


class Context:
    """What the tool's root hands to commands."""

    def __init__(self, home: Path) -> None:
        self.registry = load_registry()
        self.settings = Settings(home=home)
        self.store = ModelStore([home / "models"])

    def print_json(self, data: Any) -> None:
        click.echo(json.dumps(data))


RECIPE = """
task = "ner"
name = "tiny-ner"
licence = "Apache-2.0"

[data]
train = ["one/rows.jsonl", "two/rows.jsonl"]
evaluation = ["one/unseen.jsonl", "two/unseen.jsonl"]

[config]
backbone = "{backbone}"
epochs = 1
batch_size = 16
learning_rate = 5e-3
validation_fraction = 0
adapter = {{ r = 2, alpha = 4 }}
label_map = {{ person = "PER" }}
"""


def test_a_recipe_of_two_data_sets_becomes_a_model_that_gives_its_figures_again(tmp_path: Path, tiny_bert: str) -> None:
    for folder, label in (("one", "PER"), ("two", "person")):
        (tmp_path / folder).mkdir()
        for name in ("rows", "unseen"):
            lines = SAMPLE.read_text().replace("-PER", f"-{label}").splitlines()
            (tmp_path / folder / f"{name}.jsonl").write_text("\n".join(lines[10:30] if name == "rows" else lines[:10]))
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE.format(backbone=tiny_bert))
    context = Context(tmp_path / "home")

    def run(command: Any, *arguments: Any) -> Any:
        return json.loads(CliRunner().invoke(command, [str(a) for a in arguments], obj=context, catch_exceptions=False).stdout)

    printed = run(train_command, recipe, "--json")
    artifact = context.store.resolve("tiny-ner")
    assert artifact.manifest.labels == ("LOC", "MISC", "ORG", "PER")
    assert [info.name for info in artifact.manifest.data] == ["one/rows.jsonl", "two/rows.jsonl"]
    card = artifact.path("MODEL_CARD.md").read_text()
    assert "| one/unseen.jsonl | 10 |" in card
    assert "misses names" in card
    unseen = [tmp_path / folder / "unseen.jsonl" for folder in ("one", "two")]
    evaluated = run(eval_command, "tiny-ner", *unseen, "--json")["evaluation"]
    assert evaluated["metrics"] == printed["metrics"]
    assert [row[0] for row in evaluated["tables"]["per_file"]] == ["file", "one/unseen.jsonl", "two/unseen.jsonl"]
    assert sum(row[4] for row in evaluated["tables"]["per_class"][1:]) == 2 * sum(
        len(example.target) for example in list(read_examples(SAMPLE))[:10]
    )
