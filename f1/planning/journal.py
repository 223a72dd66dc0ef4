"""One run's memory. While it lasts, what happens is written down; one that is rebuilt is told what
happened before, decides the same again, and goes on where the record ends.

    Run.decode ──▶ turn(): recorded? ─▶ its events again        no ─▶ the model, written down
    Executor   ──▶ known(): recorded? ─▶ its result again       no ─▶ launch() ─▶ the tool ─▶ done()
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace

from f1.planning.tape import Decode, Tape
from f1.store.runs import ApprovalRow, Json, Status
from f1.tools.spec import ToolSpec
from f1.trace.entries import (
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
)
from f1.trace.recorder import Record
from f1.types import (
    Approval,
    Event,
    GenerateRequest,
    Message,
    Node,
    ToolCall,
    ToolResult,
    Verdict,
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
        self._defined: set[str] = set()
        self._ids = 0
        self._steps = 0  # of the requests before this one
        self._tape = Tape(run_id, record, past, live=live)
        self._shown: dict[int, Shown] = {}  # by the step of the whole run
        self._done: dict[str, ToolResult] = {}
        self._launched: dict[str, Launched] = {}
        self._asked: dict[str, Approval] = {}  # by node
        self._verdicts: dict[str, Verdict] = {}  # by approval
        self._told: Counter[str] = Counter()  # of what need not be written again
        self._read(past)

    def _read(self, past: Sequence[Entry]) -> None:
        for entry in past:
            match entry:
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

    def next_request(self, steps: int) -> None:
        """The run goes on with what its caller brought: steps are counted anew."""
        self._steps += steps

    def new_call_id(self, begins: str = "call_") -> str:
        """The same ones whenever the run is rebuilt."""
        self._ids += 1
        named = f"{self._named_after}/{self._ids}".encode()
        return begins + hashlib.sha256(named).hexdigest()[:24]

    # --- turns of models -------------------------------------------------------------------------

    def turn(
        self, step: int, role: str, request: GenerateRequest, decode: Decode
    ) -> AsyncGenerator[Event]:
        """The events of one turn: those of the record, or those that are decoded now. Raises
        Diverged, and Interrupted where the record of a run that is only told again breaks off."""
        return self._tape.turn(self._steps + step, role, request, decode)

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
        self._tape.note_open()
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


def _same(a: ToolCall, b: ToolCall) -> bool:
    return a.name == b.name and (
        a.arguments == b.arguments or json.loads(a.arguments) == json.loads(b.arguments)
    )
