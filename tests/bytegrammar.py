"""The grammar of a schema over single bytes: what it accepts, and random texts it allows."""

from __future__ import annotations

import json
import random
from functools import cache
from typing import Any

import numpy as np
import xgrammar

from f1.calling.lowering import lower

MAX_BYTES = 600
_CLOSERS = frozenset(b'"}]')
_PLAIN = frozenset(b' "+,-./0123456789:ABCEZ[]_abefilnrstuxyz{}\\@T')


@cache
def _compiler() -> Any:
    vocabulary = [bytes([byte]) for byte in range(256)]
    info = xgrammar.TokenizerInfo([*vocabulary, b"<end>"], vocab_size=257, stop_token_ids=[256])
    return xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)


class ByteGrammar:
    """Of one schema, lowered. Raises InvalidSchema where nothing satisfies it."""

    def __init__(self, schema: dict[str, Any], *, whitespace: int = 0):
        lowered = lower(schema, "f", whitespace=whitespace)
        self.relaxed = lowered.relaxed
        self._compiled = _compiler().compile_grammar(xgrammar.Grammar.from_ebnf(lowered.ebnf))

    def accepts(self, value: Any) -> bool:
        return self.accepts_text(json.dumps(value, ensure_ascii=False))

    def accepts_text(self, text: str) -> bool:
        matcher = xgrammar.GrammarMatcher(self._compiled)
        return bool(matcher.accept_string(text) and matcher.is_completed())

    def walk(self, draw: random.Random) -> str | None:
        """A random text of the grammar; None: it did not come to an end in time."""
        matcher = xgrammar.GrammarMatcher(self._compiled)
        mask = np.zeros((1, (257 + 31) // 32), np.int32)
        data = bytearray()
        while len(data) < MAX_BYTES:
            if matcher.is_completed() and (draw.random() < 0.5 or len(data) > MAX_BYTES // 2):
                return data.decode()
            matcher.fill_next_token_bitmask(mask)
            bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[:256]
            legal = np.flatnonzero(bits).tolist()
            if not legal:
                return data.decode() if matcher.is_completed() else None
            byte = _choose(legal, draw, len(data))
            assert matcher.accept_token(byte)
            data.append(byte)
        return None


def _choose(legal: list[int], draw: random.Random, size: int) -> int:
    closers = [byte for byte in legal if byte in _CLOSERS]
    if closers and draw.random() < min(0.25 + size / MAX_BYTES * 2, 0.95):
        return draw.choice(closers)
    plain = [byte for byte in legal if byte in _PLAIN]
    return draw.choice(plain if plain and draw.random() < 0.95 else legal)
