"""`RunStore` in SQL: what is read and written, the same for SQLite and PostgreSQL.

begin, write, take, …  ─▶ the writing lane    UPDATE runs … WHERE owner = me AND num_entries = n
run, entries, runs, …  ─▶ the reading lane                 no row: somebody else was first
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

import sqlalchemy as sa

from f1.store.lanes import Lane
from f1.store.places import Place
from f1.store.retention import Retention, gone
from f1.store.rows import (
    ROW_BYTES,
    Columns,
    Row,
    about_of,
    approval_columns,
    approval_of,
    entries_from,
    entries_of,
    entry_columns,
    message_columns,
    messages_of,
    run_of,
    session_of,
    size_of,
    verdict_columns,
    wait_columns,
    waits_of,
)
from f1.store.runs import (
    ApprovalRow,
    Conflict,
    EntryRow,
    Json,
    RunRow,
    SessionTaken,
    Status,
    Write,
)
from f1.store.tables import approvals, entries, messages, pins, runs, sessions, waits

# Made once: to put a statement together takes longer than to do it.
_NONE = -1
_FIRST = sa.bindparam("first", type_=sa.BigInteger)
_APPEND = (
    runs.update()
    .where(
        runs.c.tenant == sa.bindparam("of"),
        runs.c.id == sa.bindparam("named"),
        runs.c.owner == sa.bindparam("me"),
        (runs.c.num_entries == _FIRST) | (_FIRST == _NONE),
    )
    .values(
        num_entries=runs.c.num_entries + sa.bindparam("more"),
        bytes=runs.c.bytes + sa.bindparam("size"),
        changed=sa.bindparam("now"),
    )
    .returning(runs.c.key, runs.c.session_id, runs.c.bytes, runs.c.num_entries)
)
_APPEND_AND_SET = _APPEND.values(status=sa.bindparam("to"))  # one page more: it has an index
_INSERT = {table: table.insert() for table in (entries, waits, approvals, messages)}


class SqlRuns:
    """A RunStore. Nothing is connected to before something is asked."""

    def __init__(self, place: Place, max_bytes: int, max_age: float):
        self._owners = place.owners()
        self._retention = Retention(max_bytes, max_age)
        self._writing = Lane(place, "f1-runs", begun=self._owners.hold)
        self._reading = Lane(place, "f1-runs-read", reading=True)

    async def close(self) -> None:
        await asyncio.to_thread(self._writing.close)
        await asyncio.to_thread(self._reading.close)
        self._owners.close()

    # --- writing ---------------------------------------------------------------------------------

    async def begin(self, run: RunRow, entries: Sequence[EntryRow]) -> bool:
        def work(db: sa.Connection) -> None:
            self._retention.make_room(db, run.tenant, self._owners.lives)
            if run.session_id:
                self._check_idle(db, run)
            about = about_of(run.tenant, run.id, run.session_id, run.about)
            now = time.time()
            columns = {
                "tenant": run.tenant, "id": run.id, "session_id": run.session_id,
                "status": run.status, "owner": self._owners.me, "began": run.began or now,
                "changed": now, "num_entries": 0, "bytes": len(about["about"]) + 4 * ROW_BYTES,
            }  # fmt: skip
            db.execute(runs.insert(), columns | about)
            self._write(db, Write(run.id, run.tenant, entries))

        try:
            await self._writing.do(work)
        except SessionTaken:
            raise
        except Conflict:
            return False
        return True

    def _check_idle(self, db: sa.Connection, new: RunRow) -> None:
        """Runs that broke off with their process do not count. Raises SessionTaken."""
        others = sa.select(runs.c.owner).where(
            runs.c.tenant == new.tenant, runs.c.session_id == new.session_id,
            runs.c.status == "running", runs.c.id != new.id,
        )  # fmt: skip
        first = self._owners.first(db, f"{new.tenant}\n{new.session_id}")
        if not first or any(self._owners.lives(db, owner) for owner in db.scalars(others).all()):
            raise SessionTaken(f"another run of the session '{new.session_id}' goes on")

    async def write(self, *writes: Write) -> None:
        def work(db: sa.Connection) -> None:
            for write in writes:
                self._write(db, write)

        await self._writing.do(work)

    def _write(self, db: sa.Connection, write: Write) -> None:
        rows = [entry_columns(entry) for entry in write.entries]
        size = size_of(rows)
        values = {
            "of": write.tenant, "named": write.run_id, "me": self._owners.me,
            "first": write.entries[0].seq if rows else _NONE, "more": len(rows),
            "size": size, "now": time.time(),
        }  # fmt: skip
        if write.status is None:
            run = db.execute(_APPEND, values).first()
        else:
            run = db.execute(_APPEND_AND_SET, values | {"to": write.status}).first()
        if run is None:
            return self._write(db, self._left_of(db, write))
        self._retention.wrote(size)
        self._retention.check(run.bytes, "the run")
        _insert(db, entries, rows, run=run.key)
        if write.about is not None:
            about = about_of(write.tenant, write.run_id, run.session_id, write.about)
            db.execute(runs.update().where(runs.c.key == run.key).values(about))
        if write.waits:
            db.execute(waits.delete().where(waits.c.run == run.key))
            named = [wait_columns(name, run.num_entries, kept) for name, kept in write.waits]
            _insert(db, waits, named, run=run.key)
        _insert(db, approvals, [approval_columns(asked) for asked in write.asked], run=run.key)
        if write.messages:
            self._say(db, write, run.session_id)

    def _left_of(self, db: sa.Connection, write: Write) -> Write:
        """What of it is not there yet: who was interrupted does not know, and writes it again.
        Raises Conflict where something else is there."""
        run = db.execute(sa.select(runs).where(_of(runs, write.tenant, write.run_id))).first()
        if run is None or run.owner != self._owners.me:
            raise Conflict("the run is gone, or another process is at it")
        first = write.entries[0].seq if write.entries else run.num_entries
        there = [dict(row._mapping) for row in db.execute(entries_from(run.key, first))]
        mine = [entry_columns(entry) for entry in write.entries]
        if not there or first + len(there) != run.num_entries or mine[: len(there)] != there:
            raise Conflict(f"the run has {run.num_entries} entries, and not these")
        asked = [
            each
            for each in write.asked
            if _first(db, approvals, each.tenant, each.id, crc=approval_columns(each)["crc"])
            is None
        ]
        return replace(write, entries=write.entries[len(there) :], asked=asked)

    def _say(self, db: sa.Connection, write: Write, session_id: str) -> None:
        """Messages at the end of its session, which is made where there is none."""
        now = time.time()
        whose: Columns = {"tenant": write.tenant, "id": session_id}
        if _first(db, sessions, write.tenant, session_id) is None:
            made = {"began": now, "used": now, "num_messages": 0, "bytes": 2 * ROW_BYTES}
            db.execute(sessions.insert(), whose | made)
        rows = message_columns(write.known, write.messages)
        size = size_of(rows)
        session = db.execute(
            sessions.update()
            .where(_of(sessions, write.tenant, session_id))
            .where(sessions.c.num_messages == write.known)
            .values(num_messages=write.known + len(rows), bytes=sessions.c.bytes + size, used=now)
            .returning(sessions.c.key, sessions.c.bytes)
        ).first()
        if session is None:
            return _check_said(db, write, session_id, rows)
        self._retention.wrote(size)
        self._retention.check(session.bytes, "the session")
        _insert(db, messages, rows, session=session.key)

    async def take(self, tenant: str, run_id: str) -> bool:
        def work(db: sa.Connection) -> bool:
            asked = sa.select(runs).where(_of(runs, tenant, run_id)).with_for_update()
            run = db.execute(asked).first()
            if run is None or run.status not in ("running", "waiting"):
                return False
            if run.status == "running" and self._owners.lives(db, run.owner):
                return False
            mine = {"status": "running", "owner": self._owners.me, "changed": time.time()}
            db.execute(runs.update().where(runs.c.key == run.key).values(mine))
            return True

        return await self._writing.do(work)

    async def decide(self, tenant: str, approval_id: str, verdict: Json) -> bool:
        def work(db: sa.Connection) -> bool:
            open_one = _of(approvals, tenant, approval_id) & approvals.c.decided.is_(None)
            verdict_is = verdict_columns(approval_id, verdict)
            return db.execute(approvals.update().where(open_one).values(verdict_is)).rowcount > 0

        return await self._writing.do(work)

    async def delete(self, tenant: str, run_id: str) -> bool:
        def work(db: sa.Connection) -> bool:
            asked = sa.select(runs).where(_of(runs, tenant, run_id)).with_for_update()
            run = db.execute(asked).first()
            if run is None:
                return False
            if run.status == "running" and self._owners.lives(db, run.owner):
                raise Conflict(f"the run '{run_id}' is under way")
            db.execute(runs.delete().where(runs.c.key == run.key))
            return True

        return await self._writing.do(work)

    async def delete_session(self, tenant: str, session_id: str) -> bool:
        removal = sessions.delete().where(_of(sessions, tenant, session_id))
        return await self._writing.do(lambda db: db.execute(removal).rowcount > 0)

    async def pin(self, name: str, digest: str | None) -> None:
        def work(db: sa.Connection) -> None:
            db.execute(pins.delete().where(pins.c.name == name))
            if digest is not None:
                db.execute(pins.insert(), {"name": name, "digest": digest})

        await self._writing.do(work)

    # --- reading ---------------------------------------------------------------------------------

    async def run(self, tenant: str, run_id: str) -> RunRow | None:
        def work(db: sa.Connection) -> RunRow | None:
            row = _first(db, runs, tenant, run_id)
            return None if row is None else run_of(row)

        return await self._reading.do(work)

    async def entries(self, tenant: str, run_id: str) -> list[EntryRow]:
        def work(db: sa.Connection) -> list[EntryRow]:
            run = _first(db, runs, tenant, run_id)
            if run is None:
                return []
            return entries_of(db.execute(entries_from(run.key)), run.id, run.num_entries)

        return await self._reading.do(work)

    async def runs(
        self,
        tenant: str | None,
        *,
        limit: int = 50,
        before: float | None = None,
        session_id: str | None = None,
        status: Status | None = None,
    ) -> list[RunRow]:
        asked = sa.select(runs).order_by(runs.c.began.desc(), runs.c.key.desc()).limit(limit)
        for column, wanted in (
            (runs.c.tenant, tenant), (runs.c.session_id, session_id), (runs.c.status, status),
        ):  # fmt: skip
            if wanted is not None:
                asked = asked.where(column == wanted)
        if before is not None:
            asked = asked.where(runs.c.began < before)
        return await self._reading.do(lambda db: _runs(db, asked))

    async def orphans(self) -> list[RunRow]:
        def work(db: sa.Connection) -> list[RunRow]:
            theirs = runs.c.owner.in_(gone(db, self._owners.lives))
            return _runs(db, sa.select(runs).where(runs.c.status == "running", theirs))

        return await self._writing.do(work)

    async def waiting(self, tenant: str, keys: Sequence[bytes]) -> dict[bytes, tuple[str, Json]]:
        asked = (
            sa.select(waits, runs.c.id, runs.c.status, runs.c.owner)
            .join(runs, runs.c.key == waits.c.run)
            .where(runs.c.tenant == tenant, waits.c.name.in_(list(keys)))
            .where(waits.c.upto == runs.c.num_entries)  # nothing has happened since
            .order_by(runs.c.changed)
        )

        def work(db: sa.Connection) -> dict[bytes, tuple[str, Json]]:
            return dict(
                waits_of(
                    row
                    for row in db.execute(asked).all()
                    if row.status == "waiting"
                    or (row.status == "running" and not self._owners.lives(db, row.owner))
                )
            )

        return await self._reading.do(work)

    async def approvals(self, tenant: str | None) -> list[ApprovalRow]:
        asked = sa.select(approvals).where(approvals.c.decided.is_(None))
        if tenant is not None:
            asked = asked.where(approvals.c.tenant == tenant)
        asked = asked.order_by(approvals.c.expires)

        def work(db: sa.Connection) -> list[ApprovalRow]:
            found = map(approval_of, db.execute(asked))
            return [each for each in found if each is not None]

        return await self._reading.do(work)

    async def approval(self, tenant: str, approval_id: str) -> ApprovalRow | None:
        def work(db: sa.Connection) -> ApprovalRow | None:
            row = _first(db, approvals, tenant, approval_id)
            return None if row is None else approval_of(row)

        return await self._reading.do(work)

    async def messages(self, tenant: str, session_id: str) -> list[Json] | None:
        def work(db: sa.Connection) -> list[Json] | None:
            session = _first(db, sessions, tenant, session_id)
            if session is None:
                return None
            said = _messages(db, session.key)
            return messages_of(said, session_id, session.num_messages)

        return await self._reading.do(work)

    async def session(self, tenant: str, session_id: str) -> Json | None:
        def work(db: sa.Connection) -> Json | None:
            row = _first(db, sessions, tenant, session_id)
            return None if row is None else session_of(row)

        return await self._reading.do(work)

    async def sessions(
        self, tenant: str, *, limit: int = 50, after: str | None = None
    ) -> list[Json]:
        order = (sessions.c.used.desc(), sessions.c.key.desc())
        asked = sa.select(sessions).where(sessions.c.tenant == tenant)
        asked = asked.order_by(*order).limit(limit)

        def work(db: sa.Connection) -> list[Json]:
            page = asked
            if after is not None:
                last = _first(db, sessions, tenant, after)
                if last is None:
                    return []
                behind = sa.tuple_(sessions.c.used, sessions.c.key) < (last.used, last.key)
                page = asked.where(behind)
            return [found for row in db.execute(page) if (found := session_of(row)) is not None]

        return await self._reading.do(work)

    async def pins(self) -> dict[str, str]:
        return await self._reading.do(
            lambda db: {row.name: row.digest for row in db.execute(sa.select(pins))}
        )


def _of(table: sa.Table, tenant: str, name: str) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.tenant == tenant, table.c.id == name)


def _first(
    db: sa.Connection, table: sa.Table, tenant: str, name: str, **more: object
) -> Row | None:
    return db.execute(sa.select(table).where(_of(table, tenant, name)).filter_by(**more)).first()


def _insert(db: sa.Connection, table: sa.Table, rows: Sequence[Columns], **more: int) -> None:
    if rows:
        db.execute(_INSERT[table], [row | more for row in rows])


def _runs(db: sa.Connection, asked: sa.Select[tuple[object, ...]]) -> list[RunRow]:
    return [run for row in db.execute(asked) if (run := run_of(row)) is not None]


def _messages(db: sa.Connection, key: int, first: int = 0) -> list[Row]:
    asked = sa.select(messages).where(messages.c.session == key, messages.c.seq >= first)
    return list(db.execute(asked.order_by(messages.c.seq)))


def _check_said(db: sa.Connection, write: Write, session_id: str, rows: Sequence[Columns]) -> None:
    """They may be there already, where it is written again."""
    session = _first(db, sessions, write.tenant, session_id)
    there = [] if session is None else _messages(db, session.key, write.known)
    if [row.body for row in there] != [row["body"] for row in rows]:
        raise Conflict(f"the session has other messages behind the first {write.known}")
