"""What a request says of a run of the system, and what a run tells, as JSON, both ways.

{"f1": {"strategy": "plan", "plan": "only", "toolsets": ["travel"], "budget": {"steps": 4}}}
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields as fields_of
from dataclasses import replace
from typing import Any, cast, get_args

from f1.planning.plan import write_arguments, write_plan
from f1.planning.run import Role
from f1.planning.strategies.auto import STRATEGIES
from f1.serve.limits import Limits
from f1.serve.wire.approvals import (
    VERDICT,
    parse_verdict,
    read_approval,
    write_approval,
    write_verdict,
)
from f1.serve.wire.fields import Fields
from f1.serve.wire.shape import (
    Either,
    Flag,
    Free,
    Integer,
    Items,
    Keyed,
    Number,
    Record,
    Shape,
    Text,
    Word,
)
from f1.types import (
    Budget,
    Node,
    Note,
    Plan,
    RunEvent,
    RunOptions,
    RunReport,
    Started,
    ToolResult,
)

Json = dict[str, Any]
_TOOL_NAME = Text(1, 64, "[A-Za-z0-9_-]{1,64}", "1 to 64 of A-Z, a-z, 0-9, '_' and '-'")
RUN_ID = Text(1, 80, "[A-Za-z0-9._:-]{1,80}", "1 to 80 of A-Z, a-z, 0-9, '.', '_', ':' and '-'")
SESSION_ID = RUN_ID
_APPROVAL_ID = Text(1, 80, "[A-Za-z0-9_]{1,80}", "ids of approvals")
_TOOLSET = Text(1, 80, "[A-Za-z0-9_-]{1,64}(@[0-9]{1,9})?", "a toolset's name, or name@version")


def options(limits: Limits) -> dict[str, Shape]:
    """Fields of `f1` that say how the system goes about a request."""
    budget: dict[str, Shape] = {
        "steps": Integer(1, 100),
        "calls": Integer(1, 1000),
        "tokens": Integer(1, 2**31 - 1),
        "seconds": Number(limits.min_timeout, limits.max_timeout),
    }
    return {
        "strategy": Word(("auto", *STRATEGIES)),
        "plan": Either((Word(("only",)), Free())),
        "tools": Items(_TOOL_NAME, 0, limits.max_tools),
        "toolsets": Items(_TOOLSET, 0, 64),
        "max_tools": Integer(1, limits.max_tools),
        "samples": Integer(1, limits.max_choices),
        "budget": Record(budget),
        "roles": Record(dict.fromkeys(get_args(Role), Text(1, limits.max_name_chars))),
        "compact": Flag(),
        "progress": Flag(),
        "run_id": RUN_ID,
        "session_id": SESSION_ID,
        "verdicts": Keyed(_APPROVAL_ID, VERDICT, 64),
    }


def parse_options(own: Fields, defaults: RunOptions) -> RunOptions:
    """Of the fields of `f1`, which are within their bounds; the others are as in `defaults`."""
    given = {name: value for name, value in own.value.items() if value is not None}
    read: Json = {
        name: given[name]
        for name in (
            "strategy",
            "max_tools",
            "samples",
            "compact",
            "progress",
            "run_id",
            "session_id",
        )
        if name in given
    }
    read |= {name: tuple(given[name]) for name in ("tools", "toolsets") if name in given}
    if "budget" in given:
        bounds = {name: value for name, value in given["budget"].items() if value is not None}
        read["budget"] = replace(defaults.budget, **bounds)
    if "roles" in given:
        read["roles"] = {role: name for role, name in given["roles"].items() if name is not None}
    if "verdicts" in given:
        read["verdicts"] = {
            approval_id: parse_verdict(said, f"f1.verdicts.{approval_id}")
            for approval_id, said in given["verdicts"].items()
        }
    if (plan := given.get("plan")) is not None:
        read |= {"plan_only": True} if plan == "only" else {"plan": plan}
    return replace(defaults, **read)


def write_options(run: RunOptions) -> Json:
    """The fields whose parse is `run`, as far as they are not at their defaults."""
    ordinary = RunOptions()
    written: Json = {}
    for field in fields_of(RunOptions):
        value = getattr(run, field.name)
        if value == getattr(ordinary, field.name):
            continue
        if field.name == "plan_only":
            written["plan"] = "only"
        elif isinstance(value, Plan):
            written["plan"] = write_plan(value)
        elif isinstance(value, Budget):
            bounds = {f.name: getattr(value, f.name) for f in fields_of(Budget)}
            written["budget"] = {k: v for k, v in bounds.items() if v is not None}
        elif field.name == "verdicts":
            written["verdicts"] = {name: write_verdict(said) for name, said in value.items()}
        elif isinstance(value, tuple):
            written[field.name] = list(value)
        elif isinstance(value, Mapping):
            written[field.name] = dict(value)
        else:
            written[field.name] = value
    return written


def write_run(report: RunReport) -> Json:
    """What a run did."""
    told: Json = {"strategy": report.strategy, "ending": report.ending}
    if report.run_id:
        told["run_id"] = report.run_id
    if report.approvals:
        told["approvals"] = [
            write_approval(each, report.run_id, now=time.time()) for each in report.approvals
        ]
    if report.plan.nodes:
        told["plan"] = write_plan(report.plan)
    if report.results:
        told["results"] = [_write_result(result) for result in report.results]
    if len(report.selected) < report.num_tools:
        told["selected"] = [
            {"name": s.name, "score": round(s.score, 4), "why": s.why} for s in report.selected
        ]
        told["num_tools"] = report.num_tools
    if report.dropped:
        told["dropped_messages"] = report.dropped
    if report.notes:
        told["notes"] = list(report.notes)
    return told


def write_event(event: RunEvent) -> Json:
    """What happens in a run, as it happens: one of `node`, `started`, `result` and `note`."""
    match event.item:
        case Node() as node:
            return {"node": _write_node(node)}
        case Started(node=node, call=call):
            return {"started": {"node": node.id, "arguments": call.arguments}}
        case ToolResult() as result:
            return {"result": _write_result(result)}
        case Note(text=text):
            return {"note": text}


def _write_node(node: Node) -> Json:
    written: Json = {
        "id": node.id,
        "tool": node.tool,
        "arguments": write_arguments(node.arguments),
    }
    return written | ({"after": list(node.after)} if node.after else {})


def _write_result(result: ToolResult) -> Json:
    written: Json = {
        "node": result.node_id,
        "tool": result.call.name,
        "arguments": result.call.arguments,
        "content": result.content,
        "seconds": round(result.seconds, 4),
    }
    marks = {
        "failed": result.failed,
        "tries": result.tries if result.tries > 1 else None,
        "cut": result.cut or None,
        "shared": result.shared or None,
    }
    return written | {name: mark for name, mark in marks.items() if mark is not None}


def read_run(told: Json) -> RunReport | None:
    """Of what a server told of a run, the part that stays small: how it ended."""
    if "ending" not in told:
        return None
    return RunReport(
        strategy=told["strategy"],
        ending=cast(Any, told["ending"]),
        dropped=told.get("dropped_messages", 0),
        notes=tuple(told.get("notes", ())),
        run_id=told.get("run_id", ""),
        approvals=tuple(map(read_approval, told.get("approvals", ()))),
    )
