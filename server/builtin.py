"""What the server registers: its commands, the audit log, the local engine and the knowledge bases."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from taskloom.core.hookspecs import CommandSpec, hookimpl

if TYPE_CHECKING:
    from taskloom.core.knowledge_calls import KnowledgeEngine
    from taskloom.core.ports import AuditLog, InferenceEngine
    from taskloom.core.registry import Registry
    from taskloom.core.settings import Settings

log = logging.getLogger(__name__)


@hookimpl
def register_commands(register: Callable[[CommandSpec], None]) -> None:
    register(
        CommandSpec(
            name="audit", summary="Read, verify and export the audit log.", target="taskloom.server.commands.audit:audit"
        )
    )
    register(CommandSpec(name="key", summary="Make, list and revoke API keys.", target="taskloom.server.commands.key:key"))
    register(CommandSpec(name="serve", summary="Serve models over gRPC.", target="taskloom.server.commands.serve:serve"))


@hookimpl
def open_audit_log(settings: Settings) -> AuditLog | None:
    """None, with a warning, where the extra that brings the log is not installed: who only trains need not have it."""
    try:
        from taskloom.server.audit import open_log
    except ModuleNotFoundError as exc:
        log.warning("no audit record: the log needs %s; install it with: pip install 'taskloom[server]'", exc.name)
        return None
    return open_log(settings)


@hookimpl
def open_local_engine(settings: Settings, registry: Registry) -> InferenceEngine:
    from taskloom.server.engine.build import build_engine

    return build_engine(settings, registry, dispatcher="local")


@hookimpl
def open_knowledge(settings: Settings, registry: Registry, engine: InferenceEngine) -> KnowledgeEngine | None:
    """None, with a warning, where the extra that finds passages is not installed: a server without it serves models."""
    try:
        from taskloom.server.knowledge.desk import open_knowledge as open_desk
    except ModuleNotFoundError as exc:
        log.warning("no knowledge bases: they need %s; install it with: pip install 'taskloom[local]'", exc.name)
        return None
    return open_desk(settings, registry, engine)


@hookimpl
def knowledge_models(settings: Settings, registry: Registry, tenant: str) -> Sequence[str]:
    from taskloom.server.knowledge.wanted import models_wanted

    return models_wanted(settings, registry, tenant)
