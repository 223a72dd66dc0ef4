"""Rows as they are in the tables, and what they say. Each has a checksum of that.

One that is not as it was written is reported and not used; an entry leaves a gap that can be seen,
so that no run goes on from a journal with a hole in it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_args

import sqlalchemy as sa

from f1.store.bodies import Broken, pack, sum_of, unpack
from f1.store.database import NotStored
from f1.store.runs import ApprovalRow, EntryRow, Json, RunRow, Status
from f1.store.tables import entries

log = logging.getLogger("f1.store")
Row = Any  # of SQLAlchemy
Columns = dict[str, Any]
ROW_BYTES = 128  # what a row takes beside its text, with its place in the indices


def size_of(rows: Iterable[Columns]) -> int:
    return sum(len(row["body"]) + ROW_BYTES for row in rows)


# --- runs and their entries ----------------------------------------------------------------------


def about_of(tenant: str, run_id: str, session_id: str, about: Json) -> Columns:
    text = pack(about)
    return {"about": text, "crc": sum_of(text, tenant, run_id, session_id)}


def run_of(row: Row) -> RunRow | None:
    try:
        about = unpack(row.about, row.crc, row.tenant, row.id, row.session_id)
        began, changed, count = _numbers(row.began, row.changed, row.num_entries)
        if row.status not in get_args(Status):
            raise Broken("it says what no run says")
        return RunRow(row.id, row.tenant, row.status, row.session_id, began, changed, count, about)
    except Broken as error:
        log.error("run %.200r is broken and not used: %s", row.id, error)
        return None


def entry_columns(entry: EntryRow) -> Columns:
    body = pack(entry.body)
    crc = sum_of(body, entry.seq, entry.at, entry.kind)
    return {"seq": entry.seq, "at": entry.at, "kind": entry.kind, "body": body, "crc": crc}


def entries_from(key: int, first: int = 0) -> sa.Select[Any]:
    """In order; the columns as entry_columns() has them."""
    columns = (entries.c.seq, entries.c.at, entries.c.kind, entries.c.body, entries.c.crc)
    asked = sa.select(*columns).where(entries.c.run == key, entries.c.seq >= first)
    return asked.order_by(entries.c.seq)


def entries_of(rows: Iterable[Row], run_id: str, count: int) -> list[EntryRow]:
    """Of those that are missing one after the other, one stands for all."""
    found: list[EntryRow] = []
    following = 0
    for row in rows:
        if not isinstance(row.seq, int):
            continue
        if row.seq != following:
            found.append(EntryRow(following, 0.0, "", {}))
        following = row.seq + 1
        try:
            body = unpack(row.body, row.crc, row.seq, row.at, row.kind)
            found.append(EntryRow(row.seq, row.at, row.kind, body))
        except Broken as error:
            log.error("entry %.20r of run %.200r is broken: %s", row.seq, run_id, error)
            found.append(EntryRow(row.seq, 0.0, "", {}))
    return found if following == count else [*found, EntryRow(following, 0.0, "", {})]


# --- what hangs on them --------------------------------------------------------------------------


def approval_columns(asked: ApprovalRow) -> Columns:
    body = pack(asked.body)
    crc = sum_of(body, asked.tenant, asked.id, asked.run_id, asked.expires)
    columns: Columns = {"tenant": asked.tenant, "id": asked.id, "run_id": asked.run_id}
    return columns | {"expires": asked.expires, "body": body, "crc": crc}


def verdict_columns(approval_id: str, verdict: Json) -> Columns:
    body = pack(verdict)
    return {"decided": body, "decided_crc": sum_of(body, approval_id)}


def approval_of(row: Row) -> ApprovalRow | None:
    try:
        body = unpack(row.body, row.crc, row.tenant, row.id, row.run_id, row.expires)
        decided = None
        if row.decided is not None:
            decided = unpack(row.decided, row.decided_crc, row.id)
        return ApprovalRow(row.id, row.tenant, row.run_id, row.expires, body, decided)
    except Broken as error:
        log.error("approval %.200r is broken and not used: %s", row.id, error)
        return None


def wait_columns(name: bytes, upto: int, kept: Json) -> Columns:
    body = pack(kept)
    return {"name": name, "upto": upto, "body": body, "crc": sum_of(body, name)}


def waits_of(rows: Iterable[Row]) -> Iterator[tuple[bytes, tuple[str, Json]]]:
    for row in rows:
        try:
            yield row.name, (row.id, unpack(row.body, row.crc, row.name))
        except Broken as error:
            log.error("what run %.200r waits for is broken: %s", row.id, error)


def session_of(row: Row) -> Json | None:
    try:
        count, began, used = _numbers(row.num_messages, row.began, row.used)
    except Broken as error:
        log.error("session %.200r is broken and not used: %s", row.id, error)
        return None
    return {"id": row.id, "messages": count, "began": began, "used": used}


def message_columns(first: int, said: Sequence[Json]) -> list[Columns]:
    packed = enumerate(map(pack, said), first)
    return [{"seq": seq, "body": body, "crc": sum_of(body, seq)} for seq, body in packed]


def messages_of(rows: Iterable[Row], session_id: str, count: int) -> list[Json]:
    """Raises NotStored where one is not as it was: without it the others say something else."""
    try:
        said = [unpack(row.body, row.crc, seq) for seq, row in enumerate(rows)]
        if len(said) != count:
            raise Broken(f"{len(said)} of {count} messages are there")
    except Broken as error:
        log.error("session %.200r is broken: %s", session_id, error)
        raise NotStored("the session is broken; delete it to begin it anew") from error
    return said


def _numbers(*values: Any) -> tuple[Any, ...]:
    if not all(isinstance(value, int | float) for value in values):
        raise Broken("it has no number where one is")
    return values
