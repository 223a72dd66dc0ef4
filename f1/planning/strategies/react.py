"""Step by step: calls, their results, the next calls, until there is an answer (ReAct, Yao et al.
2022, without the written thoughts).

Habits of small models are met here.
- A call whose values nobody has said waits: things are looked up first, and then it is called for
  again. Where there is nothing to look up, or a look-up on a guess fails, the user is asked.
- A call made before is not made again: once nothing new is asked for, what is known has to do.
- Where all calls failed, the tool is called for once more, for errors often tell what would have
  done, then any other.
- What nobody asked for is not done on top; once all is done that was meant, it is time to answer.
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

_MAX_AGAIN = 2  # times that a run calls again for what went wrong


class React:
    name: StrategyName = "react"

    def __init__(self) -> None:
        self._times_again = 0
        self._waiting: tuple[str, ...] = ()  # tools of calls that wait for results
        self._meant: frozenset[str] = frozenset()  # tools that it called for at first
        self._bets: dict[str, tuple[str, ...]] = {}  # look-ups on a guess, by id: what was guessed

    async def decide(self, run: Run) -> AsyncGenerator[Move]:
        moves = self._lost_bet(run) or self._step(run)
        async with aclosing(moves):
            async for move in moves:
                yield move

    async def _step(self, run: Run) -> AsyncGenerator[Move]:
        request = replace(run.request, tool_choice=self._choice(run))
        said = Said.in_(request.messages, request.tools)
        words, guessed, num_nodes = Words(), list[ToolCall](), len(run.nodes)
        words.is_plain = request.response_format.kind != "text"
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
                    elif self._is_guess(run, said, event.call):
                        guessed.append(event.call)
                    else:
                        yield run.node(event.call)
        self._waiting = ()
        self._meant = self._meant or frozenset(call.name for call in words.turn.calls)
        if guessed and len(run.nodes) == num_nodes:
            for call in await self._look_up(run, said, guessed):
                if not run.repeats(call):  # by one of those before it
                    yield run.node(call)
        waiting = [call for call in guessed if call.id not in self._bets]
        if waiting and len(run.nodes) > num_nodes:
            async with aclosing(self.wait(run, said, waiting)) as moves:
                async for move in moves:
                    yield move
        missing = None if run.request.run.plan_only else words.disguised(run.journal.new_call_id())
        if missing is not None and missing.name not in run.tools:
            known = ", ".join(tool.name for tool in request.tools)
            why = f"there is no function '{missing.name}'. There are: {known}"
            yield Refused(run.node(missing), why)
        if len(run.nodes) > num_nodes or (run.caller_writes and not words.turn.calls):
            for delta in words.rest() if len(run.nodes) == num_nodes else ():
                yield delta  # it was an answer after all
            yield words.completion()
            return
        last = answer(run, run.request)
        if guessed:
            last = clarify(run, guessed[0].name, said.guesses(guessed[0]))
        async with aclosing(last) as moves:
            async for move in moves:
                yield move

    async def wait(self, run: Run, said: Said, calls: Sequence[ToolCall]) -> AsyncGenerator[Move]:
        """Calls with values that the step's other calls may bring: they are made once those are
        there."""
        self._waiting = tuple(dict.fromkeys(call.name for call in calls))
        yield Note(f"{', '.join(self._waiting)} waited: it had values that nobody had said yet")

    def turn(self, run: Run, request: GenerateRequest) -> AsyncGenerator[Event | Note]:
        """One turn of the model. Strategies that go on step by step, but come to a step in another
        way, have their own."""
        return run.decode(request)

    def _is_guess(self, run: Run, said: Said, call: ToolCall) -> bool:
        """Whether the call has to wait. What the caller demands is not held back: it demands a
        call, or an answer of some form, and gets no question."""
        request = run.request
        free = request.tool_choice.mode in ("auto", "none") and (
            request.response_format.kind == "text"
        )
        return free and run.is_ours(call) and bool(said.guesses(call))

    def _choice(self, run: Run) -> ToolChoice:
        """What waited for results is called for once they are there; what went wrong is called for
        again; where all is done, there is nothing to call."""
        asked = run.request.tool_choice
        if asked.mode != "auto":
            return asked
        if self._waiting:
            only = self._waiting[0] if len(self._waiting) == 1 else None
            return ToolChoice("named", only) if only else ToolChoice("required")
        if run.went_wrong and self._times_again < _MAX_AGAIN:
            self._times_again += 1
            tools = {node.tool for node in run.last}
            shown = {tool.name for tool in run.request.tools}
            if self._times_again == 1 and len(tools) == 1 and tools <= shown:
                return ToolChoice("named", *tools)
            return ToolChoice("required")
        return ToolChoice("none") if self._all_is_done(run) else asked

    def _all_is_done(self, run: Run) -> bool:
        """All that was meant at first and changes something has been done, nothing went wrong, and
        the user spoke of nothing else that could be."""
        done = run.done
        changing = {tool.name for tool in run.request.tools if run.may_change(tool.name)}
        meant = changing & self._meant
        if not meant or not meant <= done or run.anything_failed:
            return False
        return not any(run.spoke_of_some(name) for name in changing - done)

    def _unasked(self, run: Run, call: ToolCall) -> bool:
        """Whether the call goes further than it was meant to at first: something was found out or
        done, nothing went wrong, and now a tool is to change something of which nobody spoke."""
        if not self._meant or call.name in self._meant or run.anything_failed:
            return False
        if not run.may_change(call.name) or run.spoke_of(call.name):
            return False
        # Only where what was asked for is known: people speak of tools in words of their own.
        return any(
            run.spoke_of(tool.name) for tool in run.request.tools if run.may_change(tool.name)
        )

    async def _look_up(
        self, run: Run, said: Said, guessed: Sequence[ToolCall]
    ) -> Sequence[ToolCall]:
        """What the model looks up first if it is shown nothing else; where that is nothing, the
        guesses that do no harm."""
        names = {call.name for call in guessed}
        others = tuple(
            tool
            for tool in run.request.tools
            if tool.name not in names and run.only_looks(tool.name)
        )
        if others and run.request.tool_choice.mode != "named":
            choice = ToolChoice("required" if run.says_what_looks else "auto")
            asked = replace(run.request, tools=others, tool_choice=choice)
            (completion,) = await run.complete(asked)
            calls = completion.message.tool_calls
            found = [c for c in calls if not said.guesses(c) and not run.repeats(c)]
            if found:
                return found
        bets = [call for call in guessed if run.only_looks(call.name)]
        self._bets |= {call.id: said.guesses(call) for call in bets}
        return bets

    def _lost_bet(self, run: Run) -> AsyncGenerator[Move] | None:
        """The question to the user, where look-ups on a guess failed more than once."""
        if not run.went_wrong or not run.says_what_looks or not self._times_again:
            return None
        lost = [node for node in run.last if node.call_id in self._bets]
        return clarify(run, lost[0].tool, self._bets[lost[0].call_id]) if lost else None
