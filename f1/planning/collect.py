"""Adding up events to completions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from f1.types import (
    CallDelta,
    Completion,
    Event,
    Finished,
    Message,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCall,
    Usage,
)


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


def add_usage(a: Usage, b: Usage) -> Usage:
    return Usage(
        a.prompt_tokens + b.prompt_tokens,
        a.completion_tokens + b.completion_tokens,
        a.cached_tokens + b.cached_tokens,
        a.reasoning_tokens + b.reasoning_tokens,
    )
