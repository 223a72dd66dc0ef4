"""One SQLite file that several processes may use at a time, and the one thread that does here."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from f1.errors import F1Error
from f1.store.folder import remove

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
log = logging.getLogger("f1.store")

BUSY_SECONDS = 5.0  # how long another process may hold the file
BROKEN = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class NotStored(F1Error):
    """It could not be kept, or what is kept cannot be read now."""

    status = 503
    code = "not_stored"


class Database:
    """`schema` makes the tables of version `version`; `kept` says what is in them, for people.
    Without a path they are in memory.

    All work raises NotStored where the file cannot be used. A file that is no database, a broken
    one, and one of another version is set aside under the name `….broken`, and a new one begun.
    """

    def __init__(self, path: Path | None, schema: str, version: int, kept: str):
        self._path = path
        self._schema = schema
        self._version = version
        self._kept = kept
        self._connection: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, f"f1-{kept.split()[-1]}")

    async def do(self, work: Work[T]) -> T:
        """What `work` returns, in a transaction. What it wrote is kept when this returns, also if
        the process is killed then."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._try, work)

    def wait(self, work: Work[T]) -> T:
        """The same for who has no loop."""
        return self._thread.submit(self._try, work).result()

    def close(self) -> None:
        self._thread.submit(self._disconnect)
        self._thread.shutdown()

    # --- in the thread ---------------------------------------------------------------------------

    def _try(self, work: Work[T], *, again: bool = True) -> T:
        try:
            with self._connected() as db:  # a transaction
                return work(db)
        except (sqlite3.Error, OSError) as error:
            self._disconnect()
            if self._path is None or not again or _code(error) not in BROKEN:
                raise NotStored(f"{self._kept} cannot be used now: {_told(error)}") from error
            _set_aside(self._path, error)
            return self._try(work, again=False)

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileExistsError):  # readable by us alone
                    os.close(os.open(self._path, os.O_CREAT | os.O_EXCL, 0o600))
            self._connection = sqlite3.connect(
                self._path or ":memory:", timeout=BUSY_SECONDS, isolation_level="IMMEDIATE"
            )
            self._prepare(self._connection)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _prepare(self, db: sqlite3.Connection) -> None:
        use_wal(db)
        db.execute("PRAGMA synchronous = FULL")  # what is kept is kept when the power fails, too
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA secure_delete = ON")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version not in (0, self._version):
            broken = sqlite3.DatabaseError(f"made by another version of F1 ({version})")
            broken.sqlite_errorcode = sqlite3.SQLITE_NOTADB
            raise broken
        if version == 0:
            made = f"{self._schema} PRAGMA user_version = {self._version};"
            db.executescript(f"BEGIN IMMEDIATE; {made} COMMIT;")


def checksum(*texts: bytes) -> int:
    """Of JSON, which holds no zero byte."""
    return zlib.crc32(b"\0".join(texts))


def _set_aside(path: Path, reason: object) -> None:
    aside = path.with_name(path.name + ".broken")
    log.error("%s is broken and set aside as %s: %s", path.name, aside.name, reason)
    os.replace(path, aside)
    for ending in ("-wal", "-shm"):
        remove(path.with_name(path.name + ending))


def use_wal(db: sqlite3.Connection) -> None:
    """SQLite does not wait by itself where another process changes the mode just now."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)


def _code(error: Exception) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF  # the rest of it says more closely


def _told(error: Exception) -> str:
    """No paths go out."""
    return error.strerror or "" if isinstance(error, OSError) else str(error)
