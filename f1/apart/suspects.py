"""Which request it was that an engine died of.

    dies with A B C in it ──▶ each is a suspect: from now on one of them runs at a time, beside
                              others that are none, until it has come further than it had
    dies with suspect B   ──▶ it was B, which is refused from now on

So what kills an engine does it twice, and those that were beside it go free. One of these is
wrongly refused only where the engine dies of something else in the moments in which it is on trial;
and nothing is held against anybody for more than an hour.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

SECONDS = 3600.0
_MOST = 4096  # that are remembered; the oldest are let go
_MARGIN = 16  # events further than it had come; some were on their way when the engine died


@dataclass(slots=True)
class _Suspicion:
    until: float
    reached: int  # events that it had sent
    condemned: bool = False


class Suspects:
    """By fingerprints of requests. Not thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._known: dict[str, _Suspicion] = {}

    def __bool__(self) -> bool:
        return bool(self._known)

    @property
    def num_condemned(self) -> int:
        return sum(each.condemned for each in self._known.values())

    def died_with(self, present: Iterable[tuple[str, int]]) -> None:
        """The fingerprints of those in the engine, and how many events each had sent."""
        self._forget()
        until = self._clock() + SECONDS
        before = set(self._known)
        for fingerprint, reached in present:
            known = self._known.pop(fingerprint, None) or _Suspicion(until, reached)
            known.until, known.reached = until, max(known.reached, reached)
            known.condemned |= fingerprint in before
            self._known[fingerprint] = known
        for oldest in list(self._known)[:-_MOST]:
            del self._known[oldest]

    def condemned(self, fingerprint: str) -> bool:
        self._forget()
        return fingerprint in self._known and self._known[fingerprint].condemned

    def suspects(self, fingerprint: str) -> bool:
        self._forget()
        return fingerprint in self._known

    def is_past(self, fingerprint: str, sent: int) -> bool:
        """It has come further than when the engine died."""
        known = self._known.get(fingerprint)
        return known is None or sent > known.reached + _MARGIN

    def clear(self, fingerprint: str) -> None:
        """It was not that one."""
        self._known.pop(fingerprint, None)

    def _forget(self) -> None:
        now = self._clock()
        for fingerprint in [f for f, known in self._known.items() if known.until <= now]:
            del self._known[fingerprint]
