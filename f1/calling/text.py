"""What a turn shows as content: whole characters, cut at stop strings, never half a stop string.

Linear in the text, in whatever pieces it comes and whatever the stop strings are.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class ContentStream:
    """Bytes in, releasable text out. Text before a call loses its trailing whitespace."""

    def __init__(self, stops: Sequence[str], *, hold_whitespace: bool):
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = [_Stop(stop) for stop in stops]
        self._hold_whitespace = hold_whitespace
        self._white: list[str] = []  # held, for a call may follow; then
        self._held = ""  # what may begin a stop string
        self.stop: str | None = None  # the stop string that was found

    @property
    def stopped(self) -> bool:
        return self.stop is not None

    def push(self, data: bytes) -> str:
        """More bytes of content; returns the text that can be shown now."""
        return self._release(self._decoder.decode(data))

    def end(self) -> str:
        """The turn is over: returns the rest; behind a stop string there is none."""
        if self.stopped:
            return ""
        text = self._release(self._decoder.decode(b"", final=True))
        rest = "".join(self._white) + self._held
        self._white, self._held = [], ""
        return text + rest

    def end_before_call(self) -> str:
        """A call follows: returns the rest but for trailing whitespace."""
        return self.end().rstrip()

    def _release(self, text: str) -> str:
        if self._stops:
            text = self._cut(text)
        if self.stopped or not self._hold_whitespace:
            return self._take_white() + text
        shown = text.rstrip()
        released = self._take_white() + shown if shown else ""
        if len(shown) < len(text):
            self._white.append(text[len(shown) :])
        return released

    def _take_white(self) -> str:
        white, self._white = "".join(self._white), []
        return white

    def _cut(self, text: str) -> str:
        """The part before the stop string that is whole first, the longest of those that end
        together; without one, the part that can begin none."""
        text, begin = self._held + text, len(self._held)
        for at in range(begin, len(text)):
            found = [stop.text for stop in self._stops if stop.push(text[at])]
            if found:
                self.stop, self._held = max(found, key=len), ""
                return text[: at + 1 - len(self.stop)]
        keep = max(stop.size for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


class _Stop:
    """How much of a stop string the text ends with (Knuth, Morris, Pratt 1977)."""

    def __init__(self, text: str):
        self.text = text
        self.size = 0
        self._shorter = [0]  # for each of its beginnings, the longest that is also its end
        for char in text[1:]:
            self._shorter.append(self._longest(self._shorter[-1], char))

    def push(self, char: str) -> bool:
        """The text goes on with `char`. Whether it now ends with the whole string."""
        self.size = self._longest(self.size, char)
        return self.size == len(self.text)

    def _longest(self, size: int, char: str) -> int:
        while size and self.text[size] != char:
            size = self._shorter[size - 1]
        return size + (self.text[size] == char)
