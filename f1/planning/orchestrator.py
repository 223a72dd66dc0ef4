"""From a question to an answer: decode a turn, run the calls that are ours, go on.

turn ──▶ calls? ──no──▶ Reply
 ▲         │ yes
 │      all ours? ──no──▶ CallTools (a client's tools are never run here)
 │         │ yes
 └── results of all, run side by side
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Protocol

from f1.errors import InvalidRequest
from f1.planning.grounding import hold_back_guesses
from f1.tools.runner import ToolRunner
from f1.types import (
    CallDelta,
    Completion,
    Event,
    Finished,
    FinishReason,
    GenerateRequest,
    Message,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCall,
    ToolChoice,
    ToolResult,
    Usage,
)


class Engine(Protocol):
    """What decodes one assistant turn: the engine in this process, or a server."""

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        """Events of all choices. Raises F1Error; closing it early stops the work."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The model answered in words."""

    completion: Completion


@dataclass(frozen=True, slots=True)
class CallTools:
    """The client has to run these calls and come back with their results."""

    completion: Completion

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        return self.completion.message.tool_calls


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No answer; `why` is for a person. `completion` is the last turn."""

    why: str
    completion: Completion


Outcome = Reply | CallTools | GiveUp


@dataclass(frozen=True, slots=True)
class StepBegun:
    """Calls that start now, all at once. Their ToolResults follow as they come in. Those that wait
    hold numbers that nobody has said: the model makes them again when it has seen the results."""

    step: int
    calls: tuple[ToolCall, ...]
    waiting: tuple[ToolCall, ...] = ()


Progress = TextDelta | ReasoningDelta | StepBegun | ToolResult | Reply | CallTools | GiveUp


class Orchestrator:
    """Runs requests to an outcome within `max_steps` decoded turns. A call that was made before in
    the run is not made again; once no other is asked for, and in the last turn, no calls are
    allowed, so that what was found out is said."""

    def __init__(self, engine: Engine, runner: ToolRunner | None = None, *, max_steps: int = 8):
        if max_steps < 1:
            raise InvalidRequest("max_steps must be at least 1", param="max_steps")
        self.engine = engine
        self.runner = runner or ToolRunner()
        self.max_steps = max_steps

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        """The whole run as the events of one turn: an Engine like any other. Our own calls and
        their results do not show."""
        if not self.runner.functions:
            async with aclosing(self.engine.generate(request)) as events:
                async for event in events:
                    yield event
            return
        async with aclosing(self.run(request)) as progress:
            async for item in progress:
                for event in _events(item):
                    yield event

    async def run(self, request: GenerateRequest) -> AsyncGenerator[Progress]:
        """What happens, as it happens; the last item is the Outcome. Raises F1Error."""
        request = self._with_our_tools(request)
        usage = Usage(0, 0)
        made: set[tuple[str, str]] = set()
        for step in range(1, self.max_steps + 1):
            if step == self.max_steps and step > 1:
                request = replace(request, tool_choice=ToolChoice("none"))
            collector = Collector()
            async with aclosing(self.engine.generate(request)) as events:
                async for event in events:
                    collector.add(event)
                    if isinstance(event, TextDelta | ReasoningDelta):
                        yield event
            completion = collector.completion()
            usage = _add(usage, completion.usage)
            completion = replace(completion, usage=usage)
            if (outcome := self._outcome(completion)) is not None:
                yield outcome
                return
            calls = tuple(c for c in completion.message.tool_calls if _key(c) not in made)
            if not calls:  # nothing new to find out: what is known has to do
                request = replace(request, tool_choice=ToolChoice("none"))
                continue
            ready, waiting = hold_back_guesses(calls, request.messages, request.tools)
            if not ready:
                ready, spent = await self._without(request, waiting)
                usage = _add(usage, spent)
                ready, waiting = (ready, waiting) if ready else (waiting, ())
            made.update(map(_key, ready))
            yield StepBegun(step, ready, waiting)
            results: dict[str, ToolResult] = {}
            async with aclosing(self.runner.run(ready)) as finished:
                async for result in finished:
                    results[result.call.id] = result
                    yield result
            message = replace(completion.message, tool_calls=ready)
            request = _with_results(request, message, results)
        yield GiveUp(f"no answer within {self.max_steps} steps", completion)

    async def _without(
        self, request: GenerateRequest, guessed: tuple[ToolCall, ...]
    ) -> tuple[tuple[ToolCall, ...], Usage]:
        """What the model would call first if it were not shown the tools whose arguments it made
        up (nothing if it would call none of the others), and what asking took."""
        names = {call.name for call in guessed}
        others = tuple(tool for tool in request.tools if tool.name not in names)
        if not others or request.tool_choice.mode == "named":
            return (), Usage(0, 0)
        async with aclosing(self.engine.generate(replace(request, tools=others))) as events:
            (completion,) = await gather(events, 1)
        calls = completion.message.tool_calls
        ready, _ = hold_back_guesses(calls, request.messages, request.tools)
        ours = tuple(call for call in ready if self.runner.owns(call.name))
        return ours, completion.usage

    def _with_our_tools(self, request: GenerateRequest) -> GenerateRequest:
        if request.n != 1:
            raise InvalidRequest("'n' must be 1 where tools are run for you", param="n")
        listed = {tool.name: tool for tool in request.tools}
        for tool in self.runner.tools:
            if listed.setdefault(tool.name, tool) != tool:
                raise InvalidRequest(f"tool '{tool.name}' is given twice", param="tools")
        return replace(request, tools=tuple(listed.values()))

    def _outcome(self, completion: Completion) -> Outcome | None:
        """The outcome, or None where there are calls for us to run."""
        message = completion.message
        theirs = tuple(call for call in message.tool_calls if not self.runner.owns(call.name))
        if theirs:
            # The client knows nothing of our tools: calls to those are left out, and the model
            # makes them again once it has seen the client's results.
            return CallTools(replace(completion, message=replace(message, tool_calls=theirs)))
        if message.tool_calls:
            return None
        if not message.content.strip():
            cut = completion.reason == "length"
            why = "the token limit cut what the model said" if cut else "the model said nothing"
            return GiveUp(why, completion)
        return Reply(completion)


@dataclass(slots=True)
class Collector:
    """Adds up the events of one choice."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    end: Finished | None = None

    def add(self, event: Event) -> None:
        match event:
            case TextDelta():
                self.text.append(event.text)
                self.logprobs.extend(event.logprobs)
            case ReasoningDelta():
                self.reasoning.append(event.text)
            case CallDelta():
                self.calls.append(event.call)
            case Finished():
                self.end = event

    def completion(self) -> Completion:
        if self.end is None:
            raise RuntimeError("the events stopped before the choice was finished")
        message = Message(
            "assistant", "".join(self.text), tuple(self.calls), reasoning="".join(self.reasoning)
        )
        end = self.end
        return Completion(
            message, end.reason, end.usage, tuple(self.logprobs), end.report, end.stop
        )


async def gather(events: AsyncIterator[Event], num_choices: int) -> list[Completion]:
    """All events of a request, added up by choice."""
    collectors = [Collector() for _ in range(num_choices)]
    async for event in events:
        collectors[event.choice].add(event)
    return [collector.completion() for collector in collectors]


def _key(call: ToolCall) -> tuple[str, str]:
    """Equal for calls that say the same, however they are written."""
    return call.name, json.dumps(json.loads(call.arguments), sort_keys=True)


def _with_results(
    request: GenerateRequest, message: Message, results: dict[str, ToolResult]
) -> GenerateRequest:
    """The request of the next turn: results in the order of the calls, whatever came in first.
    What forced the calls has been obeyed, so it is free to answer."""
    answers = tuple(results[call.id].message() for call in message.tool_calls)
    choice = request.tool_choice
    if choice.mode in ("required", "named"):
        choice = ToolChoice("auto")
    return replace(request, messages=(*request.messages, message, *answers), tool_choice=choice)


def _events(item: Progress) -> list[Event]:
    match item:
        case TextDelta() | ReasoningDelta():
            return [item]
        case Reply() | GiveUp():
            return [_finished(item.completion, item.completion.reason)]
        case CallTools():
            calls: list[Event] = [
                CallDelta(0, index, call) for index, call in enumerate(item.calls)
            ]
            return [*calls, _finished(item.completion, item.completion.reason)]
        case _:
            return []


def _finished(completion: Completion, reason: FinishReason) -> Finished:
    return Finished(0, reason, completion.usage, completion.report, completion.stop)


def _add(a: Usage, b: Usage) -> Usage:
    return Usage(
        a.prompt_tokens + b.prompt_tokens,
        a.completion_tokens + b.completion_tokens,
        a.cached_tokens + b.cached_tokens,
        a.reasoning_tokens + b.reasoning_tokens,
    )
