"""The options that say whom a command asks, and the client that they mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from taskloom.sdk.cli.context import CliContext
    from taskloom.sdk.client import Client
    from taskloom.sdk.in_process import LocalClient

F = TypeVar("F", bound=Callable[..., Any])

GATEWAY_PARAMETERS = ("address", "ca_certificate", "client_certificate", "client_key", "insecure")
"""What `gateway_options` gives to a command."""


def json_option(command: F) -> F:
    """`--json`. The tool itself looks for it (`CliContext.as_json`), so the command gets no argument."""
    return click.option("--json", is_flag=True, expose_value=False, help="Print JSON.")(command)


def gateway_options(command: F) -> F:
    """`--address` and the certificates, as `GATEWAY_PARAMETERS`."""
    file = click.Path(path_type=Path, dir_okay=False)
    for option in (
        click.option("--insecure", is_flag=True, default=None, help="No TLS, whatever the address."),
        click.option("--client-key", type=file, help="PEM key of the client certificate."),
        click.option("--client-certificate", type=file, help="PEM certificate to show the gateway."),
        click.option("--ca-certificate", type=file, help="PEM certificates that the gateway's must be signed by."),
        click.option("--address", metavar="HOST:PORT", help="The gateway; else TASKLOOM_ADDRESS, else 127.0.0.1:50051."),
    ):
        command = option(command)
    return command


def open_gateway(timeout_s: float, **options: Any) -> Client:
    """A client for what `gateway_options` gave."""
    from taskloom.sdk.client import Client

    return Client(timeout_s=timeout_s, **options)


def open_in_process(cli: CliContext, models: Sequence[str], timeout_s: float) -> LocalClient:
    """The models in this process, with the settings and plugins of the command line."""
    from taskloom.sdk.in_process import LocalClient, serving

    client = LocalClient(serving(cli.settings, models), cli.registry, timeout_s=timeout_s)
    try:
        client.start()
    except BaseException:
        client.close()
        raise
    return client
