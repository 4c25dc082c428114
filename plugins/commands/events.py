"""Putting on record what the commands do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from taskloom.core.operator import operator
from taskloom.core.ports import AuditEntry, AuditLog
from taskloom.core.registry import Registry
from taskloom.core.settings import Settings


def record_event(
    registry: Registry, settings: Settings, action: str, *, model: str, task: str, facts: Mapping[str, Any], version: str = ""
) -> None:
    """Appends an event to the audit log, if a plugin brings one. Raises `AuditUnavailableError` if it can't be written."""
    log: AuditLog | None = registry.hooks.hook.open_audit_log(settings=settings) if registry.hooks is not None else None
    if log is None:
        return
    entry = AuditEntry(
        kind="event",
        action=action,
        principal=operator(),
        model=model,
        version=version,
        task=task,
        time_s=time.time(),
        facts=facts,
    )
    asyncio.run(_append(log, entry))


async def _append(log: AuditLog, entry: AuditEntry) -> None:
    try:
        await log.append(entry)
    finally:
        await log.close()
