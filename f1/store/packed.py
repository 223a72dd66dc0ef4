"""Packed weights kept on disk, so that a later start reads them instead of packing them again.

cache/packed/KEY.bin     KEY is a hash of the model's fingerprint and of the core that packed it

A file appears whole, by one rename; the core verifies its checksum before it is used.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from f1.store.folder import evict, remove

log = logging.getLogger("f1.store")


@dataclass(frozen=True, slots=True)
class PackedFile:
    """Where one model's packed weights are, or will be. The folder holds at most `max_bytes`, of
    all models; what was not used for longest goes first."""

    path: Path
    max_bytes: int

    def exists(self) -> bool:
        with suppress(OSError):
            os.utime(self.path)  # used now
            return True
        return False

    def discard(self, reason: object) -> None:
        log.warning("packed weights %s are removed: %s", self.path.name, reason)
        remove(self.path)

    def save(self, num_bytes: int, write: Callable[[str], None]) -> threading.Thread | None:
        """Starts to, for a slow disk takes its time; a process that ends waits for it.

        `write` puts them into the file it is told, and may raise OSError or RuntimeError; then
        there is a line in the log, and nothing is kept.
        """
        if num_bytes > self.max_bytes:
            return None
        thread = threading.Thread(target=self._save, args=(write,), name="f1-packed")
        thread.start()
        return thread

    def _save(self, write: Callable[[str], None]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(suffix=".tmp", dir=self.path.parent)
            os.close(handle)
        except OSError as error:
            log.warning("packed weights could not be kept: %s", error)
            return
        try:
            write(name)
            os.replace(name, self.path)
        except (OSError, RuntimeError) as error:
            log.warning("packed weights could not be kept: %s", error)
            remove(Path(name))
            return
        evict(list(self.path.parent.iterdir()), self.max_bytes, keep=self.path)
