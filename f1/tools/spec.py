"""A tool as F1 keeps it: what the model sees of it, and how its calls are run."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

from f1.types import JsonSchema, Tool


@dataclass(frozen=True, slots=True)
class Annotations:
    """What a call does to the world. Set by the operator; what a tool's server says of itself is
    not believed. The defaults are the careful ones (as in MCP)."""

    read_only: bool = False
    destructive: bool = True  # of those that are not read-only
    idempotent: bool = False
    egress: bool = True  # what it is given leaves for where others can read it
    trusted: bool = False  # nobody but the operator can write in what it returns

    @property
    def repeatable(self) -> bool:
        """A call may be made twice without harm."""
        return self.read_only or self.idempotent


@dataclass(frozen=True, slots=True)
class CallLimits:
    """What one call may take."""

    timeout: float = 60.0  # seconds, each try
    retries: int = 2  # further tries, of repeatable tools and where the failure may pass
    max_parallel: int = 16  # calls of this tool at a time, in the whole process
    max_bytes: int = 1 << 20  # of output that is read; what comes behind it is not
    max_chars: int = 20_000  # of output that the model is shown

    def __post_init__(self) -> None:
        if not (0 < self.timeout < inf and self.retries >= 0 and self.max_parallel >= 1):
            raise ValueError(
                "a call has a `timeout` in seconds above 0, no less than 0 `retries` "
                "and `max_parallel` of 1 or more"
            )
        if self.max_bytes < 1 or self.max_chars < 1:
            raise ValueError("`max_bytes` and `max_chars` of a call's output are 1 or more")


@dataclass(frozen=True, slots=True)
class Invocation:
    """Which call this is. `key` is the same in every try of it, also after a restart, and no other
    call's: a service that is told it does nothing twice."""

    key: str
    run_id: str = ""
    node_id: str = ""


INVOCATION: ContextVar[Invocation | None] = ContextVar("f1_invocation", default=None)


def invocation() -> Invocation | None:
    """In a tool: the call that is being made; None where it is called by hand."""
    return INVOCATION.get()


class ToolFailure(Exception):
    """A call that failed, in words for the model. `passing`: another try may well succeed."""

    def __init__(self, message: str, *, passing: bool = False):
        super().__init__(message)
        self.passing = passing


@dataclass(frozen=True, slots=True)
class Output:
    """What a call brought back: a JSON value. Where it was longer than may be read, `value` is its
    first part as text, and `num_bytes` how long it was as far as was seen."""

    value: Any
    num_bytes: int | None = None


class Runner(Protocol):
    """Runs the calls of one tool. Cancelling `call` ends it, and all that it has started."""

    async def call(self, arguments: Mapping[str, Any], limits: CallLimits) -> Output:
        """Raises ToolFailure; TimeoutError after `limits.timeout`."""


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """`runner` None: the caller runs it, and F1 never does. `output`: the JSON Schema of what it
    returns, which references are checked against; `examples`: arguments of good calls."""

    tool: Tool
    runner: Runner | None = None
    output: JsonSchema | None = None
    examples: tuple[Mapping[str, Any], ...] = ()
    annotations: Annotations = Annotations()
    limits: CallLimits = CallLimits()

    @property
    def name(self) -> str:
        return self.tool.name
