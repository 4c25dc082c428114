"""Where the parts of the audit log are, by the settings."""

from __future__ import annotations

from pathlib import Path

from taskloom.core.settings import Settings
from taskloom.server.database import Database


def audit_database(settings: Settings) -> Database:
    return Database(settings.audit.url, default=settings.home / "state" / "audit.db", journal="wal")


def keys_folder(settings: Settings) -> Path:
    return settings.home / "keys"


def checkpoint_folder(settings: Settings) -> Path:
    return settings.audit.checkpoint_folder or settings.home / "checkpoints"


def reason(exc: BaseException) -> str:
    """The cause as the driver puts it, on one line, without SQL or parameters."""
    return " ".join(str(getattr(exc, "orig", None) or exc).split()) or type(exc).__name__
