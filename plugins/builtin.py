"""The built-in plugins: everything that `taskloom.plugins` registers, through the hooks that any plugin uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from taskloom.core.hookspecs import hookimpl
from taskloom.core.runtime import RuntimePlugin
from taskloom.core.task import TaskPlugin
from taskloom.plugins.runtimes.python import PythonRuntime
from taskloom.plugins.runtimes.torch import TorchRuntime
from taskloom.plugins.tasks.classification.plugin import ClassificationTask


@hookimpl
def register_tasks(register: Callable[[TaskPlugin[Any, Any, Any]], None]) -> None:
    register(ClassificationTask())


@hookimpl
def register_runtimes(register: Callable[[RuntimePlugin], None]) -> None:
    register(TorchRuntime())
    register(PythonRuntime())
