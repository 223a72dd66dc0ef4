"""Runs the nodes of a plan: each starts the moment its needs are met."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from f1.tools.spec import ToolSpec
from f1.types import Node, ToolCall, ToolResult


class Gates:
    """What the calls of a whole process share: concurrency caps, circuit breakers, calls in flight
    (identical read-only ones are run once)."""


@dataclass(frozen=True, slots=True)
class Started:
    node: Node
    call: ToolCall  # references put in
    at: float  # time.perf_counter()


class Executor:
    """Of one run. `async with` it: leaving cancels what still runs, and waits for that."""

    def __init__(self, tools: Mapping[str, ToolSpec], gates: Gates):
        self.results: dict[str, ToolResult] = {}  # by node id
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        raise NotImplementedError

    async def __aexit__(self, *raised: object) -> None:
        raise NotImplementedError

    def add(self, node: Node) -> None:
        """It starts now, or as soon as the nodes that it needs are done. Nodes of client tools
        (no runner) never start: they are `theirs` once their needs are met."""

    @property
    def unfinished(self) -> int:
        """Nodes that run, or wait for others."""
        raise NotImplementedError

    @property
    def theirs(self) -> tuple[ToolCall, ...]:
        """Calls for the caller to run: bound, valid, in the order of their nodes."""
        raise NotImplementedError

    async def next(self) -> Started | ToolResult:
        """What happens next; call it while there are `unfinished` ones."""
        raise NotImplementedError

    async def result(self, node_id: str) -> ToolResult:
        """Of that node, as soon as it is done; for any number of waiters beside `next`."""
        raise NotImplementedError
