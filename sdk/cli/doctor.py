"""`taskloom doctor`: looks at this machine and says what to do about what it finds."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from taskloom.core.errors import TaskloomError
from taskloom.core.types import Frozen

if TYPE_CHECKING:
    from taskloom.sdk.cli.main import CliContext

GIB = 1024**3
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
BF16 = frozenset({"amx_bf16", "avx512_bf16", "bf16"})


class Finding(Frozen):
    """One thing that was looked at. `remedy` says what to do; empty if there is nothing to do."""

    name: str
    state: Literal["ok", "note", "problem"]
    found: str
    remedy: str = ""


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_obj
def command(context: CliContext, as_json: bool) -> None:
    """Check this machine and say what to do. Exit status 1 if something must be mended."""
    findings = [finding for look in _LOOKS for finding in _safely(look, context)]
    if as_json:
        context.print_json([finding.model_dump() for finding in findings])
    else:
        _print(findings)
    if any(finding.state == "problem" for finding in findings):
        raise click.exceptions.Exit(1)


def _safely(look: Callable[[CliContext], Iterator[Finding]], context: CliContext) -> Iterator[Finding]:
    """A look that fails is a finding too: the others still run."""
    try:
        yield from look(context)
    except (TaskloomError, OSError) as exc:
        yield Finding(
            name=look.__name__.strip("_"), state="problem", found=str(exc), remedy="mend this first, then run doctor again"
        )


def _print(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.markup import escape

    marks = {"ok": "[green]ok[/green]     ", "note": "[yellow]note[/yellow]   ", "problem": "[red]PROBLEM[/red]"}
    console = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        console.print(f"{marks[finding.state]} [bold]{escape(finding.name)}[/bold]: {escape(finding.found)}")
        if finding.remedy:
            console.print(f"        -> {escape(finding.remedy)}")


def _python(_: CliContext) -> Iterator[Finding]:
    good = sys.version_info >= (3, 11)
    yield Finding(
        name="python",
        state="ok" if good else "problem",
        found=f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        remedy="" if good else "install Python 3.11 or newer",
    )


def _processor(_: CliContext) -> Iterator[Finding]:
    cores = usable_cores()
    flags = _cpu_flags()
    sets = [name for name in INSTRUCTION_SETS if name in flags]
    yield Finding(name="cores", state="ok", found=f"{cores:g} usable of {os.cpu_count()}")
    fast = has_bf16()
    yield Finding(
        name="instruction sets",
        state="ok" if fast else "note",
        found=", ".join(sets) or "none of " + ", ".join(INSTRUCTION_SETS),
        remedy="" if fast else "models run in fp32 here, about four times slower than on a CPU with AMX or AVX-512-BF16",
    )


def has_bf16() -> bool:
    """Whether models run in bf16 here: the processor has instructions for it (Intel, AMD, Arm)."""
    return not _cpu_flags().isdisjoint(BF16)


def usable_cores() -> float:
    """The cores that this process may use: its affinity, and the quota of its control group (version 2)."""
    cores = float(len(os.sched_getaffinity(0)))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else min(cores, int(quota) / int(period))


def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":", 1)[1].split() for line in lines if line.startswith(("flags", "Features"))), []))


def _memory(_: CliContext) -> Iterator[Finding]:
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    enough = total >= 3.5
    yield Finding(
        name="memory",
        state="ok" if enough else "problem",
        found=f"{total:.1f} GiB, {free:.1f} GiB of it unused",
        remedy=""
        if enough
        else "Ray and one replica need about 2.5 GiB; use `taskloom serve --dispatcher local` on a small machine",
    )
    place = Path("/dev/shm")  # noqa: S108 - Ray's own place
    shared = shutil.disk_usage(place).total / GIB if place.is_dir() else 0.0
    enough = shared >= 0.25
    yield Finding(
        name="shared memory",
        state="ok" if enough else "problem",
        found=f"{place} holds {shared:.2f} GiB",
        remedy="" if enough else "Ray's object store needs 0.25 GiB: start the container with --shm-size=1g",
    )


def _gpu(_: CliContext) -> Iterator[Finding]:
    there = shutil.which("nvidia-smi") is not None
    found = "an NVIDIA driver is installed" if there else "none; models run on the CPU"
    yield Finding(name="gpu", state="ok", found=found, remedy="set pools.<name>.num_gpus to use it" if there else "")


def _state(context: CliContext) -> Iterator[Finding]:
    home = context.settings.home
    nearest = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(nearest).free / GIB
    try:
        with tempfile.TemporaryFile(dir=nearest):
            writable = True
    except OSError:
        writable = False
    if not writable:
        yield Finding(
            name="state", state="problem", found=f"{home} can't be written", remedy="set TASKLOOM_HOME to a folder of yours"
        )
    elif free < 1:
        remedy = "make room: without it the audit log refuses work"
        yield Finding(name="state", state="problem", found=f"{home} has {free:.2f} GiB left", remedy=remedy)
    else:
        yield Finding(name="state", state="ok", found=f"{home} is writable, {free:.0f} GiB free")


def _port(context: CliContext) -> Iterator[Finding]:
    host, port = context.settings.server.host, context.settings.server.port
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            remedy = "a gateway may be running already; else choose another with server.port or `taskloom serve --port`"
            yield Finding(name="port", state="note", found=f"{host}:{port} can't be bound: {exc.strerror}", remedy=remedy)
        else:
            yield Finding(name="port", state="ok", found=f"{host}:{port} is free")


def _packages(_: CliContext) -> Iterator[Finding]:
    from packaging.requirements import Requirement

    for extra in ("local", "server", "train", "postgres"):
        missing: list[str] = []
        present: list[str] = []
        for text in requires("taskloom") or []:
            wanted = Requirement(text)
            if not wanted.marker or not wanted.marker.evaluate({"extra": extra}) or wanted.name == "taskloom":
                continue
            try:
                have = version(wanted.name)
            except PackageNotFoundError:
                missing.append(wanted.name)
                continue
            (present if wanted.specifier.contains(have, prereleases=True) else missing).append(f"{wanted.name} {have}")
        if missing:
            remedy = f"if you want it: pip install 'taskloom[{extra}]'"
            yield Finding(name=f"extra [{extra}]", state="note", found="not complete: " + ", ".join(missing), remedy=remedy)
        else:
            yield Finding(name=f"extra [{extra}]", state="ok", found=", ".join(present))


def _plugins(context: CliContext) -> Iterator[Finding]:
    for report in context.registry.reports:
        if report.error:
            remedy = f"update or uninstall {report.distribution}; Taskloom goes on without it"
            yield Finding(name=f"plugin {report.owner}", state="problem", found=report.error, remedy=remedy)
    yield Finding(name="tasks", state="ok", found=", ".join(task.name for task in context.registry.tasks) or "none")


def _runtimes(context: CliContext) -> Iterator[Finding]:
    from taskloom.core.runtime import RuntimeConfig

    for runtime in context.registry.runtimes:
        name = f"runtime {runtime.name}"
        if reason := runtime.unavailable():
            yield Finding(name=name, state="note", found=f"not usable: {reason}")
            continue
        plan = runtime.plan(RuntimeConfig())
        why = f" ({'; '.join(plan.reasons)})" if plan.reasons else ""
        yield Finding(name=name, state="ok", found=f"{plan.device}, {plan.precision}, {plan.threads} threads{why}")


_LOOKS = (_python, _processor, _memory, _gpu, _state, _port, _packages, _plugins, _runtimes)
