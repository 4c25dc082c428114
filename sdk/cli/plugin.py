"""`taskloom plugin`: what is loaded, what it brings, and what is broken."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from taskloom.sdk.cli.endpoint import json_option

if TYPE_CHECKING:
    from rich.table import Table

    from taskloom.sdk.cli.context import CliContext


@click.group()
def plugin() -> None:
    """Show which plugins are loaded, and which are not."""


@plugin.command("list")
@json_option
@click.pass_obj
def list_plugins(cli: CliContext) -> None:
    """Every installed plugin, what it brings, and why it is not in use if it is not."""
    reports = cli.registry.reports
    cli.show({"plugins": [report.model_dump(mode="json") for report in reports]}, lambda: _table(cli))


def _table(cli: CliContext) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table("plugin", "version", "state", "provides", box=box.SIMPLE_HEAD)
    for report in cli.registry.reports:
        state = f"[red]broken: {escape(report.error)}[/red]" if report.error else "loaded"
        table.add_row(escape(report.owner), report.version, state, escape("\n".join(report.provides)))
    return table
