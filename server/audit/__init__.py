"""The audit log: two durable records for each request, chained by hash, checkpointed outside the database."""

from __future__ import annotations

from taskloom.server.audit.log import SqlAuditLog, open_log
from taskloom.server.audit.reader import AuditQuery, AuditReader, AuditRecord, open_reader
from taskloom.server.audit.verify import VerifyResult, verify_log

__all__ = [
    "AuditQuery",
    "AuditReader",
    "AuditRecord",
    "SqlAuditLog",
    "VerifyResult",
    "open_log",
    "open_reader",
    "verify_log",
]
