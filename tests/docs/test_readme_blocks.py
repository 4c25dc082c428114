"""Every code block of the READMEs does what it says.

`console` blocks are run line by line; what they show as output must be what comes out, numbers aside, and a line `...`
stands for the rest. `python` blocks are run, and `#>` comments are their output; `toml` blocks are loaded as settings. A block
of any other kind is refused: what is shown is run. One gateway serves all blocks.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from taskloom.core.settings import load_settings
from taskloom.sdk.cli.server_process import running_server

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PAGES = ("README.md", "README.zh-CN.md")


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str


def blocks(page: str) -> list[Block]:
    source = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(page, source[: match.start()].count("\n") + 1, match[1], match[2])
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", source, re.S | re.M)
    ]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of somebody who has Taskloom installed and a gateway running."""
    extra = tmp_path_factory.mktemp("site")
    with running_server(environment={"TASKLOOM_SERVER__DISPATCHER": "local"}) as server:
        yield {
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "VIRTUAL_ENV": str(BIN.parent),
            "VENV": str(BIN.parent),
            "TASKLOOM_HOME": str(server.home),
            "TASKLOOM_ADDRESS": server.address,
            "COLUMNS": "100",
            # `pip install` of a block goes into a folder of its own, which every later block sees.
            "PIP_TARGET": str(extra),
            "PIP_NO_DEPS": "1",
            "PIP_NO_BUILD_ISOLATION": "0",
            "PIP_QUIET": "1",
            "PYTHONPATH": str(extra),
        }


def shape(text: str) -> list[str]:
    """The words of an output without what changes from run to run: numbers, and what aligns or rules them."""
    plain = [re.sub(r"─+", "─", " ".join(line.split())) for line in text.splitlines() if line.strip()]
    return [re.sub(r"\d+(\.\d+)?", "#", line) for line in plain]


def run_console(block: Block, environment: dict[str, str]) -> None:
    steps = re.split(r"^\$ ", block.text, flags=re.M)[1:]
    assert steps, f"{block.page}:{block.line}: a console block starts each command with '$ '"
    for step in steps:
        command, _, shown = step.partition("\n")
        done = subprocess.run(
            ["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, f"{block.page}:{block.line}: $ {command}\n{done.stdout}\n{done.stderr}"
        came = shape(done.stdout + done.stderr)
        for line in shape(shown):
            assert line == "..." or line in came, f"{block.page}:{block.line}: $ {command}\nshown: {line}\ncame:\n" + "\n".join(
                came
            )


def run_python(block: Block, environment: dict[str, str]) -> None:
    """Comments `#> text` after a print are its output."""
    done = subprocess.run(
        [sys.executable, "-c", block.text], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{block.page}:{block.line}:\n{done.stderr}"
    assert shape("\n".join(re.findall(r"#> (.*)$", block.text, re.M))) == shape(done.stdout)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs(page: str, workplace: dict[str, str], tmp_path: Path) -> None:
    found = blocks(page)
    assert len(found) >= 5
    for block in found:
        if block.language == "console":
            run_console(block, workplace)
        elif block.language == "python":
            run_python(block, workplace)
        elif block.language == "toml":
            file = tmp_path / "taskloom.toml"
            file.write_text(block.text, encoding="utf-8")
            load_settings(file)
        else:
            raise AssertionError(f"{page}:{block.line}: nothing runs a block of {block.language or 'no language'}")


def test_both_readmes_show_the_same_code() -> None:
    english, chinese = ([re.sub(r"#.*", "", b.text) for b in blocks(page) if b.language != "console"] for page in PAGES)
    assert english == chinese
