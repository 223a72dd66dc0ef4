"""A run as its entries tell it: what belongs to each call, and to each turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from f1.store.runs import EntryRow, RunRow
from f1.trace.entries import (
    CODEC,
    Asked,
    Began,
    Called,
    Decided,
    Done,
    Ended,
    Launched,
    Returned,
    Shown,
    Turned,
    Written,
)
from f1.types import Approval, CallDelta, Choosing, Message, Node, ToolCall, ToolResult

T = TypeVar("T")


@dataclass(slots=True)
class Told:
    """A call, and all that became of it."""

    called: Called
    turn: Turned | None = None  # that wrote it; None: a plan that was given
    choosing: tuple[Choosing, ...] = ()  # on the way to it
    launched: list[Written] = field(default_factory=list)
    approval: Approval | None = None
    decided: Decided | None = None
    done: Written | None = None

    @property
    def node(self) -> Node:
        return self.called.node

    @property
    def result(self) -> ToolResult | None:
        entry = None if self.done is None else self.done.entry
        return entry.result if isinstance(entry, Done) else None


@dataclass(frozen=True, slots=True)
class Story:
    """`row`: how the run stands; `written`: its entries, in order."""

    row: RunRow
    written: tuple[Written, ...]
    calls: dict[str, Told]  # by node id
    turns: tuple[Turned, ...]  # by number, as they ended

    @property
    def began(self) -> Began | None:
        return next(self.each(Began), (None, None))[1]

    @property
    def is_turn(self) -> bool:
        """One turn of the model was all there was to it; its calls are the caller's."""
        return self.began is not None and self.began.kind == "turn"

    @property
    def ended(self) -> Ended | None:
        found = [entry for _, entry in self.each(Ended)]
        return found[-1] if found else None

    @property
    def tokens(self) -> tuple[int, int, int]:
        """Read, of those reused, written; of all turns."""
        usages = [turn.usage for turn in self.turns]
        return (
            sum(usage.prompt_tokens for usage in usages),
            sum(usage.cached_tokens for usage in usages),
            sum(usage.completion_tokens for usage in usages),
        )

    def each(self, kind: type[T]) -> Iterator[tuple[Written, T]]:
        return ((w, w.entry) for w in self.written if isinstance(w.entry, kind))

    def since(self, written: Written) -> float:
        """Seconds since the run began."""
        return written.at - self.written[0].at

    @property
    def said(self) -> list[Message]:
        """All messages that are in the record, those of later requests last."""
        found: list[Message] = []
        for written in self.written:
            match written.entry:
                case Began(request=request) | Returned(request=request):
                    found += [m for m in request.messages if m not in found]
                case Shown(left=left):
                    found += [m for m in left if m not in found]
        return found

    def told_by(self, call_id: str) -> Told | None:
        """The call of that id."""
        return next((t for t in self.calls.values() if t.node.call_id == call_id), None)


def tell(row: RunRow, entries: Sequence[EntryRow]) -> Story:
    """Raises Malformed where they are not what F1 writes. Broken ones are left out."""
    written = tuple(Written(e.seq, e.at, CODEC.decode_any(e.body)) for e in entries if e.kind)
    return _told(row, written)


def with_calls(story: Story, called: Sequence[Called]) -> Story:
    """With calls that are written nowhere, behind the last turn."""
    turned = [i for i, each in enumerate(story.written) if isinstance(each.entry, Turned)]
    at = turned[-1] + 1 if turned else len(story.written)
    more = [Written(-1, story.written[at - 1].at, each) for each in called]
    return _told(story.row, (*story.written[:at], *more, *story.written[at:]))


def _told(row: RunRow, written: tuple[Written, ...]) -> Story:
    turns = {w.entry.number: w.entry for w in written if isinstance(w.entry, Turned)}
    calls: dict[str, Told] = {}
    by_approval: dict[str, Told] = {}
    for each in written:
        match each.entry:
            case Called() as called:
                calls[called.node.id] = Told(called)
            case Launched(node_id=node_id) if node_id in calls:
                calls[node_id].launched.append(each)
            case Asked(approval=approval) if approval.node_id in calls:
                by_approval[approval.id] = calls[approval.node_id]
                by_approval[approval.id].approval = approval
            case Decided(approval_id=approval_id) as decided if approval_id in by_approval:
                by_approval[approval_id].decided = decided
            case Done(result=result) if result.node_id in calls:
                calls[result.node_id].done = each
    for turn in turns.values():
        _assign(turn, calls)
    return Story(row, written, calls, tuple(turns[number] for number in sorted(turns)))


def _assign(turn: Turned, calls: dict[str, Told]) -> None:
    """To each call the turn that wrote it, and what was decided there on the way to it: since the
    name of the one before."""
    by_id = {told.node.call_id: told for told in calls.values()}
    written: dict[int, list[ToolCall]] = {}
    for event in turn.events:
        if isinstance(event, CallDelta):
            written.setdefault(event.choice, []).append(event.call)
    for choice, made in written.items():
        decisions = turn.choosing[choice] if choice < len(turn.choosing) else ()
        ways = _ways(decisions)
        forced = len(made) - len(ways)  # nothing was to be decided for them; they come first
        for index, call in enumerate(made):
            if call.id in by_id:
                by_id[call.id].turn = turn
                by_id[call.id].choosing = ways[index - forced] if index >= forced >= 0 else ()


def _ways(decisions: Sequence[Choosing]) -> list[tuple[Choosing, ...]]:
    """Those that led to each call: that there is to be one, and which."""
    ways: list[tuple[Choosing, ...]] = []
    way: tuple[Choosing, ...] = ()
    for decision in decisions:
        if decision.what == "tool":
            ways.append((*way, decision))
            way = ()
        elif decision.taken == "call":
            ways += [way] if way else []
            way = (decision,)
    return [*ways, way] if way else ways
