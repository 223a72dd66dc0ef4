"""Where the values of a call's arguments came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from f1.trace.entries import Origin
from f1.types import Message, Node, Tool, ToolCall, ToolResult


def origins(
    node: Node,
    messages: Sequence[Message],
    tool: Tool | None,
    results: Mapping[str, ToolResult],
) -> tuple[Origin, ...]:
    """One for each value at the leaves of the node's arguments, in their order. `messages`: the
    conversation that the model read when it wrote them; `results`: by node id."""
    return ()


def tainted(
    node: Node,
    call: ToolCall,
    found: Sequence[Origin],
    results: Mapping[str, ToolResult],
) -> dict[str, str]:
    """Paths in the call's arguments with a value that came from what a tool returned, also in part,
    and that tool's name."""
    return {}
