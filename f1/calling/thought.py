"""Splits what a turn begins with into a thought and the answer.

    [white space] <think> … </think> [white space] the answer
                  └ thought ┘

A thought stands first or nowhere; some templates open it in the prompt. What is in it is neither
content nor a call, whatever it looks like.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_LEAD = 32  # bytes of white space before a thought


@dataclass(frozen=True, slots=True)
class Reasoning:
    """How a family writes its thoughts."""

    open: str
    close: str

    def write(self, thought: str) -> str:
        """A thought as the model would have written it."""
        return f"{self.open}\n{thought}\n{self.close}\n\n"

    def skipped(self, prompt_end: bytes) -> str:
        """What a turn without a thought begins with, behind a prompt with this end."""
        end = prompt_end.rstrip()
        if end.endswith(self.close.encode()):
            return ""
        return f"\n{self.close}\n\n" if end.endswith(self.open.encode()) else self.write("")

    def opened_in(self, prompt_end: bytes) -> bool:
        return prompt_end.rstrip().endswith(self.open.encode())


class Thought:
    """Reads a turn until its thought is over, or it is clear that there is none."""

    def __init__(self, reasoning: Reasoning, *, inside: bool):
        self._open, self._close = reasoning.open.encode(), reasoning.close.encode()
        self._pending = b""
        self.inside = inside

    def copy(self) -> Thought:
        twin = Thought.__new__(Thought)
        twin._open, twin._close = self._open, self._close
        twin._pending, twin.inside = self._pending, self.inside
        return twin

    def push(self, data: bytes) -> tuple[bytes, bytes | None]:
        """The bytes that are thought; and what stands behind, once nothing more is thought."""
        data, self._pending = self._pending + data, b""
        if not self.inside:
            lead = data.lstrip()
            if len(data) - len(lead) > MAX_LEAD:
                return b"", data
            if not lead.startswith(self._open):
                if not self._open.startswith(lead):
                    return b"", data
                self._pending = data
                return b"", None
            self.inside, data = True, lead[len(self._open) :]
        end = data.find(self._close)
        if end >= 0:
            return data[:end], data[end + len(self._close) :]
        keep = _overlap(data, self._close)
        self._pending = data[len(data) - keep :]
        return data[: len(data) - keep], None

    def flush(self) -> tuple[bytes, bytes]:
        """The turn is over: what was held back, of the thought and of the answer."""
        pending, self._pending = self._pending, b""
        return (pending, b"") if self.inside else (b"", pending)


def _overlap(data: bytes, mark: bytes) -> int:
    """Length of the longest end of `data` that begins `mark`."""
    sizes = range(min(len(data), len(mark) - 1), 0, -1)
    return next((size for size in sizes if data.endswith(mark[:size])), 0)
