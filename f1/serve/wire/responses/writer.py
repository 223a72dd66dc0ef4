"""A response as it comes into being: the object, and the events that tell of it.

    created, in_progress
        output_item.added, content_part.added, output_text.delta …, output_text.done,
            content_part.done, output_item.done
        output_item.added, function_call_arguments.delta …, .done, output_item.done
    completed | incomplete | failed

Whole or streamed, the object is built by the same steps.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from f1.errors import F1Error
from f1.serve.wire.frames import Frame
from f1.serve.wire.response import write_logprobs, write_report
from f1.serve.wire.responses.items import new_id
from f1.serve.wire.responses.request import ResponsesRequest
from f1.types import (
    ArgumentsDelta,
    CallBegun,
    CallDelta,
    Completion,
    Event,
    Finished,
    ReasoningDelta,
    RunEvent,
    TextDelta,
    ToolCall,
    Usage,
)

Json = dict[str, Any]
Kind = Literal["message", "reasoning"]


class ResponsesWriter:
    """Writes one response. `repaired`: what was put right in its conversation."""

    def __init__(self, asked: ResponsesRequest, repaired: Sequence[str] = ()):
        self.id = new_id("resp")
        self._created_at = int(time.time())
        self._completed_at: int | None = None
        self._asked = asked
        self._repaired = repaired
        self._output: list[Json] = []  # items that are done
        self._text: _Text | None = None  # the one that grows
        self._call_item = ""  # id of the call's that has begun
        self._end: Finished | None = None
        self._sequence_number = -1

    def whole(self, completions: Sequence[Completion]) -> Json:
        for event in _events(completions[0]):
            self.write(event)
        return self.response()

    def begin(self) -> list[Frame]:
        return [self._state("created"), self._state("in_progress")]

    def write(self, event: Event) -> list[Frame]:
        match event:
            case ReasoningDelta():
                return list(self._grow("reasoning", event.text, []))
            case TextDelta():
                return list(self._grow("message", event.text, write_logprobs(event.logprobs)))
            case CallBegun():
                return [*self._close_text("completed"), self._begin_call(event.id, event.name)]
            case ArgumentsDelta():
                return [self._arguments("delta", delta=event.text)]
            case CallDelta(call=call):
                return list(self._write_call(call))
            case Finished():
                return list(self._finish(event))
            case RunEvent():
                return []  # not of this API

    def close(self) -> list[Frame]:
        return [self._state(self.response()["status"])]

    def fail(self, error: F1Error) -> list[Frame]:
        codes = {400: "invalid_prompt", 429: "rate_limit_exceeded"}
        told = {"code": codes.get(error.status, "server_error"), "message": error.message}
        failed = self.response() | {"status": "failed", "error": told, "completed_at": None}
        return [
            self._frame("error", code=error.code, message=error.message, param=error.param),
            self._frame("response.failed", response=failed),
        ]

    def response(self) -> Json:
        """As far as it has come."""
        end, cut = self._end, self._end is not None and self._end.reason == "length"
        told = write_report(end.report, self._repaired) if end else {}
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created_at,
            "completed_at": self._completed_at,
            "status": "in_progress" if end is None else "incomplete" if cut else "completed",
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": list(self._output),
            "usage": _write_usage(end.usage) if end else None,
        } | self._asked.echo | told  # fmt: skip

    def _finish(self, end: Finished) -> Iterator[Frame]:
        self._end = end
        if end.reason != "length":
            self._completed_at = int(time.time())
        in_text = end.reason == "length" and end.report.needed_tokens is None  # else in a call
        yield from self._close_text("incomplete" if in_text else "completed")

    # --- texts -----------------------------------------------------------------------------------

    def _grow(self, kind: Kind, more: str, logprobs: list[Json]) -> Iterator[Frame]:
        """The item that grows, if it is one of that kind; else a new one."""
        text = self._text
        if text is None or text.kind != kind:
            yield from self._close_text("completed")
            text = self._text = _Text(kind)
            added = text.item("in_progress") | {"content": []}
            yield self._frame("response.output_item.added", **self._place(), item=added)
            yield self._part_frame("response.content_part.added", text, part=text.part())
        text.pieces.append(more)
        text.logprobs += logprobs
        yield self._text_frame("delta", text, delta=more, logprobs=logprobs)

    def _close_text(self, status: str) -> Iterator[Frame]:
        if self._text is None:
            return
        text, self._text = self._text, None
        part = text.part()
        yield self._text_frame("done", text, text=part["text"], logprobs=list(text.logprobs))
        yield self._part_frame("response.content_part.done", text, part=part)
        yield self._item_done(text.item(status))

    def _text_frame(self, name: str, of: _Text, /, *, logprobs: list[Json], **data: str) -> Frame:
        if of.kind == "reasoning":
            return self._part_frame(f"response.reasoning_text.{name}", of, **data)
        return self._part_frame(f"response.output_text.{name}", of, **data, logprobs=logprobs)

    def _part_frame(self, kind: str, of: _Text, **data: object) -> Frame:
        return self._frame(kind, item_id=of.id, **self._place(), content_index=0, **data)

    # --- calls -----------------------------------------------------------------------------------

    def _write_call(self, call: ToolCall) -> Iterator[Frame]:
        yield from self._close_text("completed")
        if not self._call_item:  # it was not told of piece by piece
            yield self._begin_call(call.id, call.name)
            yield self._arguments("delta", delta=call.arguments)
        yield self._arguments("done", arguments=call.arguments)
        yield self._item_done(_write_call(self._call_item, call, "completed"))
        self._call_item = ""

    def _begin_call(self, call_id: str, name: str) -> Frame:
        self._call_item = new_id("fc")
        item = _write_call(self._call_item, ToolCall(call_id, name, ""), "in_progress")
        return self._frame("response.output_item.added", **self._place(), item=item)

    def _arguments(self, name: str, **data: str) -> Frame:
        kind, place = f"response.function_call_arguments.{name}", self._place()
        return self._frame(kind, item_id=self._call_item, **place, **data)

    # --- frames ----------------------------------------------------------------------------------

    def _state(self, name: str) -> Frame:
        return self._frame(f"response.{name}", response=self.response())

    def _item_done(self, item: Json) -> Frame:
        frame = self._frame("response.output_item.done", **self._place(), item=item)
        self._output.append(item)
        return frame

    def _place(self) -> Json:
        return {"output_index": len(self._output)}

    def _frame(self, kind: str, **data: object) -> Frame:
        self._sequence_number += 1
        return Frame({"type": kind, "sequence_number": self._sequence_number} | data, event=kind)


@dataclass(slots=True)
class _Text:
    """A message or a thought."""

    kind: Kind
    id: str = ""
    pieces: list[str] = field(default_factory=list)
    logprobs: list[Json] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.id = new_id("msg" if self.kind == "message" else "rs")

    def part(self) -> Json:
        text = "".join(self.pieces)
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        logprobs = list(self.logprobs)
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}

    def item(self, status: str) -> Json:
        extra: Json = {"role": "assistant"} if self.kind == "message" else {"summary": []}
        head = {"id": self.id, "type": self.kind, "status": status}
        return head | extra | {"content": [self.part()]}


def _write_call(item_id: str, call: ToolCall, status: str) -> Json:
    head = {"id": item_id, "type": "function_call", "status": status}
    return head | {"call_id": call.id, "name": call.name, "arguments": call.arguments}


def _write_usage(usage: Usage) -> Json:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _events(completion: Completion) -> Iterator[Event]:
    """The events that a completion may have come from."""
    message = completion.message
    if message.reasoning:
        yield ReasoningDelta(0, message.reasoning)
    if message.content:
        yield TextDelta(0, message.content, completion.logprobs)
    for index, call in enumerate(message.tool_calls):
        yield CallDelta(0, index, call)
    yield Finished(0, completion.reason, completion.usage, completion.report)
