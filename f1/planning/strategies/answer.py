"""The last word of a run: what was found out, said by the writer."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from f1.planning.collect import Collector
from f1.planning.run import Run
from f1.planning.strategy import Move
from f1.types import GenerateRequest, ReasoningDelta, TextDelta, ToolChoice


async def answer(run: Run, request: GenerateRequest) -> AsyncGenerator[Move]:
    """Words, and no calls."""
    collector = Collector()
    request = replace(request, tool_choice=ToolChoice("none"))
    async with aclosing(run.decode(request, "writer")) as events:
        async for event in events:
            collector.add(event)
            if isinstance(event, TextDelta | ReasoningDelta):
                yield event
    yield collector.completion()
