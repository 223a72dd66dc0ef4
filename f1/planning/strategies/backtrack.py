"""A search: where a way of looking leads nowhere, the next one is taken from where they part.

Depth first over calls that only read, with a call to give up, as in ToolLLM's DFSDT (Qin et al.,
2023, arXiv 2307.16789). There every call can be taken back; here a call that may change something
ends the search, for nothing takes it back: what came before it is settled.

    step 1 ─┬─ weather("Wein") ✗ failed, and again
            └─ weather("Vienna") ─┬─ … ✗ given up
                                  └─ book(…)  changes something: from here on step by step

A way is left when all calls of a step failed, and those that the model made once it had read why;
or when it calls `give_up`. The conversation is then as it was where the ways part, but for a word
on what was tried. Alternatives are drawn in one batch, when the first is needed; each is tried once
in a run, so the search ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from json import dumps, loads

from f1.planning.run import Run
from f1.planning.strategies.answer import answer
from f1.planning.strategies.react import React
from f1.planning.strategies.vote import canonical, draw
from f1.planning.strategy import Move
from f1.types import (
    CallDelta,
    Completion,
    Event,
    GenerateRequest,
    Message,
    Node,
    Note,
    StrategyName,
    Tool,
    ToolCall,
    Usage,
)

GIVE_UP = Tool(
    "give_up",
    "Say that what was found so far leads nowhere, so that another way is tried.",
    {
        "type": "object",
        "properties": {"reason": {"type": "string", "maxLength": 200}},
        "required": ["reason"],
    },
)
_FAILURES = 2  # in a row: the first tells the model how to do better
_MAX_LEFT = 8  # ways that are left, in one run
Calls = tuple[ToolCall, ...]


@dataclass(slots=True)
class _Fork:
    """A place to come back to: the conversation there, and what is left to try."""

    request: GenerateRequest
    left: list[Calls] | None = None  # None: not drawn yet
    failures: list[str] = field(default_factory=list)


class Backtrack(React):
    name: StrategyName = "backtrack"

    def __init__(self) -> None:
        super().__init__()
        self.forks: list[_Fork] = []  # from here back to where the search began
        self.last: tuple[Node, ...] = ()  # of the step before
        self.given_up = ""  # why, in the model's words
        self.tried: set[frozenset[str]] = set()
        self.num_failed = 0  # steps in a row whose calls all failed
        self.num_left = 0  # ways that were left

    async def decide(self, run: Run) -> AsyncGenerator[Move]:
        why = _failure(run, self.last)
        self.num_failed = self.num_failed + 1 if why else 0
        if self.num_failed < _FAILURES or not self.forks:
            request, nodes = run.request, list[Node]()
            self.given_up = ""
            async with aclosing(super().decide(run)) as moves:
                async for move in moves:
                    if isinstance(move, Node):
                        nodes.append(move)
                    if isinstance(move, Completion) and self.given_up and not nodes:
                        break
                    yield move
            if nodes or not self.given_up:
                self._go_on(run, nodes, _Fork(request))
                return
            why = f"given up: {self.given_up}"
        async with aclosing(self._another_way(run, why)) as moves:
            async for move in moves:
                yield move

    async def turn(self, run: Run, request: GenerateRequest) -> AsyncGenerator[Event | Note]:
        """The model's turn, in which it may give up once there is something to give up."""
        if self.forks and request.tool_choice.mode == "auto":
            request = _with_give_up(request)
        async with aclosing(run.decode(request)) as events:
            async for event in events:
                if isinstance(event, CallDelta) and event.call.name == GIVE_UP.name:
                    self.given_up = str(loads(event.call.arguments)["reason"])
                else:
                    yield event

    async def _another_way(self, run: Run, why: str) -> AsyncGenerator[Move]:
        """The next alternative where the ways part, or further back; where there is none left, an
        answer from what is known."""
        while self.forks:
            fork = self.forks[-1]
            fork.failures.append(f"{_shown(self.last)}: {why}")
            there = _told(fork)
            if fork.left is None:
                fork.left = await _alternatives(run, there) if self.num_left < _MAX_LEFT else []
            calls = next((calls for calls in fork.left if _key(calls) not in self.tried), None)
            self.num_left += 1
            if calls is not None:
                yield Note(f"took back {_shown(self.last)}, which led nowhere ({why})")
                run.request = there
                nodes = []
                for call in calls:
                    nodes.append(run.node(call))
                    yield nodes[-1]
                self.forks.pop()
                self._go_on(run, nodes, fork)
                yield Completion(Message("assistant", "", calls), "tool_calls", Usage(0, 0))
                return
            self.forks.pop()
            why = "all that followed from it led nowhere"
        async with aclosing(answer(run, run.request)) as moves:
            async for move in moves:
                yield move

    def _go_on(self, run: Run, nodes: Sequence[Node], fork: _Fork) -> None:
        """The step is made; there is a way back only if it changes nothing."""
        self.last = tuple(nodes)
        self.tried.add(_key(nodes))
        if any(not is_read_only(run, node.tool) for node in nodes):
            self.forks.clear()
        elif nodes:
            self.forks.append(fork)


def _with_give_up(request: GenerateRequest) -> GenerateRequest:
    """With the tool, written where the last question is; not where its name is taken."""
    if any(tool.name == GIVE_UP.name for tool in request.tools):
        return request
    shown_at = dict(request.shown_at)
    if shown_at:
        asked = max(i for i, message in enumerate(request.messages) if message.role == "user")
        shown_at[asked] = (*shown_at.get(asked, ()), GIVE_UP.name)
    return replace(request, tools=(*request.tools, GIVE_UP), shown_at=shown_at)


async def _alternatives(run: Run, request: GenerateRequest) -> list[Calls]:
    """What else could be called there, the likeliest first."""
    samples = await draw(run, request, run.request.run.samples)
    drawn = [s.message.tool_calls for s in samples if s.message.tool_calls]
    found = [calls for calls in drawn if all(is_read_only(run, call.name) for call in calls)]
    votes = Counter(map(_key, found))  # in the order in which they are first met
    distinct = {_key(calls): calls for calls in reversed(found)}
    return [distinct[key] for key, _ in votes.most_common()]


def is_read_only(run: Run, tool: str) -> bool:
    return tool in run.tools and run.tools[tool].annotations.read_only


def _failure(run: Run, nodes: Sequence[Node]) -> str:
    """What went wrong, where all of these calls failed."""
    results = [run.executor.results.get(node.id) for node in nodes]
    failed = [result.content for result in results if result is not None and result.failed]
    return "; ".join(failed) if len(failed) == len(nodes) else ""


def _told(fork: _Fork) -> GenerateRequest:
    """The conversation at the fork, and what has been tried from there."""
    tried = "\n".join(fork.failures)
    told = Message("user", f"This was tried, and led nowhere:\n{tried}\nTry something else.")
    return replace(fork.request, messages=(*fork.request.messages, told))


def _key(calls: Sequence[ToolCall | Node]) -> frozenset[str]:
    return frozenset(map(canonical, calls))


def _shown(nodes: Sequence[Node]) -> str:
    return ", ".join(f"{node.tool} {dumps(dict(node.arguments))}" for node in nodes)
