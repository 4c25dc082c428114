"""`taskloom quickstart`: the whole path once, on this machine, and nothing left behind."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from taskloom.core.errors import TaskloomError

if TYPE_CHECKING:
    from rich.console import Console

    from taskloom.core.types import InferResult, ModelDescription
    from taskloom.sdk import Client
    from taskloom.sdk.cli.main import CliContext
    from taskloom.sdk.cli.server_process import RunningServer


EXAMPLES = 3
"""As many of a model's examples are asked."""
ANSWERS = 3
"""As many labels, entities or items of an answer are shown."""


@click.command("quickstart")
@click.option("--json", "as_json", is_flag=True, help="Print the results as one JSON object.")
@click.option("--dispatcher", type=click.Choice(["ray", "local"]), default="ray", help="How batches reach the models.")
@click.pass_obj
def command(context: CliContext, as_json: bool, dispatcher: str) -> None:
    """Start Ray and a gateway, ask every bundled model real questions through the SDK, verify the audit log, and stop."""
    from rich.console import Console

    from taskloom.sdk import Client
    from taskloom.sdk.cli.server_process import running_server

    told = Console(stderr=as_json, highlight=False)
    began = time.monotonic()
    where = "Ray Serve and the gRPC gateway" if dispatcher == "ray" else "the gRPC gateway"
    told.print(f"Starting {where} ...")
    with running_server(environment={"TASKLOOM_SERVER__DISPATCHER": dispatcher}) as server:
        told.print(f"Ready at [bold]{server.address}[/bold] after {time.monotonic() - began:.0f} s.\n")
        with Client(server.address, api_key=server.api_key) as client:
            results = _tour(client, told)
        audit = _verify(server, told)
        told.print("\nStopping ...")
    told.print(f"Stopped; no process is left. The whole run took {time.monotonic() - began:.0f} s.")
    if as_json:
        context.print_json({"results": results, "audit": audit})
    if not audit["verified"]:
        raise TaskloomError("the audit chain did not verify; this must not happen: please report it")


def _tour(client: Client, told: Console) -> list[dict[str, Any]]:
    """Asks every model its own examples, as its description gives them, task by task."""
    from rich.text import Text

    results: list[dict[str, Any]] = []
    task = ""
    for info in sorted(client.models(), key=lambda info: (info.task, info.name)):
        if info.task != task:
            task = info.task
            told.rule(f"[bold]{task}[/bold]", align="left")
        told.print(Text.assemble((f"{info.name}@{info.version}", "bold"), " ", info.description))
        description = client.describe(info.name)
        results += [_ask(client, description, example, told) for example in description.examples[:EXAMPLES]]
        told.print()
    return results


def _ask(client: Client, model: ModelDescription, example: Mapping[str, Any], told: Console) -> dict[str, Any]:
    began = time.perf_counter()
    result = client.infer(model.info.name, example)
    latency_s = time.perf_counter() - began
    _show(told, model, example, result, latency_s)
    return {
        "model": result.model,
        "task": result.task,
        "input": dict(example),
        "output": dict(result.output),
        "latency_s": round(latency_s, 4),
    }


def _show(told: Console, model: ModelDescription, example: Mapping[str, Any], result: InferResult, latency_s: float) -> None:
    from taskloom.sdk.cli.inputs import InputForm
    from taskloom.sdk.cli.render import indented, show_answer, show_input

    asked = show_input(example, InputForm.of(model).kinds, result).append(f"  {latency_s * 1000:.0f} ms", style="dim")
    told.print(indented(asked, 2))
    told.print(indented(show_answer(result, example, limit=ANSWERS), 6))


def _verify(server: RunningServer, told: Console) -> dict[str, Any]:
    report = server.run("audit", "verify")
    verdict = "verified" if report["verified"] else f"BROKEN: {report.get('reason')}"
    told.print(f"Audit log: {report['records']} records, hash chain {verdict}.")
    return {"verified": bool(report["verified"]), "records": int(report["records"])}
