"""What a run knows while it goes on: what strategies read, and decode with."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from f1.tools.spec import ToolSpec
from f1.types import Event, GenerateRequest, Node, ToolCall, Usage

if TYPE_CHECKING:
    from f1.planning.executor import Executor

Role = Literal["router", "caller", "writer", "verifier"]


class Engine(Protocol):
    """What decodes one assistant turn: the engine in this process, or a server."""

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        """Events of all choices. Raises F1Error; closing it early stops the work."""


@dataclass(slots=True)
class Run:
    """`request` holds the conversation as far as it has come, and the tools that are shown."""

    request: GenerateRequest
    tools: Mapping[str, ToolSpec]  # all that may be called, by name
    executor: Executor
    engines: Mapping[Role, Engine]
    step: int = 0
    nodes: list[Node] = field(default_factory=list)  # all so far, in order
    usage: Usage = field(default_factory=lambda: Usage(0, 0))

    def decode(self, request: GenerateRequest, role: Role = "caller") -> AsyncGenerator[Event]:
        """The events of one turn, decoded by the model of that role and counted in `usage`."""
        raise NotImplementedError

    def node(self, call: ToolCall, after: tuple[str, ...] = ()) -> Node:
        """The call, with nothing in it taken for a reference, as the run's next node."""
        raise NotImplementedError
