"""The contracts of Taskloom. Names no task and no ML library.

What plugin authors need is exported here; the submodules hold the rest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskloom.core.artifact import Artifact as Artifact
    from taskloom.core.hookspecs import CommandSpec as CommandSpec
    from taskloom.core.hookspecs import RequestEvent as RequestEvent
    from taskloom.core.hookspecs import hookimpl as hookimpl
    from taskloom.core.loader import load_registry as load_registry
    from taskloom.core.optimizer import OptimizerPlugin as OptimizerPlugin
    from taskloom.core.predictor import Predictor as Predictor
    from taskloom.core.registry import Registry as Registry
    from taskloom.core.runtime import RuntimePlugin as RuntimePlugin
    from taskloom.core.store import ModelStore as ModelStore
    from taskloom.core.task import EvaluationResult as EvaluationResult
    from taskloom.core.task import Example as Example
    from taskloom.core.task import MetricSpec as MetricSpec
    from taskloom.core.task import SharedParts as SharedParts
    from taskloom.core.task import TaskModel as TaskModel
    from taskloom.core.task import TaskPlugin as TaskPlugin
    from taskloom.core.types import Frozen as Frozen

_HOMES = {
    "Artifact": "artifact",
    "CommandSpec": "hookspecs",
    "EvaluationResult": "task",
    "Example": "task",
    "Frozen": "types",
    "MetricSpec": "task",
    "ModelStore": "store",
    "OptimizerPlugin": "optimizer",
    "Predictor": "predictor",
    "Registry": "registry",
    "RequestEvent": "hookspecs",
    "RuntimePlugin": "runtime",
    "SharedParts": "task",
    "TaskModel": "task",
    "TaskPlugin": "task",
    "hookimpl": "hookspecs",
    "load_registry": "loader",
}
__all__ = [
    "Artifact",
    "CommandSpec",
    "EvaluationResult",
    "Example",
    "Frozen",
    "MetricSpec",
    "ModelStore",
    "OptimizerPlugin",
    "Predictor",
    "Registry",
    "RequestEvent",
    "RuntimePlugin",
    "SharedParts",
    "TaskModel",
    "TaskPlugin",
    "hookimpl",
    "load_registry",
]


def __getattr__(name: str) -> Any:
    """Imports a name's home when it is first used, so that the command-line tool starts fast."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
