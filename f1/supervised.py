"""A run with a person beside it, who is asked about calls that the rules do not simply allow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from f1.planning.orchestrator import Orchestrator
from f1.planning.outcome import NeedsApproval, Progress
from f1.types import (
    Approval,
    GenerateRequest,
    Node,
    Note,
    Started,
    TextDelta,
    ToolResult,
    Verdict,
)

Approve = Callable[[Approval], Verdict | bool]


async def supervised(
    orchestrator: Orchestrator, request: GenerateRequest, approve: Approve | None
) -> AsyncGenerator[Progress]:
    """The run to its end. Where it waits for a person, `approve` is asked about each call, in a
    thread of its own, and the run goes on; without, NeedsApproval is its end."""
    told = _Told()
    while True:
        waiting: NeedsApproval | None = None
        async with aclosing(orchestrator.run(request)) as items:
            async for item in items:
                if isinstance(item, NeedsApproval) and approve is not None:
                    waiting = item
                    continue
                for new in told.new(item):
                    yield new
        if waiting is None or approve is None:
            return
        said = {each.id: await asyncio.to_thread(approve, each) for each in waiting.approvals}
        verdicts = {approval_id: _verdict(answer) for approval_id, answer in said.items()}
        options = replace(request.run, run_id=waiting.run_id, verdicts=verdicts)
        request = replace(request, run=options)
        told.again()


def _verdict(answer: Verdict | bool) -> Verdict:
    return Verdict("approve" if answer else "reject") if isinstance(answer, bool) else answer


@dataclass(slots=True)
class _Told:
    """A run that goes on is told from its beginning: here what is new in it."""

    once: set[tuple[str, str]] = field(default_factory=set)
    text: int = 0  # characters told, in all rounds but this one
    heard: int = 0  # in this one

    def again(self) -> None:
        self.text, self.heard = max(self.text, self.heard), 0

    def new(self, item: Progress) -> Iterator[Progress]:
        match item:
            case TextDelta():
                behind, self.heard = self.text - self.heard, self.heard + len(item.text)
                rest = item.text[max(behind, 0) :]
                if rest:
                    yield replace(item, text=rest)
                return
            case Node():
                key = ("node", item.id)
            case Started():
                key = ("started", item.node.id)
            case ToolResult():
                key = ("result", item.node_id)
            case Note():
                key = ("note", item.text)
            case _:
                yield item
                return
        if key not in self.once:
            self.once.add(key)
            yield item
