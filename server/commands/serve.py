"""`taskloom serve`: models behind the gateway, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taskloom.core.errors import ConfigError
from taskloom.core.event_loop import loop_factory
from taskloom.server.commands import Cli

if TYPE_CHECKING:
    from taskloom.core.settings import Settings
    from taskloom.server.app import ServerAddress


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL[@VERSION]]...")
@click.option("--host", help="Address to listen on; beyond loopback it needs TLS.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes any free one.")
@click.option("--config", type=click.Path(path_type=Path), help="Settings file, instead of the tool's own choice.")
@click.option("--dispatcher", type=click.Choice(["ray", "local"]), help="Replicas under Ray Serve, or in this process.")
@click.option("--replicas", type=click.IntRange(1), help="Replicas of every pool that the models are in, without autoscaling.")
@click.option("--until-eof", is_flag=True, help="End when stdin, a pipe, is closed: with the process that holds its other end.")
@click.option("--json", "as_json", is_flag=True, help="Say that it is ready as one JSON object.")
@click.pass_obj
def serve(
    cli: Cli,
    *,
    models: tuple[str, ...],
    host: str | None,
    port: int | None,
    config: Path | None,
    dispatcher: str | None,
    replicas: int | None,
    until_eof: bool,
    as_json: bool,
) -> None:
    """Serves MODELS (every model with a `production` alias, if none is named) over gRPC, until SIGTERM or SIGINT.

    The first start makes an API key and says where it is. Accepted calls are answered before the server ends.
    """
    quiet_grpc()
    from taskloom.core.settings import load_settings
    from taskloom.server.app import serve as run

    settings = load_settings(config, {"home": str(cli.settings.home)}) if config else cli.settings
    settings = chosen(settings, models, host=host, port=port, dispatcher=dispatcher, replicas=replicas)

    def tell(address: ServerAddress) -> None:
        if as_json:
            cli.print_json(ready_object(address))
        else:
            click.echo(ready_line(address))

    lifeline = None
    if until_eof:
        if sys.stdin is None:
            raise ConfigError("stdin is closed; give --until-eof a pipe")
        lifeline = sys.stdin.fileno()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(run(settings, on_ready=tell, lifeline=lifeline, registry=cli.registry))


def quiet_grpc() -> None:
    """Set before gRPC is imported, which is when it looks: Ray forks its own processes, and the gateway's threads neither
    survive a fork nor need to; without this gRPC writes a line about each."""
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


def chosen(
    settings: Settings,
    models: tuple[str, ...] = (),
    *,
    host: str | None = None,
    port: int | None = None,
    dispatcher: str | None = None,
    replicas: int | None = None,
) -> Settings:
    """The settings with what the command line asks for."""
    from taskloom.core.settings import ModelSettings
    from taskloom.core.types import ModelRef

    asked = {"host": host, "port": port, "dispatcher": dispatcher}
    changes: dict[str, Any] = {
        "server": settings.server.model_copy(update={name: value for name, value in asked.items() if value is not None})
    }
    if models:
        refs = [ModelRef.parse(text) for text in models]
        plain = ModelSettings(pool="default" if "default" in settings.pools else next(iter(settings.pools)))
        changes["models"] = {
            ref.name: settings.models.get(ref.name, plain).model_copy(update={"version": ref.version}) for ref in refs
        }
    if replicas is not None:
        more = {"replicas": replicas, "autoscale": None}
        changes["pools"] = {name: pool.model_copy(update=more) for name, pool in settings.pools.items()}
    return settings.model_copy(update=changes)


def ready_object(address: ServerAddress) -> dict[str, Any]:
    return {
        "address": address.address,
        "tls": address.tls,
        "models": list(address.models),
        "key_file": str(address.key_file) if address.key_file else None,
    }


def ready_line(address: ServerAddress) -> str:
    key = f"key in {address.key_file}" if address.key_file else "keys: taskloom key create NAME"
    return f"ready on {address.address} ({'TLS' if address.tls else 'no TLS'}) · {', '.join(address.models)} · {key}"
