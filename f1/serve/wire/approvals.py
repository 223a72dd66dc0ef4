"""The JSON of calls that wait for a person, and of what the person says, both ways.

{"approve": true}    {"edit": {"to": "ann@example.org"}}    {"reject": "not to her"}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from f1.planning.approvals import MAX_REASON, show
from f1.serve.wire.fields import Fields, refuse
from f1.serve.wire.shape import Flag, Free, Record, Text
from f1.types import Approval, Tool, ToolCall, Verdict

Json = dict[str, Any]
Standing = Literal["waiting", "expired", "approved", "edited", "rejected"]
VERDICT = Record({"approve": Flag(), "edit": Free(), "reject": Text(0, MAX_REASON)})
STANDINGS: tuple[Standing, ...] = ("waiting", "expired", "approved", "edited", "rejected")
_AFTER: Mapping[str, Standing] = {"approve": "approved", "edit": "edited", "reject": "rejected"}


def parse_verdict(body: object, path: str = "") -> Verdict:
    """One of the three. Raises InvalidRequest naming the field."""
    VERDICT.check(body, path)
    given = {key: value for key, value in Fields(body).value.items() if value is not None}
    if len(given) != 1:
        told = f"must have one of 'approve', 'edit' and 'reject', not {len(given)}"
        raise refuse(path or "body", told)
    ((kind, value),) = given.items()
    if kind == "edit":
        return Verdict("edit", arguments=json.dumps(value, ensure_ascii=False))
    if kind == "reject":
        return Verdict("reject", reason=value)
    if value is not True:
        where = f"{path}.approve" if path else "approve"
        raise refuse(where, "must be true; 'reject' says why not")
    return Verdict("approve")


def write_verdict(verdict: Verdict) -> Json:
    match verdict.kind:
        case "approve":
            return {"approve": True}
        case "edit":
            return {"edit": json.loads(verdict.arguments)}
        case "reject":
            return {"reject": verdict.reason}


def write_approval(
    approval: Approval, run_id: str, *, now: float, verdict: Verdict | None = None
) -> Json:
    """`arguments` are the bytes that would run; `text` is all of it for a person, with what hides
    or steers written out."""
    standing: Standing = "expired" if now >= approval.expires else "waiting"
    written: Json = {
        "id": approval.id,
        "object": "approval",
        "run_id": run_id,
        "status": standing if verdict is None else _AFTER[verdict.kind],
        "node": approval.node_id,
        "tool": {
            "name": approval.tool.name,
            "description": approval.tool.description,
            "parameters": approval.tool.parameters,
        },
        "arguments": approval.call.arguments,
        "why": approval.why,
        "text": show(approval),
        "expires": approval.expires,
    }
    return written | ({} if verdict is None else {"verdict": write_verdict(verdict)})


def read_approval(told: Json) -> Approval:
    """As a server told it; what binds it stays there."""
    tool = told["tool"]
    return Approval(
        told["id"],
        told["node"],
        ToolCall("", tool["name"], told["arguments"]),
        Tool(tool["name"], tool["description"], tool["parameters"]),
        told["why"],
        "",
        told["expires"],
    )
