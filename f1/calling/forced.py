"""Text of which only one continuation is legal, as the tokens the model would have written.

    read so far   …{"city": "Paris",
    forced                           ▏ "days": ▏      bytes, from the grammar
    canonical                        ▏ "▏days▏":▏ ▏   as the model's own tokenizer splits them
    committed                        ▏ "▏days▏":▏     without the end that could still grow (" -")

To force a split that the model would not make leads it astray. So nothing is forced where the
tokenizer, given what stands before, sees no boundary. And where a legal token would begin inside
the text and go on behind it, the text up to there is split anew: only the pieces stay on which all
ends agree. (A part of a BPE encoding is the encoding of that part.)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from f1.calling.grammar import Segment, TokenSet
from f1.calling.latest import Latest
from f1.calling.spelling import Spelling

CONTEXT_BYTES = 32  # of what was read; a tokenizer's pieces do not look further back
_KEPT_BYTES = 16 << 20  # of splits, and of tokens that go on behind some text
MAX_OVERLAP = 16  # bytes of a token that begins inside the forced text and goes on behind it


class Canonical:
    """Splits forced bytes as the model's tokenizer does. Thread-safe."""

    def __init__(
        self,
        encode: Callable[[str], list[int]],
        token_bytes: Sequence[bytes],
        spelling: Spelling,
        *,
        added: Collection[int],
        never: Collection[int],
    ):
        """`encode` takes trusted text. `added` are tokens matched whole, before any merging; a text
        with one of `never` in it (control tokens may be spelled in a schema) is not forced."""
        self._encode = encode
        self._token_bytes = token_bytes
        self._added = frozenset(added)
        self._never = frozenset(never)
        self.pieces = Latest(
            self._pieces, _KEPT_BYTES, lambda ids, before, data: 9 * len(ids) + len(data) + 300
        )
        self.spelling = spelling
        self.longer = Latest(self._longer, _KEPT_BYTES, lambda ids, data: 8 * len(ids) + 300)

    def _pieces(self, before: bytes, data: bytes) -> tuple[int, ...]:
        """The tokens of `data` behind `before`; () where no token begins at `data`."""
        text = _whole_characters(before) + data
        try:
            token_ids = self._encode(text.decode())
        except UnicodeDecodeError:
            return ()
        begin, length = len(token_ids), 0
        while begin > 0 and length < len(data):
            begin -= 1
            length += len(self._token_bytes[token_ids[begin]])
        pieces = token_ids[begin:]
        same = b"".join(map(self._token_bytes.__getitem__, pieces)) == data
        return tuple(pieces) if same and self._never.isdisjoint(pieces) else ()

    def _longer(self, data: bytes) -> TokenSet:
        """The tokens that begin with `data` and go on."""
        return TokenSet(np.array(self.spelling.longer(data), np.int32))

    def overlaps(self, pieces: Sequence[int]) -> int:
        """How many bytes at the end of `pieces` are plain text, which may be merged otherwise."""
        size = 0
        for token_id in reversed(pieces):
            if token_id in self._added or size >= MAX_OVERLAP:
                break
            size += len(self._token_bytes[token_id])
        return min(size, MAX_OVERLAP)


def forced_tokens(segment: Segment, before: bytes, canonical: Canonical) -> tuple[int, ...]:
    """What can be committed behind `before`, the bytes read last; the segment stays as it is."""
    data = segment.forced()
    if not data:
        return ()
    before = before[-CONTEXT_BYTES:]
    pieces = canonical.pieces(before, data)
    begins = range(len(data) - canonical.overlaps(pieces), len(data))
    longer = ((begin, canonical.longer(data[begin:])) for begin in begins)
    for begin in segment.where_legal(data, (found for found in longer if found[1])):
        pieces = _common(pieces, canonical.pieces(before, data[:begin]))
        if not pieces:
            break
    return pieces


def _common(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    """The beginning that both share."""
    size = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), None)
    return left[: min(len(left), len(right)) if size is None else size]


def _whole_characters(data: bytes) -> bytes:
    """Without the bytes in front that continue a character cut off."""
    begin = 0
    while begin < len(data) and data[begin] & 0xC0 == 0x80:
        begin += 1
    return data[begin:]
