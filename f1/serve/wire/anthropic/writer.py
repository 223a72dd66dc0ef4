"""What /v1/messages answers: a message, its events, errors.

    message_start ping [ content_block_start content_block_delta… content_block_stop ]…
    message_delta message_stop

The blocks: what was thought, the text, each call.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import orjson

from f1.errors import F1Error
from f1.serve.wire.anthropic.request import MessagesRequest
from f1.serve.wire.frames import Frame
from f1.serve.wire.response import write_report
from f1.types import (
    ArgumentsDelta,
    CallBegun,
    CallDelta,
    Completion,
    Event,
    Finished,
    ReasoningDelta,
    TextDelta,
    Usage,
)

Json = dict[str, Any]
_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def write_anthropic_error(error: F1Error, status: int, request_id: str) -> Json:
    """The body of an error that is answered with `status`."""
    kind = _TYPES.get(status) or ("api_error" if status >= 500 else "invalid_request_error")
    told = {"type": kind, "message": error.message}
    return {"type": "error", "error": told, "request_id": request_id}


class MessagesWriter:
    """One answer: whole, or as frames. Calls of eager tools are streamed as they are written."""

    def __init__(self, asked: MessagesRequest, request_id: str):
        self._asked = asked
        self._request_id = request_id
        self._id = f"msg_{secrets.token_hex(12)}"
        self._open: str | None = None  # the kind of the block that is open, or its call's id
        self._index = -1  # of the block that is open, or was last

    def whole(self, completions: Sequence[Completion]) -> Json:
        (completion,) = completions
        message = completion.message
        content: list[Json] = []
        if message.reasoning:
            content.append(_thinking(message.reasoning))
        if message.content:
            content.append(_text(message.content))
        for call in message.tool_calls:
            content.append(_tool_use(call.id, call.name, orjson.loads(call.arguments)))
        body = self._message(content, _write_usage(completion.usage))
        return body | _end(completion) | write_report(completion.report, self._asked.repaired)

    def begin(self) -> list[Frame]:
        message = self._message([], _write_usage(Usage(0, 0)))  # message_delta has the counts
        return [_frame("message_start", message=message), _frame("ping")]

    def write(self, event: Event) -> list[Frame]:
        match event:
            case TextDelta():
                begun = self._begin_block("text", _text(""))
                return [*begun, self._delta({"type": "text_delta", "text": event.text})]
            case ReasoningDelta():
                begun = self._begin_block("thinking", _thinking(""))
                return [*begun, self._delta({"type": "thinking_delta", "thinking": event.text})]
            case CallBegun() if event.name in self._asked.eager_tools:
                return self._begin_block(event.id, _tool_use(event.id, event.name, {}))
            case ArgumentsDelta() if self._open not in (None, "text", "thinking"):
                return [self._arguments(event.text)]
            case CallDelta() if event.call.id == self._open:
                return self._end_block()
            case CallDelta(call=call):
                begun = self._begin_block(call.id, _tool_use(call.id, call.name, {}))
                return [*begun, self._arguments(call.arguments), *self._end_block()]
            case Finished():
                told = write_report(event.report, self._asked.repaired)
                usage = _write_usage(event.usage)
                end = _frame("message_delta", delta=_end(event), usage=usage, **told)
                return [*self._end_block(), end]
        return []

    def close(self) -> list[Frame]:
        return [_frame("message_stop")]

    def fail(self, error: F1Error) -> list[Frame]:
        return [Frame(write_anthropic_error(error, error.status, self._request_id), "error")]

    def _message(self, content: list[Json], usage: Json) -> Json:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._asked.model,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
            "stop_details": None,
            "usage": usage,
        }

    def _begin_block(self, name: str, block: Json) -> list[Frame]:
        """Nothing where it is open already."""
        if self._open == name:
            return []
        ended = self._end_block()
        self._open = name
        self._index += 1
        return [*ended, _frame("content_block_start", index=self._index, content_block=block)]

    def _end_block(self) -> list[Frame]:
        if self._open is None:
            return []
        self._open = None
        return [_frame("content_block_stop", index=self._index)]

    def _delta(self, delta: Json) -> Frame:
        return _frame("content_block_delta", index=self._index, delta=delta)

    def _arguments(self, text: str) -> Frame:
        return self._delta({"type": "input_json_delta", "partial_json": text})


def _frame(kind: str, **fields: Any) -> Frame:
    return Frame({"type": kind} | fields, kind)


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


def _thinking(text: str) -> Json:
    return {"type": "thinking", "thinking": text, "signature": ""}  # nothing is signed here


def _tool_use(call_id: str, name: str, arguments: Json) -> Json:
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}


def _end(choice: Completion | Finished) -> Json:
    reason = "stop_sequence" if choice.stop else _REASONS[choice.reason]
    return {"stop_reason": reason, "stop_sequence": choice.stop, "stop_details": None}


def _write_usage(usage: Usage) -> Json:
    """Anthropic counts what was read from the cache apart. Caching costs nothing here."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }
