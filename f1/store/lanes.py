"""One thread with one connection. Works that wait are done in one transaction and kept together,
so that many who write at a time pay for one flush of the disk.

    do ─┐
    do ─┼─▶ waiting ─▶ BEGIN, work, work, work, COMMIT ─▶ each gets what came of its own
    do ─┘
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError

from f1.store.database import NotStored
from f1.store.places import Place
from f1.store.runs import Conflict

T = TypeVar("T")
Work = Callable[[sa.Connection], T]
_TOGETHER = 256  # works of one transaction, at most


@dataclass(frozen=True, slots=True)
class _Job:
    work: Work[Any]
    done: Future[Any] = field(default_factory=Future)


class Lane:
    """`begun` is told of each new connection."""

    def __init__(
        self, place: Place, name: str, *, reading: bool = False, begun: Work[None] | None = None
    ):
        self._place = place
        self._reading = reading
        self._begun = begun
        self._waiting: deque[_Job] = deque()
        self._thread = ThreadPoolExecutor(1, name)
        self._db: sa.Connection | None = None
        self._identity: object = None

    async def do(self, work: Work[T]) -> T:
        """What `work` returns. What it wrote is kept then. Raises what it raises (and then nothing
        that it wrote is kept), Conflict where the database refuses a row, and NotStored."""
        job = _Job(work)
        self._waiting.append(job)
        try:
            self._thread.submit(self._drain)
        except RuntimeError:
            raise NotStored("runs are kept no longer: F1 is stopping") from None
        found: T = await asyncio.wrap_future(job.done)
        return found

    def close(self) -> None:
        """Once what waits is done."""
        self._thread.submit(self._disconnect)
        self._thread.shutdown()

    # --- in the thread ---------------------------------------------------------------------------

    def _drain(self) -> None:
        jobs = [self._waiting.popleft() for _ in range(min(_TOGETHER, len(self._waiting)))]
        jobs = [job for job in jobs if job.done.set_running_or_notify_cancel()]
        if jobs:
            self._do(jobs)

    def _do(self, jobs: Sequence[_Job], *, again: bool = True) -> None:
        try:
            outcomes = self._transaction(jobs)
        except Exception as error:
            identity, was_connected = self._identity, self._db is not None
            if not self._place.goes_on_after(error):
                self._disconnect()
            if again and not isinstance(error, NotStored) and self._mend(identity, error):
                self._do(jobs, again=False)
            elif len(jobs) > 1 and was_connected and not _lost(error):
                for job in jobs:  # one of them may be what is wrong
                    self._do([job])
            else:
                for job in jobs:
                    job.done.set_exception(self._not_stored(error))
        else:
            for job, (result, refused) in zip(jobs, outcomes, strict=True):
                if refused is None:
                    job.done.set_result(result)
                else:
                    job.done.set_exception(refused)

    def _transaction(self, jobs: Sequence[_Job]) -> list[tuple[Any, Exception | None]]:
        db = self._connected()
        with db.begin():
            outcomes = [self._one(db, job) for job in jobs]
        if not self._reading and self._place.identity() != self._identity:
            raise NotStored("what runs are kept in was taken away")
        return outcomes

    def _one(self, db: sa.Connection, job: _Job) -> tuple[Any, Exception | None]:
        if self._reading:
            return _outcome(job.work, db)
        db.exec_driver_sql("SAVEPOINT work")
        outcome = _outcome(job.work, db)
        if outcome[1] is not None:
            db.exec_driver_sql("ROLLBACK TO work")
        db.exec_driver_sql("RELEASE work")
        return outcome

    def _connected(self) -> sa.Connection:
        if self._db is not None and self._place.identity() != self._identity:
            self._disconnect()
        if self._db is None:
            self._identity = self._place.identity()  # in case it cannot be connected to
            db = self._place.connect()
            self._identity = self._place.identity()
            self._db = db.execution_options(reading=self._reading)
            if self._begun is not None:
                self._begun(db)
        return self._db

    def _disconnect(self) -> None:
        if self._db is not None:
            with suppress(SQLAlchemyError):
                self._db.close()
            self._db = None

    def _mend(self, identity: object, error: Exception) -> bool:
        with suppress(OSError):
            return self._place.repair(identity, error)
        return False

    def _not_stored(self, error: Exception) -> NotStored:
        if isinstance(error, NotStored):
            return error
        found = NotStored(f"runs cannot be kept or read now: {self._place.told(error)}")
        found.__cause__ = error
        return found


def _outcome(work: Work[Any], db: sa.Connection) -> tuple[Any, Exception | None]:
    try:
        return work(db), None
    except IntegrityError as error:
        conflict = Conflict("it is there already, or what it belongs to is gone")
        conflict.__cause__ = error
        return None, conflict
    except DataError as error:
        refused = NotStored("the database refuses a value")
        refused.__cause__ = error
        return None, refused
    except (SQLAlchemyError, OSError):
        raise  # of the database, not of the work
    except Exception as error:
        return None, error


def _lost(error: Exception) -> bool:
    """The connection is, and perhaps nobody knows what became of the transaction."""
    return isinstance(error, DBAPIError) and error.connection_invalidated
