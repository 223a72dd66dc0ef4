"""The folder of snapshots: shared prefixes that outlive the process.

cache/snapshots/KEY/TOKENS.kv     KEY and TOKENS are hashes of a snapshot's key and token ids

Several processes may use it at a time: a file appears whole, by one rename, and is never written
again. A file that cannot be used is reported, removed, and made again by the next registration.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from f1.store.folder import evict, remove
from f1.store.snapshot import (
    PAGE_TOKENS,
    Key,
    Snapshot,
    SnapshotError,
    TokenIds,
    read_snapshot,
    write_snapshot,
)

if TYPE_CHECKING:
    from f1 import _core

log = logging.getLogger("f1.store")


class Snapshots:
    """The snapshots that one model can use; thread-safe.

    `key` names all that decides what is in a page but the tokens. `max_bytes` holds for the folder,
    whatever models its snapshots are of: those unused for longest go first. 0: nothing is kept.
    """

    def __init__(self, folder: Path, key: Key, max_bytes: int):
        self._root = folder
        self._key = key
        self._max_bytes = max_bytes
        name = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()
        self._folder = folder / name[:32]
        self._lock = threading.Lock()
        self._known: dict[Path, Snapshot] = {}
        self._seen = -1  # when the folder had changed last, as far as `_known` knows

    def find(self, token_ids: TokenIds) -> Snapshot | None:
        """The longest that a sequence with these tokens can begin with, cut to what they share."""
        if self._max_bytes == 0:
            return None
        with self._lock:
            self._refresh()
            known = list(self._known.values())
        shared = [(snapshot.num_pages_shared(token_ids), snapshot) for snapshot in known]
        num_pages, longest = max(shared, key=lambda found: found[0], default=(0, None))
        if longest is None or num_pages == 0:
            return None
        with suppress(OSError):  # another process has just removed it: reading it will tell
            os.utime(longest.path)  # used now
        return longest.first(num_pages)

    def latest(self) -> list[Snapshot]:
        """All of them, the one used last first."""
        if self._max_bytes == 0:
            return []
        with self._lock:
            self._refresh()
            known = list(self._known.values())
        used: list[tuple[float, Snapshot]] = []
        for snapshot in known:
            with suppress(OSError):  # just removed by another process
                used.append((snapshot.path.stat().st_mtime, snapshot))
        return [snapshot for _, snapshot in sorted(used, key=lambda u: u[0], reverse=True)]

    def holds(self, token_ids: TokenIds) -> bool:
        """Whether there are pages of all these tokens."""
        found = self.find(token_ids)
        return found is not None and len(found.token_ids) == len(token_ids)

    def save(
        self, token_ids: TokenIds, pages: NDArray[np.uint8], checksums: NDArray[np.uint64]
    ) -> bool:
        """Keeps the pages [pages, bytes] of as many tokens from the first on. False where they
        cannot be kept."""
        if self._max_bytes == 0 or len(pages) == 0:
            return False
        token_ids = np.array(token_ids[: len(pages) * PAGE_TOKENS], np.int32)
        if pages.nbytes > self._max_bytes:
            log.warning("a snapshot of %d bytes is larger than the disk cap", pages.nbytes)
            return False
        path = self._folder / f"{hashlib.sha256(token_ids.tobytes()).hexdigest()[:32]}.kv"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            written = self._write(path, token_ids, pages, checksums)
        except OSError as error:
            log.warning("a snapshot could not be saved: %s", error)
            return False
        with self._lock:
            self._known[path] = written
        evict(list(self._root.glob("*/*")), self._max_bytes, keep=path)
        return True

    def restore(self, core: _core.Engine, snapshot: Snapshot) -> None:
        """Brings back what the cache lacks of it; what cannot be had is computed instead."""
        try:
            core.restore_prefix(
                snapshot.token_ids, str(snapshot.path), snapshot.offset, snapshot.checksums
            )
        except ValueError as error:
            self.discard(snapshot, error)

    def discard(self, snapshot: Snapshot, reason: object) -> None:
        """Removes a file that turned out to be of no use."""
        log.warning("snapshot %s is removed: %s", snapshot.path.name, reason)
        with self._lock:
            self._known.pop(snapshot.path, None)
        remove(snapshot.path)

    def _write(
        self,
        path: Path,
        token_ids: TokenIds,
        pages: NDArray[np.uint8],
        checksums: NDArray[np.uint64],
    ) -> Snapshot:
        handle, name = tempfile.mkstemp(suffix=".tmp", dir=self._folder)  # readable by us alone
        os.close(handle)
        try:
            written = write_snapshot(Path(name), self._key, token_ids, pages, checksums)
            os.replace(name, path)
        except BaseException:
            remove(Path(name))
            raise
        return Snapshot(path, written.token_ids, written.checksums, written.offset)

    def _refresh(self) -> None:
        """Looks at the folder again if a file came or went since."""
        try:
            changed = self._folder.stat().st_mtime_ns
        except OSError:
            changed = -1
        if changed == self._seen:
            return
        paths = set(self._folder.glob("*.kv"))
        for path in self._known.keys() - paths:
            del self._known[path]
        for path in paths - self._known.keys():
            try:
                self._known[path] = read_snapshot(path, self._key)
            except FileNotFoundError:
                continue
            except (SnapshotError, OSError) as error:
                log.warning("snapshot %s is removed: %s", path.name, error)
                remove(path)
        self._seen = changed
