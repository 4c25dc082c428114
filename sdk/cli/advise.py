"""`taskloom advise`: which of the measured models to take, and why."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import click

from taskloom.sdk.cli.endpoint import json_option

if TYPE_CHECKING:
    from taskloom.sdk.cli.context import CliContext

AUTO = "auto"
POSITIVE = click.FloatRange(min=0, min_open=True)


def _finite(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is no figure; leave the option out to ask for nothing")
    return value


@click.command()
@click.option("--task", required=True, help="What is asked: ner, qa, classification, ...")
@click.option("--lang", "language", default="", help="The language it has to read, such as en or zh; left out, any.")
@click.option("--budget-ms", type=POSITIVE, callback=_finite, help="What one request may take, in milliseconds.")
@click.option(
    "--percentile", type=click.Choice(["p50", "p99"]), default="p50", show_default=True, help="What --budget-ms is about."
)
@click.option(
    "--inputs",
    "shape",
    type=click.Choice(["short", "long"]),
    default="short",
    show_default=True,
    help="Which requests it is about.",
)
@click.option(
    "--budget-mb", type=POSITIVE, callback=_finite, help="Memory of the process, libraries and all, in MB (a million bytes)."
)
@click.option("--size-mb", type=POSITIVE, callback=_finite, help="Files of the model and its backbone, in MB.")
@click.option("--min-metric", type=float, callback=_finite, help="The least value of the task's primary metric.")
@click.option(
    "--machine", default=AUTO, show_default=True, help="Whose speeds to go by; auto takes the one most like this one."
)
@json_option
@click.pass_obj
def advise(
    cli: CliContext,
    *,
    task: str,
    language: str,
    budget_ms: float | None,
    percentile: str,
    shape: str,
    budget_mb: float | None,
    size_mb: float | None,
    min_metric: float | None,
    machine: str,
) -> None:
    """Choose a model by what was measured: what fits, best first, and why the others don't.

    \b
    taskloom advise --task ner --lang zh --budget-ms 20
    taskloom advise --task classification --lang en --size-mb 50 --min-metric 0.9
    taskloom advise --task qa --budget-ms 100 --percentile p99 --inputs long --json

    Times are the processor time of one request, in process, on one thread; those of other processors differ, and a gateway adds
    its own. Models in the box come first, then those that a recipe makes. A model that was not measured in something that is
    asked for is listed apart. The exit status is 0 whether anything fits or not: with --json, `fits` is empty then.
    """
    from taskloom.core.advice import MB, MS, Wishes, advise, machine_for
    from taskloom.core.selection import packaged_table

    table = packaged_table()
    wishes = Wishes.model_validate(
        {
            "task": task,
            "language": language,
            "budget_s": _times(budget_ms, MS),
            "percentile": percentile,
            "shape": shape,
            "memory_bytes": _times(budget_mb, MB),
            "size_bytes": _times(size_mb, MB),
            "least_metric": min_metric,
        }
    )
    advice = advise(table, wishes, machine_for(table, _precision()) if machine == AUTO else machine)
    facts = table.machines[advice.machine]
    note = _other_precision(facts.precision) if machine == AUTO else ""
    if cli.as_json:
        told = {"machine": {"name": advice.machine, **facts.model_dump(mode="json")}, "note": note}
        cli.print_json({**advice.model_dump(mode="json"), **told})
    else:
        from taskloom.sdk.cli.advise_render import advice_shown

        cli.console.print(advice_shown(advice, table, note))


def _times(value: float | None, unit: float) -> float | None:
    return None if value is None else value * unit


def _other_precision(measured: str) -> str:
    own = _precision()
    if own == measured:
        return ""
    return f"models run in {own} on this processor, which was not measured: their times here are others"


def _precision() -> str:
    """What models run in on this processor."""
    from taskloom.sdk.cli.doctor import has_bf16

    return "bf16" if has_bf16() else "fp32"
