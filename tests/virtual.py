"""Asyncio without waiting: a clock that stands still while anything runs, and jumps to the next
timer when nothing does. What happens, and when, is the same in every run."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Stuck(Exception):
    """Everything waits, and for nothing that will come."""


class _Jumping(selectors.SelectSelector):
    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Stuck
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """`errors` are those that nobody saw, in words."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)
        self.errors: list[str] = []
        self.set_exception_handler(lambda _, context: self.errors.append(str(context)))

    def time(self) -> float:
        return self._jumping.now


def run(work: Coroutine[Any, Any, T]) -> T:
    """Like asyncio.run, in virtual time. Raises Stuck; RuntimeError for what was left behind."""
    loop = VirtualLoop()
    try:
        result = loop.run_until_complete(work)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=1000))
        loop.close()
    if left or loop.errors:
        raise RuntimeError(f"left behind: {left} {loop.errors}")
    return result
