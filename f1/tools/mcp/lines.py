"""Messages from bytes, without ever holding more of one than may be read.

A message that is too long is no reason to lose the connection, nor the call: its beginning is kept,
the rest is counted and forgotten, and its result is what its beginning says, marked as cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from f1.tools.mcp.results import CUT

_MAX_SKIPPED = 64 << 20  # bytes of one message; who sends more means harm
_TAIL = 256
_CONTENT_WITHIN = 4096
_ID_AT_START = re.compile(rb'\s*\{(?:\s*"jsonrpc"\s*:\s*"2\.0"\s*,)?\s*"id"\s*:\s*(\d{1,15})\s*,')
_ID_AT_END = re.compile(rb'"id"\s*:\s*(\d{1,15})\s*\}\s*\Z')


class Flooded(Exception):
    """More than anybody would read."""


@dataclass(frozen=True, slots=True)
class Line:
    head: bytes  # its first bytes
    size: int  # of all of it
    tail: bytes = b""  # where it is cut, its last bytes

    @property
    def is_cut(self) -> bool:
        return self.size > len(self.head)


class Lines:
    """Splits what is fed to it. Holds `max_bytes` and a little."""

    def __init__(self, max_bytes: int):
        self._max = max_bytes
        self._head = bytearray()
        self._tail = b""
        self._size = 0

    def feed(self, piece: bytes) -> Iterator[Line]:
        """The lines that end in it. Raises Flooded."""
        while piece:
            part, newline, piece = piece.partition(b"\n")
            self._size += len(part)
            if self._size > _MAX_SKIPPED:
                raise Flooded
            self._head += part[: self._max - len(self._head)]
            if self._size > self._max:
                self._tail = (self._tail + part[-_TAIL:])[-_TAIL:]
            if newline:
                if self._size:
                    yield Line(bytes(self._head), self._size, self._tail)
                self._head, self._tail, self._size = bytearray(), b"", 0


def first_of(line: Line, request_id: int | None = None) -> dict[str, Any] | None:
    """The answer that a cut message began to be; None where it cannot be told to what."""
    found = _ID_AT_START.match(line.head) or _ID_AT_END.search(line.tail)
    said_id = int(found[1]) if found else request_id
    if said_id is None:
        return None
    text = None
    if b'"content"' in line.head[:_CONTENT_WITHIN]:  # else it is not worth it, and may be large
        text = _text(_begun(line.head).get("result"))
    if text is None:
        text = line.head.decode(errors="replace")
    return {
        "jsonrpc": "2.0",
        "id": said_id,
        "result": {
            "content": [{"type": "text", "text": text}],
            "resultType": "complete",
            "_meta": {CUT: line.size},
        },
    }


def _begun(head: bytes) -> dict[str, Any]:
    """As much as can be read of a JSON object's beginning."""
    for shorter in range(4):  # it may end inside of a character
        try:
            begun = from_json(head[: len(head) - shorter], allow_partial="trailing-strings")
        except ValueError:
            continue
        return begun if isinstance(begun, dict) else {}
    return {}


def _text(result: Any) -> str | None:
    match result:
        case {"content": [{"text": str(text)}, *_]}:
            return text
    return None
