"""`taskloom audit`: read, verify, export and erase."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from taskloom.core.operator import operator
from taskloom.server.commands import Cli

if TYPE_CHECKING:
    from taskloom.server.audit import AuditRecord

FOLLOW_S = 0.5
_AGO = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _time(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    """`2026-11-21`, `2026-11-21T10:00:00+08:00` (UTC if it names no zone), or how long ago: `90s`, `15m`, `2h`, `7d`."""
    if value is None:
        return None
    ago = _AGO.fullmatch(value)
    if ago:
        return time.time() - float(ago[1]) * _SECONDS[ago[2]]
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as exc:
        raise click.BadParameter(
            f"{value!r} is no time; write 2026-11-21, 2026-11-21T10:00:00+08:00, or 2h for 2 h ago"
        ) from exc
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


as_json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")


@click.group()
def audit() -> None:
    """Read, verify and export the audit log."""


@audit.command()
@click.option("-n", "--count", type=click.IntRange(min=0), default=10, show_default=True, help="How many records.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written, until interrupted.")
@as_json_option
@click.pass_obj
def tail(cli: Cli, count: int, follow: bool, as_json: bool) -> None:
    """Show the last records."""
    from taskloom.server.audit import open_reader

    reader = open_reader(cli.settings)
    try:
        last = reader.head()[0]
        shown = reader.tail(count)
        while True:
            for record in shown:
                _show(record, as_json)
                last = record.sequence
            if not follow:
                return
            sys.stdout.flush()
            time.sleep(FOLLOW_S)
            shown = reader.after(last)
    finally:
        reader.close()


@audit.command()
@click.option("--since", metavar="TIME", callback=_time, help="Records from this time on, as 2026-11-21 or 2h (ago).")
@click.option("--until", metavar="TIME", callback=_time, help="Records before this time.")
@click.option("--principal", help="Who asked.")
@click.option("--tenant", help="For whom.")
@click.option("--model", help="The model that was asked.")
@click.option("--request-id", help="One request.")
@click.option("--kind", type=click.Choice(["accepted", "completed", "failed", "event"]), help="What happened.")
@click.option("--limit", type=click.IntRange(min=0), default=1000, show_default=True, help="At most so many.")
@as_json_option
@click.pass_obj
def query(cli: Cli, /, since: float | None, until: float | None, limit: int, as_json: bool, **equal: str | None) -> None:
    """Show the records that match every option, oldest first."""
    from taskloom.server.audit import AuditQuery, open_reader

    reader = open_reader(cli.settings)
    try:
        asked = AuditQuery.model_validate({"since_s": since, "until_s": until, "limit": limit, **equal})
        for record in reader.query(asked):
            _show(record, as_json)
    finally:
        reader.close()


@audit.command()
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--payloads", "with_payloads", is_flag=True, help="With what is kept of inputs and outputs.")
@click.option("--json", "as_json", is_flag=True, help="Say the result as JSON.")
@click.pass_obj
def export(cli: Cli, file: Path, with_payloads: bool, as_json: bool) -> None:
    """Write the whole chain to FILE (`-`: standard output) as JSON Lines that anyone can check.

    For each line: take out `digest` (and `payload`), write the rest as JSON with sorted keys, no blanks, in UTF-8; its
    SHA-256 is `digest`. `previous` is the `digest` of the line before; 64 zeros on the first.
    """
    from taskloom.server.audit import open_reader

    reader = open_reader(cli.settings)
    try:
        if str(file) == "-":
            reader.export(sys.stdout, with_payloads)
            return
        aside = file.with_name(f".{file.name}.part")
        with aside.open("w", encoding="utf-8") as stream:
            count = reader.export(stream, with_payloads)
        aside.replace(file)
    finally:
        reader.close()
    if as_json:
        cli.print_json({"file": str(file), "records": count})
    else:
        click.echo(f"{count} records written to {file}")


@audit.command()
@click.option("--json", "as_json", is_flag=True, help="Say the result as JSON.")
@click.pass_obj
def verify(cli: Cli, as_json: bool) -> None:
    """Check every record, checkpoint and payload. Exit status 1 if the log is not what was written."""
    from taskloom.core.errors import AuditIntegrityError
    from taskloom.server.audit import verify_log

    result = verify_log(cli.settings)
    if as_json:
        cli.print_json(result.model_dump(mode="json"))
    elif result.verified:
        click.echo(
            f"verified: {result.records} records, {result.checkpoints} checkpoints, {result.payloads} payloads kept, "
            f"{result.erased} erased, {result.open} requests open, in {result.duration_s:.2f} s"
        )
    for note in () if as_json else result.notes:
        click.echo(f"note: {note}", err=True)
    if not result.verified:
        where = "" if result.bad_sequence is None else f" at record {result.bad_sequence}"
        raise AuditIntegrityError(
            f"the audit log is not what was written: {result.reason}{where and f' (first fault{where})'}; "
            f"{result.records} records and {result.checkpoints} checkpoints before it are right ({result.duration_s:.2f} s). "
            "Keep the files as they are, and compare them with a backup or an earlier export"
        )


@audit.command()
@click.option("--request-id", help="The payloads of this request.")
@click.option("--principal", help="The payloads of everything that this principal asked.")
@click.option("--yes", is_flag=True, help="Do not ask first.")
@click.option("--json", "as_json", is_flag=True, help="Say the result as JSON.")
@click.pass_obj
def erase(cli: Cli, request_id: str | None, principal: str | None, yes: bool, as_json: bool) -> None:
    """Delete what is kept of inputs and outputs. The records stay, and so does the proof that the chain is whole."""
    from taskloom.server.audit import open_log, open_reader

    if request_id is None and principal is None:
        raise click.UsageError("say whose payloads: --request-id or --principal")
    open_reader(cli.settings).close()  # says so if there is no log, instead of making one
    if not yes:
        click.confirm("The payloads can't be brought back. Erase them?", abort=True, err=True)

    async def run() -> int:
        log = open_log(cli.settings)
        try:
            return await log.erase(request_id=request_id, principal=principal, asked_by=operator())
        finally:
            await log.close()

    gone = asyncio.run(run())
    if as_json:
        cli.print_json({"erased": gone, "request_id": request_id, "principal": principal})
    else:
        click.echo(f"{gone} payloads erased")


def _show(record: AuditRecord, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(record.model_dump(mode="json"), ensure_ascii=False))
        return
    when = datetime.fromtimestamp(record.time_s, UTC).isoformat(sep=" ", timespec="milliseconds").removesuffix("+00:00")
    model = f"{record.model}@{record.version}" if record.version else record.model
    told = [str(record.sequence), f"{when}Z", record.kind, record.action, record.principal, model, record.request_id]
    if record.code:
        told.append(record.code)
    if record.duration_s:
        told.append(f"{record.duration_s * 1000:.1f} ms")
    if record.facts:
        told.append(" ".join(f"{name}={value}" for name, value in record.facts.items()))
    click.echo("  ".join(part for part in told if part))
