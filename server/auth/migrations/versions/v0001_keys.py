"""API keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.Text(), primary_key=True),
        sa.Column("secret_sha256", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("roles", sa.Text(), nullable=False),
        sa.Column("models", sa.Text(), nullable=False),
        sa.Column("requests_per_s", sa.Double()),
        sa.Column("created_s", sa.Double(), nullable=False),
        sa.Column("expires_s", sa.Double()),
        sa.Column("revoked_s", sa.Double()),
    )


def downgrade() -> None:
    op.drop_table("api_keys")
