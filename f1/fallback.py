"""Several models for one role: the first that can be had.

a ──out of reach, 5xx, 429──▶ b ──…──▶ c       only before the first event; then it is a's answer
└─ and is left aside for a while: 5 s, then twice as long each time, until it works again
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace

from f1.errors import ConstraintError, F1Error
from f1.planning.compaction import Measuring
from f1.planning.run import Engine
from f1.types import Event, Finished, GenerateRequest

log = logging.getLogger("f1.fallback")

FIRST_REST = 5.0  # seconds that a model is left aside after a failure
LONGEST_REST = 120.0


@dataclass(slots=True)
class _Outage:
    failures: int
    until: float


class Outages:
    """Which models have failed lately. For one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._lately: dict[str, _Outage] = {}

    def rests(self, name: str) -> bool:
        """It failed, and it is too early to try again."""
        return name in self._lately and self._clock() < self._lately[name].until

    def failed(self, name: str, error: F1Error) -> float:
        """Seconds for which it is left aside: as long as it asks for, where it says."""
        failures = self._lately[name].failures + 1 if name in self._lately else 1
        rest = error.retry_after or FIRST_REST * 2 ** min(failures - 1, 10)
        self._lately[name] = _Outage(failures, self._clock() + min(rest, LONGEST_REST))
        return min(rest, LONGEST_REST)

    def worked(self, name: str) -> None:
        self._lately.pop(name, None)


@dataclass(frozen=True, slots=True)
class Fallback:
    """An engine made of several. Finished.report.model says which one answered."""

    engines: Mapping[str, Engine]  # in order
    outages: Outages

    @property
    def context_length(self) -> int | None:
        """The first one's. None: it is not known."""
        first = next(iter(self.engines.values()))
        return first.context_length if isinstance(first, Measuring) else None

    async def tokenize(self, request: GenerateRequest) -> list[int]:
        """Of a first one whose `context_length` is known."""
        first = next(iter(self.engines.values()))
        if not isinstance(first, Measuring):
            raise TypeError("this engine does not tell its tokens")
        return await first.tokenize(request)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        """Raises what the last one raised that was tried."""
        names = [name for name in self.engines if not self.outages.rests(name)]
        names = names or list(self.engines)  # all have failed lately: to try is better than not to
        for name in names:
            begun = False
            try:
                async with aclosing(self.engines[name].generate(request)) as events:
                    async for event in events:
                        if not begun:
                            begun = True
                            self.outages.worked(name)
                        yield _signed(event, name)
                return
            except F1Error as error:
                if not is_outage(error):
                    raise
                rest = self.outages.failed(name, error)
                log.warning("model %s is left aside for %.0f s: %s", name, rest, error)
                if begun or name == names[-1]:
                    raise


def is_outage(error: F1Error) -> bool:
    """Of the model or its server, not of the request: another may well answer it."""
    passing = error.status >= 500 or error.status in (408, 429)
    return passing and not isinstance(error, ConstraintError)


def _signed(event: Event, name: str) -> Event:
    if isinstance(event, Finished):
        return replace(event, report=replace(event.report, model=name))
    return event
