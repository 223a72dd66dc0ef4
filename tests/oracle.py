"""A model that does what it is told by whoever spoke last, and a strategy that lets it: what stops
an attack then is no good sense, and no luck with a model."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from f1.planning.collect import Collector
from f1.planning.run import Run
from f1.planning.strategy import Move
from f1.types import CallDelta, StrategyName


class Obeys:
    """Makes every call that the model asks for, turn by turn, until it asks for none."""

    name: StrategyName = "react"

    async def decide(self, run: Run) -> AsyncGenerator[Move]:
        collector = Collector()
        async with aclosing(run.decode(run.request)) as events:
            async for event in events:
                collector.add(event)
                if isinstance(event, CallDelta):
                    yield run.node(event.call)
        yield collector.completion()
