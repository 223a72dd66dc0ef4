"""Vectors of texts kept in SQLite, so that a start does not compute those of thousands again.

cache/vectors.sqlite

    vectors     model, key of the text ─▶ D float32, little-endian

Several processes may use the file at a time. What was written first goes first.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

_AT_ONCE = 500  # keys in one statement
_BUSY_SECONDS = 5.0  # how long another process may hold the file


def text_key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


class VectorStore:
    """Those of one model, `max_vectors` at most. Thread-safe. All methods raise sqlite3.Error."""

    def __init__(self, path: Path, model: str, *, max_vectors: int = 100_000):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._model = model
        self._max_vectors = max_vectors
        self._lock = threading.Lock()
        self._db = sqlite3.connect(
            path, _BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS vectors"
            " (model TEXT, key BLOB, vector BLOB NOT NULL, PRIMARY KEY (model, key))"
        )

    def find(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Those that are there, each [D] float32."""
        found: dict[bytes, np.ndarray] = {}
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            marks = ",".join("?" * len(some))
            asked = f"SELECT key, vector FROM vectors WHERE model = ? AND key IN ({marks})"
            with self._lock:
                rows = self._db.execute(asked, (self._model, *some)).fetchall()
            found |= {key: np.frombuffer(vector, "<f4") for key, vector in rows}
        return found

    def save(self, vectors: Mapping[bytes, np.ndarray]) -> None:
        rows = [
            (self._model, key, vector.astype("<f4").tobytes()) for key, vector in vectors.items()
        ]
        too_old = "rowid <= (SELECT max(rowid) FROM vectors) - ?"
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)
            self._db.execute(f"DELETE FROM vectors WHERE {too_old}", (self._max_vectors,))
            self._db.execute("COMMIT")

    def close(self) -> None:
        with self._lock:
            self._db.close()
