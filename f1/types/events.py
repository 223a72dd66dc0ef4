"""What comes back while a request runs, each event belonging to one of its n choices; and what they
add up to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from f1.types.messages import Message, ToolCall
from f1.types.runs import Node, Note, RunReport, Started, ToolResult

FinishReason = Literal["stop", "length", "tool_calls"]


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
class Choosing:
    """A decision taken while a turn was decoded: what was taken of what was legal, and what came
    second. Log-probabilities are natural, among the legal, and sums over the tokens that decide;
    whatever the pieces in which a model may spell a name or a call's beginning.

    Beside "call" the likelier of "text" and "end" is second, beside those "call". With a second
    "get_*" the likeliest other token left several tools open.
    """

    at: int  # index in Decoded.token_ids of the first token that decides
    what: Literal["call", "tool"]  # whether to call (or call again), or which tool
    taken: str  # a tool's name; "call", or "text", or "end"
    logprob: float
    second: str = ""
    second_logprob: float | None = None
    masked_mass: float | None = None  # how likely the model found all that was not legal


@dataclass(frozen=True, slots=True)
class Decoded:
    """A turn in tokens: the prompt as it was sent, what was written, what was decided meanwhile.

    `token_ids` are all that stand behind the prompt: sampled or forced, what a turn begins with,
    the marks around soft steps (whose mixes are no tokens), the token that ended the turn.
    """

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    choosing: tuple[Choosing, ...] = ()
    before: Decoded | None = None  # the turn after which this one was asked again


@dataclass(frozen=True, slots=True)
class Report:
    """What is to be known of a choice beyond its message."""

    relaxed: tuple[Relaxed, ...] = ()
    asked_again: int = 0  # times the model was told what was wrong with a call, and asked again
    bounded: tuple[int, ...] = ()  # calls with a number cut after 24 digits, by index
    needed_tokens: int | None = None  # cut inside a call: the least `max_tokens` that may do
    looped: bool = False  # cut because it said the same over and over
    model: str | None = None  # the one that answered, where several could have
    run: RunReport | None = None  # of the system alone
    decoded: Decoded | None = None  # where `record` asks for it, of models of this machine


# --- events, in order ----------------------------------------------------------------------------


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


@dataclass(frozen=True, slots=True)
class RunEvent:
    """With `run.progress` alone: what the system does before it answers."""

    choice: int
    item: Node | Started | ToolResult | Note


Event = TextDelta | ReasoningDelta | CallBegun | ArgumentsDelta | CallDelta | RunEvent | Finished


@dataclass(frozen=True, slots=True)
class Completion:
    """One choice, whole: what its events add up to."""

    message: Message
    reason: FinishReason
    usage: Usage
    logprobs: tuple[TokenLogprob, ...] = ()  # of the content
    report: Report = Report()
    stop: str | None = None
