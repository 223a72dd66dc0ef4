"""Picks the strategy where a request does not: the router's choice where one is set, otherwise what
paid best where it was measured (bench/README.md)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from f1.planning.run import Run
from f1.planning.strategies.backtrack import Backtrack
from f1.planning.strategies.direct import Direct
from f1.planning.strategies.given import Given
from f1.planning.strategies.plan import PlanAhead
from f1.planning.strategies.react import React
from f1.planning.strategies.reflect import Reflect
from f1.planning.strategies.soft import SoftThinking
from f1.planning.strategies.vote import Vote
from f1.planning.strategy import Move, Strategy
from f1.types import GenerateRequest, Message, Plan, ResponseFormat, SamplingParams, StrategyName

STRATEGIES: dict[StrategyName, type[Strategy]] = {
    "direct": Direct,
    "react": React,
    "plan": PlanAhead,
    "vote": Vote,
    "reflect": Reflect,
    "backtrack": Backtrack,
    "soft": SoftThinking,
}

_ASK = """How should this request be answered?
direct: one tool call, several that do not need each other, or none
react: several steps, each of which depends on what came of the one before
Request: """


class Auto:
    name: StrategyName = "auto"

    def __init__(self) -> None:
        self._chosen: Strategy | None = None

    async def decide(self, run: Run) -> AsyncGenerator[Move]:
        if self._chosen is None:
            self._chosen = STRATEGIES[await _choice(run)]()
            self.name = self._chosen.name
        async with aclosing(self._chosen.decide(run)) as moves:
            async for move in moves:
                yield move


async def _choice(run: Run) -> StrategyName:
    if run.engines["router"] == run.engines["caller"]:
        return "react"  # one model for all is a small one: it does better step by step than asked
    said = [message.content for message in run.request.messages if message.role == "user"]
    (completion,) = await run.complete(
        GenerateRequest(
            (Message("user", _ASK + (said[-1] if said else "")),),
            response_format=ResponseFormat("regex", "direct|react"),
            sampling=SamplingParams(),
            max_tokens=8,
        ),
        "router",
    )
    return "direct" if completion.message.content == "direct" else "react"


def strategy_for(request: GenerateRequest) -> Strategy:
    """That of the request; a plan alone is made by the one that makes plans."""
    name, plan = request.run.strategy, request.run.plan
    if name == "auto" and request.run.plan_only:
        name = "plan"
    strategy = Auto() if name == "auto" else STRATEGIES[name]()
    return Given(plan, strategy) if isinstance(plan, Plan) and plan.nodes else strategy
