"""The shortest way to the end of a call, as far as a greedy walk finds it.

For calls that the token limit has cut: what is open is closed as soon as the grammar allows, and
what must be written is written in the longest tokens there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from f1.calling.grammar import Grammars, TokenMask
from f1.calling.scanner import JsonScanner

MAX_WALK = 256  # steps
MAX_WALK_SECONDS = 0.2  # of processor time: others wait for theirs

_CLOSING = b'"]}'


class Shortest:
    """Picks the next token of the walk."""

    def __init__(self, grammars: Grammars, token_bytes: Sequence[bytes]):
        self._grammars = grammars
        self._token_bytes = token_bytes
        sizes = [0 if data.isspace() else len(data) for data in token_bytes]
        self._sizes = np.array(sizes, np.int32)

    def in_json(self, mask: TokenMask, scanner: JsonScanner) -> int | None:
        """Closes what can be closed; ends a number; else the longest token. None: nothing may."""
        for closer in scanner.closers():
            closing = self._grammars.narrowed(mask, closer)
            if closing is not None:
                return self._closing(self._legal(closing))
        return self.longest(mask)

    def towards(self, mask: TokenMask, text: bytes) -> int | None:
        """The longest legal token that `text` begins with."""
        found = [
            i for i in self._legal(mask) if (data := self._token_bytes[i]) and text.startswith(data)
        ]
        return max(found, key=lambda i: len(self._token_bytes[i]), default=None)

    def longest(self, mask: TokenMask) -> int | None:
        legal = self._legal(mask)
        return int(legal[self._sizes[legal].argmax()]) if len(legal) else None

    def _closing(self, legal: NDArray[np.intp]) -> int:
        """The one that closes most; where only one thing can be closed, the one that goes on most
        from there."""
        closing = [i for i in legal if not self._token_bytes[i].strip(_CLOSING)]
        several = max(closing, key=lambda i: self._sizes[i], default=legal[0])
        return int(several if self._sizes[several] > 1 else legal[self._sizes[legal].argmax()])

    def _legal(self, mask: TokenMask) -> NDArray[np.intp]:
        bits = np.unpackbits(mask.view(np.uint8), count=len(self._sizes), bitorder="little")
        return np.flatnonzero(bits)
