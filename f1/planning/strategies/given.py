"""The plan that the caller brought, then whatever the strategy makes of its results."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from f1.planning.run import NOTHING, Run
from f1.planning.strategy import Move, Strategy
from f1.types import Plan, StrategyName


class Given:
    def __init__(self, plan: Plan, then: Strategy):
        self.name: StrategyName = then.name
        self._plan = plan
        self._then = then

    async def decide(self, run: Run) -> AsyncGenerator[Move]:
        # A conversation that ends with results comes back from the caller's part of a plan: it is
        # not to be run from its beginning once more, also where nothing is known of it any longer.
        if run.step == 1 and run.request.messages[-1].role != "tool":
            for node in self._plan.nodes:
                yield replace(node, call_id=f"call_{secrets.token_hex(12)}")
            yield NOTHING
            return
        async with aclosing(self._then.decide(run)) as moves:
            async for move in moves:
                yield move
