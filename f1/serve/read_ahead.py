"""Events taken as they come, whoever reads them, and however slowly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from f1.types import Event

Stream = AsyncGenerator[Event]

MAX_UNREAD = 1024  # events of a stream; some 100 kB, for they are a token each


async def read_ahead(events: Stream) -> Stream:
    """The events, which are awaited whether or not those before were read: what makes them comes
    to its end, and makes room, while a slow client still reads. Behind MAX_UNREAD it waits."""
    unread: asyncio.Queue[Event | Exception | None] = asyncio.Queue(MAX_UNREAD)

    async def take() -> None:
        end = None
        try:
            async with aclosing(events):
                async for event in events:
                    await unread.put(event)
        except Exception as error:
            end = error
        await unread.put(end)

    taking = asyncio.create_task(take())
    try:
        while (event := await unread.get()) is not None:
            if isinstance(event, Exception):
                raise event
            yield event
    finally:
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        await events.aclose()  # which has not begun where the task has not
