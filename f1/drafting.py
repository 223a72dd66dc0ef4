"""Guesses of the next tokens, looked up where the last few stood before: in the sequence itself
(arguments are copied from the request and from tool results), then in what was decoded lately.

    …Weather in| Rio| de| Janeiro|?…   "city":| "|Rio| de|  →  Janeiro
                 ^^^^^^^^                          ^^^^^^^^

The core verifies them all in one pass, so a guess changes no token, only the time: with three right
one step yields four tokens, with none right it takes a little longer than without. Each sequence
therefore lives on credit, which right guesses earn and wrong ones spend.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

MAX_DRAFTS = 3  # a step of four rows takes some 1.25 of the time of one
MAX_HISTORY = 1 << 13  # tokens of earlier completions
SIZE = array("i").itemsize

# In steps without a draft. What can be lost on a sequence that never repeats itself is the first
# credit, and then one failed draft (3 * COST) each time that waiting has saved it up again.
FIRST_CREDIT = 0.5
MAX_CREDIT = 3.0
COST = 0.1  # of one draft, right or wrong
SAVING = 0.02  # of a step in which nothing was drafted


def rows_for_drafts(num_sequences: int) -> int:
    """How many drafts each may try. Few rows take little longer than one, many take their time."""
    return max((1 + MAX_DRAFTS) // max(num_sequences, 1) - 1, 0)


class History:
    """The tokens decoded lately, of all sequences."""

    def __init__(self) -> None:
        self._tokens = bytearray()

    def add(self, token_ids: bytes) -> None:
        self._tokens += token_ids
        del self._tokens[: max(0, len(self._tokens) - MAX_HISTORY * SIZE)]

    def find(self, last: bytes, most: int) -> bytes:
        return _behind(self._tokens, last, len(self._tokens), most)


class Drafter:
    """Drafts for one sequence."""

    def __init__(self, prompt: Sequence[int], history: History, never: frozenset[int]):
        """`never` are tokens that no draft goes beyond: those that end or steer a turn."""
        self._tokens = bytearray(array("i", prompt).tobytes())
        self._num_prompt_bytes = len(self._tokens)
        self._history = history
        self._never = never
        self._credit = FIRST_CREDIT
        self._num_drafted = 0

    def push(self, token_ids: Iterable[int]) -> None:
        """What follows now, sampled or not."""
        self._tokens += array("i", token_ids).tobytes()

    def draft(self, match: int, most: int) -> list[int]:
        """At most `most` tokens that stood behind the last `match` tokens before; perhaps none."""
        most = min(most, int(self._credit / COST))
        if most < 1:
            self._credit += SAVING
            return []
        last = bytes(self._tokens[-match * SIZE :])
        found = _behind(self._tokens, last, len(self._tokens) - SIZE, most)
        found = found or self._history.find(last, most)
        drafts = array("i", found).tolist()
        if self._never.isdisjoint(drafts):
            return drafts
        return drafts[: next(i for i, token_id in enumerate(drafts) if token_id in self._never)]

    def settle(self, num_drafted: int, num_right: int) -> None:
        """How a draft went."""
        self._credit = min(self._credit + num_right - num_drafted * COST, MAX_CREDIT)

    def close(self) -> None:
        """The sequence has ended: others may repeat what was decoded."""
        self._history.add(bytes(self._tokens[self._num_prompt_bytes :]))


def _behind(tokens: bytearray, last: bytes, end: int, most: int) -> bytes:
    """What follows the latest occurrence of `last` that ends at byte `end` or before."""
    at = tokens.rfind(last, 0, end)
    while at >= 0 and at % SIZE:
        at = tokens.rfind(last, 0, at + len(last) - 1)
    begin = at + len(last)
    return bytes(tokens[begin : begin + most * SIZE]) if at >= 0 else b""
