"""The words of F1: what a request says, and what comes back while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls"]
JsonSchema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call. `parameters` is a JSON Schema (2020-12) of an object."""

    name: str
    description: str = ""
    parameters: JsonSchema = field(default_factory=lambda: {"type": "object", "properties": {}})


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call; `arguments` is the JSON text of an object, valid under the tool's schema."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. `tool_call_id` is set for role "tool" only."""

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`named` forces one call of the tool `name`; `required` at least one call of any."""

    mode: Literal["auto", "none", "required", "named"] = "auto"
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """What the content must be. `value` is the JSON Schema, the pattern, or the EBNF grammar."""

    kind: Literal["text", "json_object", "json_schema", "regex", "ebnf"] = "text"
    value: JsonSchema | str | None = None


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are drawn. Temperature 0 is greedy. `top_k` 0 means all tokens."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    num_logprobs: int | None = None  # None: none; 0: of the token alone; n: the n likeliest too
    masked_mass: bool = False  # with log-probabilities; costs the logits of all tokens


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One assistant turn to decode, `n` times."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    response_format: ResponseFormat = ResponseFormat()
    sampling: SamplingParams = SamplingParams()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token's natural-log probability among the tokens that were legal there.

    `masked_mass`: how likely the model found, together, all tokens that were not; asked for only.
    """

    token: str
    logprob: float
    token_bytes: bytes
    top: tuple[TokenLogprob, ...] = ()
    masked_mass: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


# --- events of a running request, in order, each belonging to one of the n choices -------------


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More content. Never part of a call, never half a character."""

    choice: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A call that is closed and valid; the `index`-th of its choice."""

    choice: int
    index: int
    call: ToolCall
    bounded: bool = False  # a value in it was brought to its end by a limit, not by the model


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of one choice. `usage` counts this choice alone."""

    choice: int
    reason: FinishReason
    usage: Usage


Event = TextDelta | CallDelta | Finished


@dataclass(frozen=True, slots=True)
class Completion:
    """One choice, whole: what its events add up to."""

    message: Message
    reason: FinishReason
    usage: Usage
    logprobs: tuple[TokenLogprob, ...] = ()
