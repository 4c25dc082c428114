"""What a stage on text of the domain is worth where labelled rows are few: a recipe with a `[backbone]`, and without it.

    python benchmarks/pretraining/adapt.py benchmarks/pretraining/adapt-literature.toml [--backbone backbone-zh] [--rows 300]
        [--seeds 3] [--data train.jsonl --eval dev.jsonl] [--text documents.jsonl --text-eval documents.dev.jsonl]
        [--set epochs=10] [--set backbone.config.epochs=2]

Both sides begin from the same general backbone and are trained on the same rows, drawn anew for each seed: `direct` on that
backbone, `in stages` on what the text of the domain made of it. That stage is trained once, at the recipe's seed. A line is
printed for each training, then a table: the task's primary metric on the evaluation file, mean and range over the
seeds, and the difference seed by seed. Models go into a store that is removed at the end, or kept with `--home`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from taskloom.core.publishing import read_report
from taskloom.plugins.commands.recipe import Recipe, load_recipe, need_files, with_changes
from taskloom.plugins.commands.training import Order, check_recipe, train_recipe
from taskloom.sdk.cli.context import CliContext

SIDES = ("direct", "in stages")
COMMAND = "python benchmarks/pretraining/adapt.py"


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="taskloom-") as scratch:
        home = arguments.home or Path(scratch)
        cli = CliContext(home=home)
        asked = _recipe(arguments, Path(scratch))
        metric = cli.registry.tasks.get(asked.task).primary_metric
        print(f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
        scores: dict[str, list[float]] = {side: [] for side in SIDES}
        for seed in range(arguments.seeds):
            rows = draw(asked.data.train, arguments.rows, seed, Path(scratch) / f"rows-{seed}.jsonl")
            for side in SIDES:
                recipe, own = with_changes(asked, _changes(arguments, side))
                recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"train": (rows,)})})
                score = _score(cli, recipe, Order(f"{COMMAND} {arguments.recipe.name}", changes=own, seed=seed), metric)
                print(f"seed {seed}, {side}: {metric} {score:.4f}", flush=True)
                scores[side].append(score)
        _print_domain(cli, asked)
    print(f"\n| {metric} with {arguments.rows} rows | mean of {arguments.seeds} | lowest to highest |")
    print("| --- | --- | --- |")
    for side, found in scores.items():
        print(f"| {side} | {mean(found):.3f} | {min(found):.3f} to {max(found):.3f} |")
    gains = [after - before for before, after in zip(*scores.values(), strict=True)]
    print(f"\nin stages minus direct, by seed: {', '.join(f'{gain:+.4f}' for gain in gains)}; mean {mean(gains):+.4f}")


def _changes(arguments: argparse.Namespace, side: str) -> list[str]:
    if side == "in stages":
        return [*arguments.set, f"backbone.config.backbone={arguments.backbone}"]
    return [*(change for change in arguments.set if not change.startswith("backbone.")), f"backbone={arguments.backbone}"]


def draw(files: tuple[Path, ...], count: int, seed: int, path: Path) -> Path:
    """So many lines of all files, the same for the same seed: one for each label, so that none is unknown to the model, and the
    others of all that are left. They are kept in their order."""
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    labels = [set(_labels(json.loads(line))) for line in lines]
    order = random.Random(seed).sample(range(len(lines)), len(lines))
    first = {label: number for number in reversed(order) for label in labels[number]}
    chosen = list(dict.fromkeys([*first.values(), *order]))[: max(count, len(set(first.values())))]
    path.write_text("".join(f"{lines[number]}\n" for number in sorted(chosen)), encoding="utf-8")
    return path


def _labels(value: Any) -> Iterator[str]:
    """What a row of any task calls a label, at whatever depth."""
    if isinstance(value, dict):
        yield from (str(value[key]) for key in ("label", "relation") if isinstance(value.get(key), str))
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _labels(item)


def _recipe(arguments: argparse.Namespace, scratch: Path) -> Recipe:
    """The recipe, with the files of the command line; of the rows of the domain's files only their texts are taken."""
    recipe = load_recipe(arguments.recipe)
    backbone = recipe.backbone
    assert backbone is not None, f"{arguments.recipe} has no [backbone]"
    recipe = _with_files(recipe, {"train": arguments.data, "evaluation": arguments.eval})
    backbone = _with_files(backbone, {"train": arguments.text, "evaluation": arguments.text_eval})
    need_files(recipe)
    need_files(backbone, "--text and --text-eval")
    plain = {name: tuple(_texts(path, scratch) for path in getattr(backbone.data, name)) for name in ("train", "evaluation")}
    backbone = backbone.model_copy(update={"data": backbone.data.model_copy(update=plain)})
    return recipe.model_copy(update={"backbone": backbone})


def _with_files(recipe: Recipe, files: Mapping[str, Path | None]) -> Recipe:
    given = {name: (path,) for name, path in files.items() if path is not None}
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=given)})


def _texts(path: Path, scratch: Path) -> Path:
    if path.suffix != ".jsonl":
        return path
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    found = scratch / path.name
    found.write_text("".join(json.dumps({"text": row["text"]}, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return found


def _score(cli: CliContext, recipe: Recipe, order: Order, metric: str) -> float:
    check_recipe(cli, recipe, order)
    return read_report(train_recipe(cli, recipe, replace(order, aliases=()))).evaluation.metrics[metric]


def _print_domain(cli: CliContext, recipe: Recipe) -> None:
    assert recipe.backbone is not None
    made = cli.store.resolve(f"{recipe.backbone.name}@candidate")
    facts = made.manifest.steps[-1].facts
    told = ", ".join(f"{name} {value:.3f}" for name, value in made.manifest.metrics.items())
    print(f"{made.name}: trained on {facts['trained_tokens']} tokens in {facts['seconds']} s; on unseen text {told}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--backbone", default="backbone-zh", help="the general backbone: a name or a folder")
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, help="labelled rows to draw from, JSON lines, instead of the recipe's")
    parser.add_argument("--eval", type=Path, help="labelled rows to evaluate on, instead of the recipe's")
    parser.add_argument("--text", type=Path, help="text of the domain, instead of the recipe's")
    parser.add_argument("--text-eval", type=Path, help="text of the domain to evaluate the second stage on")
    parser.add_argument("--set", action="append", default=[], help="a setting of the recipe, as in taskloom train")
    parser.add_argument("--home", type=Path, help="keep the models here, and take the second stage from here on the next run")
    return parser.parse_args()


if __name__ == "__main__":
    main()
