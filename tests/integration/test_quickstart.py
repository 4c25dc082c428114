"""The two commands of the README, as a stranger runs them."""

from __future__ import annotations

import json
import subprocess
import sys

import psutil
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def test_quickstart_answers_verifies_and_leaves_no_process() -> None:
    before = {p.pid for p in psutil.process_iter()}
    done = subprocess.run(
        [sys.executable, "-m", "taskloom.sdk.cli.main", "quickstart", "--json"],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["audit"]["verified"] is True
    # Two records for each request, and the key that the first start made.
    assert report["audit"]["records"] >= 2 * len(report["results"])
    assert {result["model"] for result in report["results"]} >= {"intent-en"}
    for result in report["results"]:
        assert result["input"]
        assert result["output"]
        assert result["latency_s"] > 0
    lost_card = next(r for r in report["results"] if "lost" in str(r["input"]))
    assert "lost" in lost_card["output"]["labels"][0]["label"]
    left = [p for p in psutil.process_iter(["name", "cmdline"]) if p.pid not in before and _ours(p)]
    assert left == []


def _ours(process: psutil.Process) -> bool:
    told = " ".join(process.info["cmdline"] or []) + str(process.info["name"])
    return "ray" in told or "taskloom" in told
