"""Records, payloads and the head of the chain."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    words = ("kind", "action", "request_id", "principal", "tenant", "key_id", "model", "version", "task", "code", "facts")
    op.create_table(
        "audit_records",
        sa.Column("sequence", number, primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in words),
        sa.Column("time_s", sa.Double(), nullable=False),
        sa.Column("duration_s", sa.Double(), nullable=False),
        *(
            sa.Column(name, sa.Text(), nullable=False)
            for name in ("payload_hmac", "kept", "kept_hmac", "hmac_key_id", "previous", "digest")
        ),
    )
    op.create_index("audit_records_request_id", "audit_records", ["request_id"])
    op.create_index("audit_records_time_s", "audit_records", ["time_s"])
    op.create_table(
        "audit_payloads",
        sa.Column("sequence", number, primary_key=True, autoincrement=False),
        sa.Column("content", sa.Text(), nullable=False),
    )
    head = op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("sequence", number, nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
    )
    op.bulk_insert(head, [{"id": 1, "sequence": 0, "digest": "0" * 64}])


def downgrade() -> None:
    for name in ("audit_head", "audit_payloads", "audit_records"):
        op.drop_table(name)
