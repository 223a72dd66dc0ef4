"""A server's answer, read back: chunks → events, error bodies → F1Error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from f1 import errors
from f1.errors import F1Error
from f1.serve.wire.runs import read_run
from f1.types import (
    ArgumentsDelta,
    CallBegun,
    CallDelta,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Relaxed,
    Report,
    TextDelta,
    TokenLogprob,
    ToolCall,
    Usage,
)

_BY_CODE = {
    kind.code: kind
    for kind in (
        errors.InvalidSchema, errors.ContextLengthExceeded, errors.ModelNotFound,
        errors.NotFound, errors.ConstraintError, errors.Overloaded, errors.EngineStopped,
        errors.DeadlineExceeded, errors.ShuttingDown,
    )
} | {"invalid_tool_call": errors.ConstraintError}  # fmt: skip
_BY_STATUS = {
    400: errors.InvalidRequest,
    401: errors.Unauthorized,
    403: errors.Forbidden,
    404: errors.ModelNotFound,
    408: errors.DeadlineExceeded,
    413: errors.InvalidRequest,
    429: errors.Overloaded,
    503: errors.EngineStopped,
}


def read_error(status: int, body: bytes) -> F1Error:
    """The error a server answered with, as the type that would be raised in the process."""
    try:
        parsed = orjson.loads(body)
        error = parsed["error"]
        error = {"message": error} if isinstance(error, str) else error
        message, param, code = error["message"], error.get("param"), error.get("code")
        code = code if isinstance(code, str) else None  # some servers repeat the status
    except (orjson.JSONDecodeError, KeyError, TypeError):
        text = body[:200].decode(errors="replace")
        message, param, code = f"the server answered {status}: {text}", None, None
    kind = _BY_CODE.get(code or "") or _BY_STATUS.get(status, F1Error)
    return kind(str(message), param=param, code=code)


@dataclass(slots=True)
class _OpenCall:
    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class ChunkReader:
    """Chunks of one streamed answer → events. A call is passed on when its choice goes on to the
    next call or ends, for servers may send arguments in pieces; with `eager` each piece is, too."""

    eager: bool = False
    calls: dict[tuple[int, int], _OpenCall] = field(default_factory=dict)
    num_calls: dict[int, int] = field(default_factory=dict)  # that have begun, by choice
    ends: dict[int, tuple[FinishReason, Report]] = field(default_factory=dict)
    usage: Usage = field(default_factory=lambda: Usage(0, 0))

    def read(self, data: bytes) -> list[Event]:
        """Raises what the server tells of, EngineStopped where it sends no chunk."""
        try:
            return list(self._read(data))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            text = data[:200].decode(errors="replace")
            raise errors.EngineStopped(f"the server sent what is no chunk: {text}") from error

    def _read(self, data: bytes) -> Iterator[Event]:
        chunk = orjson.loads(data)
        if chunk.get("error"):
            raise read_error(500, data)
        if chunk.get("usage"):
            self.usage = _read_usage(chunk["usage"])
        for choice in chunk.get("choices", []):
            yield from self._read_choice(choice)

    def _read_choice(self, choice: dict[str, Any]) -> Iterator[Event]:
        index = choice.get("index") or 0
        # A server that does not stream sends its message whole.
        delta = choice.get("delta") or choice.get("message") or {}
        logprobs = _read_logprobs(choice.get("logprobs"))
        if thought := delta.get("reasoning_content") or delta.get("reasoning"):
            yield ReasoningDelta(index, thought, logprobs)
            logprobs = ()
        if delta.get("content") or logprobs:
            yield TextDelta(index, delta.get("content") or "", logprobs)
        for place, piece in enumerate(delta.get("tool_calls") or []):
            yield from self._read_piece(index, place, piece)
        if choice.get("finish_reason"):
            reason = _reason(choice["finish_reason"])
            yield from self._close_calls(index, cut=reason == "length")
            self.ends[index] = reason, _read_report(choice.get("f1") or {})

    def _read_piece(self, choice: int, place: int, piece: dict[str, Any]) -> Iterator[Event]:
        number = piece.get("index")
        key = (choice, place if number is None else number)
        function = piece.get("function") or {}
        open_call = self.calls.get(key)
        # Some servers number all calls 0, each whole and with an id of its own.
        if open_call is None or (piece.get("id") or open_call.id) != open_call.id:
            yield from self._close_calls(choice)
            open_call = self.calls[key] = _OpenCall(self.num_calls.get(choice, 0))
            self.num_calls[choice] = open_call.index + 1
        given = function.get("arguments") or ""
        arguments = given if isinstance(given, str) else orjson.dumps(given).decode()
        open_call.id = open_call.id or piece.get("id") or ""
        name = function.get("name") or ""
        open_call.name += name
        open_call.arguments += arguments
        if self.eager and name:
            yield CallBegun(choice, open_call.index, open_call.id, open_call.name)
        if self.eager and arguments:
            yield ArgumentsDelta(choice, open_call.index, arguments)

    def _close_calls(self, choice: int, *, cut: bool = False) -> Iterator[Event]:
        for key in [key for key in self.calls if key[0] == choice]:
            call = self.calls.pop(key)
            if cut and not _is_json(call.arguments):
                continue  # half a call is no call
            arguments = call.arguments or "{}"
            yield CallDelta(choice, call.index, ToolCall(call.id, call.name, arguments))

    def close(self) -> Iterator[Event]:
        """The ends of the choices. The wire counts tokens of all choices together: the first
        choice carries the sum."""
        if not self.ends:
            raise errors.EngineStopped("the server's stream ended before the answer did")
        for number, (choice, (reason, report)) in enumerate(sorted(self.ends.items())):
            yield Finished(choice, reason, Usage(0, 0) if number else self.usage, report)


def _reason(told: str) -> FinishReason:
    """Servers have words of their own for the end of a turn: "eos", "content_filter", …"""
    if told == "length" or told == "max_tokens":
        return "length"
    return "tool_calls" if told in ("tool_calls", "function_call") else "stop"


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _read_report(told: dict[str, Any]) -> Report:
    return Report(
        relaxed=tuple(Relaxed(**relaxed) for relaxed in told.get("relaxed", ())),
        asked_again=told.get("asked_again", 0),
        bounded=tuple(told.get("bounded", ())),
        needed_tokens=told.get("needed_tokens"),
        looped=told.get("looped", False),
        run=read_run(told),
        model=told.get("model"),
    )


def _read_usage(usage: dict[str, Any]) -> Usage:
    details = usage.get("prompt_tokens_details") or {}
    more = usage.get("completion_tokens_details") or {}
    return Usage(
        usage.get("prompt_tokens") or 0,
        usage.get("completion_tokens") or 0,
        details.get("cached_tokens") or 0,
        more.get("reasoning_tokens") or 0,
    )


def _read_logprobs(logprobs: dict[str, Any] | None) -> tuple[TokenLogprob, ...]:
    tokens = (logprobs or {}).get("content") or []
    return tuple(_read_logprob(token) for token in tokens)


def _read_logprob(token: dict[str, Any]) -> TokenLogprob:
    top = tuple(_read_logprob(other) for other in token.get("top_logprobs") or [])
    data, mass = bytes(token.get("bytes") or []), token.get("masked_mass")
    return TokenLogprob(token["token"], token["logprob"], data, top, mass)
