"""`taskloom optimize`: a published model in, a smaller or faster version of it out, compared with it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taskloom.plugins.commands import CliContext
from taskloom.plugins.commands.telling import say_optimizing

if TYPE_CHECKING:
    from taskloom.core.artifact import Artifact
    from taskloom.core.task import TaskPlugin
    from taskloom.plugins.commands.optimize_recipe import OptimizeRecipe

Files = click.Path(path_type=Path)


@click.command()
@click.argument("model", required=False)
@click.option("--with", "steps", metavar="STEP[,STEP...]", help="The optimizers, in this order.")
@click.option("--data", multiple=True, type=Files, help="Rows for recovery training and calibration; may be repeated.")
@click.option("--eval", "evaluation", multiple=True, type=Files, help="Rows that no training has seen, for the report.")
@click.option("--validation", multiple=True, type=Files, help="Rows to choose by, instead of a tenth of --data.")
@click.option("--rows", "train_rows", type=click.IntRange(min=1), help="A sample of so many rows of --data.")
@click.option("--eval-rows", "evaluation_rows", type=click.IntRange(min=1), help="A sample of so many rows of --eval.")
@click.option("--set", "changes", multiple=True, metavar="STEP.KEY=VALUE", help="Change a setting of a step; may be repeated.")
@click.option("--recipe", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Model, steps and data as a file.")
@click.option("--name", default="", help="Publish under this name instead of the model's own.")
@click.option("--seed", type=click.IntRange(min=0), help="The seed of every step that has one.")
@click.option("--alias", "aliases", multiple=True, default=("candidate",), show_default=True, help="Point this alias at it.")
@click.option("--quick", is_flag=True, help="Measure speed and robustness briefly: for a try, not for a decision.")
@click.option("--search", "trials", type=click.IntRange(min=1), help="Try so many combinations, show the best, publish none.")
@click.option("--try", "tried", multiple=True, metavar="STEP.KEY=A|B", help="What --search tries; or STEP.KEY=LOW..HIGH.")
@click.option("--forget", is_flag=True, help="Remove what searches on MODEL have kept; with --with, once it is published.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--progress/--no-progress", default=None, help="Show a progress bar; by default on a terminal only.")
@click.option("--no-resume", is_flag=True, help="Start anew, even if this was interrupted before.")
@click.pass_obj
def optimize(
    cli: CliContext,
    *,
    model: str | None,
    steps: str | None,
    data: tuple[Path, ...],
    evaluation: tuple[Path, ...],
    validation: tuple[Path, ...],
    train_rows: int | None,
    evaluation_rows: int | None,
    changes: tuple[str, ...],
    recipe: Path | None,
    name: str,
    seed: int | None,
    aliases: tuple[str, ...],
    quick: bool,
    trials: int | None,
    tried: tuple[str, ...],
    forget: bool,
    as_json: bool,
    progress: bool | None,
    no_resume: bool,
) -> None:
    """Make a smaller or faster version of MODEL (NAME, NAME@VERSION or NAME@ALIAS), and compare it with MODEL.

    The new version has the same name and the alias `candidate`; `taskloom models promote` puts it into production, if it lost
    no more than the policy allows. What was interrupted goes on where it was when the same command is given again.
    """
    from taskloom.core.performance import QUICK, Effort
    from taskloom.core.types import ModelRef
    from taskloom.plugins.commands.optimize_recipe import settled_recipe
    from taskloom.plugins.optimizing import optimize_model

    if forget and model is not None and steps is None and recipe is None:
        _forget(cli, model, as_json=as_json)
        return
    if forget and trials is not None:
        raise click.UsageError("--search keeps what --forget removes; give one of them")
    asked = settled_recipe(
        recipe,
        model=model,
        steps=steps,
        train=data,
        evaluation=evaluation,
        validation=validation,
        train_rows=train_rows,
        evaluation_rows=evaluation_rows,
        changes=changes,
        registry=cli.registry,
    )
    if tried and trials is None:
        raise click.UsageError("--try says what --search N tries; give both")
    if trials is not None:
        _search(cli, asked, tried, trials, seed=seed, quick=quick, as_json=as_json)
        return
    show = sys.stderr.isatty() if progress is None else progress
    artifact = optimize_model(
        cli.store,
        cli.registry,
        asked.model,
        asked.requests(),
        asked.files(),
        work_folder=cli.settings.home / "optimizing",
        name=name,
        seed=seed,
        aliases=aliases,
        effort=QUICK if quick else Effort(),
        resume=not no_resume,
        show_progress=show,
        on_event=partial(say_optimizing, show_progress=show),
        record=_recorder(cli, asked, name),
        forget=forget,
        limits=cli.settings.gate.limits(name or ModelRef.parse(asked.model).name),
    )
    _tell(cli, artifact, as_json=as_json)


def _forget(cli: CliContext, model: str, *, as_json: bool) -> None:
    from taskloom.core.types import ModelRef
    from taskloom.plugins.optimizing_work import forget_searches

    removed, busy = forget_searches(cli.settings.home / "optimizing", ModelRef.parse(model).name)
    if as_json:
        cli.print_json({"removed": removed, "busy": busy})
        return
    click.echo(f"removed what {removed} searches had kept" + (f"; {busy} are at work and were left" if busy else ""))


def _search(
    cli: CliContext, asked: OptimizeRecipe, tried: Sequence[str], trials: int, *, seed: int | None, quick: bool, as_json: bool
) -> None:
    from taskloom.core.performance import QUICK, Effort
    from taskloom.plugins import searching

    found = searching.search_model(
        cli.store,
        cli.registry,
        asked.model,
        asked.requests(),
        asked.files(),
        tried=[searching.parse_tried(text) for text in tried],
        trials=trials,
        work_folder=cli.settings.home / "optimizing",
        seed=seed,
        effort=QUICK if quick else Effort(turns=4),
        on_event=say_optimizing,
    )
    if as_json:
        cli.print_json(found.model_dump(mode="json"))
        return
    from rich.console import Console

    from taskloom.plugins.commands.tables import front_table

    console = Console(soft_wrap=not sys.stdout.isatty(), highlight=False)
    console.print(front_table(found))
    console.print("These steps are kept: `taskloom optimize` with one of these lines and the same data publishes it.")


def _recorder(cli: CliContext, asked: OptimizeRecipe, name: str) -> Any:
    from taskloom.core.types import ModelRef
    from taskloom.plugins.commands.events import record_event

    model = name or ModelRef.parse(asked.model).name

    def record(action: str, task: TaskPlugin[Any, Any, Any], facts: Mapping[str, Any], version: str) -> None:
        record_event(cli.registry, cli.settings, action, model=model, task=task.name, facts=facts, version=version)

    return record


def _tell(cli: CliContext, artifact: Artifact, *, as_json: bool) -> None:
    from taskloom.core.comparison import PAGE
    from taskloom.core.gate import breaches
    from taskloom.core.publishing import read_report

    comparison = read_report(artifact).comparison
    assert comparison is not None
    broken = [str(breach) for breach in breaches(comparison, cli.settings.gate.limits(artifact.manifest.model))]
    if as_json:
        cli.print_json(
            {
                "model": artifact.name,
                "path": str(artifact.folder),
                "aliases": list(artifact.aliases),
                "comparison": comparison.model_dump(mode="json"),
                "gate": {"passed": not broken, "breaches": broken},
            }
        )
        return
    from rich.console import Console

    from taskloom.plugins.commands.tables import comparison_tables

    console = Console(soft_wrap=not sys.stdout.isatty(), highlight=False)
    console.print(f"published {artifact.name} ({', '.join(artifact.aliases)})\n{artifact.folder / PAGE}")
    for table in comparison_tables(comparison):
        console.print(table)
    console.print(_verdict(artifact.manifest.model, artifact.manifest.version, broken), markup=False)


def _verdict(model: str, version: str, broken: Sequence[str]) -> str:
    command = f"taskloom models promote {model} {version}"
    if not broken:
        return f"the gate lets it pass: {command}"
    return "\n".join(
        ["the gate refuses it:", *(f"  {told}" for told in broken), f"{command} --force --reason '...' overrides it"]
    )
