"""The audit log: two durable records for each request, chained by hash, checkpointed outside the database."""

from __future__ import annotations

from taskloom.server.audit.log import SqlAuditLog, open_log

__all__ = ["SqlAuditLog", "open_log"]
