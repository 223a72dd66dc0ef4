"""One pass: the model makes its calls, they are run, it answers. No call follows a result."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from f1.planning.collect import Collector
from f1.planning.run import Run
from f1.planning.strategies.answer import answer
from f1.planning.strategy import Move
from f1.types import CallDelta, ReasoningDelta, StrategyName, TextDelta


class Direct:
    name: StrategyName = "direct"

    async def decide(self, run: Run) -> AsyncGenerator[Move]:
        if run.nodes:
            async with aclosing(answer(run, run.request)) as moves:
                async for move in moves:
                    yield move
            return
        collector = Collector()
        async with aclosing(run.decode(run.request)) as events:
            async for event in events:
                collector.add(event)
                if isinstance(event, TextDelta | ReasoningDelta):
                    yield event
                elif isinstance(event, CallDelta):
                    yield run.node(event.call)
        yield collector.completion()
