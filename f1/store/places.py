"""Where runs are kept: a SQLite file, or a PostgreSQL server. How to connect, and what to make of
what goes wrong there."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError

from f1.errors import InvalidRequest
from f1.store.database import BROKEN, BUSY_SECONDS, use_wal
from f1.store.folder import remove
from f1.store.migrations import migrate
from f1.store.owners import FileOwners, Owners, ServerOwners

log = logging.getLogger("f1.store")
_DRIVER = "postgresql+psycopg"
_CONNECTING = {
    "application_name": "f1",
    "connect_timeout": int(BUSY_SECONDS),
    # A server that is gone without a word is noticed within half a minute.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,  # ms
}
_PRAGMAS = (
    "synchronous = FULL",  # what is kept is kept when the power fails, too
    "foreign_keys = ON",
    "secure_delete = ON",
    f"journal_size_limit = {16 * 2**20}",
)


class Place(Protocol):
    def connect(self) -> sa.Connection:
        """With the tables as they are to be."""

    def owners(self) -> Owners: ...
    def identity(self) -> object:
        """Changes when what was connected to is no longer what is there."""

    def goes_on_after(self, error: Exception) -> bool:
        """Whether a connection can be used on: what it holds is kept then."""

    def repair(self, identity: object, error: Exception) -> bool:
        """Whether trying again with a new connection may help."""

    def told(self, error: Exception) -> str:
        """For who asked: no paths, no addresses, nothing of what was to be written."""


class SqliteFile:
    """Readable by its user alone. What is committed is on the disk; what is deleted is overwritten.
    A broken file is set aside, with its log, and a new one begun."""

    def __init__(self, path: Path):
        self._path = path
        self._lock = threading.Lock()
        self._engine = sa.create_engine("sqlite://", creator=self._open, poolclass=sa.NullPool)
        sa.event.listen(self._engine, "begin", _begin)

    def connect(self) -> sa.Connection:
        with self._lock:  # one thread makes the file
            db = self._engine.connect()
            try:
                migrate(db)
            except BaseException:
                db.close()
                raise
            return db

    def owners(self) -> Owners:
        return FileOwners(self._path.with_name(self._path.name + ".owners"))

    def identity(self) -> object:
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def goes_on_after(self, error: Exception) -> bool:
        return False

    def repair(self, identity: object, error: Exception) -> bool:
        if _sqlite_code(error) not in BROKEN:
            return False
        with self._lock:
            if identity in (None, self.identity()):  # else another has done it
                self._set_aside(error)
        return True

    def told(self, error: Exception) -> str:
        if isinstance(error, OSError):
            return error.strerror or "an error of the system"
        return str(error.orig if isinstance(error, DBAPIError) else type(error).__name__)

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL, 0o600))
        db = sqlite3.connect(
            self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            db.text_factory = _text
            use_wal(db)
            for pragma in _PRAGMAS:
                db.execute(f"PRAGMA {pragma}")
        except BaseException:
            db.close()
            raise
        return db

    def _set_aside(self, error: Exception) -> None:
        path = self._path
        aside = path.with_name(path.name + ".broken")
        if aside.exists():
            aside = path.with_name(f"{path.name}.{time.time_ns()}.broken")
        log.error("%s is broken and set aside as %s: %s", path.name, aside.name, self.told(error))
        log_of = path.with_name(path.name + "-wal")
        with suppress(FileNotFoundError):
            os.replace(log_of, aside.with_name(aside.name + "-wal"))
        os.replace(path, aside)
        remove(path.with_name(path.name + "-shm"))


class PostgresServer:
    """Connections of its own: an address that shares them among clients (a pooler of transactions)
    does not do."""

    def __init__(self, url: str):
        try:
            parsed = sa.make_url(url)
            if parsed.get_backend_name() != "postgresql":
                raise InvalidRequest(f"runs_url: F1 knows no '{parsed.drivername[:100]}'")
            self._engine = sa.create_engine(
                parsed.set(drivername=_DRIVER),
                poolclass=sa.NullPool,
                connect_args=_CONNECTING,
                hide_parameters=True,
            )
        except ArgumentError:
            raise InvalidRequest("runs_url is no address of a database") from None
        except ModuleNotFoundError as error:
            raise InvalidRequest("runs_url: pip install 'psycopg[binary]'") from error

    def connect(self) -> sa.Connection:
        db = self._engine.connect()
        try:
            with db.begin():  # a machine that is gone is noticed, and so are its runs
                settings = {"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5",
                            "tcp_keepalives_count": "3", "synchronous_commit": "on",
                            "lock_timeout": f"{BUSY_SECONDS:.0f}s"}  # fmt: skip
                for name, value in settings.items():
                    db.execute(sa.select(sa.func.set_config(name, value, False)))
            migrate(db)
        except BaseException:
            db.close()
            raise
        return db

    def owners(self) -> Owners:
        return ServerOwners()

    def identity(self) -> object:
        return self._engine

    def goes_on_after(self, error: Exception) -> bool:
        return isinstance(error, DBAPIError) and not error.connection_invalidated

    def repair(self, identity: object, error: Exception) -> bool:
        return False

    def told(self, error: Exception) -> str:
        said = getattr(getattr(error, "orig", None), "diag", None)
        return getattr(said, "message_primary", None) or "the database does not answer"


def _text(found: bytes) -> str:
    return found.decode(errors="replace")  # one row that is no text must not hide the others


def _begin(db: sa.Connection) -> None:
    reading = db.get_execution_options().get("reading", False)
    db.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _sqlite_code(error: Exception) -> int:
    cause: Any = error.orig if isinstance(error, DBAPIError) else error
    return int(getattr(cause, "sqlite_errorcode", 0)) & 0xFF  # the rest of it says more closely
