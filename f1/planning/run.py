"""What a run knows while it goes on: what strategies read, and decode with."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from f1.calling.schema import MAX_ARGUMENT_DEPTH, is_too_deep
from f1.planning.collect import add_usage, gather
from f1.planning.content import write_failure
from f1.planning.executor import Executor
from f1.planning.guard import Guard
from f1.planning.journal import Journal
from f1.planning.naming import words
from f1.planning.strategy import Move, Refused, Strategy
from f1.planning.summary import about
from f1.planning.tape import Diverged
from f1.tools.spec import ToolSpec
from f1.trace.entries import Shown
from f1.types import (
    Budget,
    CallDelta,
    Completion,
    Ending,
    Event,
    FailureKind,
    Finished,
    GenerateRequest,
    Message,
    Node,
    Note,
    Plan,
    ReasoningDelta,
    RunOptions,
    RunReport,
    Selected,
    TextDelta,
    ToolCall,
    ToolChoice,
    ToolResult,
    Usage,
)

Role = Literal["router", "caller", "writer", "verifier"]
_ORDINARY = RunOptions()
NOTHING = Completion(Message("assistant"), "stop", Usage(0, 0))


class Engine(Protocol):
    """What decodes one assistant turn: the engine in this process, or a server."""

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        """Events of all choices. Raises F1Error; closing it early stops the work."""


class Spent(Exception):
    """A budget of the run is spent."""

    def __init__(self, ending: Ending):
        super().__init__(ending)
        self.ending = ending


@dataclass(slots=True)
class Run:
    """`request` holds the conversation as far as it has come, and the tools that are shown."""

    request: GenerateRequest
    specs: Sequence[ToolSpec]  # all that there are to select from
    tools: Mapping[str, ToolSpec]  # all that may be called, by name: those, and the search
    executor: Executor
    engines: Mapping[Role, Engine]
    strategy: Strategy
    guard: Guard = field(default_factory=Guard)
    asked_with: tuple[Message, ...] = ()  # the conversation as the caller has it
    step: int = 0
    nodes: list[Node] = field(default_factory=list)  # all so far, in order
    usage: Usage = field(default_factory=lambda: Usage(0, 0))
    notes: list[str] = field(default_factory=list)
    selected: tuple[Selected, ...] = ()
    num_tools: int = 0  # that there were to select from
    dropped: int = 0  # messages that did not fit
    fresh: list[Node] = field(default_factory=list)  # of this step
    last: list[Node] = field(default_factory=list)  # of the step before
    added: list[Message] = field(default_factory=list)  # to the conversation, in the run
    completion: Completion = NOTHING  # what the last step said
    spoke: int = 0  # the last step with words for the user
    calls: dict[str, ToolCall] = field(default_factory=dict)  # as the model wrote them, by id
    too_deep: set[str] = field(default_factory=set)  # ids of calls that came without arguments
    began: float = field(default_factory=time.perf_counter)
    began_with: tuple[Message, ...] = ()  # the whole conversation before it
    known: int = 0  # messages of that which a session keeps
    brought: frozenset[str] = frozenset()  # names of the caller's tools

    @property
    def budget(self) -> Budget:
        return self.request.run.budget

    @property
    def journal(self) -> Journal:
        return self.guard.journal

    @property
    def caller_writes(self) -> bool:
        """The model that calls is the one that answers, so its words are the answer."""
        return self.engines["caller"] == self.engines["writer"]

    @property
    def tokens_left(self) -> int | None:
        """None: as many as it takes."""
        if self.budget.tokens is None:
            return None
        return self.budget.tokens - self.usage.completion_tokens

    @property
    def seconds_left(self) -> float | None:
        """None: as many as it takes."""
        if self.budget.seconds is None:
            return None
        return max(self.began + self.budget.seconds - time.perf_counter(), 0.0)

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.perf_counter() - self.began

    async def decode(
        self, request: GenerateRequest, role: Role = "caller"
    ) -> AsyncGenerator[Event]:
        """The events of one turn, decoded by the model of that role and counted in `usage`. Raises
        Spent where no token of the budget is left. Arguments that nest too deep are left out here,
        before anything goes down in them; the call is not made."""
        bounds = [] if request.max_tokens is None else [request.max_tokens]
        if self.tokens_left is not None:
            bounds.append(self.tokens_left // request.n)
        max_tokens = min(bounds, default=None)
        if max_tokens is not None and max_tokens < 1:
            raise Spent("tokens")
        request = replace(request, max_tokens=max_tokens, run=_ORDINARY)
        finished = num_events = 0
        turn = self.journal.turn(self.step, role, request, self.engines[role].generate)
        try:
            async with aclosing(turn) as events:
                async for event in events:
                    num_events += 1
                    if isinstance(event, Finished):
                        finished += 1
                        self.usage = add_usage(self.usage, event.usage)
                    elif isinstance(event, CallDelta) and is_too_deep(event.call.arguments):
                        self.too_deep.add(event.call.id)
                        event = replace(event, call=replace(event.call, arguments="{}"))
                    yield event
        finally:
            if not finished:  # it was left; what it took is known to an event
                self.usage = add_usage(self.usage, Usage(0, num_events))

    async def complete(self, request: GenerateRequest, role: Role = "caller") -> list[Completion]:
        """All choices of one turn, whole."""
        async with aclosing(self.decode(request, role)) as events:
            return await gather(events, request.n)

    def node(self, call: ToolCall, after: tuple[str, ...] = ()) -> Node:
        """The call, with nothing in it taken for a reference, as the run's next node. (It is one of
        the run's once the strategy yields it.)"""
        number = len(self.nodes) + 1
        while any(node.id == str(number) for node in self.nodes):
            number += 1
        self.calls[call.id] = call
        return Node(str(number), call.name, json.loads(call.arguments), after, call.id)

    def is_ours(self, call: ToolCall) -> bool:
        """We run it, and not the caller."""
        return call.name in self.tools and self.tools[call.name].runner is not None

    @property
    def went_wrong(self) -> bool:
        """All calls of the step before failed, and what they said may tell how to do better."""
        results = [self.executor.results.get(node.id) for node in self.last]
        return bool(results) and all(r is not None and r.failed == "error" for r in results)

    @property
    def anything_failed(self) -> bool:
        """In the step before."""
        results = [self.executor.results.get(node.id) for node in self.last]
        return any(result is not None and result.failed for result in results)

    @property
    def done(self) -> set[str]:
        """Tools with a call that came to something."""
        results = self.executor.results
        nodes = [node for node in self.nodes if node.id in results]
        return {node.tool for node in nodes if not results[node.id].failed}

    @property
    def says_what_looks(self) -> bool:
        """Of some tool that we run it is said that it only looks."""
        return any(spec.runner and spec.annotations.read_only for spec in self.tools.values())

    def only_looks(self, tool: str) -> bool:
        """We run it, and it changes nothing. Where nothing of the kind is said of any tool, they
        are all taken to."""
        spec = self.tools.get(tool)
        ours = spec is not None and spec.runner is not None
        return ours and (not self.says_what_looks or self.tools[tool].annotations.read_only)

    def may_change(self, tool: str) -> bool:
        """We run it, and it is not among those that only look."""
        spec = self.tools.get(tool)
        return spec is not None and spec.runner is not None and not self.only_looks(tool)

    def spoke_of(self, tool: str) -> bool:
        """The user used all the words of its name."""
        return all(word in self._asked for word in _words_of(tool))

    def spoke_of_some(self, tool: str) -> bool:
        """The user used some word of its name that no other's has, of those shown."""
        names = [shown.name for shown in self.request.tools if shown.name != tool]
        others = {word for name in names for word in _words_of(name)}
        return any(word in self._asked for word in _words_of(tool) if word not in others)

    @property
    def _asked(self) -> str:
        return " ".join(m.content for m in self.request.messages if m.role == "user").casefold()

    def repeats(self, call: ToolCall) -> bool:
        """Whether the call was made before in the run, and nothing has changed since: no call that
        may change anything was made after it, nor did it fail."""
        same = [i for i, node in enumerate(self.nodes) if self._same(node, call)]
        if not same:
            return False
        last = same[-1]
        result = self.executor.results.get(self.nodes[last].id)
        spec = self.tools.get(call.name)
        if len(same) == 1 and result is not None:
            again = result.failed == "error" or (
                # It may have done what it does, unseen.
                result.failed == "timeout" and spec is not None and spec.annotations.repeatable
            )
            if again:
                return False
        if spec is not None and spec.runner is None:  # what the caller's does is not known
            return last == len(self.nodes) - 1
        if spec is None or not spec.annotations.read_only:
            return True
        return not any(self._changes(node) for node in self.nodes[last + 1 :])

    # --- what the orchestrator makes of a strategy's moves ---------------------------------------

    def take(self, move: Move) -> Iterator[TextDelta | ReasoningDelta | Note | Node]:
        """Takes a move in, and a node to its executor; what there is to tell of it."""
        match move:
            case Completion():
                self.completion = move
                return
            case Note():
                self.note(move.text)
            case Node() if len(self.nodes) >= self.budget.calls:
                text = f"{move.tool} was not called: {self.budget.calls} calls are all"
                self.note(text)
                yield Note(text)
                return
            case Refused():
                yield from self._refuse(move.node, "refused", move.why)
                return
            case Node() if move.call_id in self.too_deep:
                told = f"its arguments nest deeper than {MAX_ARGUMENT_DEPTH} levels"
                yield from self._refuse(move, "invalid_arguments", told)
                return
            case Node():
                self._plan(move)
                if not self.request.run.plan_only:
                    self.executor.add(move)
            case TextDelta():
                if self.spoke in range(1, self.step):  # words of several steps stand apart
                    yield TextDelta(0, "\n\n")
                self.spoke = self.step
        yield move

    def _refuse(self, node: Node, kind: FailureKind, why: str) -> Iterator[Note | Node]:
        self._plan(node)
        call, now = self.calls[node.call_id], time.perf_counter()
        result = ToolResult(call, write_failure(why), kind, now, 0.0, node_id=node.id, tries=0)
        self.guard.settled(result)
        self.executor.know(result)
        self.note(f"{node.tool} was not called: {why}")
        yield node
        yield Note(self.notes[-1])

    def _plan(self, node: Node) -> None:
        self.nodes.append(node)
        self.fresh.append(node)
        spec, results = self.tools.get(node.tool), self.executor.results
        self.guard.trace(self.step, node, self.request, spec.tool if spec else None, results)

    def note(self, text: str) -> None:
        """For a person."""
        self.notes.append(text)
        self.journal.note(text)

    def show(self, shown: Shown) -> None:
        """What the model was shown when the run came here before. Raises Diverged."""
        missing = [name for name in shown.tools if name not in self.tools]
        if missing:
            told = f"the run {self.journal.run_id} was shown the tool '{missing[0]}', which is gone"
            raise Diverged(told)
        self.request = replace(
            self.request,
            messages=shown.left or self.request.messages,
            tools=tuple(self.tools[name].tool for name in shown.tools),
            shown_at=shown.shown_at,
        )
        self.selected, self.num_tools = shown.selected, shown.num_tools
        self.notes += [note for note in shown.notes if note not in self.notes]
        self.dropped += shown.dropped

    def tell_shown(self, dropped: int, notes: Sequence[str]) -> None:
        names = tuple(tool.name for tool in self.request.tools)
        left = self.request.messages if dropped else ()
        shown = Shown(
            self.step, names, self.selected, self.num_tools, self.request.shown_at, tuple(notes),
            dropped=dropped, left=left,
        )  # fmt: skip
        specs = [self.tools[name] for name in names]
        ours = [spec for spec in specs if spec.runner is not None or spec.name not in self.brought]
        self.journal.show(self.step, shown, ours)

    def about(self, done: Completion) -> dict[str, Any]:
        """The run in a line."""
        return about(self.request, done.report.run, done.usage, self.seconds)

    def session_messages(self, last: Message) -> tuple[Message, ...]:
        """What a session has to be told of the run."""
        if not self.request.run.session_id:
            return ()
        ending = (last,) if last.content else ()
        return (*self.began_with[self.known :], *self.added, *ending)

    def remember(self, theirs: Sequence[ToolCall] = ()) -> None:
        """The step's calls, and what came of them, go into the conversation: results in the order
        of the calls, whatever came in first. What forced the calls has been obeyed."""
        results = [r for node in self.fresh if (r := self.executor.results.get(node.id))]
        calls = {call.id: call for call in (*theirs, *(result.call for result in results))}
        order = [node.call_id for node in self.fresh if node.call_id in calls]
        said = replace(
            self.completion.message,
            tool_calls=tuple(self.calls.get(id_, calls[id_]) for id_ in order),
        )
        messages = (said, *(result.message() for result in results))
        self.added += messages
        choice = self.request.tool_choice
        if choice.mode in ("required", "named"):
            choice = ToolChoice("auto")
        self.request = replace(
            self.request, messages=(*self.request.messages, *messages), tool_choice=choice
        )
        self.last, self.fresh, self.completion = self.fresh, [], NOTHING

    def completed(self, ending: Ending) -> Completion:
        """The last turn, with the usage and the report of the whole run."""
        results = self.executor.results
        report = RunReport(
            self.strategy.name,
            ending,
            Plan(tuple(self.nodes)),
            tuple(results[node.id] for node in self.nodes if node.id in results),
            self.selected,
            self.num_tools,
            self.dropped,
            tuple(self.notes),
            self.journal.run_id if self.journal.record else "",
            self.executor.approvals,
        )
        last = self.completion
        return replace(last, usage=self.usage, report=replace(last.report, run=report))

    def _same(self, node: Node, call: ToolCall) -> bool:
        """They say the same, however it is written, and with references put in."""
        if node.tool != call.name:
            return False
        result = self.executor.results.get(node.id)
        said = dict(node.arguments) if result is None else json.loads(result.call.arguments)
        return bool(said == json.loads(call.arguments))

    def _changes(self, node: Node) -> bool:
        return node.tool in self.tools and not self.tools[node.tool].annotations.read_only


def _words_of(tool: str) -> list[str]:
    """Of its name, without their endings."""
    return [word[:5] for word in words(tool) if len(word) > 2]
