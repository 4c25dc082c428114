"""`taskloom key`: make, list and revoke API keys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from taskloom.core.operator import operator
from taskloom.server.auth.policy import ROLES
from taskloom.server.commands import Cli

if TYPE_CHECKING:
    from taskloom.server.auth.keys import KeyInfo, KeyStore


@click.group()
def key() -> None:
    """Make, list and revoke API keys."""


@key.command()
@click.argument("name")
@click.option("--tenant", default="default", show_default=True, help="Whom the key works for.")
@click.option("--role", "roles", multiple=True, type=click.Choice(ROLES), help="May be repeated.  [default: predict]")
@click.option("--model", "models", multiple=True, metavar="PATTERN", help="Models it may ask, as 'intent-*'. [default: all]")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), metavar="R", help="At most R requests a second.")
@click.option("--expires", type=click.FloatRange(min=0, min_open=True), metavar="DAYS", help="Valid for so many days.")
@click.option("--json", "as_json", is_flag=True, help="Say the result as JSON.")
@click.pass_obj
def create(
    cli: Cli,
    /,
    *,
    name: str,
    tenant: str,
    roles: tuple[str, ...],
    models: tuple[str, ...],
    rate: float | None,
    expires: float | None,
    as_json: bool,
) -> None:
    """Make a key and print its secret, this once."""
    with _keys(cli) as store:
        secret, info = store.create(
            name,
            tenant=tenant,
            roles=roles or ("predict",),
            models=models or ("*",),
            requests_per_s=rate,
            expires_s=None if expires is None else expires * 86400,
        )
        try:
            facts = {"name": info.name, "roles": list(info.roles), "models": list(info.models), "expires_s": info.expires_s}
            _record(cli, "key.create", info, facts)
        except Exception:
            store.revoke(info.key_id)  # a key that no record tells of must not work
            raise
    if as_json:
        cli.print_json({"secret": secret, **info.model_dump(mode="json")})
        return
    click.echo(secret)
    click.echo(f"key {info.key_id} for {info.name}; the secret is shown only now: keep it", err=True)


@key.command("list")
@click.option("--json", "as_json", is_flag=True, help="Say the result as JSON.")
@click.pass_obj
def list_keys(cli: Cli, as_json: bool) -> None:
    """Show every key, without secrets."""
    with _keys(cli) as store:
        found = store.list()
    if as_json:
        cli.print_json([{**info.model_dump(mode="json"), "state": _state(info)} for info in found])
        return
    if not found:
        click.echo("there is no key yet; make one with `taskloom key create NAME`", err=True)
    for info in found:
        rate = f"{info.requests_per_s:g}/s" if info.requests_per_s else "any rate"
        until = f"until {_day(info.expires_s)}" if info.expires_s else "for ever"
        told = (info.key_id, _state(info), info.name, info.tenant, ",".join(info.roles), ",".join(info.models), rate, until)
        click.echo("  ".join(told))


@key.command()
@click.argument("key_id")
@click.option("--json", "as_json", is_flag=True, help="Say the result as JSON.")
@click.pass_obj
def revoke(cli: Cli, key_id: str, as_json: bool) -> None:
    """End a key. A running gateway notices within `auth.cache_s` seconds."""
    with _keys(cli) as store:
        info = store.revoke(key_id)
        _record(cli, "key.revoke", info, {"name": info.name})
    if as_json:
        cli.print_json(info.model_dump(mode="json"))
    else:
        click.echo(f"key {info.key_id} of {info.name} is revoked")


@contextmanager
def _keys(cli: Cli) -> Iterator[KeyStore]:
    from taskloom.server.auth.keys import open_keys

    store = open_keys(cli.settings)
    try:
        yield store
    finally:
        store.close()


def _record(cli: Cli, action: str, info: KeyInfo, facts: Mapping[str, Any]) -> None:
    from taskloom.core.ports import AuditEntry
    from taskloom.server.audit import open_log

    entry = AuditEntry(
        kind="event",
        action=action,
        principal=operator(),
        tenant=info.tenant,
        key_id=info.key_id,
        time_s=time.time(),
        facts=facts,
    )

    async def run() -> None:
        log = open_log(cli.settings)
        try:
            await log.append(entry)
        finally:
            await log.close()

    asyncio.run(run())


def _state(info: KeyInfo) -> str:
    if info.revoked_s is not None:
        return "revoked"
    return "expired" if info.expires_s is not None and info.expires_s <= time.time() else "valid"


def _day(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).date().isoformat()
