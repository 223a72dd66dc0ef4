"""Tokens by what they spell: a vocabulary in the order of its bytes."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence


class Spelling:
    def __init__(self, token_bytes: Sequence[bytes]):
        self._token_bytes = token_bytes
        self._sorted = array("i", sorted(range(len(token_bytes)), key=token_bytes.__getitem__))

    def longer(self, data: bytes) -> array[int]:
        """The tokens that begin with `data` and go on."""
        token_bytes, size = self._token_bytes, len(data)
        begin = bisect_right(self._sorted, data, key=token_bytes.__getitem__)
        end = bisect_right(self._sorted, data, lo=begin, key=lambda i: token_bytes[i][:size])
        return self._sorted[begin:end]

    def beginnings(self, text: bytes) -> list[int]:
        """The tokens that `text` may begin with."""
        found: list[int] = []
        tokens, token_bytes = self._sorted, self._token_bytes
        begin, end = 0, len(tokens)
        for size in range(1, len(text) + 1):
            part = text[:size]
            begin = bisect_left(tokens, part, lo=begin, hi=end, key=token_bytes.__getitem__)
            end = bisect_right(tokens, part, lo=begin, hi=end, key=lambda i: token_bytes[i][:size])
            if begin == end:
                break  # no token is so long
            while begin < end and token_bytes[tokens[begin]] == part:
                found.append(tokens[begin])
                begin += 1
        return found
