"""Files that may go at any time: removed by age of use, down to a cap."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

_ABANDONED_SECONDS = 3600.0  # a temporary file this old belongs to no process that still writes it


def evict(found: list[Path], max_bytes: int, keep: Path) -> None:
    """Removes of `found` what was not used for longest until `max_bytes` are left, but not `keep`;
    and temporary files (`.tmp`) that nobody finished."""
    files: list[tuple[float, int, Path]] = []
    for path in found:
        with suppress(OSError):  # just removed by another process
            status = path.stat()
            if path.suffix != ".tmp":
                files.append((status.st_mtime, status.st_size, path))
            elif time.time() - status.st_mtime > _ABANDONED_SECONDS:
                remove(path)
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= max_bytes:
            break
        if path != keep:
            remove(path)
            total -= size


def remove(path: Path) -> None:
    with suppress(OSError):  # already gone, or not ours to remove: then it is only not used
        path.unlink()
