"""What a segment's grammar is made of: text that can be sent to another process and hashed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

import xgrammar

MAX_WHITESPACE = 24  # between two pieces of JSON: room for an indented line, not for a loop


Kind = Literal["regex", "ebnf"]


@dataclass(frozen=True, slots=True)
class Source:
    """`text` is a pattern or EBNF; `before` and `after` are EBNF around it."""

    kind: Kind
    text: str
    before: str = ""
    after: str = ""

    @property
    def key(self) -> bytes:
        """Short, and another one for every other source."""
        parts = (self.kind, self.text, self.before, self.after)
        return blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()

    def grammar(self) -> Any:
        """As xgrammar takes it, without a vocabulary. Raises RuntimeError."""
        body = self._body()
        if not self.before and not self.after:
            return body
        from_ebnf = xgrammar.Grammar.from_ebnf
        return xgrammar.Grammar.concat(from_ebnf(self.before), body, from_ebnf(self.after))

    def _body(self) -> Any:
        if self.kind == "regex":
            return xgrammar.Grammar.from_regex(self.text)
        return xgrammar.Grammar.from_ebnf(self.text)


def reason(error: Exception) -> str:
    """xgrammar's message without the source position it starts with."""
    text = str(error).strip() or "internal limit"
    return re.sub(r"^(\[[^\]]*\]\s*)?(\S+:\d+:\s*)?", "", text.splitlines()[-1])[:500]
