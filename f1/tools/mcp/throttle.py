"""How fast a server is listened to. What it sends faster waits in its own pipe."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

_A_SECOND = 1000.0  # messages; parsing them takes a tenth of one
_AT_ONCE = 4000.0


class Throttle:
    """A bucket of tokens; one is a small message."""

    def __init__(self, clock: Callable[[], float] = monotonic):
        self._clock = clock
        self._left = _AT_ONCE
        self._at = clock()

    async def take(self, tokens: float) -> None:
        now = self._clock()
        self._left = min(_AT_ONCE, self._left + (now - self._at) * _A_SECOND) - tokens
        self._at = now
        if self._left < 0:
            await asyncio.sleep(-self._left / _A_SECOND)
