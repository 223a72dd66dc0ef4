"""POST /v1/completions: text in, the text that follows out; no roles, no tools.

Fields follow the `openai` package 3.54. Beyond OpenAI: `timeout`, `top_k`, `min_p` and
`repetition_penalty`. Without `temperature` decoding is greedy.
"""

from __future__ import annotations

import codecs
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from f1.errors import F1Error
from f1.serve.limits import Limits
from f1.serve.wire import bodies
from f1.serve.wire.fields import Fields
from f1.serve.wire.frames import Frame
from f1.serve.wire.request import parse_sampling, parse_stop, parse_stream
from f1.serve.wire.response import write_error, write_report
from f1.serve.wire.shape import Either, Flag, Integer, Items, Record, Text, Unsupported
from f1.types import Completion, Event, Finished, GenerateRequest, TextDelta, TokenLogprob, Usage

Json = dict[str, Any]
Prompt = str | tuple[int, ...]
_MAX_TOKENS = 16  # unless the request says


@cache
def completions_body(limits: Limits) -> Record:
    """POST /v1/completions."""
    token_id = Integer(0, bodies.MAX_INT)
    token_ids = Items(token_id, 1, limits.max_prompt_tokens)
    prompts = Items(Either((Text(1), token_id, token_ids)), 1, limits.max_prompt_tokens)
    return Record(
        {
            "model": Text(1, limits.max_name_chars),
            "prompt": Either((Text(1), prompts)),
            "max_tokens": Integer(1, bodies.MAX_INT),
            "n": Integer(1, limits.max_choices),
            "best_of": Integer(1, limits.max_choices),
            "echo": Flag(),
            "logprobs": Integer(0, 5),
            "stop": bodies.stop(limits, 4),
            "stream": Flag(),
            "stream_options": Record({"include_usage": Flag(), "include_obfuscation": Flag()}),
            "suffix": Unsupported(),
            "timeout": bodies.timeout(limits),
            "user": Text(0, 512),
        }
        | bodies.sampling(limits),
        required=("model", "prompt"),
    )


@dataclass(frozen=True, slots=True)
class CompletionsRequest:
    """A parsed body: one request for each of its prompts."""

    model: str
    requests: tuple[GenerateRequest, ...]
    echo: bool = False
    stream: bool = False
    include_usage: bool = False
    timeout: float | None = None


def parse_completions_request(body: object, limits: Limits) -> CompletionsRequest:
    """Raises InvalidRequest naming the first field that is wrong."""
    completions_body(limits).check(body, "")
    fields = Fields(body)
    n = fields.integer("n") or 1
    if fields.has("best_of") and fields.get("best_of") != n:
        raise fields.refuse("best_of", "must be as many as 'n': none is decoded and thrown away")
    prompts = _parse_prompts(fields, limits)
    if n * len(prompts) > limits.max_choices:
        raise fields.refuse("n", f"times the prompts may be at most {limits.max_choices}")
    echo, num_logprobs = fields.boolean("echo") or False, fields.integer("logprobs")
    if echo and num_logprobs is not None:
        raise fields.refuse("echo", "is not allowed with 'logprobs': there are none of the prompt")
    sampling, stop = parse_sampling(fields, num_logprobs), parse_stop(fields)
    max_tokens = fields.integer("max_tokens") or _MAX_TOKENS
    stream, include_usage = parse_stream(fields)
    requests = tuple(
        GenerateRequest((), sampling=sampling, max_tokens=max_tokens, stop=stop, n=n, prompt=prompt)
        for prompt in prompts
    )
    model, timeout = fields.required_string("model"), fields.number("timeout")
    return CompletionsRequest(model, requests, echo, stream, include_usage, timeout)


def _parse_prompts(fields: Fields, limits: Limits) -> list[Prompt]:
    value = fields.get("prompt")
    if isinstance(value, str):
        return [value]
    kinds = {type(item) for item in value}
    if kinds == {int}:
        return [tuple(value)]
    if len(kinds) > 1:
        raise fields.refuse("prompt", "must be all strings, all token ids, or all arrays of those")
    if len(value) > limits.max_prompts:
        raise fields.refuse("prompt", f"may hold at most {limits.max_prompts} prompts")
    if sum(map(len, value)) > limits.max_prompt_tokens and kinds == {list}:
        raise fields.refuse("prompt", f"may hold at most {limits.max_prompt_tokens} tokens")
    return [item if isinstance(item, str) else tuple(item) for item in value]


class CompletionsWriter:
    """One answer: whole, or as frames. `echoed` are the prompts' texts, where they are told."""

    def __init__(self, asked: CompletionsRequest, echoed: Sequence[str] = ()):
        self._asked = asked
        self._n = asked.requests[0].n
        self._id = f"cmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._choices: dict[int, _Choice] = {}
        self._echoed = echoed or [""] * len(asked.requests)
        self._ends: dict[int, Usage] = {}

    def whole(self, completions: Sequence[Completion]) -> Json:
        choices = []
        for index, completion in enumerate(completions):
            logprobs = self._logprobs(index, completion.logprobs)
            text = self._echoed[index // self._n] + completion.message.content
            told = write_report(completion.report)
            self._ends[index] = completion.usage
            choices.append(_write_choice(index, text, logprobs, completion.reason) | told)
        return self._wrap(choices) | {"usage": self._usage()}

    def begin(self) -> list[Frame]:
        if not self._asked.echo:
            return []
        told = [self._echoed[index // self._n] for index in range(self._n * len(self._echoed))]
        return [self._chunk(_write_choice(index, text)) for index, text in enumerate(told)]

    def write(self, event: Event) -> list[Frame]:
        match event:
            case TextDelta():
                logprobs = self._logprobs(event.choice, event.logprobs)
                return [self._chunk(_write_choice(event.choice, event.text, logprobs))]
            case Finished():
                self._ends[event.choice] = event.usage
                end = _write_choice(event.choice, "", reason=event.reason)
                return [self._chunk(end | write_report(event.report))]
            case _:
                return []

    def close(self) -> list[Frame]:
        done = Frame("[DONE]")
        if not self._asked.include_usage:
            return [done]
        return [Frame(self._wrap([]) | {"usage": self._usage()}), done]

    def fail(self, error: F1Error) -> list[Frame]:
        return [Frame(write_error(error))]

    def _chunk(self, choice: Json) -> Frame:
        chunk = self._wrap([choice])
        return Frame(chunk | {"usage": None} if self._asked.include_usage else chunk)

    def _wrap(self, choices: list[Json]) -> Json:
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self._asked.model,
            "choices": choices,
        }

    def _usage(self) -> Json:
        """Each prompt counts once, however many choices it has."""
        prompts = [usage for index, usage in self._ends.items() if index % self._n == 0]
        prompt = sum(usage.prompt_tokens for usage in prompts)
        completion = sum(usage.completion_tokens for usage in self._ends.values())
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": sum(u.cached_tokens for u in prompts)},
        }

    def _logprobs(self, index: int, tokens: Sequence[TokenLogprob]) -> Json | None:
        if not tokens:
            return None
        return self._choices.setdefault(index, _Choice()).write(tokens)


@dataclass(slots=True)
class _Choice:
    """Knows where in the text of its choice the next token begins."""

    offset: int = 0
    decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )

    def write(self, tokens: Sequence[TokenLogprob]) -> Json:
        offsets = []
        for token in tokens:
            offsets.append(self.offset)
            self.offset += len(self.decoder.decode(token.token_bytes))
        return {
            "tokens": [token.token for token in tokens],
            "token_logprobs": [_bounded(token) for token in tokens],
            # The likeliest, and the one that was taken.
            "top_logprobs": [
                {other.token: _bounded(other) for other in (*token.top, token)} for token in tokens
            ],
            "text_offset": offsets,
        }


def _bounded(token: TokenLogprob) -> float:
    return max(token.logprob, -9999.0)  # -inf is not JSON


def _write_choice(
    index: int, text: str, logprobs: Json | None = None, reason: str | None = None
) -> Json:
    return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": reason}
