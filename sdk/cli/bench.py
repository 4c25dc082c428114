"""`taskloom bench`: the model alone, the engine, the whole path, and plain Ray Serve, on the same texts in one run."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taskloom.core.errors import TaskloomError
from taskloom.core.event_loop import loop_factory
from taskloom.core.openmp import SPIN

if TYPE_CHECKING:
    from taskloom.sdk.cli.main import CliContext
    from taskloom.sdk.cli.server_process import RunningServer

CALLERS = (1, 16, 64)
OTHER_PATHS = "taskloom.server.bench"


@click.command("bench")
@click.option("--model", default="intent-en", show_default=True, help="A model whose input is one text.")
@click.option("--seconds", default=15.0, show_default=True, help="How long each figure is measured, after a warm-up.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Write the comparison as a PNG picture.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")
@click.pass_obj
def command(context: CliContext, model: str, seconds: float, plot: Path | None, as_json: bool) -> None:
    """Measure serving speed against the model's own limit and against plain Ray Serve."""
    from rich.console import Console

    told = Console(stderr=True, highlight=False)
    paths: dict[str, dict[str, Any]] = {}
    load_before = os.getloadavg()[0]
    allocator = _allocator(context)
    told.print("measuring limit ...")
    paths["limit"] = _limit(seconds, model, allocator)
    for name in ("rayserve", "local"):
        told.print(f"measuring {name} ...")
        paths.update(_child(name, seconds, model, {}))
    told.print("measuring gateway ...")
    paths.update(_gateway(seconds, model))
    told.print("measuring limit again ...")
    again = _limit(seconds, model, allocator)
    limits = [paths["limit"]["texts_per_s"], again["texts_per_s"]]
    limit = sum(limits) / 2
    report = {
        "limit_texts_per_s": round(limit, 1),
        "paths": paths,
        "ratios": {
            "path_to_limit": round(paths["gateway_64"]["texts_per_s"] / limit, 3),
            "path_to_rayserve": round(paths["gateway_64"]["texts_per_s"] / paths["rayserve_64"]["texts_per_s"], 2),
            "local_to_limit": round(paths["local_64"]["texts_per_s"] / limit, 3),
        },
        "machine": {**_machine(), "load_before": load_before, "limit_texts_per_s_first_and_last": limits},
    }
    if plot:
        _draw(report, plot)
        told.print(f"wrote {plot}")
    if as_json:
        context.print_json(report)
    else:
        _print_table(report)


def _allocator(context: CliContext) -> dict[str, str]:
    """What replicas are given to allocate memory well. The limit gets it too: it must be the best that there is."""
    from taskloom.core.predictor import choose_runtime
    from taskloom.core.runtime import RuntimeConfig

    config = RuntimeConfig()
    environment = choose_runtime(context.registry, config.runtime).environment(config)
    return {name: value for name, value in environment.items() if name.startswith("MALLOC_")}


def _limit(seconds: float, model: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """The faster of one process on all cores and, at the same time on as many cores, processes of one thread."""
    cores = len(os.sched_getaffinity(0))
    together = _child("limit", seconds, model, environment)["limit"]
    with ThreadPoolExecutor(cores) as pool:
        apart = list(pool.map(lambda _: _child("limit", seconds, model, environment, threads=1)["limit"], range(cores)))
    rate = sum(one["texts_per_s"] for one in apart)
    if rate <= together["texts_per_s"]:
        return {**together, "processes": 1}
    slowest = max(apart, key=lambda one: one["p99_s"])
    return {**slowest, "texts_per_s": round(rate, 2), "texts": sum(one["texts"] for one in apart), "processes": cores}


def _child(
    path: str, seconds: float, model: str, environment: Mapping[str, str], threads: int = 0
) -> dict[str, dict[str, Any]]:
    inherited = dict(os.environ)
    if path != "local" and inherited.get("GOMP_SPINCOUNT") == SPIN:  # how the others wait is none of ours
        del inherited["GOMP_SPINCOUNT"]
    done = subprocess.run(  # noqa: S603 - our own interpreter and arguments
        [sys.executable, "-m", OTHER_PATHS, path, str(seconds), model, str(threads)],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise TaskloomError(f"measuring {path} failed: {done.stderr.strip()[-2000:]}")
    found: dict[str, dict[str, Any]] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _gateway(seconds: float, model: str) -> dict[str, dict[str, Any]]:
    from taskloom.sdk.cli.server_process import running_server

    with running_server([model]) as server, asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_call_gateway(server, seconds, model))


async def _call_gateway(server: RunningServer, seconds: float, model: str) -> dict[str, dict[str, Any]]:
    from taskloom.sdk import AsyncClient
    from taskloom.sdk.load import bench_texts, closed_loop

    async with AsyncClient(server.address, api_key=server.api_key) as client:

        async def call(text: str) -> object:
            return await client.classify(text, model=model)

        return {
            f"gateway_{callers}": (await closed_loop(call, bench_texts(), callers, seconds)).model_dump() for callers in CALLERS
        }


def _machine() -> dict[str, Any]:
    model = next((line.split(":", 1)[1].strip() for line in _cpu_lines() if line.startswith("model name")), platform.machine())
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "date": time.strftime("%Y-%m-%d", time.gmtime())}


def _cpu_lines() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _print_table(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{report['machine']['cpu']}, {report['machine']['cores']} cores, {report['machine']['date']}")
    for column, side in (("path", "left"), ("texts/s", "right"), ("p50 ms", "right"), ("p99 ms", "right"), ("errors", "right")):
        table.add_column(column, justify=side)  # type: ignore[arg-type]
    for name, m in report["paths"].items():
        table.add_row(name, f"{m['texts_per_s']:.1f}", f"{m['p50_s'] * 1e3:.1f}", f"{m['p99_s'] * 1e3:.1f}", str(m["errors"]))
    console = Console()
    console.print(table)
    ratios = report["ratios"]
    console.print(f"whole path at 64 callers / model's limit:     {ratios['path_to_limit']:.2f}")
    console.print(f"whole path at 64 callers / plain Ray Serve:   {ratios['path_to_rayserve']:.1f}")
    console.print(f"engine alone at 64 callers / model's limit:   {ratios['local_to_limit']:.2f}")


def _draw(report: dict[str, Any], target: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError as exc:
        from taskloom.core.errors import MissingDependencyError

        raise MissingDependencyError("the picture needs matplotlib: pip install 'taskloom[eval]'") from exc
    names = {"rayserve": "plain Ray Serve", "gateway": "Taskloom, Ray + gRPC + audit", "local": "Taskloom, in process"}
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for path, title in names.items():
        axes.plot(CALLERS, [report["paths"][f"{path}_{n}"]["texts_per_s"] for n in CALLERS], marker="o", label=title)
    axes.axhline(report["limit_texts_per_s"], linestyle="--", color="grey", label="the model alone (limit)")
    axes.set_xscale("log", base=2)
    axes.set_xticks(CALLERS, [str(n) for n in CALLERS])
    axes.set_xlabel("concurrent callers")
    axes.set_ylabel("texts per second")
    axes.set_ylim(bottom=0)
    axes.set_title(f"{report['machine']['cpu']}, {report['machine']['cores']} cores, {report['machine']['date']}", fontsize=9)
    figure.legend(loc="outside lower center", ncols=2)
    figure.savefig(target, dpi=150)
