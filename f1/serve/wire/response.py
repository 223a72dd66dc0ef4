"""What the server answers: completions, chunks, model lists and errors, as JSON objects."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from f1.errors import F1Error
from f1.serve.wire.messages import write_call
from f1.types import CallDelta, Completion, Event, Finished, TextDelta, TokenLogprob, Usage

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


def write_completion(envelope: Envelope, completions: Sequence[Completion]) -> Json:
    choices = [_write_choice(index, choice) for index, choice in enumerate(completions)]
    body = envelope.wrap("chat.completion", choices)
    body["usage"] = write_usage(choice.usage for choice in completions)
    return body


def _write_choice(index: int, completion: Completion) -> Json:
    calls = completion.message.tool_calls
    message: Json = {"role": "assistant", "content": completion.message.content, "refusal": None}
    if calls:
        message["content"] = message["content"] or None
        message["tool_calls"] = [write_call(call) for call in calls]
    return {
        "index": index,
        "message": message,
        "logprobs": _write_logprobs(completion.logprobs),
        "finish_reason": completion.reason,
    }


def write_usage(choices: Iterable[Usage]) -> Json:
    """The usage of all choices: they share one prompt, so it counts once."""
    usages = list(choices)
    prompt = max((usage.prompt_tokens for usage in usages), default=0)
    completion = sum(usage.completion_tokens for usage in usages)
    cached = min((usage.cached_tokens for usage in usages), default=0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def _write_logprobs(tokens: Sequence[TokenLogprob]) -> Json | None:
    if not tokens:
        return None
    content = []
    for token in tokens:
        top = [_write_logprob(other) for other in token.top]
        content.append(_write_logprob(token) | {"top_logprobs": top})
    return {"content": content, "refusal": None}


def _write_logprob(token: TokenLogprob) -> Json:
    # -inf is not JSON; OpenAI writes -9999.0 for "very unlikely".
    logprob = max(token.logprob, -9999.0)
    return {"token": token.token, "logprob": logprob, "bytes": list(token.token_bytes)}


class ChunkWriter:
    """Events of one streamed answer → chunks. Call `write` for each event, `close` at the end."""

    def __init__(self, envelope: Envelope, *, include_usage: bool):
        self.envelope = envelope
        self.include_usage = include_usage
        self.begun: set[int] = set()
        self.usages: list[Usage] = []

    def write(self, event: Event) -> list[Json]:
        chunks = []
        if event.choice not in self.begun:
            self.begun.add(event.choice)
            chunks.append(self._chunk(event.choice, {"role": "assistant", "content": ""}))
        match event:
            case TextDelta():
                logprobs = _write_logprobs(event.logprobs)
                chunks.append(self._chunk(event.choice, {"content": event.text}, logprobs))
            case CallDelta():
                chunks += [self._chunk(event.choice, delta) for delta in _call_deltas(event)]
            case Finished():
                self.usages.append(event.usage)
                chunks.append(self._chunk(event.choice, {}, reason=event.reason))
        return chunks

    def close(self) -> list[Json]:
        if not self.include_usage:
            return []
        last = self.envelope.wrap("chat.completion.chunk", [])
        return [last | {"usage": write_usage(self.usages)}]

    def _chunk(
        self, choice: int, delta: Json, logprobs: Json | None = None, reason: str | None = None
    ) -> Json:
        body = {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        chunk = self.envelope.wrap("chat.completion.chunk", [body])
        return chunk | {"usage": None} if self.include_usage else chunk


def _call_deltas(event: CallDelta) -> list[Json]:
    # Clients join every string but `index` and `type` over the deltas of a call, so the id and
    # the name must be sent exactly once, and the arguments only as pieces.
    opened = write_call(event.call)
    opened["function"] = {"name": event.call.name, "arguments": ""}
    first = {"tool_calls": [{"index": event.index} | opened]}
    rest = {"tool_calls": [{"index": event.index, "function": {"arguments": event.call.arguments}}]}
    return [first, rest]


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
