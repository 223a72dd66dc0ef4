"""Calls that a person has to allow: what is asked, and what comes of the answer.

    policy: ask ─▶ ask() ─▶ Approval ─▶ a person ─▶ Verdict ─▶ read_verdict(), once
                                                                   │  (a restart, perhaps)
    right before it would run:                    decide() ◀───────┘
        ─▶ Allowed: these bytes, and no others    ─▶ Rejected: the model is told
        ─▶ AskAgain: it is no longer what the person saw

An approval is of one call at one place of one run, of the whole definition of its tool and of the
rules as they were; `digest` binds all of that. It is used once, and rejected when it expires.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Mapping
from dataclasses import Field, dataclass, fields, is_dataclass, replace
from hashlib import sha256
from hmac import compare_digest
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path, PurePath
from types import CodeType, FunctionType
from typing import Any

from f1.calling.schema import validate_arguments
from f1.errors import F1Error, Forbidden, InvalidRequest
from f1.tools.policy import Policy, Ruling
from f1.tools.spec import ToolSpec
from f1.trace.entries import CODEC
from f1.trace.recorder import Redacts
from f1.trace.visible import visible
from f1.types import Approval, FailureKind, ToolCall, Verdict

VERSION = 1  # of how digests are made; approvals of another are asked again
EXPIRES = 3600.0  # seconds
MAX_SHOWN = 20_000  # characters; what is longer nobody reads, and is refused, not cut
MAX_REASON = 2000


@dataclass(frozen=True, slots=True)
class Place:
    """Where a call stands, and under which rules."""

    tenant: str
    run_id: str
    node_id: str
    rules: str  # Policy.version


@dataclass(frozen=True, slots=True)
class Allowed:
    call: ToolCall  # this is what runs
    edited: bool = False


@dataclass(frozen=True, slots=True)
class Rejected:
    failed: FailureKind
    message: str  # the call's result, for the model


@dataclass(frozen=True, slots=True)
class AskAgain:
    why: str


Decision = Allowed | Rejected | AskAgain


class AlreadyDecided(F1Error):
    """Somebody has said something else to it."""

    status = 409
    type = "invalid_request_error"
    code = "approval_decided"

    def __init__(self, approval_id: str):
        told = f"approval '{approval_id[:100]}' was decided before, or has expired"
        super().__init__(told, param="approval_id")


class NotShowable(Exception):
    """A person cannot be shown it whole. The message is for the model."""


def ask(
    spec: ToolSpec,
    call: ToolCall,
    place: Place,
    ruling: Ruling,
    now: float,
    seconds: float = EXPIRES,
) -> Approval:
    """What a person is asked: `call` as it would be run, references put in. `now` is in seconds
    since 1970. Raises NotShowable; such a call is refused."""
    approval = Approval(
        f"apr_{secrets.token_hex(16)}",
        place.node_id,
        call,
        spec.tool,
        ruling.why,
        digest_of(spec, call, place),
        now + seconds,
    )
    if (long := len(show(approval))) > MAX_SHOWN:
        raise NotShowable(
            f"not run: a person has to allow it, and {long} characters are more than one can read; "
            f"{MAX_SHOWN} are the most"
        )
    return approval


def show(approval: Approval) -> str:
    """All that a person has to read, whole: nothing in it hides, or steers a terminal."""
    arguments = json.dumps(json.loads(approval.call.arguments), indent=2, ensure_ascii=False)
    about = approval.tool.description
    lines = [approval.call.name, *([about] if about else []), approval.why, arguments]
    return "\n".join(visible(text, lines=text is arguments) for text in lines)


def check(approval: Approval, spec: ToolSpec, call: ToolCall, place: Place) -> str | None:
    """Why it does not hold for this call; None: it does."""
    if approval.call != call:
        return "the call is another than the one that was shown"
    if approval.tool != spec.tool:
        return "the tool's definition has changed since it was asked"
    if not compare_digest(approval.digest, digest_of(spec, call, place)):
        return "the rules, how the tool is run, or where the call stands has changed"
    return None


def read_verdict(approval: Approval, verdict: Verdict, now: float, redaction: Redacts) -> None:
    """Whether that can be said to it, before it is kept. Raises InvalidRequest."""
    if now >= approval.expires:
        told = f"approval '{approval.id[:100]}' has expired, and its call is rejected"
        raise InvalidRequest(told, param="id", code="approval_expired")
    if verdict.kind == "edit":
        problem = validate_arguments(approval.tool, verdict.arguments)
        if problem is not None:
            told = f"'edit' does not fit the tool's parameters: {problem}"
            raise InvalidRequest(told, param="edit")
        if len(verdict.arguments) > MAX_SHOWN:
            raise InvalidRequest(f"'edit' is longer than {MAX_SHOWN} characters", param="edit")
    if len(verdict.reason) > MAX_REASON:
        raise InvalidRequest(f"'reject' is longer than {MAX_REASON} characters", param="reject")
    if redaction.redact(CODEC.encode(verdict)) != CODEC.encode(verdict):
        told = "holds what looks like a secret; that is not written down, so it would not run as is"
        raise InvalidRequest(f"'{verdict.kind}' {told}", param=verdict.kind)


def decide(
    approval: Approval,
    verdict: Verdict | None,
    spec: ToolSpec,
    call: ToolCall,
    place: Place,
    policy: Policy,
    now: float,
) -> Decision | None:
    """What comes of it, right before `call` would run at `place`, after a restart too. None: a
    person has not spoken yet, and still may. Launched calls are not asked about again: that it is
    used once is kept by the record."""
    if verdict is not None and verdict.kind == "reject":
        return Rejected("rejected", f"a person rejected this call: {verdict.reason or 'no'}")
    if now >= approval.expires:
        said = "nobody allowed this call in time" if verdict is None else "what allowed it expired"
        return Rejected("rejected", f"not run: {said}, so it is rejected")
    if (problem := check(approval, spec, call, place)) is not None:
        return AskAgain(problem)
    if verdict is None:
        return None
    if verdict.kind == "approve":
        return Allowed(call)
    return _edited(verdict, spec, call, policy)


def _edited(verdict: Verdict, spec: ToolSpec, call: ToolCall, policy: Policy) -> Decision:
    """What a person has written is no tool's doing; what nobody may do they may not either."""
    problem = validate_arguments(spec.tool, verdict.arguments)
    if problem is not None:
        return Rejected("invalid_arguments", f"a person's edit does not fit the schema: {problem}")
    ruling = policy.ruling(spec, json.loads(verdict.arguments))
    if ruling.action == "deny":
        return Rejected("refused", f"a person's edit is not allowed: {ruling.why}")
    return Allowed(replace(call, arguments=verdict.arguments), edited=True)


def check_decider(who: str, tenant: str, approvers: Collection[str] | None) -> None:
    """Whether tenant `who` may decide for a run of `tenant`. `approvers` None: everybody for their
    own; otherwise those alone, for all; none of them: nobody. Raises Forbidden."""
    if (who != tenant) if approvers is None else (who not in approvers):
        told = "this key may not decide on approvals; [approvals] in f1.toml says whose may"
        raise Forbidden(told, code="not_an_approver")


def check_known(verdicts: Mapping[str, Verdict], asked: Collection[str]) -> None:
    """Verdicts are on approvals that this run waits for. Raises InvalidRequest."""
    for approval_id in verdicts:
        if approval_id not in asked:
            told = f"this run waits for no approval '{approval_id[:100]}'"
            param = f"f1.verdicts.{approval_id[:100]}"
            raise InvalidRequest(told, param=param, code="approval_not_found")


# --- what is bound -------------------------------------------------------------------------------


def digest_of(spec: ToolSpec, call: ToolCall, place: Place) -> str:
    """SHA-256 over all that decides on what would happen."""
    said = {
        "version": VERSION,
        "definition": definition(spec),
        "call": [call.id, call.name, call.arguments],
        "place": [place.tenant, place.run_id, place.node_id],
        "rules": place.rules,
    }
    return sha256(_canonical(said)).hexdigest()


def definition(spec: ToolSpec) -> dict[str, Any]:
    """The whole of it: what the model sees, what the operator says of it, and what runs it."""
    return {
        "tool": CODEC.encode(spec.tool),
        "output": CODEC.encode(spec.output),
        "annotations": _plain(spec.annotations),
        "limits": _plain(spec.limits),
        "runner": _plain(spec.runner),
    }


def _plain(value: Any) -> Any:
    """As JSON that is the same in another process, and another where something else would run. What
    is not frozen is no definition: it changes while things run."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if is_dataclass(value) and not isinstance(value, type) and _is_frozen(type(value)):
        inner = {each.name: _field(each, getattr(value, each.name)) for each in fields(value)}
        return {"": type(value).__qualname__, **inner, "code": _file(inner.get("module"))}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, frozenset | set):
        return sorted(map(str, value))
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, PurePath | IPv4Network | IPv6Network):
        return str(value)
    if isinstance(value, FunctionType):
        return [value.__qualname__, _plain(value.__code__)]
    if isinstance(value, CodeType):
        return [value.co_code.hex(), _plain(value.co_consts), _plain(value.co_names)]
    return [type(value).__qualname__, _plain(getattr(value, "settings", None))]


def _is_frozen(kind: Any) -> bool:
    return bool(kind.__dataclass_params__.frozen)


def _field(each: Field[Any], value: Any) -> Any:
    """Of secrets 16 bits of a digest: enough to see a change by, too few to guess them with."""
    plain = _plain(value)
    if each.repr or not isinstance(value, str | tuple | Mapping):
        return plain
    return sha256(_canonical(plain)).hexdigest()[:4]


def _file(module: object) -> str:
    """Of a module that is a file, its content now."""
    if not isinstance(module, str) or not module.endswith(".py"):
        return ""
    try:
        return sha256(Path(module).read_bytes()).hexdigest()
    except OSError as error:
        return type(error).__name__


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
