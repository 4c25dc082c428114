"""What the server registers: its commands, the audit log and the local engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskloom.core.hookspecs import hookimpl

if TYPE_CHECKING:
    from taskloom.core.ports import InferenceEngine
    from taskloom.core.registry import Registry
    from taskloom.core.settings import Settings


@hookimpl
def open_local_engine(settings: Settings, registry: Registry) -> InferenceEngine:
    from taskloom.server.engine.build import build_engine

    return build_engine(settings, registry, dispatcher="local")
