"""What this machine has: cores that the process may use, and instructions for half precision. Imports no ML library."""

from __future__ import annotations

import math
import os
from pathlib import Path

BF16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")
"""Names in /proc/cpuinfo of bfloat16 matrix instructions: Intel, Intel and AMD, Arm."""


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that the process may use: its CPU affinity, or what a container's quota amounts to if that is less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota(cgroup)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _cpu_quota(cgroup: Path) -> float | None:
    """Cores' worth of time that the control group grants; None if it is not limited."""
    try:
        granted, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            granted = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if granted in {"max", "-1"}:
        return None
    return int(granted) / int(period)


def bf16_instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """The bfloat16 instruction sets of the processor; empty if it has none or does not say."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return ()
    flags = next((set(line.partition(":")[2].split()) for line in lines if line.startswith(("flags", "Features"))), set())
    return tuple(flag for flag in BF16_FLAGS if flag in flags)
