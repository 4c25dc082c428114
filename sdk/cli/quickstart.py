"""`taskloom quickstart`: the whole path once, on this machine, and nothing left behind."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from taskloom.core.errors import TaskloomError

if TYPE_CHECKING:
    from rich.console import Console

    from taskloom.core.types import InferResult
    from taskloom.sdk import Client
    from taskloom.sdk.cli.main import CliContext
    from taskloom.sdk.cli.server_process import RunningServer


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
            results = [_ask(client, model, example, told) for model, example in _questions(client)]
        audit = _verify(server, told)
        told.print("\nStopping ...")
    told.print(f"Stopped; no process is left. The whole run took {time.monotonic() - began:.0f} s.")
    if as_json:
        context.print_json({"results": results, "audit": audit})
    if not audit["verified"]:
        raise TaskloomError("the audit chain did not verify; this must not happen: please report it")


def _questions(client: Client) -> list[tuple[str, dict[str, Any]]]:
    """Every model's own examples, as its description gives them."""
    return [(info.name, dict(example)) for info in client.models() for example in client.describe(info.name).examples]


def _ask(client: Client, model: str, example: dict[str, Any], told: Console) -> dict[str, Any]:
    began = time.perf_counter()
    result = client.infer(model, example)
    latency_s = time.perf_counter() - began
    _show(told, example, result, latency_s)
    return {
        "model": model,
        "task": result.task,
        "input": example,
        "output": dict(result.output),
        "latency_s": round(latency_s, 4),
    }


def _show(told: Console, example: dict[str, Any], result: InferResult, latency_s: float) -> None:
    from rich.markup import escape

    from taskloom.sdk.cli.render import output_lines

    told.print(f"[bold]{result.model}@{result.version}[/bold] ({result.task}, {latency_s * 1000:.0f} ms)")
    for value in example.values():
        told.print(f"  [cyan]{escape(str(value))}[/cyan]")
    for line in output_lines(result.output)[:3]:
        told.print(f"    {escape(line)}")


def _verify(server: RunningServer, told: Console) -> dict[str, Any]:
    report = server.run("audit", "verify")
    verdict = "verified" if report["verified"] else f"BROKEN: {report.get('reason')}"
    told.print(f"\nAudit log: {report['records']} records, hash chain {verdict}.")
    return {"verified": bool(report["verified"]), "records": int(report["records"])}
