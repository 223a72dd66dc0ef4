"""Step by step, with soft steps in the model before its first calls: Soft Thinking (Zhang et al.,
2025, arXiv:2505.15778); what its noise is for: Wu et al., 2025, arXiv:2508.03440.

A model that does not think aloud takes bare soft steps for the beginning of its answer, and what is
decoded behind them makes no sense. So they stand within words that say what they are for, and only
where there is something to choose: once results are there, those words would ask for more calls.

It is an experiment and is not chosen by `auto`: see bench/README.md. An engine that is not in this
process takes no soft steps.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace

from f1.planning.run import Run
from f1.planning.strategies.react import React
from f1.types import Event, GenerateRequest, Note, Soft, StrategyName

_SOFT = Soft(8, cold_steps=0, lead="I need to call", close="\n")


class SoftThinking(React):
    name: StrategyName = "soft"

    def turn(self, run: Run, request: GenerateRequest) -> AsyncGenerator[Event | Note]:
        chooses = bool(request.tools) and request.tool_choice.mode != "none"
        if chooses and not run.nodes and request.soft is None:
            request = replace(request, soft=_SOFT)
        return run.decode(request)
