"""When a request has to be over, whatever it is doing then."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from f1.errors import DeadlineExceeded, F1Error

T = TypeVar("T")


class Deadline:
    """Ends waits so many seconds after `began`, of time.monotonic(), or as soon as it is cut.

    Each wait is timed by itself: a generator's events are awaited from several tasks, and a
    timeout must be left in the task that entered it.
    """

    def __init__(self, began: float, seconds: float):
        self._at = began + seconds  # event loops go by the same clock
        self._error: F1Error = DeadlineExceeded(f"not done within {seconds:g} seconds")
        self._timeout: asyncio.Timeout | None = None

    def cut(self, error: F1Error) -> None:
        """Ends the wait that is on, and all that follow, with `error`."""
        self._at, self._error = 0.0, error
        if self._timeout is not None:
            self._timeout.reschedule(0.0)

    async def wait(self, work: Awaitable[T]) -> T:
        """What `work` returns. Raises DeadlineExceeded, or what it was cut with."""
        try:
            async with asyncio.timeout_at(self._at) as self._timeout:
                return await work
        except TimeoutError:
            raise self._error from None
        finally:
            self._timeout = None
