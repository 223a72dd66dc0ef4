"""Follows JSON text byte by byte: where it ends, and what could be closed next.

The grammar decides what is legal; the scanner only knows where in the value we are.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

MAX_DIGITS = 24

_NUMBER = frozenset(b"0123456789+-.eE")


class Closer(enum.Enum):
    """What brings the innermost open thing to its end: tokens that start with this."""

    QUOTE = '"'
    BRACKET = "]"
    BRACE = "}"
    NON_DIGIT = "anything but a digit"


@dataclass(frozen=True, slots=True)
class _Open:
    """Something opened and not yet closed: its first byte, and the token budget left there."""

    kind: int
    remaining: int


class JsonScanner:
    """Reads one JSON value. `done` once its last byte was read; scalars but strings never end."""

    def __init__(self) -> None:
        self.done = False
        self._stack: list[_Open] = []
        self._escaped = False
        self._digits = 0

    def copy(self) -> JsonScanner:
        twin = JsonScanner()
        twin.done, twin._stack = self.done, self._stack.copy()
        twin._escaped, twin._digits = self._escaped, self._digits
        return twin

    def string_tokens(self, remaining: int) -> int | None:
        """Tokens read since the innermost open thing was opened, if that is a string."""
        if not self._stack or self._stack[-1].kind != 0x22:
            return None
        return self._stack[-1].remaining - remaining

    def feed(self, data: bytes, remaining: int) -> int:
        """Reads `data`, sampled with `remaining` tokens of budget left.

        Returns how many bytes belong to the value; the rest is what follows it.
        """
        in_string = bool(self._stack) and self._stack[-1].kind == 0x22 and not self._escaped
        if in_string and 0x22 not in data and 0x5C not in data:
            return len(data)  # most tokens: nothing in them changes where we are
        for index, byte in enumerate(data):
            self._read(byte, remaining)
            if self.done:
                return index + 1
        return len(data)

    def _read(self, byte: int, remaining: int) -> None:
        stack = self._stack
        if stack and stack[-1].kind == 0x22:  # inside a string
            if self._escaped:
                self._escaped = False
            elif byte == 0x5C:
                self._escaped = True
            elif byte == 0x22:
                self._close()
            return
        if byte in b"eE" and self._digits:  # two more, or it would be out of a double's range
            self._digits = max(self._digits, MAX_DIGITS - 3)
        self._digits = self._digits + 1 if byte in _NUMBER else 0
        if byte in b'"{[':
            stack.append(_Open(byte, remaining))
        elif byte in b"}]":
            self._close()

    def _close(self) -> None:
        if self._stack:
            self._stack.pop()
        self.done = not self._stack

    def closers(self) -> list[Closer]:
        """What may close the innermost open thing, or else the number that is being read in it."""
        if not self._stack or self._escaped:
            return []
        kind = self._stack[-1].kind
        if kind == 0x22:
            return [Closer.QUOTE]
        closer = Closer.BRACKET if kind == 0x5B else Closer.BRACE
        return [closer, Closer.NON_DIGIT] if self._digits else [closer]

    @property
    def number_is_full(self) -> bool:
        """More digits would say nothing that a double holds, and few readers would take them."""
        return self._digits >= MAX_DIGITS
