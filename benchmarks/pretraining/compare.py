"""What a pretrained backbone is worth: recipes trained from it and from random weights of the same shape, on the same rows.

    python benchmarks/pretraining/compare.py models/recipes/{ner-zh,topic-zh}.toml [--backbone .../models/backbone-zh/1]
        [--backbone .../other-backbone] [--seeds 3] [--rows 2000] [--set epochs=5]

Every backbone is trained whole (`adapter = false`): random weights under an adapter learn next to nothing. A line is printed
for each training, then a table: the recipe's primary metric on its evaluation file, mean and range over the seeds. With
`--rows` a training has so many of the recipe's rows, drawn anew for each seed, the same ones for each backbone.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import mean

import torch

from taskloom.core.loader import load_registry
from taskloom.core.predictor import Predictor
from taskloom.core.registry import Registry
from taskloom.core.task import TrainRun
from taskloom.plugins._shared.tuning import InMemory
from taskloom.plugins.backbones.loading import load_backbone, save_backbone
from taskloom.plugins.commands.recipe import Recipe, load_recipe, need_files, train_configs
from taskloom.plugins.commands.training import read_files

RANDOM = "random weights"


def main() -> None:
    arguments = _arguments()
    registry = load_registry()
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    print(f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="taskloom-") as folder:
        for seed in range(arguments.seeds):
            start = Path(folder) / f"random-{seed}"
            _save_random(arguments.backbone[0], start, seed)
            for path in arguments.recipes:
                recipe = load_recipe(path)
                need_files(recipe)
                for name, backbone in [*((name, name) for name in arguments.backbone), (RANDOM, str(start))]:
                    changes = (*arguments.set, f"backbone={backbone!r}", "adapter=false")
                    score = _trained(registry, recipe, changes, seed, work=Path(folder) / "work", most=arguments.rows)
                    print(f"{recipe.name}, seed {seed}, from {name}: {score:.4f}", flush=True)
                    found[recipe.name, name].append(score)
    print(f"\n| recipe | from | mean of {arguments.seeds} | lowest to highest |\n| --- | --- | --- | --- |")
    for (recipe_name, name), scores in found.items():
        print(f"| {recipe_name} | {name} | {mean(scores):.3f} | {min(scores):.3f} to {max(scores):.3f} |")


def _save_random(backbone: str, folder: Path, seed: int) -> None:
    """A backbone of the same shape and vocabulary that has learnt nothing."""
    made = load_backbone(backbone)
    torch.manual_seed(seed)
    made.model = type(made.model)(made.model.config)
    save_backbone(made, folder)


def _trained(registry: Registry, recipe: Recipe, changes: tuple[str, ...], seed: int, *, work: Path, most: int) -> float:
    task = registry.tasks.get(recipe.task)
    config, *later = train_configs(task.TrainConfig, recipe, changes, seed)
    if later:
        raise SystemExit(f"{recipe.name} is trained in stages; compare.py takes recipes of one")
    rows, _ = read_files(task, recipe.data.train)
    if 0 < most < len(rows):
        rows = random.Random(seed).sample(list(rows), most)
    unseen, _ = read_files(task, recipe.data.evaluation)
    trained = task.train(config, rows, (), TrainRun(work_folder=work, resume=False, show_progress=False))
    result = task.evaluate(Predictor(task, trained.model, InMemory(trained.model)), unseen)
    return result.metrics[task.primary_metric]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", type=Path)
    parser.add_argument("--backbone", action="append", help="by name or folder; may be repeated (default: backbone-zh)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=0, help="to train on; 0: all that the recipe has")
    parser.add_argument("--set", action="append", default=[], help="a setting of the recipes' [config], as in taskloom train")
    found = parser.parse_args()
    found.backbone = found.backbone or ["backbone-zh"]
    return found


if __name__ == "__main__":
    main()
