"""Step by step: calls, their results, the next calls, until there is an answer (ReAct, Yao et al.
2022, without the written thoughts).

Habits of small models are met here.
- A call whose values nobody has said waits: the others run, and the model makes it anew once it
  has seen their results. Where there are no others, a call that only looks is made all the same;
  one that changes something is not, and the user is asked.
- A call made before is not made again: once nothing new is asked for, what is known has to do.
- Where all calls failed, another is asked for once, for errors often tell what would have done.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from f1.planning.grounding import Said
from f1.planning.run import Run
from f1.planning.strategies.answer import answer
from f1.planning.strategies.clarify import clarify
from f1.planning.strategies.words import Words
from f1.planning.strategy import Move, Refused
from f1.types import (
    CallDelta,
    Event,
    GenerateRequest,
    Note,
    StrategyName,
    ToolCall,
    ToolChoice,
)


class React:
    name: StrategyName = "react"

    def __init__(self) -> None:
        self._tried_again = False
        self._waiting: tuple[str, ...] = ()  # tools of calls that wait for results
        self._meant: frozenset[str] = frozenset()  # tools that it called for at first

    async def decide(self, run: Run) -> AsyncGenerator[Move]:
        request = replace(run.request, tool_choice=self._choice(run))
        said = Said.in_(request.messages, request.tools)
        words, guessed, num_nodes = Words(), list[ToolCall](), len(run.nodes)
        async with aclosing(self.turn(run, request)) as events:
            async for event in events:
                if isinstance(event, Note):
                    yield event
                    continue
                for delta in words.add(event):
                    if run.caller_writes:
                        yield delta
                if isinstance(event, CallDelta) and not run.repeats(event.call):
                    if self._unasked(run, event.call):
                        yield Note(f"{event.call.name} was not called: nobody asked for it")
                    elif run.is_ours(event.call) and said.guesses(event.call):
                        guessed.append(event.call)
                    else:
                        yield run.node(event.call)
        self._waiting = ()
        self._meant = self._meant or frozenset(call.name for call in words.turn.calls)
        if guessed and len(run.nodes) == num_nodes:
            for call in await _instead(run, said, guessed):
                yield run.node(call)
        if guessed and len(run.nodes) > num_nodes:
            self._waiting = tuple(dict.fromkeys(call.name for call in guessed))
            yield Note(f"{', '.join(self._waiting)} waited: it had values that nobody had said yet")
        if (missing := words.disguised()) is not None and missing.name not in run.tools:
            known = ", ".join(tool.name for tool in request.tools)
            why = f"there is no function '{missing.name}'. There are: {known}"
            yield Refused(run.node(missing), why)
        if len(run.nodes) > num_nodes or (run.caller_writes and not words.turn.calls):
            for delta in words.rest() if len(run.nodes) == num_nodes else ():
                yield delta
            yield words.completion()
            return
        last = answer(run, run.request)
        if guessed:
            last = clarify(run, guessed[0].name, said.guesses(guessed[0]))
        async with aclosing(last) as moves:
            async for move in moves:
                yield move

    def _unasked(self, run: Run, call: ToolCall) -> bool:
        """Whether the call goes further than it was meant to at first: something was found out or
        done, nothing went wrong, and now a tool is to change something of which nobody spoke."""
        if not self._meant or call.name in self._meant or run.anything_failed:
            return False
        return run.may_change(call) and not run.spoke_of(call.name)

    def turn(self, run: Run, request: GenerateRequest) -> AsyncGenerator[Event | Note]:
        """One turn of the model. Strategies that go on step by step, but come to a step in another
        way, have their own."""
        return run.decode(request)

    def _choice(self, run: Run) -> ToolChoice:
        """What waited for results is called once they are there; and where all calls went wrong,
        another has to be made, once."""
        asked = run.request.tool_choice
        if asked.mode != "auto":
            return asked
        if len(self._waiting) == 1:
            return ToolChoice("named", self._waiting[0])
        if run.went_wrong and not self._tried_again:
            self._tried_again = True
            return ToolChoice("required")
        return ToolChoice("required") if self._waiting else asked


async def _instead(run: Run, said: Said, guessed: Sequence[ToolCall]) -> list[ToolCall]:
    """What the model looks up first if it is not shown the tools whose arguments it made up; where
    that is nothing, the guesses that do no harm."""
    names = {call.name for call in guessed}
    others = tuple(tool for tool in run.request.tools if tool.name not in names)
    found: list[ToolCall] = []
    if others and run.request.tool_choice.mode != "named":
        (completion,) = await run.complete(replace(run.request, tools=others))
        calls = completion.message.tool_calls
        found = [c for c in calls if not said.guesses(c) and not run.repeats(c)]
    looks = [call for call in found or guessed if run.only_looks(call)]
    return looks or [call for call in guessed if run.only_looks(call)]
