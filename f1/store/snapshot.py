"""One shared prefix's pages of K and V in a file.

0      head: magic, version, bytes of the key, pages, bytes of a page
40     key, JSON: which model, core and layout made the pages
       token ids, int32 [pages * 16]
       checksums of the pages, uint64 [pages]
       CRC-32 of all before
4096n  pages, one after another, to the end of the file
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

PAGE_TOKENS = 16
VERSION = 1
_MAGIC = b"F1 pages"
_HEAD = struct.Struct("<8sQQQQ")
_ALIGNMENT = 4096

Key: TypeAlias = Mapping[str, str | int]
TokenIds: TypeAlias = NDArray[np.int32]


class SnapshotError(ValueError):
    """The file is no snapshot that this process could use; the message says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """What a file holds. The pages themselves are read, and checked, when they are needed."""

    path: Path
    token_ids: TokenIds  # [16 * pages]
    checksums: NDArray[np.uint64]  # [pages]
    offset: int  # of the first page

    def first(self, num_pages: int) -> Snapshot:
        """The same, of the first pages alone."""
        ids = self.token_ids[: num_pages * PAGE_TOKENS]
        return Snapshot(self.path, ids, self.checksums[:num_pages], self.offset)

    def num_pages_shared(self, token_ids: TokenIds) -> int:
        """How many of the pages are of a sequence that begins with `token_ids`, by every token."""
        length = min(len(self.token_ids), len(token_ids))
        differ = np.flatnonzero(self.token_ids[:length] != token_ids[:length])
        return int(differ[0] if len(differ) else length) // PAGE_TOKENS


def write_snapshot(
    path: Path,
    key: Key,
    token_ids: TokenIds,
    pages: NDArray[np.uint8],
    checksums: NDArray[np.uint64],
) -> Snapshot:
    """`pages` is [pages, bytes]. Raises OSError. The file is whole only when this returns."""
    text = _key_text(key)
    head = _HEAD.pack(_MAGIC, VERSION, len(text), len(pages), pages.shape[1])
    head += text + token_ids.astype("<i4").tobytes() + checksums.astype("<u8").tobytes()
    head += struct.pack("<I", zlib.crc32(head))
    offset = _aligned(len(head))
    with path.open("wb") as file:
        file.write(head.ljust(offset, b"\0"))
        file.write(pages.data)
        file.flush()
        os.fsync(file.fileno())
    return Snapshot(path, token_ids, checksums, offset)


def read_snapshot(path: Path, key: Key) -> Snapshot:
    """Everything but the pages. Raises SnapshotError, and OSError where there is no such file."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(_HEAD.size)
        if len(start) < _HEAD.size:
            raise SnapshotError("too short")
        magic, version, key_bytes, num_pages, page_bytes = _HEAD.unpack(start)
        if magic != _MAGIC or version != VERSION:
            raise SnapshotError("not a snapshot of this version")
        length = key_bytes + num_pages * (PAGE_TOKENS * 4 + 8)
        offset = _aligned(_HEAD.size + length + 4)
        if size != offset + num_pages * page_bytes:
            raise SnapshotError(f"{size} bytes long, not what its head says")
        rest = file.read(length + 4)
    if len(rest) != length + 4 or rest[length:] != struct.pack(
        "<I", zlib.crc32(start + rest[:length])
    ):
        raise SnapshotError("its head does not match its checksum")
    if rest[:key_bytes] != _key_text(key):
        raise SnapshotError("made by another model, core or layout")
    token_ids = np.frombuffer(rest, "<i4", num_pages * PAGE_TOKENS, key_bytes)
    checksums = np.frombuffer(rest, "<u8", num_pages, key_bytes + token_ids.nbytes)
    return Snapshot(path, token_ids.astype(np.int32), checksums.astype(np.uint64), offset)


def _key_text(key: Key) -> bytes:
    return json.dumps(dict(key), sort_keys=True).encode()


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
