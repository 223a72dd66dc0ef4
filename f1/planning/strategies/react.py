"""Step by step: calls, their results, the next calls, until there is an answer (ReAct, Yao et al.
2022, without the written thoughts).

Two habits of small models are met here. A call made before is not made again: once nothing new is
asked for, what is known has to do. And a call whose numbers nobody has said waits: the others run,
and the model makes it anew once it has seen their results.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from f1.planning.collect import Collector
from f1.planning.grounding import is_guess, numbers_said
from f1.planning.run import Run
from f1.planning.strategies.answer import answer
from f1.planning.strategy import Move
from f1.types import (
    CallDelta,
    Event,
    GenerateRequest,
    Note,
    ReasoningDelta,
    StrategyName,
    TextDelta,
    ToolCall,
)


class React:
    name: StrategyName = "react"

    async def decide(self, run: Run) -> AsyncGenerator[Move]:
        request, collector = run.request, Collector()
        said = numbers_said(request.messages, request.tools)
        guessed: list[ToolCall] = []
        num_nodes = len(run.nodes)
        async with aclosing(self.turn(run, request)) as events:
            async for event in events:
                if isinstance(event, Note):
                    yield event
                    continue
                collector.add(event)
                if isinstance(event, TextDelta | ReasoningDelta) and run.caller_writes:
                    yield event
                elif isinstance(event, CallDelta) and not run.repeats(event.call):
                    if _is_ours(run, event.call) and is_guess(event.call, said):
                        guessed.append(event.call)
                    else:
                        yield run.node(event.call)
        if len(run.nodes) == num_nodes and guessed:
            async for move in self._without(run, request, guessed):
                yield move
        elif guessed:
            names = ", ".join(call.name for call in guessed)
            yield Note(f"{names} waited: it has numbers that nobody had said yet")
        if len(run.nodes) > num_nodes or (run.caller_writes and not collector.calls):
            yield collector.completion()
            return
        if collector.calls:
            yield Note("it asked for nothing that it did not have: no more calls")
        async with aclosing(answer(run, request)) as moves:
            async for move in moves:
                yield move

    def turn(self, run: Run, request: GenerateRequest) -> AsyncGenerator[Event | Note]:
        """One turn of the model. Strategies that go on step by step, but come to a step in another
        way, have their own."""
        return run.decode(request)

    async def _without(
        self, run: Run, request: GenerateRequest, guessed: list[ToolCall]
    ) -> AsyncGenerator[Move]:
        """What the model calls first if it is not shown the tools whose arguments it made up;
        where that is nothing, the guesses."""
        names = {call.name for call in guessed}
        others = tuple(tool for tool in request.tools if tool.name not in names)
        found: list[ToolCall] = []
        if others and request.tool_choice.mode != "named":
            (completion,) = await run.complete(replace(request, tools=others))
            said = numbers_said(request.messages, request.tools)
            found = [
                call
                for call in completion.message.tool_calls
                if _is_ours(run, call) and not is_guess(call, said) and not run.repeats(call)
            ]
        if found:
            yield Note(f"{', '.join(sorted(names))} waited: it had numbers that nobody had said")
        for call in found or guessed:
            yield run.node(call)


def _is_ours(run: Run, call: ToolCall) -> bool:
    return call.name in run.tools and run.tools[call.name].runner is not None
