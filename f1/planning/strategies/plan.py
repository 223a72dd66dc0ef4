"""Plans ahead: a call that needs what others bring refers to it, instead of waiting to be made.

    search("tea") ───────────▶ runs at once
    order(sku="XY-12")         "XY-12" was said nowhere: a guess
        │  step by step (react) it would be made again once the results are there; but here
        │  the model sees what they will look like, every value standing for itself, and
        ▼  makes it now, under a grammar that has references alone for what was made up
    order(sku=$1.sku) ───────▶ runs as soon as search is done

Calls run while the rest is decoded (LLMCompiler: Kim et al. 2023, arXiv 2312.04511); results that
stand for themselves are the symbolic futures of AsyncFC (arXiv 2605.15077). Only parts that there
will be, that fit and that go by the argument's name can be referred to, and none of a list: which
one of it is meant is for the model to see. A plan that is not run takes what there is, and goes on
until the model would rather speak.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace

from f1.planning.futures import write_future
from f1.planning.grounding import Said
from f1.planning.lifting import Source, lift, lift_only
from f1.planning.plan import needs, references, with_references, write_arguments
from f1.planning.run import Run
from f1.planning.strategies.react import React
from f1.planning.strategy import Move
from f1.types import (
    CallDelta,
    Completion,
    GenerateRequest,
    Message,
    Node,
    StrategyName,
    TextDelta,
    Tool,
    ToolCall,
    ToolChoice,
)

MAX_ROUNDS = 8  # of a plan that is not run


class PlanAhead(React):
    name: StrategyName = "plan"

    async def decide(self, run: Run) -> AsyncGenerator[Move]:
        completion: Completion | None = None
        async with aclosing(super().decide(run)) as moves:
            async for move in moves:
                if isinstance(move, Completion):
                    completion = move
                else:
                    yield move
        for _ in range(MAX_ROUNDS if run.request.run.plan_only and run.fresh else 0):
            num_nodes = len(run.nodes)
            async with aclosing(_more(run)) as nodes:
                async for node in nodes:
                    yield node
            if len(run.nodes) == num_nodes:
                break
        if completion is not None:
            yield completion

    async def wait(self, run: Run, said: Said, calls: Sequence[ToolCall]) -> AsyncGenerator[Move]:
        """Calls that can do with references do not."""
        waiting = []
        for call in calls:
            if (node := await _referring(run, call, said.guesses(call))) is not None:
                yield node
            else:
                waiting.append(call)
        if waiting:
            async with aclosing(super().wait(run, said, waiting)) as moves:
                async for move in moves:
                    yield move


async def _referring(run: Run, call: ToolCall, made_up: Sequence[str]) -> Node | None:
    """The call, made again with references for its made-up arguments."""
    shown = {tool.name: tool for tool in run.request.tools}
    plan_only = run.request.run.plan_only
    lifted = lift_only(shown[call.name], _sources(run), made_up, loosely=plan_only)
    if lifted is None:
        return None
    tools = {**shown, call.name: lifted}.values()
    request = replace(_foreseen(run, tools), tool_choice=ToolChoice("named", call.name))
    async with aclosing(_calls(run, request)) as nodes:
        made = [node async for node in nodes]  # to the end, where it is told what it took
    return made[0] if made and needs(made[0]) else None


async def _more(run: Run) -> AsyncGenerator[Node]:
    """What the model calls when it sees what there will be, up to its first word, or guess."""
    said = Said.in_(run.request.messages, run.request.tools)
    tools = [lift(tool, _sources(run)) for tool in run.request.tools]
    async with aclosing(_calls(run, _foreseen(run, tools))) as nodes:
        async for node in nodes:
            referring = {at[0] for at, _ in references(node)}
            literals = {name: v for name, v in node.arguments.items() if name not in referring}
            if said.guesses(ToolCall("", node.tool, json.dumps(literals))):
                return
            yield node


async def _calls(run: Run, request: GenerateRequest) -> AsyncGenerator[Node]:
    async with aclosing(run.decode(request)) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                return  # nobody reads it
            if isinstance(event, CallDelta) and not run.repeats(event.call):
                node = with_references(run.node(event.call), run.fresh, run.tools)
                if needs(node):
                    run.calls.pop(event.call.id)  # it is remembered as it is run
                yield node


def _sources(run: Run) -> list[Source]:
    """What can be referred to. Only a plan that is not run refers to what no schema tells of."""
    sources = [Source(node.id, node.tool, run.tools[node.tool].output) for node in run.fresh]
    return [s for s in sources if s.output is not None or run.request.run.plan_only]


def _foreseen(run: Run, tools: Iterable[Tool]) -> GenerateRequest:
    """The conversation as if this step's calls had been answered by what stands for the answers."""
    calls = [
        ToolCall(node.call_id, node.tool, json.dumps(write_arguments(node.arguments)))
        for node in run.fresh
    ]
    results = [
        Message("tool", write_future(node.id, run.tools[node.tool].output), (), node.call_id)
        for node in run.fresh
    ]
    said = Message("assistant", tool_calls=tuple(calls))
    messages = (*run.request.messages, said, *results)
    return replace(
        run.request, messages=messages, tools=tuple(tools), tool_choice=ToolChoice("auto")
    )
