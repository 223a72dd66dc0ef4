"""`/v1/approvals`: calls that wait for a person, and what the person says.

GET  /v1/approvals         those that wait: your own; where [approvals] names you, everybody's
GET  /v1/approvals/{id}    one, whole
POST /v1/approvals/{id}    {"approve": true} | {"edit": {…}} | {"reject": "why"}, once

The run goes on when it is asked for by its id ({"f1": {"run_id": …}}).
"""

from __future__ import annotations

import time

from fastapi import FastAPI, Request, Response

from f1.errors import NotFound
from f1.planning.approvals import AlreadyDecided, check_decider, read_verdict
from f1.serve.exchange import caller_of, json_response, read_json
from f1.serve.server import Server
from f1.serve.wire.approvals import Json, parse_verdict, write_approval
from f1.store.runs import ApprovalRow
from f1.trace.entries import CODEC
from f1.types import Approval, Verdict


def add_routes(app: FastAPI, server: Server) -> None:
    @app.get("/v1/approvals")
    async def listed(request: Request) -> Response:
        now = time.time()
        rows = await _waiting(server, caller_of(request).tenant)
        data = [_write(row, now) for row in rows if now < row.expires]
        return json_response({"object": "list", "data": data})

    @app.get("/v1/approvals/{approval_id}")
    async def one(request: Request, approval_id: str) -> Response:
        row = await _find(server, caller_of(request).tenant, approval_id)
        return json_response(_write(row, time.time()))

    @app.post("/v1/approvals/{approval_id}")
    async def decide(request: Request, approval_id: str) -> Response:
        verdict = parse_verdict(await read_json(request, server.limits.max_body_bytes))
        who = caller_of(request).tenant
        row = await _find(server, who, approval_id)
        check_decider(who, row.tenant, server.system.approvers)
        recorder = server.system.recorder
        if recorder is None or row.decided is not None:
            raise AlreadyDecided(approval_id)
        approval = CODEC.decode(Approval, row.body)
        redaction = recorder.redaction.for_run()
        redaction.redact(row.body)  # the tool's schema says which of its fields are secret
        read_verdict(approval, verdict, time.time(), redaction)
        said: Json = {"verdict": CODEC.encode(verdict), "who": who}
        if not await recorder.store.decide(row.tenant, row.id, said):
            raise AlreadyDecided(approval_id)
        return json_response(_write(row, time.time(), verdict))


async def _waiting(server: Server, tenant: str) -> list[ApprovalRow]:
    """Those that the tenant may see."""
    if (recorder := server.system.recorder) is None:
        return []
    sees_all = tenant in (server.system.approvers or ())
    return await recorder.store.approvals(None if sees_all else tenant)


async def _find(server: Server, tenant: str, approval_id: str) -> ApprovalRow:
    """Raises NotFound also for those of others: that they are there is theirs."""
    if (recorder := server.system.recorder) is not None and "\0" not in approval_id:
        row = await recorder.store.approval(tenant, approval_id)
        if row is None:
            rows = await _waiting(server, tenant)
            row = next((each for each in rows if each.id == approval_id), None)
        if row is not None:
            return row
    raise NotFound(f"no approval '{approval_id[:100]}' is waited for", param="approval_id")


def _write(row: ApprovalRow, now: float, verdict: Verdict | None = None) -> Json:
    if verdict is None and row.decided is not None:
        verdict = CODEC.decode(Verdict, row.decided["verdict"])
    return write_approval(CODEC.decode(Approval, row.body), row.run_id, now=now, verdict=verdict)
