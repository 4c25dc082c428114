"""`taskloom train`: a recipe in, a published model out."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taskloom.plugins.commands import CliContext

if TYPE_CHECKING:
    from pydantic import BaseModel

    from taskloom.core.artifact import Artifact, DataInfo
    from taskloom.core.task import Example, TaskPlugin
    from taskloom.plugins.commands.recipe import Recipe


@click.command()
@click.argument("recipe", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a setting of [config]; may be repeated.")
@click.option("--name", help="Publish under this name instead of the recipe's.")
@click.option(
    "--data",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Train on this file instead of the recipe's; may be repeated.",
)
@click.option(
    "--eval",
    "evaluation",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Evaluate on this file instead of the recipe's; may be repeated.",
)
@click.option("--seed", type=click.IntRange(min=0), help="The seed, over the recipe's.")
@click.option("--alias", "aliases", multiple=True, default=("candidate",), show_default=True, help="Point this alias at it.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--progress/--no-progress", default=None, help="Show a progress bar; by default on a terminal only.")
@click.option("--no-resume", is_flag=True, help="Start anew, even if this training was interrupted before.")
@click.pass_obj
def train(
    cli: CliContext,
    *,
    recipe: Path,
    changes: tuple[str, ...],
    name: str | None,
    data: tuple[Path, ...],
    evaluation: tuple[Path, ...],
    seed: int | None,
    aliases: tuple[str, ...],
    as_json: bool,
    progress: bool | None,
    no_resume: bool,
) -> None:
    """Train the model that RECIPE describes, evaluate it on rows that it has not seen, and publish it.

    A training that was interrupted goes on from its last checkpoint when the same command is given again.
    """
    from taskloom.core.errors import ConfigError
    from taskloom.core.publishing import read_report
    from taskloom.plugins.commands.recipe import load_recipe, need_files, train_configs

    asked = load_recipe(recipe)
    files = {key: path for key, path in (("train", data), ("evaluation", evaluation)) if path}
    asked = asked.model_copy(update={"data": asked.data.model_copy(update=files), **({"name": name} if name else {})})
    task = cli.registry.tasks.get(asked.task)
    configs = train_configs(task.TrainConfig, asked, changes, seed)
    if not asked.data.train and not all(getattr(config, "pretrained", False) for config in configs):
        raise ConfigError(f"recipe {recipe} names no rows to train on; set data.train, or give a file with --data")
    need_files(asked)
    command = _command(recipe, changes, name, seed)
    show = sys.stderr.isatty() if progress is None else progress
    artifact = _train_and_publish(
        cli, asked, task, configs, command=command, aliases=aliases, show_progress=show, resume=not no_resume
    )
    report = read_report(artifact)
    if as_json:
        cli.print_json(
            {
                "model": artifact.name,
                "path": str(artifact.folder),
                "aliases": list(artifact.aliases),
                "metrics": dict(report.evaluation.metrics),
                "intervals": {key: list(value) for key, value in report.evaluation.intervals.items()},
                "examples": report.evaluation.examples,
            }
        )
        return
    from rich.console import Console

    from taskloom.plugins.commands.tables import metrics_table

    console = Console(soft_wrap=not sys.stdout.isatty())
    console.print(f"published {artifact.name} ({', '.join(artifact.aliases)})\n{artifact.folder}", highlight=False)
    console.print(metrics_table(task, report.evaluation))


def _train_and_publish(
    cli: CliContext,
    recipe: Recipe,
    task: TaskPlugin[Any, Any, Any],
    configs: Sequence[BaseModel],
    *,
    command: str,
    aliases: tuple[str, ...],
    show_progress: bool,
    resume: bool,
) -> Artifact:
    from taskloom.core.artifact import LineageStep, file_label
    from taskloom.core.publishing import ModelStory, publish_trained
    from taskloom.core.task import TrainRun
    from taskloom.plugins.commands.events import record_event
    from taskloom.plugins.commands.telling import say_training

    rows, row_counts = read_files(task, recipe.data.train)
    validation, validation_counts = read_files(task, recipe.data.validation)
    unseen, unseen_counts = read_files(task, recipe.data.evaluation)
    paths = (*recipe.data.train, *recipe.data.validation)
    counts = (*row_counts, *validation_counts)
    seen = [_info((path,), (count,), recipe) for path, count in zip(paths, counts, strict=True)]
    if len(recipe.data.train) > 1:
        seen = [info.model_copy(update={"name": file_label(str(path))}) for info, path in zip(seen, paths, strict=True)]
    run = TrainRun(
        work_folder=cli.settings.home / "training",
        resume=resume,
        show_progress=show_progress,
        on_event=(lambda _: None) if show_progress else say_training,
    )
    settings = [config.model_dump(mode="json") for config in configs]
    folders = _work_folders(run.work_folder, recipe.name, settings, seen)
    earlier = list[LineageStep]()
    for config, table, folder in zip(configs, settings, folders, strict=True):
        if len(configs) > 1 and not show_progress:
            click.echo(f"stage {len(earlier) + 1} of {len(configs)}", err=True)
        trained = task.train(config, rows, validation, dataclasses.replace(run, work_folder=folder))
        earlier.append(LineageStep(name="train", config=table, facts=trained.facts))
        run = dataclasses.replace(run, start=folder)
    digests = [info.sha256 for info in seen]
    # Before anything is published: what can't be put on record must not come to be served.
    record_event(cli.registry, cli.settings, "model.train", model=recipe.name, task=task.name, facts={"data": digests})
    artifact = publish_trained(
        cli.store,
        cli.registry,
        task,
        trained,
        ModelStory(**recipe.model_dump(include=set(ModelStory.model_fields) - {"reproduce"}), reproduce=(command,)),
        config=settings[-1],
        earlier=earlier[:-1],
        data=seen,
        evaluation=unseen,
        evaluation_data=_info(recipe.data.evaluation, unseen_counts, recipe),
        aliases=aliases,
    )
    published = artifact.manifest
    facts = {"digest": artifact.digest, "data": digests, "metrics": dict(published.metrics)}
    record_event(
        cli.registry,
        cli.settings,
        "model.publish",
        model=published.model,
        version=published.version,
        task=published.task,
        facts=facts,
    )
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    return artifact


def _info(paths: Sequence[Path], rows: Sequence[int], recipe: Recipe) -> DataInfo:
    from taskloom.plugins._shared.datasets import describe_data

    return describe_data(paths, sum(rows), licence=recipe.data.licence, source=recipe.data.source)


def read_files(task: TaskPlugin[Any, Any, Any], paths: Sequence[Path]) -> tuple[Sequence[Example[Any]], list[int]]:
    """The rows of the files, one after the other, and how many each has."""
    from taskloom.plugins._shared.datasets import joined_rows

    parts = [task.rows(path) for path in paths]
    return joined_rows(parts), [len(part) for part in parts]


def _work_folders(home: Path, name: str, stages: Sequence[Mapping[str, Any]], seen: Sequence[DataInfo]) -> list[Path]:
    """Where the checkpoints of each stage lie: the same place for the same data and settings, those of the stages before it
    included, and no other training's."""
    from taskloom.core.digest import canonical_json, sha256_hex

    data = [info.sha256 for info in seen]
    identities = [[*map(dict, stages[: number + 1]), data] for number in range(len(stages))]
    return [home / f"{name}-{sha256_hex(canonical_json(identity))[:12]}" for identity in identities]


def _command(recipe: Path, changes: tuple[str, ...], name: str | None, seed: int | None) -> str:
    """The command line that makes the model again, without the paths of this machine: a recipe below the current folder, such
    as a repository, is named from there."""
    import shlex

    whole, here = recipe.resolve(), Path.cwd().resolve()
    words = ["taskloom", "train", whole.relative_to(here).as_posix() if whole.is_relative_to(here) else recipe.name]
    words += [word for change in changes for word in ("--set", change)]
    words += ["--name", name] if name else []
    words += ["--seed", str(seed)] if seed is not None else []
    return shlex.join(words)
