"""`taskloom train`: a recipe in, a published model out."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import click

from taskloom.plugins.commands import CliContext

INNER_FILES = re.compile(r"\s*(backbone\.)+data\.")
"""Changes that name files, as --data and --eval do."""


@click.command()
@click.argument("recipe", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a setting of [config]; may be repeated.")
@click.option("--name", help="Publish under this name instead of the recipe's.")
@click.option(
    "--first",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Train the first of several stages on this file instead of the recipe's; may be repeated.",
)
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
    first: tuple[Path, ...],
    data: tuple[Path, ...],
    evaluation: tuple[Path, ...],
    seed: int | None,
    aliases: tuple[str, ...],
    as_json: bool,
    progress: bool | None,
    no_resume: bool,
) -> None:
    """Train the model that RECIPE describes, evaluate it on rows that it has not seen, and publish it.

    A recipe that holds the recipe of its backbone makes that first, or takes it if the same training has published it. Options
    are for the outer model; --set backbone.KEY=VALUE changes the inner recipe, --set backbone=NAME takes another in its place.

    A training that was interrupted goes on from its last checkpoint when the same command is given again.
    """
    from taskloom.core.publishing import read_report
    from taskloom.core.store import check_alias
    from taskloom.plugins.commands.recipe import Recipe, load_recipe, parsed, with_changes
    from taskloom.plugins.commands.training import Order, check_recipe, train_recipe

    asked, own = with_changes(load_recipe(recipe), changes)
    files = {key: path for key, path in (("first", first), ("train", data), ("evaluation", evaluation)) if path}
    asked = asked.model_copy(update={"data": asked.data.model_copy(update=files), **({"name": name} if name else {})})
    asked = parsed(Recipe, asked.model_dump(), f"recipe {recipe} with the options")
    for alias in aliases:
        check_alias(alias)
    order = Order(
        _command(recipe, changes, name, seed),
        changes=own,
        seed=seed,
        aliases=aliases,
        show_progress=sys.stderr.isatty() if progress is None else progress,
        resume=not no_resume,
    )
    check_recipe(cli, asked, order)
    artifact = train_recipe(cli, asked, order)
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
    console.print(metrics_table(cli.registry.tasks.get(artifact.manifest.task), report.evaluation))


def _command(recipe: Path, changes: tuple[str, ...], name: str | None, seed: int | None) -> str:
    """The command line that makes the model again, without the paths of this machine: a recipe below the current folder, such
    as a repository, is named from there."""
    whole, here = recipe.resolve(), Path.cwd().resolve()
    words = ["taskloom", "train", whole.relative_to(here).as_posix() if whole.is_relative_to(here) else recipe.name]
    words += [word for change in changes if not INNER_FILES.match(change) for word in ("--set", change)]
    words += ["--name", name] if name else []
    words += ["--seed", str(seed)] if seed is not None else []
    return shlex.join(words)
