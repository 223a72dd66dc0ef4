"""Which processes live: each holds a lock that the system frees when it dies, however it dies.

A run that is `running` names its owner. Whether that one is gone is known at once and for sure:
nothing has to time out, and nothing is taken from who is merely slow.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import struct
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from f1.store.folder import remove
from f1.store.tables import runs


class Owners(Protocol):
    me: int

    def hold(self, db: sa.Connection) -> None:
        """The connection that this process writes with was made."""

    def lives(self, db: sa.Connection, owner: object) -> bool:
        """False also of what is no number: a row may have been made by anyone."""

    def first(self, db: sa.Connection, name: str) -> bool:
        """Whether no other transaction that is not over was told so of the same name."""

    def close(self) -> None: ...


class FileOwners:
    """A file each, locked as long as it lives (flock: a lock goes with the last descriptor, and
    what is started by F1 inherits none). It gets its name when it is locked already."""

    def __init__(self, folder: Path):
        self.me = _new()
        self._folder = folder
        self._fd: int | None = None

    def hold(self, db: sa.Connection) -> None:
        mine = self._folder / str(self.me)
        if self._fd is not None and mine.exists():
            return
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = self._folder / f"{self.me}.new"
        fd = os.open(new, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.rename(new, mine)
        self.close()
        self._fd = fd
        for path in self._folder.glob("*[0-9]"):
            if not self._locked(path):
                remove(path)

    def lives(self, db: sa.Connection, owner: object) -> bool:
        if not isinstance(owner, int):
            return False
        return owner == self.me or self._locked(self._folder / str(owner))

    def first(self, db: sa.Connection, name: str) -> bool:
        return True  # one writes at a time

    def close(self) -> None:
        """As if the process had ended."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _locked(self, path: Path) -> bool:
        try:
            fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:  # shared: two that look do not see each other
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False


class ServerOwners:
    """An advisory lock of PostgreSQL each, held by the connection that it writes with. Where that
    is lost, the runs go over to the next connection, but for those that were taken meanwhile."""

    def __init__(self) -> None:
        self.me = 0

    def hold(self, db: sa.Connection) -> None:
        before, self.me = self.me, _new()
        with db.begin():
            db.execute(sa.select(sa.func.pg_advisory_lock(self.me)))
            if before:
                db.execute(runs.update().where(runs.c.owner == before).values(owner=self.me))

    def lives(self, db: sa.Connection, owner: object) -> bool:
        if not isinstance(owner, int) or owner == self.me:
            return owner == self.me
        free = sa.select(sa.func.pg_try_advisory_xact_lock_shared(sa.cast(owner, sa.BigInteger)))
        return not db.execute(free).scalar()

    def first(self, db: sa.Connection, name: str) -> bool:
        digest = hashlib.sha256(name.encode(errors="surrogatepass")).digest()
        numbers = struct.unpack_from("=ii", digest)  # locks of two numbers are none of one
        lock = sa.func.pg_try_advisory_xact_lock(*(sa.cast(n, sa.Integer) for n in numbers))
        return bool(db.execute(sa.select(lock)).scalar())

    def close(self) -> None:
        """The connection is what holds it."""


def _new() -> int:
    return 1 + secrets.randbits(62)
