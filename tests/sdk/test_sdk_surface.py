from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
from importlib import import_module

import pytest

import taskloom.sdk
from taskloom.sdk import AsyncClient, Client, LocalClient

HEAVY = ("torch", "ray", "faiss", "sqlalchemy", "numpy", "transformers")


def test_public_names():
    assert taskloom.sdk.__all__ == [
        "AsyncClient",
        "AsyncTextStream",
        "ClassificationResult",
        "Client",
        "ConfigError",
        "DeadlineExceededError",
        "InferResult",
        "InternalError",
        "InvalidInputError",
        "ItemResult",
        "LabelScore",
        "LocalClient",
        "MissingDependencyError",
        "ModelDescription",
        "ModelFailedError",
        "ModelInfo",
        "NotFoundError",
        "OverloadedError",
        "PermissionDeniedError",
        "RateLimitedError",
        "RetryPolicy",
        "TaskloomError",
        "TextStream",
        "Timings",
        "UnauthenticatedError",
        "UnavailableError",
        "local",
    ]
    for name in taskloom.sdk.__all__:
        assert getattr(taskloom.sdk, name).__name__ == name


@pytest.mark.parametrize(
    "name", ["infer", "classify", "stream_text", "infer_many", "stream", "models", "describe", "wait_ready", "close"]
)
def test_the_three_clients_take_the_same_arguments(name):
    shapes = {
        cls: [(p.name, p.kind, p.default) for p in inspect.signature(getattr(cls, name)).parameters.values()]
        for cls in (Client, AsyncClient, LocalClient)
    }
    assert shapes[Client] == shapes[AsyncClient] == shapes[LocalClient]


@pytest.mark.parametrize(
    "line",
    [
        "import taskloom.sdk; [getattr(taskloom.sdk, name) for name in taskloom.sdk.__all__]",
        "from taskloom.sdk.cli.main import root; root.main(['models', 'list'], standalone_mode=False)",
        "from taskloom.sdk.cli.main import root; root.main(['config', 'show'], standalone_mode=False)",
        "from taskloom.sdk.cli.main import root; root.main(['predict', '--help'], standalone_mode=False)",
    ],
)
def test_no_heavy_library_is_imported(line, tmp_path):
    code = f"{line}\nimport sys\nprint('HEAVY', [m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.endswith("HEAVY []\n")


def test_help_needs_no_grpc_and_no_settings():
    code = (
        "import sys\nfrom taskloom.sdk.cli.main import root\nroot.main(['--help'], standalone_mode=False)\n"
        "print('LATE', [m for m in ('grpc', 'pydantic_settings', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("LATE []\n")


@pytest.mark.parametrize(
    "module", ["connection", "dependencies", "results", "retries", "cli.main", "cli.predict", "cli.config"]
)
def test_examples_in_docstrings(module):
    assert doctest.testmod(import_module(f"taskloom.sdk.{module}")).failed == 0
