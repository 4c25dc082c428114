from __future__ import annotations

import doctest
import inspect
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import taskloom.sdk
from taskloom.sdk import AsyncClient, Client, LocalClient

HEAVY = ("torch", "ray", "faiss", "sqlalchemy", "numpy", "transformers")


def test_public_names():
    assert taskloom.sdk.__all__ == [
        "AlreadyExistsError",
        "Answer",
        "AnswerResult",
        "AsyncClient",
        "AsyncKnowledge",
        "AsyncTextStream",
        "BaseInfo",
        "BatchOptions",
        "CallOptions",
        "ClassificationResult",
        "Client",
        "ConfigError",
        "DeadlineExceededError",
        "Document",
        "Entity",
        "GraphResult",
        "Hit",
        "InferResult",
        "InputTooLargeError",
        "InternalError",
        "InvalidInputError",
        "ItemResult",
        "Knowledge",
        "KnowledgeAnswer",
        "LabelScore",
        "LocalClient",
        "MissingDependencyError",
        "ModelDescription",
        "ModelFailedError",
        "ModelInfo",
        "NerResult",
        "NotFoundError",
        "OverloadedError",
        "Passage",
        "PermissionDeniedError",
        "RateLimitedError",
        "Reason",
        "RecommendResult",
        "Recommendation",
        "RetryPolicy",
        "SearchResult",
        "Source",
        "SummaryResult",
        "SummarySentence",
        "TaskloomError",
        "TextStream",
        "Timings",
        "Turn",
        "UnauthenticatedError",
        "UnavailableError",
        "UnsupportedError",
        "UpsertResult",
        "VersionInfo",
        "VisionResult",
        "local",
    ]
    for name in taskloom.sdk.__all__:
        assert getattr(taskloom.sdk, name).__name__ == name


TASK_CALLS = ("classify", "ner", "answer", "summarize", "recommend", "classify_image")


@pytest.mark.parametrize(
    "name", [*TASK_CALLS, "infer", "stream_text", "infer_many", "stream", "models", "describe", "wait_ready", "close"]
)
def test_the_three_clients_take_the_same_arguments(name):
    shapes = {
        cls: [(p.name, p.kind, p.default) for p in inspect.signature(getattr(cls, name)).parameters.values()]
        for cls in (Client, AsyncClient, LocalClient)
    }
    assert shapes[Client] == shapes[AsyncClient] == shapes[LocalClient]


@pytest.mark.parametrize("name", TASK_CALLS)
def test_a_call_shows_what_it_takes(name):
    for cls in (Client, AsyncClient):
        method = getattr(cls, name)
        parameters = inspect.signature(method).parameters
        assert next(iter(parameters)) == "self"
        assert parameters["model"].kind is inspect.Parameter.KEYWORD_ONLY
        assert (method.__name__, "CallOptions" in method.__doc__) == (name, True)
    assert inspect.iscoroutinefunction(getattr(AsyncClient, name))


def test_type_checkers_see_arguments_and_results_of_both_clients(tmp_path):
    """In an interpreter of its own, as an editor would: mypy on a program that calls every task rightly, then wrongly."""
    program = tmp_path / "program.py"
    program.write_text(
        "from taskloom.sdk import *\n"
        "async def use(a: AsyncClient, s: Client, l: LocalClient) -> None:\n"
        "    label: str | None = s.classify('x', model='m', top_k=1, version='2', params={'a': 1}).label\n"
        "    entities: tuple[Entity, ...] = (await a.ner('x', model='m', dictionary={'a': 'b'})).entities\n"
        "    best: Answer | None = l.answer('q', 'c', model='m', timeout_s=1.5).best\n"
        "    summary: str = (await a.summarize('d', model='m', max_sentences=2)).summary\n"
        "    items: tuple[Recommendation, ...] = s.recommend(model='m', history=[1, 'b'], where={'a': ['b']}).items\n"
        "    width: int = (await a.classify_image(b'', model='m', priority=3)).width\n"
        "    answered: str = s.knowledge('b').ask('q', turns=[('a', 'b')], where={'y': 1}, timeout_s=1.5).answer\n"
        "    hits: tuple[Hit, ...] = (await a.knowledge('b').search('q', mode='dense')).hits\n"
        "    version: int = l.knowledge('b').upsert([('id', 'text'), Document(document_id='a', text='b')]).version\n"
        "    s.classify('x')  # no model\n"
        "    s.ner('x', model='m', top_k=1)  # no such argument\n"
        "    await a.answer('q', 'c', model='m', timeout_s='1')  # wrong type of an option\n"
        "    wrong: int = s.summarize('d', model='m').summary\n"
        "    s.knowledge('b').ask('q', top_k=1)  # no such argument\n"
        "    late: str = a.knowledge('b').delete(['a'])  # not awaited\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--follow-imports=silent", str(program)]
    typing = Path(__file__).parents[2] / ".typing"
    environment = {**os.environ, "MYPYPATH": str(typing), "MYPY_FORCE_COLOR": "0"}
    options = ["--namespace-packages", "--explicit-package-bases", "--config-file="]
    done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    lines = [line.split(":")[1] for line in done.stdout.splitlines() if re.match(r"program.py:\d+: error:", line)]
    assert lines == ["12", "13", "14", "15", "16", "17"], done.stdout


@pytest.mark.parametrize(
    "line",
    [
        "import taskloom.sdk; [getattr(taskloom.sdk, name) for name in taskloom.sdk.__all__]",
        "from taskloom.sdk.cli.main import root; root.main(['models', 'list'], standalone_mode=False)",
        "from taskloom.sdk.cli.main import root; root.main(['config', 'show'], standalone_mode=False)",
        "from taskloom.sdk.cli.main import root; root.main(['predict', '--help'], standalone_mode=False)",
        "from taskloom.sdk.cli.main import root; root.main(['kb', 'add', '--help'], standalone_mode=False)",
    ],
)
def test_no_heavy_library_is_imported(line, tmp_path):
    code = f"{line}\nimport sys\nprint('HEAVY', [m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.endswith("HEAVY []\n")


@pytest.mark.parametrize("words", [["--help"], ["predict", "--help"], ["kb", "ask", "--help"]])
def test_help_needs_no_grpc_and_no_settings(words):
    code = (
        f"import sys\nfrom taskloom.sdk.cli.main import root\nroot.main({words}, standalone_mode=False)\n"
        "print('LATE', [m for m in ('grpc', 'pydantic_settings', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("LATE []\n")


MODULES_WITH_EXAMPLES = (
    "connection",
    "dependencies",
    "results",
    "retries",
    "cli.main",
    "cli.predict",
    "cli.config",
    "cli.render",
    "cli.schemas",
)


@pytest.mark.parametrize("module", MODULES_WITH_EXAMPLES)
def test_examples_in_docstrings(module):
    assert doctest.testmod(import_module(f"taskloom.sdk.{module}")).failed == 0
