"""What the server answers: completions, chunks, model lists and errors, as JSON objects."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from f1.errors import F1Error
from f1.serve.wire.frames import Frame
from f1.serve.wire.messages import write_call
from f1.serve.wire.request import ChatRequest
from f1.serve.wire.runs import write_event, write_run
from f1.types import (
    ArgumentsDelta,
    CallBegun,
    CallDelta,
    Completion,
    Event,
    Finished,
    ReasoningDelta,
    Report,
    RunEvent,
    TextDelta,
    TokenLogprob,
    Usage,
)

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every chunk of one answer repeats."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def wrap(self, kind: str, choices: list[Json]) -> Json:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def _write_choice(index: int, completion: Completion, repaired: Sequence[str]) -> Json:
    calls = completion.message.tool_calls
    message: Json = {"role": "assistant", "content": completion.message.content, "refusal": None}
    if calls:
        message["content"] = message["content"] or None
        message["tool_calls"] = [write_call(call) for call in calls]
    if completion.message.reasoning:
        message["reasoning_content"] = completion.message.reasoning
    choice = {
        "index": index,
        "message": message,
        "logprobs": _write_logprobs(completion.logprobs),
        "finish_reason": completion.reason,
    }
    return choice | write_report(completion.report, repaired)


def write_usage(choices: Iterable[Usage]) -> Json:
    """The usage of all choices: they share one prompt, so it counts once."""
    usages = list(choices)
    prompt = max((usage.prompt_tokens for usage in usages), default=0)
    completion = sum(usage.completion_tokens for usage in usages)
    reasoning = sum(usage.reasoning_tokens for usage in usages)
    cached = min((usage.cached_tokens for usage in usages), default=0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def _write_logprobs(tokens: Sequence[TokenLogprob]) -> Json | None:
    return {"content": write_logprobs(tokens), "refusal": None} if tokens else None


def write_logprobs(tokens: Sequence[TokenLogprob]) -> list[Json]:
    """Each token, and the likeliest in its place."""
    return [
        _write_logprob(token) | {"top_logprobs": [_write_logprob(other) for other in token.top]}
        for token in tokens
    ]


def _write_logprob(token: TokenLogprob) -> Json:
    # -inf is not JSON; OpenAI writes -9999.0 for "very unlikely".
    logprob = max(token.logprob, -9999.0)
    written: Json = {"token": token.token, "logprob": logprob, "bytes": list(token.token_bytes)}
    return written if token.masked_mass is None else written | {"masked_mass": token.masked_mass}


class ChatWriter:
    """One answer as OpenAI's chat completions have it: whole, or as frames."""

    def __init__(self, chat: ChatRequest):
        self._envelope = Envelope(chat.model)
        self._include_usage = chat.include_usage
        self._eager = chat.generate.eager_arguments
        self._repaired = chat.repaired
        self._begun: set[int] = set()
        self._usages: list[Usage] = []

    def whole(self, completions: Sequence[Completion]) -> Json:
        choices = [
            _write_choice(index, choice, self._repaired) for index, choice in enumerate(completions)
        ]
        body = self._envelope.wrap("chat.completion", choices)
        return body | {"usage": write_usage(choice.usage for choice in completions)}

    def begin(self) -> list[Frame]:
        return []

    def write(self, event: Event) -> list[Frame]:
        deltas = [] if event.choice in self._begun else [{"role": "assistant", "content": ""}]
        self._begun.add(event.choice)
        frames = [self._chunk(event.choice, delta) for delta in deltas]
        match event:
            case TextDelta():
                logprobs = _write_logprobs(event.logprobs)
                frames.append(self._chunk(event.choice, {"content": event.text}, logprobs))
            case ReasoningDelta():
                frames.append(self._chunk(event.choice, {"reasoning_content": event.text}))
            case CallBegun():
                frames.append(self._chunk(event.choice, _begun(event.index, event.id, event.name)))
            case ArgumentsDelta():
                frames.append(self._chunk(event.choice, _arguments(event.index, event.text)))
            case CallDelta(call=call) if not self._eager:
                frames.append(self._chunk(event.choice, _begun(event.index, call.id, call.name)))
                frames.append(self._chunk(event.choice, _arguments(event.index, call.arguments)))
            case RunEvent():
                frames.append(self._chunk(event.choice, {}, None, {"f1": write_event(event)}))
            case Finished():
                self._usages.append(event.usage)
                frames.append(self._end(event))
        return frames

    def close(self) -> list[Frame]:
        done = Frame("[DONE]")
        if not self._include_usage:
            return [done]
        last = self._envelope.wrap("chat.completion.chunk", [])
        return [Frame(last | {"usage": write_usage(self._usages)}), done]

    def fail(self, error: F1Error) -> list[Frame]:
        return [Frame(write_error(error))]

    def _end(self, event: Finished) -> Frame:
        told = write_report(event.report, self._repaired)
        return self._chunk(event.choice, {}, None, {"finish_reason": event.reason} | told)

    def _chunk(
        self, choice: int, delta: Json, logprobs: Json | None = None, end: Json | None = None
    ) -> Frame:
        body = {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": None}
        chunk = self._envelope.wrap("chat.completion.chunk", [body | (end or {})])
        return Frame(chunk | {"usage": None} if self._include_usage else chunk)


def _begun(index: int, call_id: str, name: str) -> Json:
    # Clients join every string but `index` and `type` over the deltas of a call, so the id and
    # the name must be sent exactly once, and the arguments only as pieces.
    function = {"name": name, "arguments": ""}
    return {
        "tool_calls": [{"index": index, "id": call_id, "type": "function", "function": function}]
    }


def _arguments(index: int, text: str) -> Json:
    return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


def write_report(report: Report, repaired: Sequence[str] = ()) -> Json:
    """What F1 says of a choice beyond OpenAI's fields, under `f1`; {} where that is nothing."""
    told: Json = {"repaired": list(repaired)} if repaired else {}
    if report.relaxed:
        told["relaxed"] = [asdict(relaxed) for relaxed in report.relaxed]
    if report.asked_again:
        told["asked_again"] = report.asked_again
    if report.bounded:
        told["bounded"] = list(report.bounded)
    if report.needed_tokens is not None:
        told["needed_tokens"] = report.needed_tokens
    if report.looped:
        told["looped"] = True
    if report.run is not None:
        told |= write_run(report.run)
    if report.model is not None:
        told["model"] = report.model
    return {"f1": told} if told else {}


def write_error(error: F1Error) -> Json:
    body = {
        "message": error.message,
        "type": error.type,
        "param": error.param,
        "code": error.code,
    }
    return {"error": body}


def write_model(model_id: str, created: int) -> Json:
    return {"id": model_id, "object": "model", "created": created, "owned_by": "f1"}


def write_models(model_ids: Iterable[str], created: int) -> Json:
    return {"object": "list", "data": [write_model(name, created) for name in model_ids]}
