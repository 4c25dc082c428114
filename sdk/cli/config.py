"""`taskloom config`: which settings are in force, and where each came from. Secrets are never printed."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taskloom.sdk.cli.endpoint import json_option

if TYPE_CHECKING:
    from rich.table import Table

    from taskloom.sdk.cli.context import CliContext

HIDDEN = "(hidden)"
_PASSWORD = re.compile(r"(://[^:/@\s]*):[^@\s]*@")
_QUERY_SECRET = re.compile(r"([?&][^=&]*(?:password|secret|token|key)[^=&]*=)[^&\s]*", re.IGNORECASE)


@click.group()
def config() -> None:
    """Check and show the settings.

    Later wins: defaults, the file, the environment (TASKLOOM_<SECTION>__<FIELD>), flags.
    """


@config.command()
@json_option
@click.pass_obj
def check(cli: CliContext) -> None:
    """Exit status 0 if the settings can be used; otherwise says what is wrong with which. Databases, ports and Ray are not
    asked."""
    from taskloom.core.preflight import check_settings

    file = _file(cli)
    settings = cli.settings
    check_settings(settings, cli.registry, cli.store)
    cli.show(
        {"ok": True, "file": str(file) if file else None, "home": str(settings.home)},
        lambda: f"settings are in order; file: {file or 'none'}; home: {settings.home}",
    )


@config.command()
@json_option
@click.pass_obj
def show(cli: CliContext) -> None:
    """Every setting in force, and where it came from."""
    file = _file(cli)
    in_file = _read(file)
    rows = [
        {"name": ".".join(path), "value": redacted(path, value), "origin": _origin(path, cli, in_file)}
        for path, value in _leaves(cli.settings.model_dump(mode="json"))
    ]
    cli.show({"file": str(file) if file else None, "settings": rows}, lambda: _table(rows))


def redacted(path: tuple[str, ...], value: Any) -> Any:
    """The value without its secrets: passwords in URLs, and the environment of replicas.

    >>> redacted(("audit", "url"), "postgresql://taskloom:secret@db/audit")
    'postgresql://taskloom:***@db/audit'
    """
    if "environment" in path:
        return HIDDEN if value else value
    if not isinstance(value, str):
        return value
    return _QUERY_SECRET.sub(r"\1***", _PASSWORD.sub(r"\1:***@", value))


def _file(cli: CliContext) -> Path | None:
    from taskloom.core.settings import find_config_file

    return find_config_file(cli.config, cli.home)


def _read(file: Path | None) -> Mapping[str, Any]:
    return tomllib.loads(file.read_text(encoding="utf-8")) if file else {}


def _leaves(data: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in data.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value


def _origin(path: tuple[str, ...], cli: CliContext, in_file: Mapping[str, Any]) -> str:
    if path == ("home",) and cli.home:
        return "--home"
    environment = {name.upper() for name in os.environ}
    for depth in range(len(path), 0, -1):  # a variable of a whole section holds JSON
        name = "TASKLOOM_" + "__".join(path[:depth]).upper()
        if name in environment:
            return name
    node: Any = in_file
    for name in path:
        if not isinstance(node, Mapping) or name not in node:
            return "default"
        node = node[name]
    return "file"


def _table(rows: list[dict[str, Any]]) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table("setting", "value", "from", box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(row["name"], escape("" if row["value"] is None else str(row["value"])), row["origin"])
    return table
