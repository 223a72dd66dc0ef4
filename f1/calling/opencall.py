"""A call while it is read, from its name to the end of its arguments."""

from __future__ import annotations

import codecs
import secrets

import orjson

from f1.calling.scanner import JsonScanner
from f1.types import ArgumentsDelta, CallBegun, CallDelta, Tool, ToolCall


class OpenCall:
    """Its arguments, byte by byte; eagerly told, also in pieces of whole characters."""

    def __init__(self, tool: Tool, *, choice: int, index: int):
        self.tool = tool
        self.scanner = JsonScanner()
        self.bounded = False  # a value in it was brought to its end by a limit
        self._choice, self._index = choice, index
        self._id = f"call_{secrets.token_hex(12)}"
        self._arguments = bytearray()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def begun(self) -> CallBegun:
        return CallBegun(self._choice, self._index, self._id, self.tool.name)

    def feed(self, data: bytes, remaining: int) -> tuple[list[ArgumentsDelta], bytes]:
        """Reads on, with `remaining` tokens of budget left. Returns the piece read, if it makes any
        text, and what stands behind the arguments."""
        used = self.scanner.feed(data, remaining)
        read = data[:used] if self._arguments else data[:used].lstrip()
        self._arguments += read
        piece = self._decoder.decode(read)
        told = [ArgumentsDelta(self._choice, self._index, piece)] if piece else []
        return told, data[used:]

    @property
    def arguments(self) -> str:
        return self._arguments.decode("utf-8", "replace")

    def closed(self) -> CallDelta:
        call = ToolCall(self._id, self.tool.name, self.arguments)
        return CallDelta(self._choice, self._index, call, self.bounded)


def identical(left: ToolCall, right: ToolCall) -> bool:
    """Whether both say the same, however it is spelled."""
    return left.name == right.name and _canonical(left) == _canonical(right)


def _canonical(call: ToolCall) -> bytes:
    return orjson.dumps(orjson.loads(call.arguments), option=orjson.OPT_SORT_KEYS)
