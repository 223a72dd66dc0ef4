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
                return [*self._grow("reasoning"), self._more(event.text, [])]
            case TextDelta():
                logprobs = write_logprobs(event.logprobs)
                return [*self._grow("message"), self._more(event.text, logprobs)]
            case CallBegun():
                return [*self._close_text("completed"), self._begin_call(event.id, event.name)]
            case ArgumentsDelta():
                return [self._arguments("delta", delta=event.text)]
            case CallDelta(call=call):
                return list(self._write_call(call))
            case Finished():
                self._end = event
                if event.reason == "length":
                    return list(self._close_text("incomplete"))
                self._completed_at = int(time.time())
                return list(self._close_text("completed"))

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

    # --- texts -----------------------------------------------------------------------------------

    def _grow(self, kind: Kind) -> Iterator[Frame]:
        """Until an item of that kind is the one that grows."""
        if self._text is not None and self._text.kind == kind:
            return
        yield from self._close_text("completed")
        self._text = _Text(kind)
        added = self._text.item("in_progress") | {"content": []}
        yield self._frame("response.output_item.added", **self._place(), item=added)
        part = self._text.part()
        yield self._frame("response.content_part.added", **self._part_place(), part=part)

    def _more(self, text: str, logprobs: list[Json]) -> Frame:
        assert self._text is not None
        self._text.pieces.append(text)
        self._text.logprobs += logprobs
        return self._text_frame("delta", delta=text, logprobs=logprobs)

    def _close_text(self, status: str) -> Iterator[Frame]:
        if self._text is None:
            return
        part, item = self._text.part(), self._text.item(status)
        yield self._text_frame("done", text=part["text"], logprobs=list(self._text.logprobs))
        yield self._frame("response.content_part.done", **self._part_place(), part=part)
        yield self._item_done(item)
        self._text = None

    def _text_frame(self, name: str, *, logprobs: list[Json], **data: str) -> Frame:
        assert self._text is not None
        if self._text.kind == "reasoning":
            return self._frame(f"response.reasoning_text.{name}", **self._part_place(), **data)
        place = self._part_place()
        return self._frame(f"response.output_text.{name}", **place, **data, logprobs=logprobs)

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

    def _part_place(self) -> Json:
        assert self._text is not None
        return {"item_id": self._text.id, **self._place(), "content_index": 0}

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
        "output_tokens_details": {"reasoning_tokens": 0},
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
