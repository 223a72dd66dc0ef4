"""The tables that runs and conversations are kept in. `migrations` makes them so.

runs ──┬─▶ entries      numbered from 0
       ├─▶ waits        keys of the caller, as of entry number `upto`
       └─▶ approvals
sessions ─▶ messages    numbered from 0          pins
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa


class Bytes(sa.LargeBinary):
    """What stands there: a row may have been made by anyone."""

    def result_processor(self, *_: object) -> None:
        return None


Key = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # there only INTEGER numbers itself
tables = sa.MetaData()


def _of(parent: str) -> sa.Column[int]:
    name = parent.removesuffix("s")
    parent_key = sa.ForeignKey(f"{parent}.key", ondelete="CASCADE")
    return sa.Column(name, Key, parent_key, nullable=False)


def _some(kind: type[sa.types.TypeEngine[Any]], *names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, kind, nullable=False) for name in names]


runs = sa.Table(
    "runs", tables,
    sa.Column("key", Key, primary_key=True),
    *_some(sa.Text, "tenant", "id", "status", "session_id"),
    *_some(sa.BigInteger, "owner"),  # the process that is, or was, at it
    *_some(sa.Double, "began", "changed"),
    *_some(sa.BigInteger, "num_entries", "bytes"),
    *_some(Bytes, "about"), *_some(sa.BigInteger, "crc"),
    sa.UniqueConstraint("tenant", "id", name="run_ids"),
    sa.Index("runs_in_time", "tenant", "began"),
    sa.Index("runs_of_session", "tenant", "session_id"),
    sa.Index("runs_by_status", "status"),
)  # fmt: skip
entries = sa.Table(
    "entries", tables,
    _of("runs"), *_some(sa.BigInteger, "seq"), *_some(sa.Double, "at"), *_some(sa.Text, "kind"),
    *_some(Bytes, "body"), *_some(sa.BigInteger, "crc"),
    sa.PrimaryKeyConstraint("run", "seq", name="entry_numbers"),
)  # fmt: skip
waits = sa.Table(
    "waits", tables,
    _of("runs"), *_some(Bytes, "name"), *_some(sa.BigInteger, "upto"),
    *_some(Bytes, "body"), *_some(sa.BigInteger, "crc"),
    sa.PrimaryKeyConstraint("run", "name", name="wait_names"),
    sa.Index("waits_by_name", "name"),
)  # fmt: skip
approvals = sa.Table(
    "approvals", tables,
    _of("runs"), *_some(sa.Text, "tenant", "id", "run_id"), *_some(sa.Double, "expires"),
    *_some(Bytes, "body"), *_some(sa.BigInteger, "crc"),
    sa.Column("decided", Bytes), sa.Column("decided_crc", sa.BigInteger),
    sa.PrimaryKeyConstraint("tenant", "id", name="approval_ids"),
    sa.Index("approvals_of_run", "run"),
)  # fmt: skip
sessions = sa.Table(
    "sessions", tables,
    sa.Column("key", Key, primary_key=True),
    *_some(sa.Text, "tenant", "id"), *_some(sa.Double, "began", "used"),
    *_some(sa.BigInteger, "num_messages", "bytes"),
    sa.UniqueConstraint("tenant", "id", name="session_ids"),
    sa.Index("sessions_by_use", "tenant", "used"),
)  # fmt: skip
messages = sa.Table(
    "messages", tables,
    _of("sessions"), *_some(sa.BigInteger, "seq"),
    *_some(Bytes, "body"), *_some(sa.BigInteger, "crc"),
    sa.PrimaryKeyConstraint("session", "seq", name="message_numbers"),
)  # fmt: skip
pins = sa.Table(
    "pins", tables,
    *_some(sa.Text, "name", "digest"), sa.PrimaryKeyConstraint("name", name="pin_names"),
)  # fmt: skip
