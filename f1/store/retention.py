"""What goes when there is too much, or when it is old.

Too old: whatever was not used for so long, but for what runs just now. Too much: of the tenant that
holds most, what ended, or was said, longest ago. What runs or waits is not removed for room: where
nothing else is left, whoever holds most begins nothing new.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from f1.store.database import NotStored
from f1.store.tables import runs, sessions

log = logging.getLogger("f1.store")
_STEPS = 64  # as often as a 64th of what may be kept was written, it is looked at
_SECONDS = 3600.0


@dataclass(slots=True)
class Retention:
    """Of one process. `max_bytes` holds for all that is kept, whoever wrote it."""

    max_bytes: int
    max_age: float  # seconds
    _written: int = 0
    _looked: float = 0.0
    _full: str | None = None  # the tenant that has to wait

    def wrote(self, size: int) -> None:
        self._written += size

    def check(self, size: int, whose: str) -> None:
        """Raises NotStored where so much is never kept of one."""
        if size > self.max_bytes:
            raise NotStored(f"{whose} takes {size} bytes, {self.max_bytes} are kept in all")

    def make_room(
        self, db: sa.Connection, tenant: str, lives: Callable[[sa.Connection, object], bool]
    ) -> None:
        """Before something begins. Raises NotStored where there is no room for this tenant."""
        now = time.time()
        due = self._written * _STEPS >= self.max_bytes or now - self._looked > _SECONDS
        if due or self._full == tenant:
            _remove_old(db, now - self.max_age, lives)
            self._full = _remove_much(db, self.max_bytes)
            self._written, self._looked = 0, now
        if self._full == tenant:
            raise NotStored(
                "no room: runs that go on or wait hold all that may be kept", retry_after=60.0
            )


def gone(db: sa.Connection, lives: Callable[[sa.Connection, object], bool]) -> list[int]:
    """Processes that are, with runs that were running in them."""
    found = db.execute(sa.select(runs.c.owner).where(runs.c.status == "running").distinct())
    return [owner for (owner,) in found if not lives(db, owner)]


def _remove_old(
    db: sa.Connection, before: float, lives: Callable[[sa.Connection, object], bool]
) -> None:
    idle = (runs.c.status != "running") | runs.c.owner.in_(gone(db, lives))
    db.execute(runs.delete().where(runs.c.changed < before, idle))
    db.execute(sessions.delete().where(sessions.c.used < before))


def _remove_much(db: sa.Connection, max_bytes: int) -> str | None:
    """Down to a little less. The tenant that holds most, where that could not be done."""
    held = _held(db)
    if sum(held.values()) <= max_bytes:
        return None
    target, removed = max_bytes - max_bytes // _STEPS, 0
    fixed: set[str] = set()  # tenants with nothing that may go
    while sum(held.values()) > target and len(fixed) < len(held):
        tenant = max(held.keys() - fixed, key=lambda each: held[each])
        size = _remove_oldest(db, tenant)
        if size is None:
            fixed.add(tenant)
        else:
            held[tenant] -= size
            removed += 1
    if removed:
        log.info("%d runs and sessions were removed: %d bytes are kept", removed, max_bytes)
    return max(held, key=lambda each: held[each]) if sum(held.values()) > max_bytes else None


def _held(db: sa.Connection) -> dict[str, int]:
    held: dict[str, int] = {}
    for table in (runs, sessions):
        sums = sa.select(table.c.tenant, sa.cast(sa.func.sum(table.c.bytes), sa.BigInteger))
        for tenant, size in db.execute(sums.group_by(table.c.tenant)):
            held[tenant] = held.get(tenant, 0) + size
    return held


def _remove_oldest(db: sa.Connection, tenant: str) -> int | None:
    """How many bytes it held."""
    ended = sa.select(runs.c.key, runs.c.bytes, runs.c.changed).where(
        runs.c.tenant == tenant, runs.c.status == "ended"
    )
    said = sa.select(sessions.c.key, sessions.c.bytes, sessions.c.used).where(
        sessions.c.tenant == tenant
    )
    found = [
        (row[2], row[0], row[1], table)
        for table, asked, by in ((runs, ended, runs.c.changed), (sessions, said, sessions.c.used))
        if (row := db.execute(asked.order_by(by).limit(1)).first()) is not None
    ]
    if not found:
        return None
    _, key, size, table = min(found, key=lambda each: each[0])
    db.execute(table.delete().where(table.c.key == key))
    return int(size)
