"""Runs that wait for a caller: what was done before calls were returned, kept until it comes back
with their results.

    turn: ours ─▶ run      theirs ─▶ returned, finish_reason "tool_calls"
                   └──── kept here, under the ids of theirs ────┐
    next request: … assistant(theirs) · their results           ▼
               ─▶ … what we did · assistant(ours, theirs) · all results · the rest of the plan

The caller never saw our calls, and need not send them back. Kept in memory, for a while: where it
is gone, the conversation goes on without, and the model makes its calls again.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from f1.types import Message, Node, ToolCall, ToolResult

MAX_RUNS = 1000
MAX_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """`messages`: all that the run has added to the conversation. The last assistant's holds the
    calls of its turn, ours and the caller's; our results stand behind it."""

    messages: tuple[Message, ...]
    theirs: tuple[tuple[str, ToolCall], ...]  # node id, call
    ours: tuple[ToolResult, ...] = ()  # of the whole run
    nodes: tuple[Node, ...] = ()  # of the whole run, also those that wait for theirs


class Pending:
    """Of one process. Used on one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._kept: OrderedDict[tuple[str, frozenset[str]], tuple[float, Waiting]] = OrderedDict()

    def keep(self, tenant: str, waiting: Waiting) -> None:
        key = (tenant, frozenset(call.id for _, call in waiting.theirs))
        self._kept.pop(key, None)
        self._kept[key] = (self._clock(), waiting)
        while len(self._kept) > MAX_RUNS:
            self._kept.popitem(last=False)

    def resume(
        self, tenant: str, messages: Sequence[Message]
    ) -> tuple[tuple[Message, ...], Waiting | None]:
        """The conversation with what callers were not shown put back in, and the run that its last
        results belong to, if there is one."""
        self._forget()
        whole: list[Message] = []
        latest: Waiting | None = None
        for message in messages:
            if message.role in ("user", "system"):
                latest = None
            key = (tenant, frozenset(call.id for call in message.tool_calls))
            found = self._kept.get(key) if message.tool_calls else None
            if found is not None:
                latest = found[1]
                whole += latest.messages
                continue
            whole.append(message)
        return tuple(whole), latest

    def _forget(self) -> None:
        while self._kept:
            key = next(iter(self._kept))
            if self._clock() - self._kept[key][0] < MAX_SECONDS:
                return
            del self._kept[key]


def results_of(waiting: Waiting, messages: Sequence[Message]) -> list[ToolResult]:
    """What the nodes of a run came to: ours, and what the caller brought."""
    told = {m.tool_call_id: m.content for m in messages if m.role == "tool"}
    results, now = list(waiting.ours), time.perf_counter()
    for node_id, call in waiting.theirs:
        content = told.get(call.id, "")
        results.append(ToolResult(call, content, None, now, 0.0, _value(content), node_id))
    return results


def _value(content: str) -> object:
    """What references read of a result that came as text."""
    try:
        return json.loads(content)
    except ValueError:
        return content
