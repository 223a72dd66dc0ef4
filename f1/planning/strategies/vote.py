"""Several samples of a step; what most of them call is called.

Self-consistency (Wang et al., 2022, arXiv 2203.11171) over calls in place of answers: two samples
agree on a call if it says the same, however it is written. The first sample is greedy, the others
are drawn, all in one batch on one prefix, so that a step of k samples takes little longer than one.

    samples ──▶ call, or answer? (most) ──▶ of those that call: what more than half of them call
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any

from f1.planning.run import Run
from f1.planning.strategies.react import React
from f1.types import (
    CallDelta,
    Completion,
    Event,
    Finished,
    GenerateRequest,
    Node,
    Note,
    StrategyName,
    TextDelta,
    ToolCall,
)

_TEMPERATURE = 0.7  # of the drawn samples, where the request asks for greedy ones


class Vote(React):
    name: StrategyName = "vote"

    async def turn(self, run: Run, request: GenerateRequest) -> AsyncGenerator[Event | Note]:
        samples = await draw(run, request, max(run.request.run.samples, 1))
        chosen, calls, agreed = elect(samples)
        said = chosen.message
        yield Note(f"{agreed} of {len(samples)} samples agree on {_shown(calls)}")
        if said.content:
            yield TextDelta(0, said.content, chosen.logprobs)
        for index, call in enumerate(calls):
            yield CallDelta(0, index, call)
        yield Finished(0, chosen.reason, chosen.usage, chosen.report, chosen.stop)


async def draw(run: Run, request: GenerateRequest, count: int) -> list[Completion]:
    """The request's own sample first, then others, decoded side by side."""
    drawn = request.sampling
    if drawn.temperature == 0:
        drawn = replace(drawn, temperature=_TEMPERATURE)
    drawn = replace(drawn, seed=drawn.seed + 1)
    if (left := run.tokens_left) is not None:  # they share what is left
        share = max(left // count, 1)
        request = replace(request, max_tokens=min(request.max_tokens or share, share))
    tasks = [asyncio.create_task(run.complete(request))]
    if count > 1:
        others = replace(request, n=count - 1, sampling=drawn)
        tasks.append(asyncio.create_task(run.complete(others)))
    try:
        return [sample for found in await asyncio.gather(*tasks) for sample in found]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def elect(samples: Sequence[Completion]) -> tuple[Completion, tuple[ToolCall, ...], int]:
    """The sample whose words stand, the calls to make, and how many samples agree. Where as many
    call as answer, or no call has a majority, the first sample decides."""
    calling = [sample for sample in samples if sample.message.tool_calls]
    if 2 * len(calling) == len(samples):
        to_call = bool(samples[0].message.tool_calls)
    else:
        to_call = 2 * len(calling) > len(samples)
    if not to_call:
        answers = [sample for sample in samples if not sample.message.tool_calls]
        return answers[0], (), len(answers)
    votes = Counter(key for sample in calling for key in {*map(canonical, _calls(sample))})
    backed = {key for key, count in votes.items() if 2 * count > len(calling)}
    if not backed:
        return calling[0], _calls(calling[0]), 1
    elected: dict[str, ToolCall] = {}
    for call in (call for sample in calling for call in _calls(sample)):
        if canonical(call) in backed:
            elected.setdefault(canonical(call), call)
    agreed = sum(backed <= {*map(canonical, _calls(sample))} for sample in calling)
    return calling[0], tuple(elected.values()), agreed


def canonical(call: ToolCall | Node) -> str:
    """Equal for calls that say the same: keys in one order, 1.0 as 1, no space around strings."""
    if isinstance(call, ToolCall):
        return json.dumps([call.name, _plain(json.loads(call.arguments))], sort_keys=True)
    return json.dumps([call.tool, _plain(dict(call.arguments))], sort_keys=True)


def _plain(value: Any) -> Any:
    match value:
        case str():
            return value.strip()
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {key: _plain(inner) for key, inner in value.items()}
        case list():
            return [_plain(inner) for inner in value]
        case _:
            return value


def _calls(sample: Completion) -> tuple[ToolCall, ...]:
    return sample.message.tool_calls


def _shown(calls: Sequence[ToolCall]) -> str:
    return ", ".join(f"{call.name} {call.arguments}" for call in calls) or "an answer"
