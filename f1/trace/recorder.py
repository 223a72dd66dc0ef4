"""Writes down what happens in runs: the one place where entries leave the process.

entries ──redacted──▶ rows ──▶ RunStore      what came meanwhile goes with the next write
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from f1.codec import Malformed
from f1.errors import F1Error
from f1.store.database import NotStored
from f1.store.runs import ApprovalRow, Conflict, EntryRow, Json, RunRow, RunStore, Status, Write
from f1.trace.entries import CODEC, Ended, Entry, Written
from f1.types import Usage

T = TypeVar("T")
log = logging.getLogger("f1.trace")
TOGETHER = 0.05  # seconds that what is noted waits for more, or for what is written for sure
PATIENCE = 5.0  # seconds that the end of the process waits for something to be written
_TELLING = ("Began", "Returned", "Shown")  # they say which fields are secret
TRACEPARENT = "traceparent"  # in what is told `about` a run: W3C's header of who asked for it
ASKED_BY: ContextVar[str] = ContextVar(TRACEPARENT, default="")  # that of the request at hand


class Tells(Protocol):
    def __call__(self, run: RunRow, past: Sequence[Written], /) -> None:
        """Of a run that has ended; returns at once."""

    def close(self) -> None:
        """Waits a little for what is not told yet."""


class Redacts(Protocol):
    def for_run(self) -> Redacts:
        """What is learnt from a run's entries holds for that run."""

    def redact(self, value: Any) -> Any:
        """JSON without its secrets: the same for the same, and nothing more to redact in it."""


class RunGone(F1Error):
    """A run that is under way was removed, or taken by another process."""

    status = 409
    type = "invalid_request_error"
    code = "run_gone"


class RedactsNothing:
    def for_run(self) -> Redacts:
        return self

    def redact(self, value: Any) -> Any:
        return value


@dataclass(slots=True)
class Recorder:
    """Of a process. `tell` is told of each run that has ended, once it is written down."""

    store: RunStore
    redaction: Redacts = field(default_factory=RedactsNothing)
    tell: Tells | None = None
    closed: bool = False
    parking: bool = False  # the process is to end: what is left now the next one goes on with
    _writing: set[asyncio.Task[Any]] = field(default_factory=set)

    def soon(self, writing: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Does it in the background; what fails is a line in the log."""
        task = asyncio.get_running_loop().create_task(writing)
        self._writing.add(task)
        task.add_done_callback(self._written)
        return task

    def _written(self, task: asyncio.Task[Any]) -> None:
        self._writing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("a run was not written down: %s", error)

    def record(self, tenant: str, run_id: str, session_id: str = "") -> Record:
        """Of a run that is to begin."""
        return Record(self, RunRow(run_id, tenant, session_id=session_id))

    async def take(
        self, tenant: str, run_id: str, wanted: Callable[[Record], bool] = lambda record: True
    ) -> Record | None:
        """Of a run that can go on here: it waits, or was interrupted. None: another is at it, it
        has ended, or it is not `wanted`. Raises NotStored."""
        taking = self.soon(self._take(tenant, run_id, wanted))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(self._give_up)
            raise

    async def _take(
        self, tenant: str, run_id: str, wanted: Callable[[Record], bool]
    ) -> Record | None:
        if not await self.store.take(tenant, run_id):
            return None
        try:
            record = await self.read(tenant, run_id)
            if record is not None and wanted(record):
                return record
        except BaseException:
            self.soon(self._put_back(tenant, run_id))
            raise
        await self._put_back(tenant, run_id)
        return None

    def _give_up(self, taking: asyncio.Task[Record | None]) -> None:
        """Who took the run was gone when it was taken."""
        failed = taking.cancelled() or taking.exception() is not None
        if not failed and (record := taking.result()) is not None:
            self.soon(self._put_back(record.row.tenant, record.row.id))

    async def _put_back(self, tenant: str, run_id: str) -> None:
        await self.store.write(Write(run_id, tenant, status="waiting"))

    async def read(self, tenant: str, run_id: str) -> Record | None:
        """What is written of a run; None: there is none of that id. Raises NotStored."""
        row = await self.store.run(tenant, run_id)
        if row is None:
            return None
        rows = await self.store.entries(tenant, run_id)
        try:
            past = [Written(r.seq, r.at, CODEC.decode_any(r.body)) for r in rows]
        except Malformed as error:
            log.error("the record of the run %s is not as F1 writes it: %s", run_id, error)
            raise NotStored(f"the record of the run '{run_id}' cannot be read") from error
        record = Record(self, row, past)
        for each in rows:
            if each.kind in _TELLING:
                record.redaction.redact(each.body)
        return record

    async def close(self) -> None:
        """When all is written, and the calls have ended that go on without their run: those that
        take longer end with the process, and their outcome is not known then."""
        self.closed = True
        here = asyncio.get_running_loop()
        while ours := [task for task in self._writing if task.get_loop() is here]:
            done, late = await asyncio.wait(ours, timeout=PATIENCE)
            if not done:
                log.warning("%d runs are left in the middle of calls", len(late))
                break
        await self.store.close()
        if self.tell is not None:
            await asyncio.to_thread(self.tell.close)


class Record:
    """Of one run, on one event loop."""

    def __init__(self, recorder: Recorder, row: RunRow, past: Sequence[Written] = ()):
        self.row = row
        self.past = list(past)
        self.redaction = recorder.redaction.for_run()
        self._asked_by = str(row.about.get(TRACEPARENT) or ASKED_BY.get())
        self._recorder = recorder
        self._begun = bool(past)
        self._next = past[-1].seq + 1 if past else 0
        self._noted: list[tuple[float, Entry]] = []  # not written yet
        self._turn = asyncio.Lock()
        self._soon = False  # the noted are about to be written

    @property
    def entries(self) -> list[Entry]:
        """Those that are written, in order."""
        return [written.entry for written in self.past]

    def follow(self, other: Record) -> None:
        """The same run, as it was read later: entries go behind those."""
        self.past, self._next = other.past, other._next

    def note(self, *entries: Entry) -> None:
        """They are written soon, in order, at the latest with what is next written for sure."""
        self._noted += [(time.time(), entry) for entry in entries]
        if not self._soon and self._begun:
            self._soon = True
            self.soon(self._write_soon())

    async def write(
        self,
        *entries: Entry,
        status: Status | None = None,
        about: Json | None = None,
        asked: Sequence[ApprovalRow] = (),
        waits: Sequence[tuple[bytes, Json]] = (),
        messages: Sequence[Json] = (),
        known: int = 0,
    ) -> None:
        """When this returns they are kept, and all that was noted before. Raises NotStored, and
        Conflict where the session has other messages than the `known`; the entries are not written
        then, and those noted before are still noted."""
        about = None if about is None else self._about(about)
        change = Write(
            self.row.id, self.row.tenant, (), status, about, asked, waits, messages, known
        )
        # Who is cancelled meanwhile does not know; what is written counts all the same.
        try:
            await asyncio.shield(self.soon(self._write(change, entries)))
        except Conflict as error:
            if messages:  # the session's
                raise
            raise RunGone(f"the run '{self.row.id}' is gone, or another process's") from error
        if status == "ended" and self._recorder.tell is not None:
            self._recorder.tell(replace(self.row, status="ended", about=about or {}), self.past)

    async def _write(self, change: Write, entries: Sequence[Entry]) -> None:
        async with self._turn:
            now, noted = time.time(), self._taken()
            try:
                await self._flush(change, [*noted, *((now, entry) for entry in entries)])
            except BaseException:
                self._noted = noted + self._noted
                raise

    def soon(self, writing: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Nobody has to wait for it; it is done before the recorder is closed."""
        return self._recorder.soon(writing)

    @property
    def closed(self) -> bool:
        """Nothing can be written any more."""
        return self._recorder.closed

    @property
    def parking(self) -> bool:
        """The process is to end, and whoever comes next goes on with the run."""
        return self._recorder.parking

    async def begin(
        self, *entries: Entry, about: Json | None = None, status: Status = "running"
    ) -> bool:
        """The first that is written. False: there is a run of that id."""
        told = self._about(about or {})
        self.note(*entries)
        began = self._noted[0][0] if self._noted else time.time()
        self.row = replace(self.row, began=began, about=told, status=status)
        beginning = self.soon(self._begin())
        try:
            await asyncio.shield(beginning)
        except asyncio.CancelledError:
            beginning.add_done_callback(self._abandon)
            raise
        if status == "ended" and self._recorder.tell is not None:
            self._recorder.tell(self.row, self.past)
        return self._begun

    async def _begin(self) -> None:
        async with self._turn:
            written = self._numbered(self._taken())
            self._begun = await self._recorder.store.begin(self.row, self._rows(written))
            if self._begun:
                self._keep(written)

    def _abandon(self, beginning: asyncio.Task[None]) -> None:
        """Who began it is gone already."""
        if self._begun and self.row.status == "running":
            left = Ended("left", "", Usage(0, 0), 0.0)
            self.soon(self.write(left, status="waiting"))

    async def decide(self, approval_id: str, verdict: Json, who: str) -> bool:
        """False: somebody was first."""
        said = {"verdict": self.redaction.redact(verdict), "who": who}
        return await self._recorder.store.decide(self.row.tenant, approval_id, said)

    async def decided(self, approval_id: str) -> tuple[Json, str] | None:
        """What was said to it, and by whom; None: nothing yet."""
        row = await self._recorder.store.approval(self.row.tenant, approval_id)
        if row is None or row.decided is None:
            return None
        return row.decided["verdict"], row.decided["who"]

    def hides(self, value: Any) -> Any:
        """Of an entry, as JSON: what may be kept."""
        return self.redaction.redact(CODEC.encode(value))

    def _about(self, about: Json) -> Json:
        kept = {TRACEPARENT: self._asked_by} if self._asked_by else {}
        told: Json = self.redaction.redact(about)
        return told | kept

    async def _write_soon(self) -> None:
        await asyncio.sleep(TOGETHER)
        async with self._turn:
            self._soon = False
            if self._noted:
                noted = self._taken()
                try:
                    await self._flush(Write(self.row.id, self.row.tenant), noted)
                except BaseException:
                    self._noted = noted + self._noted  # the next write brings them
                    raise

    def _taken(self) -> list[tuple[float, Entry]]:
        noted, self._noted = self._noted, []
        return noted

    async def _flush(self, change: Write, noted: Sequence[tuple[float, Entry]]) -> None:
        written = self._numbered(noted)
        await self._recorder.store.write(replace(change, entries=self._rows(written)))
        self._keep(written)

    def _numbered(self, noted: Sequence[tuple[float, Entry]]) -> list[Written]:
        return [Written(self._next + i, at, entry) for i, (at, entry) in enumerate(noted)]

    def _keep(self, written: Sequence[Written]) -> None:
        self.past += written
        self._next += len(written)

    def _rows(self, noted: Sequence[Written]) -> list[EntryRow]:
        return [EntryRow(w.seq, w.at, type(w.entry).__name__, self.hides(w.entry)) for w in noted]
