"""One run's memory. While it lasts, what happens is written down; one that is rebuilt is told what
happened before, decides the same again, and goes on where the record ends.

    Run.decode ──▶ turn(): recorded? ─▶ its events again        no ─▶ the model, written down
    Executor   ──▶ known(): recorded? ─▶ its result again       no ─▶ launch() ─▶ the tool ─▶ done()

What is asked of a model is known again by its `key`: the roles, messages and options, not the time.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from f1.errors import F1Error
from f1.store.runs import ApprovalRow, Json, Status
from f1.tools.spec import ToolSpec
from f1.trace.entries import (
    CODEC,
    Asked,
    Began,
    Called,
    Decided,
    Defined,
    Done,
    Ended,
    Entry,
    HandedOver,
    Launched,
    Noted,
    Origin,
    Returned,
    Shown,
    Turned,
    pack_ids,
)
from f1.trace.recorder import Record, Redacts, RedactsNothing
from f1.types import (
    Approval,
    CallDelta,
    Event,
    Finished,
    GenerateRequest,
    Message,
    Node,
    ToolCall,
    ToolResult,
    Usage,
    Verdict,
)

Decode = Callable[[GenerateRequest], AsyncGenerator[Event]]


class Diverged(F1Error):
    """A run that is rebuilt does not do what it did: F1, its tools or its models have changed."""

    status = 409
    type = "invalid_request_error"
    code = "run_diverged"


class Interrupted(Exception):
    """The record of a run that has ended breaks off here: it ended in the middle of a turn."""


@dataclass(slots=True)
class _Open:
    """A turn that is being decoded."""

    entry: Turned
    began: float
    events: list[Event] = field(default_factory=list)
    first: float | None = None
    told: int = 0  # events that are written down already

    def written(self, *, whole: bool) -> Turned:
        self.told = len(self.events)
        finished = [event for event in self.events if isinstance(event, Finished)]
        usage = Usage(0, len(self.events))
        if finished:
            usage = Usage(
                sum(event.usage.prompt_tokens for event in finished),
                sum(event.usage.completion_tokens for event in finished),
                sum(event.usage.cached_tokens for event in finished),
                sum(event.usage.reasoning_tokens for event in finished),
            )
        return replace(
            self.entry,
            events=tuple(self.events),
            seconds=time.perf_counter() - self.began,
            usage=usage,
            first=self.first,
            whole=whole,
        )


class Journal:
    """Of one run. Without a `record` nothing is written. `past` is what happened before; not
    `live`: nothing happens any more, all is told from the past."""

    def __init__(
        self,
        run_id: str = "",
        record: Record | None = None,
        past: Sequence[Entry] = (),
        *,
        live: bool = True,
        named_after: str = "",
    ):
        self.run_id = run_id
        self._named_after = named_after or run_id  # the run that ids of calls were first made for
        self.record = record
        self.live = live
        self.origins: dict[str, tuple[Origin, ...]] = {}  # by node
        self.ended: Ended | None = None
        self._open: list[_Open] = []
        self._num_turns = 0
        self._prompt: tuple[int, ...] = ()  # the last
        self._digests: dict[Message, str] = {}
        self._defined: set[str] = set()
        self._ids = 0
        self._steps = 0  # of the requests before this one
        self._turns: dict[str, deque[Turned]] = {}
        self._shown: dict[int, Shown] = {}  # by the step of the whole run
        self._done: dict[str, ToolResult] = {}
        self._launched: dict[str, Launched] = {}
        self._asked: dict[str, Approval] = {}  # by node
        self._verdicts: dict[str, Verdict] = {}  # by approval
        self._told: Counter[str] = Counter()  # of what need not be written again
        self._read(past)

    def _read(self, past: Sequence[Entry]) -> None:
        turns: dict[int, Turned] = {}
        for entry in past:
            match entry:
                case Turned():
                    turns[entry.number] = entry
                case Shown():
                    self._shown[entry.step] = entry
                    self._defined |= {each.tool.name for each in entry.defined}
                case Called():
                    self._told[f"node {entry.node.id} {entry.node.call_id}"] += 1
                    self.origins[entry.node.id] = entry.origins
                case Noted():
                    self._told[entry.text] += 1
                case Launched():
                    self._launched[entry.node_id] = entry
                case Done():
                    self._done[entry.result.node_id] = entry.result
                case Asked():
                    self._asked[entry.approval.node_id] = entry.approval
                case Decided():
                    self._verdicts[entry.approval_id] = entry.verdict
                case HandedOver():
                    self._told[f"handed over {[call.id for call in entry.calls]}"] += 1
                case Ended():
                    self.ended = entry
        for turn in sorted(turns.values(), key=lambda turn: turn.number):
            self._turns.setdefault(turn.key, deque()).append(turn)
        self._num_turns = max(turns, default=-1) + 1

    @property
    def replays(self) -> bool:
        """There are turns in the record that were not told again yet."""
        return any(self._turns.values())

    def next_request(self, steps: int) -> None:
        """The run goes on with what its caller brought: steps are counted anew."""
        self._steps += steps

    def new_call_id(self, begins: str = "call_") -> str:
        """The same ones whenever the run is rebuilt."""
        self._ids += 1
        named = f"{self._named_after}/{self._ids}".encode()
        return begins + hashlib.sha256(named).hexdigest()[:24]

    # --- turns of models -------------------------------------------------------------------------

    async def turn(
        self, step: int, role: str, request: GenerateRequest, decode: Decode
    ) -> AsyncGenerator[Event]:
        """The events of one turn: those of the record, or those that are decoded now."""
        key = self._key(role, request)
        if (recorded := self._recorded(key)) is not None:
            for event in recorded.events:
                yield event
            if not recorded.whole and not self.live and self._is_last(recorded):
                raise Interrupted
            for event in _missing(recorded, request.n):
                yield event
            return
        if self.record is None:
            async with aclosing(decode(request)) as events:
                async for event in events:
                    yield event
            return
        entry = Turned(
            self._num_turns, self._steps + step, role, key, (), 0.0, Usage(0, 0),
            asked=_asked(request),
        )  # fmt: skip
        self._num_turns += 1
        open_ = _Open(entry, time.perf_counter())
        self._open.append(open_)
        whole = False
        try:
            async with aclosing(decode(replace(request, record=True))) as events:
                async for event in events:
                    if open_.first is None:
                        open_.first = time.perf_counter() - open_.began
                    if isinstance(event, Finished):
                        event = self._undressed(open_, event)
                    open_.events.append(event)
                    yield event
            whole = True
        finally:
            self._open.remove(open_)
            self.record.note(open_.written(whole=whole))

    def _recorded(self, key: str) -> Turned | None:
        turns = self._turns.get(key, deque())
        while turns:
            turn = turns.popleft()
            if turn.whole or self._must_stand(turn) or (not self.live and self._is_last(turn)):
                return turn
            if not turns and self.live:
                return None  # it was interrupted, and nothing came of it that cannot come again
        if self.replays:
            raise Diverged(
                f"the run {self.run_id} cannot be rebuilt: it asks a model for something else "
                "than it did; F1, its tools or its settings have changed since"
            )
        if not self.live:
            raise Interrupted
        return None

    def _is_last(self, turn: Turned) -> bool:
        return turn.number == self._num_turns - 1

    def _must_stand(self, turn: Turned) -> bool:
        """A call of it may have been made that may have changed something."""
        calls = {event.call.id for event in turn.events if isinstance(event, CallDelta)}
        return any(e.call.id in calls and not e.read_only for e in self._launched.values())

    def _undressed(self, turn: _Open, event: Finished) -> Finished:
        """Its tokens go into the entry, where prompts that begin as the one before are told from
        there on."""
        if (decoded := event.report.decoded) is None:
            return event
        entry = turn.entry
        if entry.prompt_ids is None:
            shared = _common(self._prompt, decoded.prompt_ids)
            self._prompt = decoded.prompt_ids
            packed = pack_ids(decoded.prompt_ids[shared:])
            entry = replace(entry, shared=shared, prompt_ids=packed)
        turn.entry = replace(
            entry,
            token_ids=(*entry.token_ids, pack_ids(decoded.token_ids)),
            choosing=(*entry.choosing, decoded.choosing),
        )
        return replace(event, report=replace(event.report, decoded=None))

    def _key(self, role: str, request: GenerateRequest) -> str:
        said = [
            role,
            [self._digest(message) for message in request.messages],
            [tool.name for tool in request.tools],
            request.shown_at,
            _asked(request),
            request.prompt,
        ]
        text = orjson.dumps(said, option=orjson.OPT_NON_STR_KEYS)
        return hashlib.sha256(text).hexdigest()[:32]

    def _digest(self, message: Message) -> str:
        """Of what may be kept of it: what is read back is that."""
        if (digest := self._digests.get(message)) is None:
            redaction: Redacts = self.record.redaction if self.record else RedactsNothing()
            text = orjson.dumps(redaction.redact(CODEC.encode(message)))
            digest = self._digests[message] = hashlib.sha256(text).hexdigest()[:32]
        return digest

    # --- what the model is shown -----------------------------------------------------------------

    def shown(self, step: int) -> Shown | None:
        """What it was shown before this step, where the run came here before."""
        return self._shown.get(self._steps + step)

    def show(self, step: int, shown: Shown, specs: Sequence[ToolSpec]) -> None:
        """`specs`: of the tools that are ours."""
        if self.record is None:
            return
        new = [spec for spec in specs if spec.name not in self._defined]
        self._defined |= {spec.name for spec in new}
        defined = tuple(define(spec) for spec in new)
        self._note(replace(shown, step=self._steps + step, defined=defined))

    # --- calls -----------------------------------------------------------------------------------

    def call(self, step: int, node: Node, origins: tuple[Origin, ...]) -> None:
        """The plan has grown."""
        self.origins[node.id] = origins
        if self._is_new(f"node {node.id} {node.call_id}"):
            self._note(Called(self._steps + step, node, origins))

    def known(self, node: Node, call: ToolCall, spec: ToolSpec) -> ToolResult | None:
        """What came of it before. A call that may have been made, of a tool that is not to be
        called twice, came to something that is not known."""
        found = self._done.get(node.id)
        if found is not None and _same(found.call, call):
            return replace(found, call=call, started=time.perf_counter())
        launched = self._launched.get(node.id)
        if launched is None or not _same(launched.call, call):
            return None
        if spec.annotations.repeatable:
            return None
        told = "it was interrupted, and what it does may be done or not: the outcome is unknown"
        return ToolResult(
            call, json.dumps({"error": told}), "unknown", time.perf_counter(), 0.0,
            node_id=node.id,
        )  # fmt: skip

    async def launch(self, node: Node, call: ToolCall, spec: ToolSpec) -> None:
        """The call is about to run: where it may change something, this is certain to be known when
        this returns, with what of the turn led to it."""
        if self.record is None:
            return
        key = idempotency_key(self.run_id, node.id, call)
        says = spec.annotations
        entry = Launched(node.id, call, key, says.repeatable, says.read_only)
        if says.read_only:
            self.record.note(entry)
            return
        for turn in self._open:
            if turn.told < len(turn.events):
                self.record.note(turn.written(whole=False))
        await self.record.write(entry)

    async def done(self, result: ToolResult) -> None:
        """What came of a call is certain to be known when this returns."""
        if self.record is not None and self._is_news(result):
            self._done[result.node_id] = result
            await self.record.write(Done(result))

    def settle(self, result: ToolResult) -> None:
        """Of a node that did not run."""
        if self._is_news(result):
            self._done[result.node_id] = result
            self._note(Done(result))

    def _is_news(self, result: ToolResult) -> bool:
        """(A node may be another than it was in a turn that was interrupted.)"""
        known = self._done.get(result.node_id)
        return known is None or not _same(known.call, result.call)

    # --- people ----------------------------------------------------------------------------------

    def approval(self, node_id: str) -> Approval | None:
        """That was asked for before."""
        return self._asked.get(node_id)

    @property
    def approvals(self) -> list[Approval]:
        """The last of each node that was asked about."""
        return list(self._asked.values())

    def verdict(self, approval_id: str) -> Verdict | None:
        return self._verdicts.get(approval_id)

    def decide(self, approval_id: str, verdict: Verdict, who: str) -> None:
        if approval_id not in self._verdicts:
            self._verdicts[approval_id] = verdict
            self._note(Decided(approval_id, verdict, who))

    async def ask(self, approvals: Sequence[Approval], about: Json) -> None:
        """The run waits for a person."""
        if self.record is None or not self.live:
            return
        new = [a for a in approvals if self._asked.get(a.node_id) != a]
        self._asked |= {approval.node_id: approval for approval in new}
        row = self.record.row
        asked = [
            ApprovalRow(a.id, row.tenant, row.id, a.expires, self.record.hides(a)) for a in new
        ]
        await self.record.write(*map(Asked, new), status="waiting", about=about, asked=asked)

    # --- the caller, and the end -----------------------------------------------------------------

    async def hand_over(
        self, calls: tuple[ToolCall, ...], added: tuple[Message, ...], key: bytes, about: Json
    ) -> None:
        """The run waits for its caller, who is known by the key."""
        told = f"handed over {[call.id for call in calls]}"
        if self.record is None or not self.live or not self._is_new(told):
            return
        kept: Json = {"added": [self.record.hides(message) for message in added]}
        await self.record.write(
            HandedOver(calls, added), status="waiting", about=about, waits=[(key, kept)]
        )

    async def let_go(self) -> None:
        """Nothing came of going on with it now."""
        if self.record is not None and self.live:
            await self.record.write(status="waiting")

    async def take_back(self, request: GenerateRequest) -> None:
        if self.record is not None and self.live:
            await self.record.write(Returned(request), status="running")

    async def end(
        self, ended: Ended, about: Json | None, messages: Sequence[Message] = (), known: int = 0
    ) -> None:
        """Raises Conflict where the session has other messages than the `known`."""
        if self.record is None or not self.live or self.ended is not None:
            return
        status: Status = "waiting" if ended.ending == "left" else "ended"
        said = [self.record.hides(message) for message in messages]
        await self.record.write(ended, status=status, about=about, messages=said, known=known)
        self.ended = ended

    def note(self, text: str) -> None:
        if self._is_new(text):
            self._note(Noted(text))

    def _note(self, entry: Entry) -> None:
        if self.record is not None and self.live:
            self.record.note(entry)

    def _is_new(self, told: str) -> bool:
        if self._told[told]:
            self._told[told] -= 1
            return False
        return True


def segments(past: Sequence[Entry]) -> Iterator[GenerateRequest]:
    """The requests that the run was asked with, one after the other."""
    for entry in past:
        if isinstance(entry, Began | Returned):
            yield entry.request


def define(spec: ToolSpec) -> Defined:
    says = spec.annotations
    return Defined(
        spec.tool, spec.runner is not None, says.read_only, says.destructive, says.idempotent,
        spec.output,
    )  # fmt: skip


def idempotency_key(run_id: str, node_id: str, call: ToolCall) -> str:
    """The same whenever this call of this run is made, and of no other."""
    arguments = json.dumps(json.loads(call.arguments), sort_keys=True, separators=(",", ":"))
    text = json.dumps([run_id, node_id, call.name, arguments])
    return hashlib.sha256(text.encode()).hexdigest()


def _asked(request: GenerateRequest) -> Mapping[str, Any]:
    """What of a turn's request is neither messages nor tools, as far as it is not usual."""
    ordinary = GenerateRequest(())
    names = (
        "tool_choice", "parallel_tool_calls", "response_format", "sampling", "stop", "n", "soft",
    )  # fmt: skip
    return {
        name: CODEC.encode(getattr(request, name))
        for name in names
        if getattr(request, name) != getattr(ordinary, name)
    }


def _missing(turn: Turned, n: int) -> Iterator[Event]:
    """A turn that was interrupted ends behind the last call it made."""
    finished = {event.choice for event in turn.events if isinstance(event, Finished)}
    for choice in range(n):
        if choice not in finished:
            calls = [e for e in turn.events if isinstance(e, CallDelta) and e.choice == choice]
            yield Finished(choice, "tool_calls" if calls else "stop", turn.usage)


def _same(a: ToolCall, b: ToolCall) -> bool:
    return a.name == b.name and (
        a.arguments == b.arguments or json.loads(a.arguments) == json.loads(b.arguments)
    )


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many they begin with alike."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle - 1)
    return low
