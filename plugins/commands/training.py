"""What `taskloom train` does: a recipe's trainings one after the other, that of its backbone first, each of them published."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taskloom.core.errors import ConfigError, DataError, UnsupportedError
from taskloom.plugins.commands import CliContext
from taskloom.plugins.commands.recipe import Recipe, need_files, train_configs

if TYPE_CHECKING:
    from pydantic import BaseModel

    from taskloom.core.artifact import Artifact, DataInfo
    from taskloom.core.task import Example, TaskPlugin, Trained

CANDIDATE = "candidate"


@dataclass(frozen=True)
class Order:
    """What the command line says beside the recipe. `changes` and `seed` are of the recipe's own `[config]`; `command` is what
    makes the model again."""

    command: str
    changes: tuple[str, ...] = ()
    seed: int | None = None
    aliases: tuple[str, ...] = (CANDIDATE,)
    show_progress: bool = False
    resume: bool = True

    def for_backbone(self) -> Order:
        """The same, without what is the outer recipe's alone."""
        return dataclasses.replace(self, changes=(), seed=None, aliases=(CANDIDATE,))


@dataclass(frozen=True)
class Training:
    """A training that is to be made, of a recipe whose backbone exists. `first` are the rows of the first stage where those are
    not `rows`; `seen` describes the data files; `origins` are the published models that it begins from, `identity` is the
    same for the same training, and no other's."""

    recipe: Recipe
    task: TaskPlugin[Any, Any, Any]
    configs: Sequence[BaseModel]
    first: Sequence[Example[Any]]
    rows: Sequence[Example[Any]]
    validation: Sequence[Example[Any]]
    seen: Sequence[DataInfo]
    origins: Sequence[Artifact]
    weights: Sequence[str]

    @property
    def settings(self) -> list[Mapping[str, Any]]:
        return [config.model_dump(mode="json") for config in self.configs]

    def identity(self, stages: int | None = None) -> str:
        """Of the whole training, or of its first `stages`: their settings, the data, and the weights that it begins from."""
        from taskloom.core.digest import canonical_json, sha256_hex

        more = {
            **({"weights": list(self.weights)} if self.weights else {}),
            **({"first_files": len(self.recipe.data.first)} if self.recipe.data.first else {}),
            **({"validation_files": len(self.recipe.data.validation)} if self.recipe.data.validation else {}),
        }
        data = [info.sha256 for info in self.seen]
        return sha256_hex(canonical_json([*self.settings[:stages], data, *([more] if more else [])]))

    def folders(self, home: Path) -> list[Path]:
        """Where the checkpoints of each stage lie: the same place for the same training, and no other's."""
        return [home / f"{self.recipe.name}-{self.identity(stage + 1)[:12]}" for stage in range(len(self.configs))]

    def data(self) -> list[DataInfo]:
        """What the model will know of: its own files, and those of the models that it is made from."""
        inherited = [
            info.model_copy(update={"via": info.via or origin.name}) for origin in self.origins for info in origin.manifest.data
        ]
        return list({info.sha256: info for info in reversed([*self.seen, *inherited])}.values())[::-1]


def check_recipe(cli: CliContext, recipe: Recipe, order: Order, inside: str = "") -> None:
    """Raises, before anything is trained, what is wrong with a recipe or with that of its backbone: `ConfigError` for settings,
    `UnsupportedError` for a backbone of a task that makes none, `DataError` for files that aren't there. `inside` is how
    `--set` reaches the recipe."""
    task = cli.registry.tasks.get(recipe.task)
    named = recipe
    if recipe.backbone is not None:
        maker = cli.registry.tasks.get(recipe.backbone.task)
        if not maker.makes_backbones:
            makers = ", ".join(other.name for other in cli.registry.tasks if other.makes_backbones) or "none"
            raise UnsupportedError(
                f"[{inside}backbone] is a recipe of task {maker.name!r}, whose models are no backbones; tasks that make some: "
                f"{makers}"
            )
        if recipe.backbone.name == recipe.name:
            raise ConfigError(
                f"[{inside}backbone] has the name of the model that stands on it, {recipe.name!r}; give it another"
            )
        if "backbone" not in task.TrainConfig.model_fields:
            raise ConfigError(f"recipe {recipe.name} has a [backbone], and task {task.name!r} has no setting of that name")
        check_recipe(cli, recipe.backbone, order.for_backbone(), f"{inside}backbone.")
        named = recipe.standing_on(recipe.backbone.name)
    configs = train_configs(task.TrainConfig, named, order.changes, order.seed)
    if recipe.backbone is not None and any(recipe.backbone.name not in task.starts_from(config) for config in configs):
        raise ConfigError(
            f"recipe {recipe.name} has a [backbone], and its settings make a network that does not begin from one"
        )
    if not recipe.data.train and not all(getattr(config, "pretrained", False) for config in configs):
        raise ConfigError(f"recipe {recipe.name} names no rows to train on; set data.train, or give a file with --data")
    options = {**({"first": "--first"} if recipe.data.first else {}), "train": "--data", "evaluation": "--eval"}
    flags = [f"--set {inside}data.{name}=FILE" if inside else option for name, option in options.items()]
    need_files(recipe, " and ".join(flags))


def train_recipe(cli: CliContext, recipe: Recipe, order: Order) -> Artifact:
    """Trains and publishes the model, after its backbone where it has a recipe for one. A backbone that was published by the
    same training is taken as it is."""
    if recipe.backbone is not None:
        recipe = recipe.standing_on(_backbone(cli, recipe.backbone, order.for_backbone()).name)
    return _train_and_publish(cli, _training(cli, recipe, order), order)


def _backbone(cli: CliContext, recipe: Recipe, order: Order) -> Artifact:
    if recipe.backbone is not None:
        recipe = recipe.standing_on(_backbone(cli, recipe.backbone, order).name)
    training = _training(cli, recipe, order)
    made = published_by(cli, training)
    if made is not None:
        made.verify()
        click.echo(f"backbone {made.name} is here from the same training", err=True)
        return made
    click.echo(f"training the backbone {recipe.name}", err=True)
    made = _train_and_publish(cli, training, order)
    click.echo(f"published {made.name}", err=True)
    return made


def published_by(cli: CliContext, training: Training) -> Artifact | None:
    """The newest published version that the same training has made, and nothing else was done to."""
    from taskloom.core.types import ModelRef

    name, identity = training.recipe.name, training.identity()
    for version in reversed(cli.store.versions(name)):
        artifact = cli.store.resolve(ModelRef(name=name, version=version))
        steps, task = artifact.manifest.steps, artifact.manifest.task
        if steps and task == training.task.name and steps[-1].facts.get("training") == identity:
            return artifact
    return None


def _training(cli: CliContext, recipe: Recipe, order: Order) -> Training:
    from taskloom.core.artifact import file_label

    task = cli.registry.tasks.get(recipe.task)
    configs = train_configs(task.TrainConfig, recipe, order.changes, order.seed)
    first, first_counts = read_files(task, recipe.data.first)
    rows, row_counts = read_files(task, recipe.data.train)
    validation, validation_counts = read_files(task, recipe.data.validation)
    paths = (*recipe.data.first, *recipe.data.train, *recipe.data.validation)
    counts = (*first_counts, *row_counts, *validation_counts)
    seen = [describe((path,), (count,), recipe) for path, count in zip(paths, counts, strict=True)]
    if len(recipe.data.first) + len(recipe.data.train) > 1:
        seen = [info.model_copy(update={"name": file_label(str(path))}) for info, path in zip(seen, paths, strict=True)]
    names = list(dict.fromkeys(name for config in configs for name in task.starts_from(config)))
    origins, weights = _origins(cli, names)
    return Training(recipe, task, configs, first, rows, validation, seen, origins, weights)


def _origins(cli: CliContext, names: Sequence[str]) -> tuple[list[Artifact], list[str]]:
    """The published models among those that a training begins from; and the digests of weights that another training may find
    changed under the same name."""
    from taskloom.plugins.backbones.loading import (
        find_backbone,
        holds_weights,
        published_backbone,
        published_digest,
        weights_digest,
    )

    origins, weights = [], []
    for name in names:
        origin = published_backbone(name, roots=cli.store.roots)
        if origin is not None:
            origins.append(origin)
            weights.append(published_digest(origin))
        elif Path(name).is_dir() and holds_weights(folder := find_backbone(name)):
            weights.append(weights_digest(folder))
    return origins, weights


def _train_and_publish(cli: CliContext, training: Training, order: Order) -> Artifact:
    import torch

    from taskloom.core.artifact import LineageStep
    from taskloom.core.publishing import ModelStory, publish_trained
    from taskloom.plugins.commands.events import record_event

    threads = torch.get_num_threads()
    recipe, task = training.recipe, training.task
    refuse_known_rows(recipe.data.evaluation, training.data(), recipe.name)
    unseen, unseen_counts = read_files(task, recipe.data.evaluation)
    folders = training.folders(cli.settings.home / "training")
    stages = _stages(cli, training, order, folders)
    trained = stages[-1]
    trained = dataclasses.replace(trained, facts={**trained.facts, "training": training.identity()})
    earlier = [
        LineageStep(name="train", config=config, facts=stage.facts)
        for config, stage in zip(training.settings, stages[:-1], strict=False)
    ]
    digests = [info.sha256 for info in training.seen]
    # Before anything is published: what can't be put on record must not come to be served.
    record_event(cli.registry, cli.settings, "model.train", model=recipe.name, task=task.name, facts={"data": digests})
    artifact = publish_trained(
        cli.store,
        cli.registry,
        task,
        trained,
        ModelStory(**recipe.model_dump(include=set(ModelStory.model_fields) - {"reproduce"}), reproduce=(order.command,)),
        config=training.settings[-1],
        earlier=earlier,
        data=training.data(),
        evaluation=unseen,
        evaluation_data=describe(recipe.data.evaluation, unseen_counts, recipe),
        aliases=order.aliases,
    )
    # Measuring took every core; sums depend on how they are shared out, and the next training is to be as if it were the first.
    torch.set_num_threads(threads)
    published = artifact.manifest
    record_event(
        cli.registry,
        cli.settings,
        "model.publish",
        model=published.model,
        version=published.version,
        task=published.task,
        facts={"digest": artifact.digest, "data": digests, "metrics": dict(published.metrics)},
    )
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    return artifact


def refuse_known_rows(files: Sequence[Path], data: Sequence[DataInfo], name: str) -> None:
    """Raises `DataError` for an evaluation file that is among the training data: figures from it would say nothing."""
    from taskloom.core.artifact import file_digest

    known = {info.sha256: info for info in data}
    for path in files:
        info = known.get(file_digest(path).sha256)
        if info is not None:
            raise DataError(
                f"{path} can't be evaluated on: {info.via or name} is trained on it ({info.name}); give rows that no training "
                "has seen",
                path=str(path),
            )


def _stages(cli: CliContext, training: Training, order: Order, folders: Sequence[Path]) -> list[Trained[Any, Any, Any]]:
    """What each stage gave, from the weights of the one before."""
    from taskloom.core.task import TrainRun
    from taskloom.plugins.commands.telling import say_training

    run = TrainRun(
        work_folder=folders[0],
        resume=order.resume,
        show_progress=order.show_progress,
        on_event=(lambda _: None) if order.show_progress else say_training,
        roots=cli.store.roots,
    )
    found: list[Trained[Any, Any, Any]] = []
    for config, folder in zip(training.configs, folders, strict=True):
        if len(folders) > 1 and not order.show_progress:
            click.echo(f"stage {len(found) + 1} of {len(folders)}", err=True)
        run = dataclasses.replace(run, work_folder=folder)
        rows = training.rows if found else training.first or training.rows
        found.append(training.task.train(config, rows, training.validation, run))
        run = dataclasses.replace(run, start=folder)
    return found


def describe(paths: Sequence[Path], rows: Sequence[int], recipe: Recipe) -> DataInfo:
    from taskloom.plugins._shared.datasets import describe_data

    return describe_data(paths, sum(rows), licence=recipe.data.licence, source=recipe.data.source)


def read_files(task: TaskPlugin[Any, Any, Any], paths: Sequence[Path]) -> tuple[Sequence[Example[Any]], list[int]]:
    """The rows of the files, one after the other, and how many each has."""
    from taskloom.plugins._shared.datasets import joined_rows

    parts = [task.rows(path) for path in paths]
    for path, part in zip(paths, parts, strict=True):
        if not len(part):
            raise DataError(f"{path} has no rows", path=str(path))
    return joined_rows(parts), [len(part) for part in parts]
