"""`taskloom models`: what is there, and which version is in production."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from taskloom.core.errors import ArtifactError, GateRefusedError, TaskloomError, unknown_name
from taskloom.core.operator import operator
from taskloom.core.types import PRODUCTION, ModelInfo, ModelRef
from taskloom.sdk.cli.endpoint import gateway_options, json_option, open_gateway

if TYPE_CHECKING:
    from rich.markdown import Markdown
    from rich.table import Table

    from taskloom.core.artifact import Artifact
    from taskloom.core.ports import AuditEntry
    from taskloom.core.store import AliasMove
    from taskloom.sdk.cli.context import CliContext


WIDE_CELLS = 130
"""A terminal of this width has room for a model on one line."""
_PICTURE = re.compile(r"!\[(.*?)\]\((.*?)\)")


@dataclass(frozen=True, slots=True)
class Listed:
    """A model and, where its report can be read, how sure its metrics are."""

    info: ModelInfo
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@click.group()
def models() -> None:
    """List, show, promote and roll back models.

    `list` and `show` read the models on this machine, or with --address those of a gateway.
    """


@models.command("list")
@gateway_options
@json_option
@click.pass_obj
def list_models(cli: CliContext, /, **gateway: Any) -> None:
    """Every version of every model."""
    if any(gateway.values()):
        with open_gateway(60.0, **gateway) as client:
            found = [Listed(info) for info in client.models()]
    else:
        found = _local_models(cli)
    cli.show({"models": [one.info.model_dump(mode="json") for one in found]}, lambda: _table(cli, found))


def _local_models(cli: CliContext) -> list[Listed]:
    found: list[Listed] = []
    for name in cli.store.models():
        for version in cli.store.versions(name):
            try:
                artifact = cli.store.resolve(ModelRef(name=name, version=version))
                found.append(Listed(artifact.info(), _intervals(artifact)))
            except ArtifactError as exc:  # one bad version hides no other
                click.echo(f"warning: {exc.message}", err=True)
    return found


def _intervals(artifact: Artifact) -> Mapping[str, tuple[float, float]]:
    """Of its metrics, by name; none for a model without a report."""
    from taskloom.core.artifact import REPORT
    from taskloom.core.publishing import read_report

    return read_report(artifact).evaluation.intervals if REPORT in artifact.manifest.files else {}


@models.command()
@click.argument("model")
@gateway_options
@json_option
@click.pass_obj
def show(cli: CliContext, /, model: str, **gateway: Any) -> None:
    """All about one version: MODEL is NAME or NAME@VERSION."""
    from rich.console import Group

    if any(gateway.values()):
        with open_gateway(60.0, **gateway) as client:
            facts = client.describe(model).model_dump(mode="json")
        cli.show(facts, lambda: Group(_facts_table(facts["info"]), *_forms(facts)))
    else:
        from taskloom.core.artifact import CARD

        artifact = cli.store.resolve(model)
        facts = {
            **artifact.manifest.model_dump(mode="json"),
            "aliases": list(artifact.aliases),
            "digest": artifact.digest,
            "size_bytes": artifact.info().size_bytes,
            "history": [move.model_dump(mode="json") for move in cli.store.history(artifact.manifest.model)],
        }
        told = {**facts, **_schemas(cli, artifact.manifest.task)}
        cli.show(
            told, lambda: Group(_card(artifact) if CARD in artifact.manifest.files else _facts_table(facts), *_forms(told))
        )


def _schemas(cli: CliContext, task: str) -> dict[str, Any]:
    """What models of a task take and give; nothing for a task that is not installed here."""
    if task not in cli.registry.tasks:
        return {}
    plugin = cli.registry.tasks.get(task)
    forms = {"input_schema": plugin.Input, "output_schema": plugin.Output, "params_schema": plugin.Params}
    return {name: form.model_json_schema() for name, form in forms.items()}


@models.command()
@click.argument("model")
@click.argument("version")
@click.option("--alias", default=PRODUCTION, show_default=True, help="The alias to move.")
@click.option("--reason", default="", help="Why; kept in the history and the audit log.")
@click.option("--force", is_flag=True, help="Promote it although the gate refuses it; needs --reason.")
@json_option
@click.pass_obj
def promote(cli: CliContext, /, model: str, version: str, *, alias: str, reason: str, force: bool) -> None:
    """Point an alias of MODEL at VERSION. A running gateway follows by itself.

    A version that was compared with its parent must have lost no more than the policy in `[gate]` of taskloom.toml allows.
    """
    if force and not reason.strip():
        raise click.UsageError("--force needs --reason: why this version may lose more than the policy allows")
    artifact = cli.store.resolve(ModelRef.parse(f"{model}@{version}"))
    target = artifact.manifest
    facts: dict[str, Any] = {
        "alias": alias,
        "before": cli.store.aliases(model).get(alias),
        "after": target.version,
        "reason": reason,
    }
    artifact.verify()  # the gate reads a report, which says nothing of files that were altered since
    broken = _breaches(cli, artifact)
    if broken and not force:
        _record(cli, _entry("model.promote", target.model, target.version, {**facts, "gate": broken}, code="gate_refused"))
        raise GateRefusedError(
            f"{artifact.name} may not become {alias}: {'; '.join(broken)}. Promote another version, change [gate] in "
            "taskloom.toml, or override it with --force --reason '...'"
        )
    if broken:
        facts = {**facts, "forced": True, "gate": broken}
        reason = f"forced: {reason} (gate: {'; '.join(broken)})"
    entry = _entry("model.promote", target.model, target.version, facts)
    move = _audited(cli, entry, lambda: cli.store.set_alias(model, alias, version, reason))
    _tell_move(cli, model, move)


@models.command()
@click.argument("model")
@click.option("--alias", default=PRODUCTION, show_default=True, help="The alias to move back.")
@click.option("--reason", default="", help="Why; kept in the history and the audit log.")
@json_option
@click.pass_obj
def rollback(cli: CliContext, model: str, alias: str, reason: str) -> None:
    """Point an alias of MODEL back at where it pointed before."""
    if not cli.store.versions(model):
        raise unknown_name("model", model, cli.store.models(), "`taskloom models list` describes them.")
    current = cli.store.aliases(model).get(alias)
    earlier = [move.before for move in cli.store.history(model) if move.alias == alias and move.after == current]
    version = (earlier[-1] if earlier else None) or ""
    facts = {"alias": alias, "before": current, "after": version, "reason": reason}
    entry = _entry("model.rollback", model, version, facts)
    move = _audited(cli, entry, lambda: cli.store.roll_back(model, alias, reason))
    _tell_move(cli, model, move)


def _breaches(cli: CliContext, artifact: Artifact) -> list[str]:
    """What of its comparison with its parent is beyond the policy; nothing for a version without one."""
    from taskloom.core.artifact import REPORT
    from taskloom.core.gate import breaches
    from taskloom.core.publishing import read_report

    if REPORT not in artifact.manifest.files:
        return []
    comparison = read_report(artifact).comparison
    if comparison is None:
        return []
    return [str(breach) for breach in breaches(comparison, cli.settings.gate.limits(artifact.manifest.model))]


def _entry(action: str, model: str, version: str, facts: Mapping[str, Any], code: str = "") -> AuditEntry:
    from taskloom.core.ports import AuditEntry

    return AuditEntry(
        kind="event",
        action=action,
        principal=operator(),
        model=model,
        version=version,
        time_s=time.time(),
        facts=facts,
        code=code,
    )


def _audited(cli: CliContext, entry: AuditEntry, act: Callable[[], AliasMove]) -> AliasMove:
    """Records what is about to happen, then does it: nothing moves without its record. What then fails is recorded too."""
    _record(cli, entry)
    try:
        return act()
    except TaskloomError as exc:
        _record(cli, entry.model_copy(update={"code": exc.code, "time_s": time.time()}))
        raise


def _record(cli: CliContext, entry: AuditEntry) -> None:
    hooks = cli.registry.hooks
    log = hooks.hook.open_audit_log(settings=cli.settings) if hooks else None
    if log is None:
        return

    async def append() -> None:
        try:
            await log.append(entry)
        finally:
            await log.close()

    asyncio.run(append())


def _tell_move(cli: CliContext, model: str, move: AliasMove) -> None:
    if cli.as_json:
        cli.print_json({"model": model, **move.model_dump(mode="json")})
    else:
        click.echo(f"{move.alias} of {model}: {move.before or 'nothing'} -> {move.after}")


def _table(cli: CliContext, found: Sequence[Listed]) -> Table:
    from rich import box
    from rich.table import Table

    gap = " " if cli.console.width >= WIDE_CELLS else "\n"
    table = Table("model", "task", "size", "quality, 95% interval", "languages", "licence", "aliases", box=box.SIMPLE_HEAD)
    for column in table.columns:
        column.overflow = "fold"  # a name that is cut can't be used
    for one in sorted(found, key=lambda one: (one.info.task, one.info.name)):
        info = one.info
        size = f"{info.size_bytes / 1e6:.1f} MB" if info.size_bytes else ""
        row = (f"{info.name}@{info.version}", info.task, size, gap.join(_quality(cli, one)))
        table.add_row(*row, " ".join(info.languages), info.licence, gap.join(info.aliases))
    return table


def _quality(cli: CliContext, one: Listed) -> list[str]:
    """The task's primary metric and its interval; for a task that is not installed here, the first metric."""
    tasks, metrics = cli.registry.tasks, one.info.metrics
    primary = tasks.get(one.info.task).primary_metric if one.info.task in tasks else ""
    name = primary if primary in metrics else next(iter(sorted(metrics)), "")
    if not name:
        return []
    low, high = one.intervals.get(name, (None, None))
    interval = [f"({low:.3f}–{high:.3f})"] if low is not None and high is not None else []
    return [f"{name} {metrics[name]:.3f}", *interval]


def _card(artifact: Artifact) -> Markdown:
    """The model card, without the header that is for machines, and with pictures by their paths."""
    from rich.markdown import Markdown

    from taskloom.core.artifact import CARD

    text = artifact.path(CARD).read_text(encoding="utf-8")
    text = _PICTURE.sub(lambda picture: f"- picture: `{artifact.folder / picture[2]}`", text)
    return Markdown(text.split("\n---\n", 1)[1] if text.startswith("---\n") else text)


def _forms(facts: Mapping[str, Any]) -> list[Table]:
    """What the model takes, field by field."""
    from taskloom.sdk.cli.schemas import fields_table

    titles = {"input_schema": "input", "params_schema": "parameter"}
    return [fields_table(title, facts[name]) for name, title in titles.items() if facts.get(name, {}).get("properties")]


def _facts_table(facts: Mapping[str, Any]) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE, show_header=False)
    for name, value in facts.items():
        if value not in ("", None, [], {}):
            table.add_row(name, escape(_shown(value)))
    return table


def _shown(value: Any) -> str:
    import json

    if isinstance(value, dict):
        return "\n".join(f"{name}: {json.dumps(item, ensure_ascii=False)}" for name, item in value.items())
    if isinstance(value, list):
        return "\n".join(item if isinstance(item, str) else json.dumps(item, ensure_ascii=False) for item in value)
    return str(value)
