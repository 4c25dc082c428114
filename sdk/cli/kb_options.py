"""Whom a command of `taskloom kb` asks, and the options that several of them have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from taskloom.sdk.cli.endpoint import GATEWAY_PARAMETERS, gateway_options, json_option, open_gateway, open_in_process

if TYPE_CHECKING:
    from taskloom.sdk.cli.context import CliContext
    from taskloom.sdk.surface import SyncCalls

_TIMEOUT = "Seconds for each call."
_LOCAL = "The bases of the home folder, in this process; needs taskloom[local]."


@dataclass(frozen=True)
class Endpoint:
    """Whom a command asks, as its options say."""

    cli: CliContext
    in_process: bool
    timeout_s: float
    gateway: dict[str, Any]

    def open(self, *models: str) -> SyncCalls:
        """A client, to be closed. In process it has `models` besides those that bases use already."""
        if not self.in_process:
            return open_gateway(self.timeout_s, **self.gateway)
        if any(self.gateway.values()):
            raise click.UsageError("--local asks no gateway; leave out --address and its certificates, or --local")
        return open_in_process(self.cli, _wanted_models(self.cli, models), self.timeout_s)


def asks(timeout_s: float = 60.0) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--address` and its like, `--local`, `--timeout` and `--json`; the command gets the `CliContext` and an `Endpoint`."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        @click.pass_obj
        @wraps(command)
        def run(cli: CliContext, /, *, in_process: bool, timeout_s: float, **given: Any) -> Any:
            gateway = {name: given.pop(name) for name in GATEWAY_PARAMETERS}
            return command(cli, Endpoint(cli, in_process, timeout_s, gateway), **given)

        shown = gateway_options(json_option(run))
        shown = click.option("--timeout", "timeout_s", type=float, default=timeout_s, show_default=True, help=_TIMEOUT)(shown)
        return click.option("--local", "in_process", is_flag=True, help=_LOCAL)(shown)

    return add


def _wanted_models(cli: CliContext, more: Sequence[str]) -> list[str]:
    """Those that the bases of the home use, and `more`, of the models that are there: no others are loaded."""
    from taskloom.sdk.knowledge_operations import TENANT

    hooks = cli.registry.hooks
    given = {"settings": cli.settings, "registry": cli.registry, "tenant": TENANT}
    wanted = (hooks.hook.knowledge_models(**given) if hooks is not None else None) or ()
    there = set(cli.store.models())
    return sorted(name for name in {*wanted, *filter(None, more)} if name.partition("@")[0] in there)


where_option = click.option("--where", multiple=True, metavar="KEY=VALUE", help="Only documents with this; repeatable.")
version_option = click.option("--version", "version", type=int, help="A version instead of the newest.")


def parse_where(pairs: tuple[str, ...]) -> dict[str, Any] | None:
    """A key that is given twice may have either value.

    >>> parse_where(("year=2026", "tag=wifi", "tag=setup"))
    {'year': 2026, 'tag': ('wifi', 'setup')}
    """
    from taskloom.sdk.cli.predict import parse_params

    where: dict[str, Any] = {}
    for pair in pairs:
        for key, value in parse_params([pair], "--where").items():
            given = tuple(value) if isinstance(value, list) else (value,)
            where[key] = (*where.get(key, ()), *given)
    return {key: values[0] if len(values) == 1 else values for key, values in where.items()} or None
