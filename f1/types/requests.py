"""A request: a turn to decode, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from f1.types.messages import JsonSchema, Message, Tool
from f1.types.runs import RunOptions


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
class Soft:
    """Soft thinking (arXiv:2505.15778): before its first token a turn takes up to `steps` steps
    that sample nothing. Each feeds back what the model would say next as a mix of the `top_k`
    likeliest tokens' embeddings, weighed by softmax(logits / temperature + noise * Gumbel). Without
    noise a model follows the heaviest as if it were sampled (arXiv:2508.03440). They end early
    where the entropy was below `cold_entropy` nats `cold_steps` times running.

    Steps, `lead` and `close` count against `max_tokens`, and as reasoning tokens; nobody sees them.
    """

    steps: int = 8
    top_k: int = 8
    temperature: float = 1.0
    noise: float = 0.0  # with it each of n choices thinks for itself, by its seed
    cold_entropy: float = 0.1
    cold_steps: int = 2  # 0: all steps are taken
    # What stands before the steps and behind them. A family that thinks aloud has marks for that,
    # which are taken instead.
    lead: str = ""
    close: str = ""


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One assistant turn to decode, `n` times.

    `shown_at`: which tools are written with which of the messages, by index, so that the prompt of
    a conversation that comes to need others grows at its end alone. Tools that it names nowhere can
    be called, too: a result told of them. Empty: all stand at the beginning.

    With a `prompt`, which stands alone: what follows on this text, or on these token ids, without
    roles. In text no spelling is a control token; ids may be any.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    shown_at: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    response_format: ResponseFormat = ResponseFormat()
    sampling: SamplingParams = SamplingParams()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    eager_arguments: bool = False  # also tell of calls piece by piece, before they are known valid
    prompt: str | tuple[int, ...] | None = None
    soft: Soft | None = None  # None: the turn begins at once
    run: RunOptions = field(default_factory=RunOptions)
    record: bool = False  # have Report.decoded say what the model read, wrote and decided
