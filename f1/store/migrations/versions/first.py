"""The first tables."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "first"
down_revision = None

_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _some(kind: type[sa.types.TypeEngine[Any]], *names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, kind, nullable=False) for name in names]


def _of(parent: str, name: str) -> sa.Column[int]:
    parent_key = sa.ForeignKey(f"{parent}.key", ondelete="CASCADE")
    return sa.Column(name, _KEY, parent_key, nullable=False)


def _body() -> list[sa.Column[Any]]:
    return [*_some(sa.LargeBinary, "body"), *_some(sa.BigInteger, "crc")]


def upgrade() -> None:
    op.create_table(
        "runs",
        sa.Column("key", _KEY, primary_key=True),
        *_some(sa.Text, "tenant", "id", "status", "session_id"),
        *_some(sa.BigInteger, "owner"),
        *_some(sa.Double, "began", "changed"),
        *_some(sa.BigInteger, "num_entries", "bytes"),
        *_some(sa.LargeBinary, "about"),
        *_some(sa.BigInteger, "crc"),
        sa.UniqueConstraint("tenant", "id", name="run_ids"),
    )
    op.create_index("runs_in_time", "runs", ["tenant", "began"])
    op.create_index("runs_of_session", "runs", ["tenant", "session_id"])
    op.create_index("runs_by_status", "runs", ["status"])
    op.create_table(
        "entries",
        _of("runs", "run"),
        *_some(sa.BigInteger, "seq"),
        *_some(sa.Double, "at"),
        *_some(sa.Text, "kind"),
        *_body(),
        sa.PrimaryKeyConstraint("run", "seq", name="entry_numbers"),
    )
    op.create_table(
        "waits",
        _of("runs", "run"),
        *_some(sa.LargeBinary, "name"),
        *_some(sa.BigInteger, "upto"),
        *_body(),
        sa.PrimaryKeyConstraint("run", "name", name="wait_names"),
    )
    op.create_index("waits_by_name", "waits", ["name"])
    op.create_table(
        "approvals",
        _of("runs", "run"),
        *_some(sa.Text, "tenant", "id", "run_id"),
        *_some(sa.Double, "expires"),
        *_body(),
        sa.Column("decided", sa.LargeBinary),
        sa.Column("decided_crc", sa.BigInteger),
        sa.PrimaryKeyConstraint("tenant", "id", name="approval_ids"),
    )
    op.create_index("approvals_of_run", "approvals", ["run"])
    op.create_table(
        "sessions",
        sa.Column("key", _KEY, primary_key=True),
        *_some(sa.Text, "tenant", "id"),
        *_some(sa.Double, "began", "used"),
        *_some(sa.BigInteger, "num_messages", "bytes"),
        sa.UniqueConstraint("tenant", "id", name="session_ids"),
    )
    op.create_index("sessions_by_use", "sessions", ["tenant", "used"])
    op.create_table(
        "messages",
        _of("sessions", "session"),
        *_some(sa.BigInteger, "seq"),
        *_body(),
        sa.PrimaryKeyConstraint("session", "seq", name="message_numbers"),
    )
    op.create_table(
        "pins",
        *_some(sa.Text, "name", "digest"),
        sa.PrimaryKeyConstraint("name", name="pin_names"),
    )
