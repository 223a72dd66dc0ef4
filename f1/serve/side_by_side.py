"""Several requests decoded side by side, as if they were one with more choices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from f1.planning.run import Engine
from f1.types import Event, GenerateRequest

Stream = AsyncGenerator[Event]


async def side_by_side(engine: Engine, requests: Sequence[GenerateRequest]) -> Stream:
    """The events of all; the choices of a request are numbered on from those of the one before.
    The first that fails ends all."""
    if len(requests) == 1:
        async with aclosing(engine.generate(requests[0])) as events:
            async for alone in events:
                yield alone
        return
    streams: list[tuple[int, Stream]] = []
    first_choice = 0
    for request in requests:
        streams.append((first_choice, engine.generate(request)))
        first_choice += request.n
    waiting = {_next(stream): (first, stream) for first, stream in streams}
    try:
        # All have begun before one is told of, so that a wrong one is refused and not broken off.
        begun, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_EXCEPTION)
        for task in begun:
            task.result()
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=lambda task: waiting[task][0]):
                first, stream = waiting.pop(task)
                if (event := task.result()) is not None:
                    yield replace(event, choice=event.choice + first)
                    waiting[_next(stream)] = (first, stream)
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for _, stream in streams:
            await stream.aclose()


def _next(stream: Stream) -> asyncio.Task[Event | None]:
    async def one() -> Event | None:
        return await anext(stream, None)

    return asyncio.create_task(one())
