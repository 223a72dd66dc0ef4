"""Responses that are kept, so that later ones may follow on them.

cache/responses.sqlite

    responses   one row each: whose it is, which one it followed, and as JSON its input, its output
                and what else it tells, which is large where there are many tools
    items       id of an item ─▶ the responses it stands in
    held        bytes held by each tenant, kept up to date by triggers

What was not used for longest goes first, of the tenant that holds most.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from f1.store.database import Database, NotStored, checksum

Json = dict[str, Any]
log = logging.getLogger("f1.store")

MAX_AGE_SECONDS = 30 * 86_400.0
_VERSION = 1
_ROW_BYTES = 1024  # what a row takes beside its JSON, with its place in the indices
_SCHEMA = """
CREATE TABLE IF NOT EXISTS responses (
    id TEXT PRIMARY KEY, tenant TEXT NOT NULL, previous TEXT, used REAL NOT NULL,
    bytes INTEGER NOT NULL, input BLOB NOT NULL, output BLOB NOT NULL, about BLOB NOT NULL,
    crc INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS by_use ON responses (used);
CREATE INDEX IF NOT EXISTS by_tenant ON responses (tenant, used);
CREATE TABLE IF NOT EXISTS items (
    id TEXT NOT NULL, response TEXT NOT NULL REFERENCES responses (id) ON DELETE CASCADE,
    PRIMARY KEY (id, response)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_response ON items (response);
CREATE TABLE IF NOT EXISTS held (tenant TEXT PRIMARY KEY, bytes INTEGER NOT NULL);
CREATE TRIGGER IF NOT EXISTS added AFTER INSERT ON responses BEGIN
    INSERT INTO held VALUES (NEW.tenant, NEW.bytes)
        ON CONFLICT (tenant) DO UPDATE SET bytes = bytes + NEW.bytes;
END;
CREATE TRIGGER IF NOT EXISTS removed AFTER DELETE ON responses BEGIN
    UPDATE held SET bytes = bytes - OLD.bytes WHERE tenant = OLD.tenant;
    DELETE FROM held WHERE bytes <= 0;
END;
"""


class TooMuch(Exception):
    """What is asked for is larger than the caller allows."""


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """`input` are the items it was asked with, `response` is itself, as it was answered."""

    id: str
    previous: str | None
    input: list[Json]
    response: Json

    def items(self) -> list[Json]:
        """What was said, in order."""
        return [*self.input, *self.response["output"]]


class ResponseStore:
    """`max_bytes` holds for the file, whosever responses are in it; 0: nothing is kept.

    Every method raises NotStored where the file cannot be used.
    """

    def __init__(self, path: Path, max_bytes: int, *, max_age: float = MAX_AGE_SECONDS):
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._database = Database(
            path if max_bytes else None, _SCHEMA, _VERSION, "stored responses"
        )

    @property
    def keeps(self) -> bool:
        return self._max_bytes > 0

    async def check(self) -> None:
        """Whether anything could be kept now."""
        await self._database.do(lambda db: db.execute("BEGIN IMMEDIATE"))

    async def put(self, tenant: str, stored: StoredResponse) -> None:
        """Kept when this returns, also if the process is killed then."""
        await self._database.do(lambda db: self._put(db, tenant, stored))

    async def get(self, tenant: str, response_id: str) -> StoredResponse | None:
        """None where there is none of that id, or it is another tenant's."""
        return await self._database.do(lambda db: _get(db, tenant, response_id))

    async def conversation(
        self, tenant: str, response_id: str, *, max_items: int, max_bytes: int
    ) -> list[Json] | None:
        """What was said up to the end of the response: its items, and before them those of all that
        it followed. None where one of those is not kept. Raises TooMuch."""
        return await self._database.do(
            lambda db: _conversation(db, tenant, response_id, max_items, max_bytes)
        )

    async def items(self, tenant: str, ids: Iterable[str], *, max_bytes: int) -> dict[str, Json]:
        """Those of the items that are kept, by id. Raises TooMuch where the responses that they
        stand in are larger in all."""
        return await self._database.do(lambda db: _items(db, tenant, ids, max_bytes))

    async def delete(self, tenant: str, response_id: str) -> bool:
        """False where there was none. Responses that followed it can no longer be followed."""
        return await self._database.do(lambda db: _delete(db, tenant, response_id))

    def close(self) -> None:
        self._database.close()

    def _put(self, db: sqlite3.Connection, tenant: str, stored: StoredResponse) -> None:
        about = stored.response | {"output": []}
        texts = [orjson.dumps(part) for part in (stored.input, stored.response["output"], about)]
        ids = {item["id"] for item in stored.items()}
        size = sum(map(len, texts)) + _ROW_BYTES + 128 * len(ids)
        if size > self._max_bytes:
            raise NotStored(f"the response takes {size} bytes, {self._max_bytes} are kept in all")
        db.execute("DELETE FROM responses WHERE used < ?", (time.time() - self._max_age,))
        while _held(db) + size > self._max_bytes and _remove_oldest(db):
            pass
        row = (stored.id, tenant, stored.previous, time.time(), size, *texts, checksum(*texts))
        db.execute("INSERT INTO responses VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        db.executemany("INSERT INTO items VALUES (?, ?)", [(item, stored.id) for item in ids])


def _get(db: sqlite3.Connection, tenant: str, response_id: str) -> StoredResponse | None:
    row = _row(db, tenant, response_id)
    if row is None:
        return None
    response: Json = orjson.loads(row.about)
    response["output"] = orjson.loads(row.output)
    return StoredResponse(response_id, row.previous, orjson.loads(row.input), response)


@dataclass(frozen=True, slots=True)
class _Row:
    previous: str | None
    input: bytes
    output: bytes
    about: bytes

    def items(self) -> list[Json]:
        return [*orjson.loads(self.input), *orjson.loads(self.output)]


def _row(db: sqlite3.Connection, tenant: str, response_id: str) -> _Row | None:
    """As it was written: one that is not is removed, and counts as not kept."""
    found = db.execute(
        "SELECT previous, input, output, about, crc FROM responses WHERE id = ? AND tenant = ?",
        (response_id, tenant),
    ).fetchone()
    if found is None:
        return None
    *row, crc = found
    if all(isinstance(text, bytes) for text in row[1:]) and checksum(*row[1:]) == crc:
        return _Row(*row)
    log.error("stored response %s is broken and removed", response_id)
    _delete(db, tenant, response_id)
    return None


def _conversation(
    db: sqlite3.Connection, tenant: str, response_id: str, max_items: int, max_bytes: int
) -> list[Json] | None:
    parts: list[list[Json]] = []
    ids: list[str] = []
    num_items = num_bytes = 0
    following: str | None = response_id
    while following is not None:
        row = _row(db, tenant, following)
        if row is None:
            return None
        ids.append(following)
        parts.append(row.items())
        num_items += 1 + len(parts[-1])
        num_bytes += len(row.input) + len(row.output)
        if num_items > max_items or num_bytes > max_bytes:
            raise TooMuch(f"more than {max_items} items or {max_bytes} bytes")
        following = row.previous
    now = time.time()
    db.executemany("UPDATE responses SET used = ? WHERE id = ?", [(now, used) for used in ids])
    return [item for part in reversed(parts) for item in part]


def _items(
    db: sqlite3.Connection, tenant: str, ids: Iterable[str], max_bytes: int
) -> dict[str, Json]:
    wanted, responses = set(ids), dict[str, int]()
    for item_id in wanted:
        row = db.execute(
            "SELECT responses.id, length(input) + length(output)"
            " FROM items JOIN responses ON responses.id = items.response"
            " WHERE items.id = ? AND tenant = ? ORDER BY used DESC LIMIT 1",
            (item_id, tenant),
        ).fetchone()
        if row is not None:
            responses[row[0]] = row[1]
    if sum(responses.values()) > max_bytes:
        raise TooMuch(f"more than {max_bytes} bytes")
    found = [_row(db, tenant, response_id) for response_id in responses]
    items = [item for row in found if row for item in row.items()]
    return {item["id"]: item for item in items if item["id"] in wanted}


def _delete(db: sqlite3.Connection, tenant: str, response_id: str) -> bool:
    found = db.execute("DELETE FROM responses WHERE id = ? AND tenant = ?", (response_id, tenant))
    return found.rowcount > 0


def _held(db: sqlite3.Connection) -> int:
    (size,) = db.execute("SELECT coalesce(sum(bytes), 0) FROM held").fetchone()
    return int(size)


def _remove_oldest(db: sqlite3.Connection) -> bool:
    removed = db.execute(
        "DELETE FROM responses WHERE id = (SELECT id FROM responses WHERE tenant ="
        " (SELECT tenant FROM held ORDER BY bytes DESC LIMIT 1) ORDER BY used LIMIT 1)"
    )
    return removed.rowcount > 0
