"""`taskloom eval`: what a published model is worth on a data file."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from taskloom.plugins.commands import CliContext


@click.command("eval")
@click.argument("model")
@click.argument("data", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--figures", type=click.Path(file_okay=False, path_type=Path), help="Put the pictures into this folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_obj
def evaluate(cli: CliContext, model: str, data: tuple[Path, ...], figures: Path | None, as_json: bool) -> None:
    """Evaluate MODEL (NAME, NAME@VERSION or NAME@ALIAS) on the rows of all DATA files: every metric with its 95% interval.

    The rows must not be among those that the model was trained on, or the figures mean nothing; a file that the manifest
    lists as training data, its own or that of a model that it was made from, is pointed out.
    """
    from taskloom.core.artifact import file_digest
    from taskloom.core.predictor import load_predictor
    from taskloom.plugins._shared.datasets import describe_data
    from taskloom.plugins.commands.training import read_files

    artifact = cli.store.resolve(model)
    task = cli.registry.tasks.get(artifact.manifest.task)
    rows, _ = read_files(task, data)
    info = describe_data(data, len(rows))
    trained_on = {known.sha256: known for known in artifact.manifest.data}
    for path in data:
        known = trained_on.get(file_digest(path).sha256)
        if known is not None:
            who = f"{known.via}, which {artifact.name} was made from," if known.via else artifact.name
            click.echo(f"note: {who} was trained on {path.name}; these figures say nothing about new texts", err=True)
    predictor = load_predictor(cli.registry, artifact)
    try:
        result = task.evaluate(predictor, rows, figures)
        plan = predictor.executor.plan
    finally:
        predictor.close()
    if as_json:
        cli.print_json(
            {
                "model": artifact.name,
                "data": info.model_dump(mode="json"),
                "evaluation": result.model_dump(mode="json"),
                "plan": plan.model_dump(mode="json"),
            }
        )
        return
    from rich.console import Console

    from taskloom.plugins.commands.tables import metrics_table, plain_table

    console = Console(soft_wrap=not sys.stdout.isatty(), highlight=False)
    console.print(f"{artifact.name} on {info.name} ({plan.runtime}, {plan.device}, {plan.precision}, {plan.threads} threads)")
    console.print(metrics_table(task, result))
    for title, table in result.tables.items():
        if len(table) > 1:
            console.print(plain_table(title, table))
    if figures is not None:
        for name in result.figures:
            click.echo(figures / name)
