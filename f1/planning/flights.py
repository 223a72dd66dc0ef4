"""Identical calls under way at the same time are one call, whose outcome all of them get."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from f1.planning.tries import Outcome, ended

Begun = Callable[[], Awaitable[None]]
Work = Callable[[Begun], Coroutine[Any, Any, Outcome]]


class _Flight:
    def __init__(self, work: Work):
        self.waiting: list[Begun] = []  # who waits for the outcome, and is told of the beginning
        self.has_begun = False
        self.task = asyncio.create_task(work(self._begin))

    async def _begin(self) -> None:
        self.has_begun = True
        for begun in list(self.waiting):
            await begun()


class Flights:
    """Of one tool."""

    def __init__(self) -> None:
        self._flights: dict[str, _Flight] = {}

    async def join(self, key: str, work: Work, begun: Begun) -> tuple[Outcome, bool]:
        """The outcome of `work`, or (True) of the one with that key that is under way already. It
        belongs to nobody alone: the last who stops waiting ends it, and waits for its end."""
        flight = self._flights.get(key)
        shared = flight is not None
        if flight is None:
            flight = self._flights[key] = _Flight(work)
            flight.task.add_done_callback(partial(self._remove, key))
        flight.waiting.append(begun)
        if flight.has_begun:
            await begun()
        try:
            return await asyncio.shield(flight.task), shared
        finally:
            flight.waiting.remove(begun)
            if not flight.waiting and not flight.task.done():
                self._remove(key, flight.task)
                flight.task.cancel()
                await ended(flight.task)

    def _remove(self, key: str, task: asyncio.Task[Outcome]) -> None:
        flight = self._flights.get(key)
        if flight is not None and flight.task is task:  # not one that began since
            del self._flights[key]
