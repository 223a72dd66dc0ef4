"""What a turn shows as content: whole characters, cut at stop strings, never half a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class ContentStream:
    """Bytes in, releasable text out. Text before a call loses its trailing whitespace."""

    def __init__(self, stops: Sequence[str], *, hold_whitespace: bool):
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = stops
        self._hold_whitespace = hold_whitespace
        self._held = ""
        self.stop: str | None = None  # the stop string that was found

    @property
    def stopped(self) -> bool:
        return self.stop is not None

    def push(self, data: bytes) -> str:
        """More bytes of content; returns the text that can be shown now."""
        return self._release(self._decoder.decode(data))

    def end(self) -> str:
        """The turn is over: returns the rest."""
        text = self._release(self._decoder.decode(b"", final=True))
        rest, self._held = self._held, ""
        return text if self.stopped else text + rest

    def end_before_call(self) -> str:
        """A call follows: returns the rest but for trailing whitespace."""
        return self.end().rstrip()

    def _release(self, text: str) -> str:
        text = self._held + text
        keep = 0
        if self._stops:
            found = [
                (at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0
            ]
            if found:  # the one that is whole first, so that it does not matter how text was cut
                _, cut, self.stop = min(found)
                self._held = ""
                return text[:cut]
            keep = max(_overlap(text, stop) for stop in self._stops)
        if self._hold_whitespace:
            keep = max(keep, len(text) - len(text[: len(text) - keep].rstrip()))
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
