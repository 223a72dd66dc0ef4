"""Picks the strategy where a request does not."""

from __future__ import annotations

from f1.planning.strategies.direct import Direct
from f1.planning.strategies.react import React
from f1.planning.strategy import Strategy
from f1.types import GenerateRequest, StrategyName

STRATEGIES: dict[StrategyName, type[Strategy]] = {"direct": Direct, "react": React}


def strategy_for(request: GenerateRequest) -> Strategy:
    """That of the request; of `auto`, what paid best where it was measured (bench/README.md)."""
    name = request.run.strategy
    return STRATEGIES["react" if name == "auto" else name]()
