"""Stands before every call that F1 runs: what is known of it already, whether it may run, and that
it is written down before it does.

    call ─▶ happened before? ──▶ its result
         ─▶ rules: deny ──▶ refused    ask ──▶ an Approval, unless a person has spoken
         ─▶ allow ──▶ written down ──▶ runs
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from f1.planning.approvals import (
    EXPIRES,
    AlreadyDecided,
    AskAgain,
    NotShowable,
    Place,
    Rejected,
    ask,
    check_decider,
    check_known,
    decide,
    read_verdict,
)
from f1.planning.content import write_failure
from f1.planning.journal import Journal, idempotency_key
from f1.planning.provenance import origins
from f1.planning.taint import Taints
from f1.planning.tape import Interrupted
from f1.tools.policy import CLEAN, AllowAll, Policy, Ruling
from f1.tools.spec import Invocation, ToolSpec
from f1.trace.entries import CODEC, Origin
from f1.trace.redaction import is_marked
from f1.types import (
    Approval,
    FailureKind,
    GenerateRequest,
    Node,
    Tool,
    ToolCall,
    ToolResult,
    Verdict,
)


@dataclass(slots=True)
class Guard:
    """Of one run. `approvers`: tenants that may allow calls; None: each its own. Who is asked has
    `seconds` to answer."""

    journal: Journal = field(default_factory=Journal)
    policy: Policy = field(default_factory=AllowAll)
    tenant: str = ""
    approvers: Collection[str] | None = None
    seconds: float = EXPIRES
    taints: Taints = field(default_factory=lambda: Taints({}))
    finishing: set[asyncio.Task[ToolResult]] = field(default_factory=set)  # of a run that was left

    # --- what the model writes -------------------------------------------------------------------

    def trace(
        self,
        step: int,
        node: Node,
        request: GenerateRequest,
        tool: Tool | None,
        results: Mapping[str, ToolResult],
    ) -> None:
        """The plan has grown by a node: where its values came from is found out now, while it is
        known what the model had read."""
        found: tuple[Origin, ...] = ()
        if self._ruled or self.journal.record is not None:
            found = origins(node, request.messages, tool, results)
        if self._ruled:
            self.taints.wrote(node, request.messages, found)
        self.journal.call(step, node, found)

    # --- before a call runs ----------------------------------------------------------------------

    def admit(
        self, node: Node, call: ToolCall, spec: ToolSpec, results: Mapping[str, ToolResult]
    ) -> ToolCall | ToolResult | Approval:
        """The call as it is to run; what came, or has come, of it; or what a person is to say."""
        asked = self.journal.approval(node.id)
        verdict = self.journal.verdict(asked.id) if asked is not None else None
        edits = verdict is not None and verdict.kind == "edit"
        wanted = ToolCall(call.id, call.name, verdict.arguments) if verdict and edits else call
        if (known := self.journal.known(node, wanted, spec)) is not None:
            return known
        if not self.journal.live:
            if asked is not None and verdict is None:
                return asked
            raise Interrupted
        if is_marked(call.arguments):
            told = "a value of it was a secret, which is not kept: it has to be asked for again"
            return _failure(node, call, "refused", told)
        taint = self.taints.of(node, call, results) if self._ruled else CLEAN
        ruling = self.policy.ruling(spec, json.loads(call.arguments), taint)
        if ruling.action == "deny":
            return _failure(node, call, "refused", f"not allowed: {ruling.why}")
        if asked is not None:
            decision = decide(
                asked, verdict, spec, call, self._place(node), self.policy, time.time()
            )
            match decision:
                case None:
                    return asked
                case Rejected(failed, message):
                    return _failure(node, call, failed, message)
                case AskAgain():
                    return self._ask(node, call, spec, ruling)
                case _:
                    return decision.call
        return call if ruling.action == "allow" else self._ask(node, call, spec, ruling)

    def _ask(
        self, node: Node, call: ToolCall, spec: ToolSpec, ruling: Ruling
    ) -> Approval | ToolResult:
        if (record := self.journal.record) is None:
            told = "a person has to allow it, and runs are not kept here, so nobody can be asked"
            return _failure(node, call, "refused", told)
        try:
            approval = ask(spec, call, self._place(node), ruling, time.time(), self.seconds)
        except NotShowable as error:
            return _failure(node, call, "refused", str(error))
        if record.hides(approval) != CODEC.encode(approval):
            told = "a person has to allow it, and would not see it all: it holds a secret"
            return _failure(node, call, "refused", told)
        return approval

    @property
    def _ruled(self) -> bool:
        return not isinstance(self.policy, AllowAll)

    def _place(self, node: Node) -> Place:
        return Place(self.tenant, self.journal.run_id, node.id, self.policy.version)

    @property
    def writes(self) -> bool:
        """What comes of calls is written down."""
        return self.journal.record is not None and self.journal.live

    def invocation(self, node: Node, call: ToolCall) -> Invocation:
        run_id = self.journal.run_id
        return Invocation(idempotency_key(run_id, node.id, call), run_id, node.id)

    async def launch(self, node: Node, call: ToolCall, spec: ToolSpec) -> None:
        """To be awaited right before the call runs."""
        await self.journal.launch(node, call, spec)

    # --- after it --------------------------------------------------------------------------------

    async def done(self, result: ToolResult) -> None:
        """A call came to an end."""
        await self.journal.done(result)

    def settled(self, result: ToolResult) -> None:
        """A node came to an end, be it without a call. (What was called off may be made again.)"""
        if result.failed != "cancelled":
            self.journal.settle(result)

    # --- what persons say ------------------------------------------------------------------------

    async def hear(self, verdicts: Mapping[str, Verdict]) -> None:
        """What a request says, and what was said elsewhere, to calls that wait. The same once more
        does no harm. Raises InvalidRequest, Forbidden, AlreadyDecided."""
        journal, record = self.journal, self.journal.record
        if record is None:
            return
        asked = {approval.id: approval for approval in journal.approvals}
        check_known(verdicts, asked.keys())
        if verdicts:
            check_decider(self.tenant, self.tenant, self.approvers)
        undecided = [id_ for id_ in asked if journal.live and journal.verdict(id_) is None]
        for approval_id in undecided:
            if (verdict := verdicts.get(approval_id)) is not None:
                read_verdict(asked[approval_id], verdict, time.time(), record.redaction)
                await record.decide(approval_id, CODEC.encode(verdict), self.tenant)
            if (said := await record.decided(approval_id)) is not None:
                body, who = said
                journal.decide(approval_id, CODEC.decode(Verdict, body), who)
        for approval_id, verdict in verdicts.items():
            if journal.verdict(approval_id) != verdict:
                raise AlreadyDecided(approval_id)


def _failure(node: Node, call: ToolCall, kind: FailureKind, why: str) -> ToolResult:
    now = time.perf_counter()
    return ToolResult(call, write_failure(why), kind, now, 0.0, node_id=node.id, tries=0)
