"""Tools that tenants have registered, so that they outlive the process.

cache/tools.sqlite

    entries     one row for each tool, and for each version of a toolset, as JSON; of a
                latest version that was removed, its number and nothing in it: no other gets it

What the operator sets is not here: it comes from f1.toml at each start. Another process that uses
the file sees what this one put when it starts the next time.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from f1.store.database import Database, checksum

log = logging.getLogger("f1.store")

_VERSION = 1
_REMOVED = orjson.dumps(None)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    tenant TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, created INTEGER NOT NULL,
    body BLOB NOT NULL, crc INTEGER NOT NULL,
    PRIMARY KEY (tenant, name, version));
"""


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """Version 0: a tool, `body` its table. From 1 on: a toolset, `body` the tables of its tools,
    each with its name; or None, where the latest version was removed."""

    tenant: str
    name: str
    version: int
    created: int
    body: Any


class ToolStore:
    """Without a path nothing is kept. Every method raises NotStored where the file cannot be
    used."""

    def __init__(self, path: Path | None):
        self._keeps = path is not None
        self._database = Database(path, _SCHEMA, _VERSION, "registered tools")

    async def put(self, entry: StoredEntry, *, keep: int = 1) -> None:
        """In place of what had its name and version, and of all but `keep` versions. It is kept
        when this returns, also if the process is killed then."""
        if self._keeps:
            await self._database.do(lambda db: _put(db, entry, keep))

    async def delete(
        self, tenant: str, name: str, version: int | None, *, remember: int = 1
    ) -> None:
        """The tool (version 0), that version of a toolset, or (None) all of them. Of the tenant's
        last `remember` such toolsets the numbers stay."""
        if self._keeps:
            await self._database.do(lambda db: _delete(db, tenant, name, version, remember))

    def load(self) -> list[StoredEntry]:
        """All that is kept, as it was put: a row that is not as it was written is removed."""
        return self._database.wait(_load) if self._keeps else []

    def close(self) -> None:
        self._database.close()


def _put(db: sqlite3.Connection, entry: StoredEntry, keep: int) -> None:
    body = orjson.dumps(entry.body)
    row = (entry.tenant, entry.name, entry.version, entry.created, body, checksum(body))
    db.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?)", row)
    if entry.version:
        db.execute(
            "DELETE FROM entries WHERE tenant = ? AND name = ? AND version BETWEEN 1 AND ?"
            " AND body = ?",
            (entry.tenant, entry.name, entry.version - 1, _REMOVED),
        )
        db.execute(
            "DELETE FROM entries WHERE tenant = ?1 AND name = ?2 AND version BETWEEN 1 AND"
            " (SELECT version FROM entries WHERE tenant = ?1 AND name = ?2 AND version > 0"
            "  ORDER BY version DESC LIMIT 1 OFFSET ?3)",
            (entry.tenant, entry.name, keep),
        )


def _delete(
    db: sqlite3.Connection, tenant: str, name: str, version: int | None, remember: int
) -> None:
    (latest,) = db.execute(
        "SELECT max(version) FROM entries WHERE tenant = ? AND name = ? AND version > 0",
        (tenant, name),
    ).fetchone()
    chosen = "version > 0" if version is None else "version = ?3"
    given = (tenant, name) if version is None else (tenant, name, version)
    db.execute(f"DELETE FROM entries WHERE tenant = ?1 AND name = ?2 AND {chosen}", given)
    if latest is not None and version in (None, latest):
        row = (tenant, name, latest, int(time.time()), _REMOVED, checksum(_REMOVED))
        db.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)", row)
        db.execute(
            "DELETE FROM entries WHERE tenant = ?1 AND body = ?2 AND rowid NOT IN (SELECT rowid"
            " FROM entries WHERE tenant = ?1 AND body = ?2 ORDER BY created DESC, rowid DESC"
            " LIMIT ?3)",
            (tenant, _REMOVED, remember),
        )


def _load(db: sqlite3.Connection) -> list[StoredEntry]:
    found: list[StoredEntry] = []
    rows = db.execute("SELECT * FROM entries ORDER BY tenant, name, version").fetchall()
    for tenant, name, version, created, body, crc in rows:
        if isinstance(body, bytes) and checksum(body) == crc:
            found.append(StoredEntry(tenant, name, version, created, orjson.loads(body)))
            continue
        log.error("registered tool %s is broken and removed", name)
        db.execute(
            "DELETE FROM entries WHERE tenant = ? AND name = ? AND version = ?",
            (tenant, name, version),
        )
    return found
