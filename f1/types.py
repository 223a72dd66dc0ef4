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
    """A function the model may call. `parameters` is a JSON Schema (2020-12) of an object.

    Not `strict`: arguments are some JSON object, held to no schema, and F1 never runs the call.
    """

    name: str
    description: str = ""
    parameters: JsonSchema = field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool = True


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call; `arguments` is the JSON text of an object, valid under a strict tool's schema."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. `tool_call_id` is set for role "tool" only, `reasoning` (what was
    thought before `content`) for "assistant" only."""

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning: str = ""


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
    """One assistant turn to decode, `n` times.

    With a `prompt`, which stands alone: what follows on this text, or on these token ids, without
    roles. In text no spelling is a control token; ids may be any.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    response_format: ResponseFormat = ResponseFormat()
    sampling: SamplingParams = SamplingParams()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    eager_arguments: bool = False  # also tell of calls piece by piece, before they are known valid
    prompt: str | tuple[int, ...] | None = None


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
    cached_tokens: int = 0  # of the prompt
    reasoning_tokens: int = 0  # of the completion


@dataclass(frozen=True, slots=True)
class Relaxed:
    """A constraint that decoding could not hold to; validation does."""

    where: str  # the tool's name, or "response_format"
    path: str  # in its schema: "properties.age"
    keyword: str
    why: str


@dataclass(frozen=True, slots=True)
class Report:
    """What is to be known of a choice beyond its message."""

    relaxed: tuple[Relaxed, ...] = ()
    asked_again: int = 0  # times the model was told what was wrong with a call, and asked again
    bounded: tuple[int, ...] = ()  # calls with a number cut after 24 digits, by index
    needed_tokens: int | None = None  # cut inside a call: the least `max_tokens` that may do
    looped: bool = False  # cut because it said the same over and over


# --- events of a running request, in order, each belonging to one of the n choices -------------


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More content. Never part of a call, never half a character."""

    choice: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of what the model thinks before it answers. Never part of the content or of a call."""

    choice: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class CallBegun:
    """With `eager_arguments` alone: the `index`-th call of its choice has a name. ArgumentsDeltas
    follow and, if it is closed and valid, its CallDelta."""

    choice: int
    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsDelta:
    """More of the arguments of the call that has begun; joined they are those of its CallDelta."""

    choice: int
    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A call that is closed and valid; the `index`-th of its choice."""

    choice: int
    index: int
    call: ToolCall
    bounded: bool = False  # a number in it was cut after 24 digits


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of one choice. `usage` counts this choice alone."""

    choice: int
    reason: FinishReason
    usage: Usage
    report: Report = Report()
    stop: str | None = None  # the stop string that ended the content, where one did


Event = TextDelta | ReasoningDelta | CallBegun | ArgumentsDelta | CallDelta | Finished


@dataclass(frozen=True, slots=True)
class Completion:
    """One choice, whole: what its events add up to."""

    message: Message
    reason: FinishReason
    usage: Usage
    logprobs: tuple[TokenLogprob, ...] = ()  # of the content
    report: Report = Report()
    stop: str | None = None
