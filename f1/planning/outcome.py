"""How runs end, and what is told while they go on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from f1.types import (
    Approval,
    ArgumentsDelta,
    CallBegun,
    CallDelta,
    Completion,
    Event,
    Finished,
    GenerateRequest,
    Node,
    Note,
    ReasoningDelta,
    RunEvent,
    RunReport,
    Started,
    TextDelta,
    ToolCall,
    ToolResult,
)


@dataclass(frozen=True, slots=True)
class Reply:
    """The model answered in words."""

    completion: Completion


@dataclass(frozen=True, slots=True)
class CallTools:
    """The caller has to run these calls and come back with their results."""

    completion: Completion
    waiting: object = None  # what of the run waits for them

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        return self.completion.message.tool_calls


@dataclass(frozen=True, slots=True)
class NeedsApproval:
    """A person has to allow calls of this run; it goes on when it is asked for by its id."""

    completion: Completion

    @property
    def approvals(self) -> tuple[Approval, ...]:
        return report_of(self).approvals

    @property
    def run_id(self) -> str:
        return report_of(self).run_id


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan was asked for, and nothing was run. It is in the completion's report."""

    completion: Completion


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No answer; `why` is for a person. `completion` is the last turn."""

    why: str
    completion: Completion


Outcome = Reply | CallTools | NeedsApproval | Planned | GiveUp
Progress = TextDelta | ReasoningDelta | Note | Node | Started | ToolResult | Outcome


def report_of(outcome: Outcome) -> RunReport:
    report = outcome.completion.report.run
    if report is None:
        raise TypeError("this is no outcome of a run")
    return report


def events_of(item: Progress, request: GenerateRequest) -> Iterator[Event]:
    """A run as the events of the request's one turn. Our own calls and their results show where
    that is asked for."""
    match item:
        case TextDelta() | ReasoningDelta():
            yield item
        case Reply() | CallTools() | NeedsApproval() | Planned() | GiveUp():
            end = item.completion
            for index, call in enumerate(item.calls if isinstance(item, CallTools) else ()):
                if request.eager_arguments:
                    yield CallBegun(0, index, call.id, call.name)
                    yield ArgumentsDelta(0, index, call.arguments)
                yield CallDelta(0, index, call)
            yield Finished(0, end.reason, end.usage, end.report, end.stop)
        case _ if request.run.progress:
            yield RunEvent(0, item)
