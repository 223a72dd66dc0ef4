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

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from f1.planning.strategy import Strategy
from f1.types import Message, Node, ToolCall, ToolResult

MAX_RUNS = 1000
MAX_BYTES = 64 << 20
MAX_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """`messages`: all that the run has added to the conversation. The last assistant's holds the
    calls of its turn, ours and the caller's; our results stand behind it."""

    messages: tuple[Message, ...]
    theirs: tuple[tuple[str, ToolCall], ...]  # node id, call
    ours: tuple[ToolResult, ...] = ()  # of the whole run
    nodes: tuple[Node, ...] = ()  # of the whole run, also those that wait for theirs
    strategy: Strategy | None = None  # and what it knows


class Pending:
    """Of one process. Used on one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._kept: OrderedDict[bytes, tuple[float, int, Waiting]] = OrderedDict()
        self._num_bytes = 0

    def keep(self, tenant: str, messages: Sequence[Message], waiting: Waiting) -> None:
        """`messages`: the conversation as the caller has it."""
        key = _key(tenant, messages, {call.id for _, call in waiting.theirs})
        self._drop(key)
        size = sum(len(message.content) for message in waiting.messages)
        size += sum(2 * len(result.content) for result in waiting.ours)
        self._kept[key] = (self._clock(), size, waiting)
        self._num_bytes += size
        while len(self._kept) > MAX_RUNS or self._num_bytes > MAX_BYTES:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: bytes) -> None:
        if (kept := self._kept.pop(key, None)) is not None:
            self._num_bytes -= kept[1]

    def resume(
        self, tenant: str, messages: Sequence[Message]
    ) -> tuple[tuple[Message, ...], Waiting | None]:
        """The conversation with what callers were not shown put back in, and the run that its last
        results belong to, if there is one."""
        self._forget()
        whole: list[Message] = []
        latest: Waiting | None = None
        for place, message in enumerate(messages):
            if message.role in ("user", "system"):
                latest = None
            ids = {call.id for call in message.tool_calls}
            found = self._kept.get(_key(tenant, messages[:place], ids)) if ids else None
            if found is not None:
                latest = found[2]
                whole += latest.messages
                continue
            whole.append(message)
        return tuple(whole), latest

    def _forget(self) -> None:
        while self._kept:
            key = next(iter(self._kept))
            if self._clock() - self._kept[key][0] < MAX_SECONDS:
                return
            self._drop(key)


def _key(tenant: str, before: Sequence[Message], ids: set[str]) -> bytes:
    """Of the caller's calls in its conversation: servers may number their calls, and then those of
    two conversations have the same ids."""
    said = [message.content for message in before if message.role in ("system", "user")]
    return hashlib.sha256(json.dumps([tenant, said, sorted(ids)]).encode()).digest()


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
