"""Small models get stuck: what they wrote last they write again, to the end of the budget.

… {"b": true}, {"b": true}, {"b": true}, …
"""

from __future__ import annotations

WINDOW = 512  # tokens that must repeat
MAX_PERIOD = 64
_EVERY = 32  # tokens between looks


class LoopGuard:
    """Sees the tokens of one value."""

    def __init__(self) -> None:
        self._token_ids: list[int] = []

    def push(self, token_id: int) -> bool:
        """Whether the last WINDOW tokens are one piece over and over."""
        ids = self._token_ids
        ids.append(token_id)
        if len(ids) < WINDOW or len(ids) % _EVERY:
            return False
        del ids[:-WINDOW]
        return any(ids[period:] == ids[:-period] for period in range(1, MAX_PERIOD + 1))
