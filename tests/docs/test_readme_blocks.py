"""Every code block of the READMEs does what it says.

`console` blocks are run line by line; what they show as output must be what comes out, numbers aside, and a line `...`
stands for the rest. `python` blocks are run, and `#>` comments are their output; `toml` blocks are loaded as settings. A block
of any other kind is refused: what is shown is run. One gateway serves all blocks of the two READMEs; each page of an example
has a home of its own and no gateway.
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
EXAMPLES = tuple(sorted(str(folder.relative_to(ROOT)) for folder in (ROOT / "examples").iterdir() if folder.is_dir()))
EXAMPLE_PAGES = tuple(f"{folder}/{page}" for folder in EXAMPLES for page in PAGES)


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
    with running_server(environment={"TASKLOOM_SERVER__DISPATCHER": "local"}) as server:
        yield environment_of(server.home, tmp_path_factory.mktemp("site")) | {"TASKLOOM_ADDRESS": server.address}


def environment_of(home: Path, extra: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "VIRTUAL_ENV": str(BIN.parent),
        "VENV": str(BIN.parent),
        "TASKLOOM_HOME": str(home),
        "COLUMNS": "100",
        # `pip install` of a block goes into a folder of its own, which every later block sees.
        "PIP_TARGET": str(extra),
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_QUIET": "1",
        "PYTHONPATH": os.pathsep.join([str(extra), *filter(None, [os.environ.get("PYTHONPATH")])]),
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
    assert len(blocks(page)) >= 5
    run_all(page, workplace, tmp_path)


@pytest.mark.parametrize("page", EXAMPLE_PAGES)
def test_every_block_of_an_example_runs(page: str, tmp_path: Path) -> None:
    assert len(blocks(page)) >= 2
    run_all(page, environment_of(tmp_path / "its-home", tmp_path / "site"), tmp_path)


def run_all(page: str, environment: dict[str, str], tmp_path: Path) -> None:
    for block in blocks(page):
        if block.language == "console":
            run_console(block, environment)
        elif block.language == "python":
            run_python(block, environment)
        elif block.language == "toml":
            file = tmp_path / "taskloom.toml"
            file.write_text(block.text, encoding="utf-8")
            load_settings(file)
        else:
            raise AssertionError(f"{page}:{block.line}: nothing runs a block of {block.language or 'no language'}")


@pytest.mark.parametrize("folder", [".", *EXAMPLES])
def test_both_languages_show_the_same_code(folder: str) -> None:
    pages = [f"{folder}/{page}" for page in PAGES]
    english, chinese = ([re.sub(r"#.*", "", b.text) for b in blocks(page) if b.language != "console"] for page in pages)
    assert english == chinese


@pytest.mark.parametrize("folder", EXAMPLES)
def test_an_example_shows_the_same_commands_in_both_languages(folder: str) -> None:
    english, chinese = ([b.text for b in blocks(f"{folder}/{page}") if b.language == "console"] for page in PAGES)
    assert english == chinese
