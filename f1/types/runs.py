"""A run of the system: calls, what each needs, what came of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from f1.types.messages import Message, Tool, ToolCall


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
