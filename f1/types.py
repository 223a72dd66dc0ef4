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
    `accepts`: what its calls are held to in place of `parameters`, which is what the model reads.
    """

    name: str
    description: str = ""
    parameters: JsonSchema = field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool = True
    accepts: JsonSchema | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call; `arguments` is the JSON text of an object, valid under a strict tool's schema."""

    id: str
    name: str
    arguments: str


# --- a run of the system: calls, what each needs, what came of them ------------------------------


@dataclass(frozen=True, slots=True)
class Ref:
    """What an earlier node came to, or a part of it; people see `$2.items[0].price`, JSON has
    `{"ref": "2", "path": "items[0].price"}`."""

    id: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class Node:
    """A call to be, which starts once what it needs is there: the nodes that its arguments refer to
    and those it comes `after`. `arguments` is a JSON object that may hold Refs in place of values.
    """

    id: str  # "1", "2", … in the order of the plan
    tool: str
    arguments: Mapping[str, Any]
    after: tuple[str, ...] = ()
    call_id: str = ""  # of the ToolCall that it becomes


@dataclass(frozen=True, slots=True)
class Plan:
    """Nodes need only nodes that stand before them."""

    nodes: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """A node's call begins, references put in. `at` is on time.perf_counter's clock."""

    node: Node
    call: ToolCall
    at: float


@dataclass(frozen=True, slots=True)
class Note:
    """What a strategy did, for a person; it goes into the run's report."""

    text: str


FailureKind = Literal[
    "unknown_tool",
    "invalid_arguments",
    "bad_reference",  # what it points at is not there, or of another type
    "need_failed",  # a node whose result it needs failed
    "error",  # the tool's own
    "timeout",
    "unavailable",  # its circuit breaker is open: it failed too often lately
    "refused",  # by the operator's rules
    "rejected",  # by a person
    "cancelled",
    "unknown",  # it was interrupted: what it does may be done
]


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What came of a call. `started` is on time.perf_counter's clock; `seconds` is wall time."""

    call: ToolCall  # its arguments as they were run, references put in
    content: str  # what the model reads
    failed: FailureKind | None
    started: float
    seconds: float
    value: Any = None  # the JSON value that references read
    node_id: str = ""
    tries: int = 1
    cut: bool = False  # `content` is not all of it
    shared: bool = False  # an identical call was under way, and this is its result
    whole: bool = True  # otherwise `value` is the first part of it, as text, and not referred to

    def message(self) -> Message:
        return Message("tool", self.content, tool_call_id=self.call.id)


@dataclass(frozen=True, slots=True)
class Approval:
    """A call that a person has to allow before it runs. `digest` binds what would run to the last
    byte: the tool's definition, the arguments, the run, whose it is, the rules."""

    id: str
    node_id: str
    call: ToolCall  # its arguments as they would be run
    tool: Tool
    why: str  # for a person
    digest: str
    expires: float  # seconds since 1970; from then on it is rejected


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a person says to an Approval. `arguments`: the JSON of "edit"; `reason`: what the model
    is told of "reject"."""

    kind: Literal["approve", "edit", "reject"]
    arguments: str = ""
    reason: str = ""


FEW_TOOLS = 32
HANDFUL = 8
StrategyName = Literal["auto", "direct", "react", "plan", "vote", "reflect", "backtrack", "soft"]
Ending = Literal[
    "answered",
    "client_calls",  # the caller has to run the calls left
    "needs_approval",  # a person has to allow the calls left
    "planned",  # a plan was asked for, and nothing else
    "steps", "calls", "tokens", "seconds",  # a budget is spent
    "repeated",  # the model asks for nothing but what it has
    "silent",  # it said nothing
    "cut",  # by `max_tokens`
    "context",  # what calls brought does not fit it
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Budget:
    """What one request may take."""

    steps: int = 8  # decoded turns
    calls: int = 32  # run or returned
    tokens: int | None = None  # decoded, in all turns
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How the system goes about a request; models asked by their own names do not read it."""

    strategy: StrategyName = "auto"
    plan_only: bool = False  # return the plan; run nothing
    plan: Plan | Mapping[str, Any] | None = None  # run this one; a Mapping: as JSON, unchecked
    tools: tuple[str, ...] = ()  # registered ones, by name
    toolsets: tuple[str, ...] = ()  # registered: "travel", or "travel@2" for that version
    max_tools: int | None = None  # shown at first; None: all of a few, a handful of many
    samples: int = 5  # of strategies that draw several
    budget: Budget = Budget()
    roles: Mapping[str, str] = field(default_factory=dict)  # role → model, in place of f1.toml's
    compact: bool = True  # leave old turns out where the conversation does not fit
    progress: bool = False  # tell of calls and results as they happen
    run_id: str = ""  # names the run; where there is one of that name, it goes on
    session_id: str = ""  # a conversation kept here; the request brings what is new in it
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)  # on approvals, by id

    def num_shown(self, num_tools: int) -> int:
        """Of so many tools, those that the model is shown at first; it can search for the rest.
        All of a few, for what is computed of them serves every request."""
        if self.max_tools is not None:
            return min(self.max_tools, num_tools)
        return num_tools if num_tools <= FEW_TOOLS else HANDFUL


@dataclass(frozen=True, slots=True)
class Selected:
    """A tool that the model was shown, and why."""

    name: str
    score: float
    why: Literal["all", "matched", "used", "searched", "forced"] = "matched"


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run did. `dropped` messages did not fit the context and were left out."""

    strategy: StrategyName
    ending: Ending
    plan: Plan = Plan()
    results: tuple[ToolResult, ...] = ()
    selected: tuple[Selected, ...] = ()
    num_tools: int = 0  # that there were to select from
    dropped: int = 0
    notes: tuple[str, ...] = ()  # for a person: what was replanned, voted, taken back, and why
    run_id: str = ""  # under which it is written down; "": it is not
    approvals: tuple[Approval, ...] = ()  # that it waits for


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
    run: RunOptions = RunOptions()
    record: bool = False  # have Report.decoded say what the model read, wrote and decided


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
