"""The plan that the caller brought, then whatever the strategy makes of its results."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from f1.planning.run import NOTHING, Run
from f1.planning.strategy import Move, Strategy
from f1.types import Plan, StrategyName

_OF_A_PLAN = "call_plan_"


class Given:
    def __init__(self, plan: Plan, then: Strategy):
        self.name: StrategyName = then.name
        self._plan = plan
        self._then = then

    async def decide(self, run: Run) -> AsyncGenerator[Move]:
        if run.step == 1 and not self._goes_on(run):
            for node in self._plan.nodes:
                yield replace(node, call_id=run.journal.new_call_id(_OF_A_PLAN))
            yield NOTHING
            return
        async with aclosing(self._then.decide(run)) as moves:
            async for move in moves:
                yield move
        self.name = self._then.name

    def _goes_on(self, run: Run) -> bool:
        """The conversation comes back from the caller's part of a plan: it is not to be run from
        its beginning once more, also where nothing is known of it any longer."""
        last = [message for message in run.request.messages if message.role != "tool"][-1:]
        ids = [call.id for message in last for call in message.tool_calls]
        return bool(run.nodes) or any(id_.startswith(_OF_A_PLAN) for id_ in ids)
