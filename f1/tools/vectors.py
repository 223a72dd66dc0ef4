"""Vectors of tools: read from disk, or computed in the background where they are not there yet."""

from __future__ import annotations

import logging
import math
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from f1.errors import F1Error, ModelNotFound
from f1.store.vectors import VectorStore, text_key
from f1.tools.embedder import Embedder

log = logging.getLogger("f1.tools")

_BATCH = 16  # texts computed in one go: a tenth of a second, then others get their turn
_LOOKED_UP = 4096  # texts looked up on disk in one go
_REST = 30.0  # seconds for which an embedder that failed is left alone
_KEPT = 20_000  # vectors in memory: 30 MB


class ToolVectors:
    """Thread-safe. Nobody waits for it: as long as any vector is missing there are none."""

    def __init__(
        self, embedder: Embedder, path: Path, *, clock: Callable[[], float] = time.monotonic
    ):
        """`path`: of the file where they are kept."""
        self.embedder = embedder
        self.failure: str | None = None  # why there are no more for now, for a person
        self._clock = clock
        self._retry_at = -math.inf  # after a failure
        self._path = path
        self._lock = threading.Lock()
        self._known: OrderedDict[str, np.ndarray] = OrderedDict()
        self._wanted: dict[str, None] = {}  # in order
        self._works = False
        self._closed = False
        self._thread = ThreadPoolExecutor(1, "f1-vectors")

    def matrix(self, texts: Sequence[str]) -> np.ndarray | None:
        """[N, D] float32 of all texts; None as long as any is missing, and what is gets made."""
        with self._lock:
            missing = [text for text in texts if text not in self._known]
            if not missing:
                return np.stack([self._known[text] for text in texts])
            self._wanted.update(dict.fromkeys(missing))
            if not self._works and not self._closed and self._clock() >= self._retry_at:
                self._works = True
                self._thread.submit(self._work)
        return None

    def num_missing(self, texts: Sequence[str]) -> int:
        with self._lock:
            return sum(text not in self._known for text in texts)

    def close_soon(self) -> None:
        """Makes no more; does not wait for what is being made."""
        with self._lock:
            self._closed = True
            self._wanted.clear()

    def close(self) -> None:
        self.close_soon()
        self._thread.shutdown(cancel_futures=True)

    # --- its thread ------------------------------------------------------------------------------

    def _work(self) -> None:
        store: VectorStore | None = None
        try:
            store = VectorStore(self._path, self.embedder.made_by)
        except (OSError, sqlite3.Error) as error:
            log.warning("vectors of tools are not kept on disk: %s", error)
        try:
            while texts := self._take():
                self._make(texts, store)
        except F1Error as error:
            is_final = isinstance(error, ModelNotFound)  # others may pass
            self._retry_at = math.inf if is_final else self._clock() + _REST
            self.failure = str(error)
            log.warning("tools are selected by words alone: %s", error)
        except CancelledError:
            pass  # the embedder was closed
        finally:
            with self._lock:
                self._works = False
            if store is not None:
                store.close()

    def _take(self) -> list[str]:
        with self._lock:
            return list(self._wanted)[:_LOOKED_UP]

    def _make(self, texts: Sequence[str], store: VectorStore | None) -> None:
        keys = {text: text_key(text) for text in texts}
        found = _find(store, list(keys.values()))
        self._put({text: found[key] for text, key in keys.items() if key in found})
        missing = [text for text in texts if keys[text] not in found]
        for start in range(0, len(missing), _BATCH):
            if self._closed:
                return
            some = missing[start : start + _BATCH]
            made = dict(zip(some, self.embedder.sense_all(some).result(), strict=True))
            _save(store, {keys[text]: vector for text, vector in made.items()})
            self.failure = None
            self._put(made)

    def _put(self, made: dict[str, np.ndarray]) -> None:
        with self._lock:
            self._known.update(made)
            for text in made:
                self._wanted.pop(text, None)
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)


def _find(store: VectorStore | None, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
    try:
        return store.find(keys) if store is not None else {}
    except sqlite3.Error as error:
        log.warning("vectors of tools could not be read: %s", error)
        return {}


def _save(store: VectorStore | None, vectors: dict[bytes, np.ndarray]) -> None:
    try:
        if store is not None:
            store.save(vectors)
    except sqlite3.Error as error:
        log.warning("vectors of tools could not be kept: %s", error)
