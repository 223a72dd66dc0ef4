"""One pass: the model makes its calls, they are run, it answers. No call follows a result."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from f1.planning.collect import Collector
from f1.planning.run import Run
from f1.planning.strategy import Move
from f1.types import CallDelta, ReasoningDelta, StrategyName, TextDelta, ToolChoice


class Direct:
    name: StrategyName = "direct"

    async def decide(self, run: Run) -> AsyncGenerator[Move]:
        request = run.request
        if run.nodes:
            request = replace(request, tool_choice=ToolChoice("none"))
        collector = Collector()
        async with aclosing(run.decode(request)) as events:
            async for event in events:
                collector.add(event)
                if isinstance(event, TextDelta | ReasoningDelta):
                    yield event
                elif isinstance(event, CallDelta):
                    yield run.node(event.call)
        yield collector.completion()
