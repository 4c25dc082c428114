"""The tables of the audit log, as the newest migration leaves them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Integer, MetaData, Table, Text

metadata = MetaData()

records = Table(
    "audit_records",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("principal", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("facts", Text, nullable=False),
    Column("time_s", Double, nullable=False),
    Column("duration_s", Double, nullable=False),
    Column("payload_hmac", Text, nullable=False),
    Column("kept", Text, nullable=False),
    Column("kept_hmac", Text, nullable=False),
    Column("hmac_key_id", Text, nullable=False),
    Column("previous", Text, nullable=False),
    Column("digest", Text, nullable=False),
)
"""The chain. Rows are inserted and never changed."""

payloads = Table(
    "audit_payloads",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("content", Text, nullable=False),
)
"""What is kept of inputs and outputs; erasure deletes rows here alone."""

head = Table(
    "audit_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("sequence", BigInteger, nullable=False),
    Column("digest", Text, nullable=False),
)
"""One row: the last record. Writers on PostgreSQL lock it."""
