"""Runs that wait for a caller: what was done before calls were returned, kept until it comes back
with their results.

    turn: ours ─▶ run      theirs ─▶ returned, finish_reason "tool_calls"
                   └──── kept here, under the ids of theirs ────┐
    next request: … assistant(theirs) · their results           ▼
               ─▶ … what we did · assistant(ours, theirs) · all results · the rest of the plan

The caller never saw our calls, and need not send them back. Kept in memory, for a while; where runs
are written down they are found there, too. Where it is gone, the conversation goes on without, and
the model makes its calls again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from f1.planning.guard import Guard
from f1.planning.strategy import Strategy
from f1.types import Message, Node, ToolCall, ToolResult

MAX_RUNS = 1000
MAX_BYTES = 64 << 20
MAX_SECONDS = 3600.0
MAX_LIVE = 64 << 10  # bytes of a run that is kept as it is though it can be rebuilt


@dataclass(frozen=True, slots=True)
class Waiting:
    """`messages`: all that the run has added to the conversation. The last assistant's holds the
    calls of its turn, ours and the caller's; our results stand behind it."""

    messages: tuple[Message, ...]
    theirs: tuple[tuple[str, ToolCall], ...] = ()  # node id, call
    ours: tuple[ToolResult, ...] = ()  # of the whole run
    nodes: tuple[Node, ...] = ()  # of the whole run, also those that wait for theirs
    strategy: Strategy | None = None  # and what it knows
    guard: Guard | None = None  # None: the run is to be rebuilt of what is written of `run_id`
    run_id: str = ""
    before: tuple[Message, ...] = ()  # what `guard` and `strategy` remember of the conversation


class Pending:
    """Of one process. Used on one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()  # the oldest first
        self._num_bytes: Counter[str] = Counter()  # by tenant

    def keep(self, tenant: str, messages: Sequence[Message], waiting: Waiting) -> bytes:
        """`messages`: the conversation as the caller has it. Returns the key it is found under."""
        said = _Said(tenant)
        for message in messages:
            said.add(message)
        key = said.key({call.id for _, call in waiting.theirs})
        record = None if waiting.guard is None else waiting.guard.journal.record
        if record is not None and _size(waiting) > MAX_LIVE:
            waiting = Waiting(waiting.messages, run_id=waiting.run_id)
        self.put(tenant, key, waiting)
        return key

    def unknown(self, tenant: str, messages: Sequence[Message]) -> list[bytes]:
        """Keys of runs that this conversation may belong to, and that are not here."""
        self._forget()
        said, keys = _Said(tenant), list[bytes]()
        for message in messages:
            if message.tool_calls:
                keys.append(said.key({call.id for call in message.tool_calls}))
            said.add(message)
        return [key for key in keys if key not in self._kept]

    def put(self, tenant: str, key: bytes, waiting: Waiting) -> None:
        """Where there is no room, what has been kept longest goes, of the tenant that has most."""
        self._drop(key)
        kept = self._kept[key] = _Kept(self._clock(), tenant, _size(waiting), waiting)
        self._num_bytes[tenant] += kept.num_bytes
        while len(self._kept) > MAX_RUNS or self._num_bytes.total() > MAX_BYTES:
            ((most, _),) = self._num_bytes.most_common(1)
            self._drop(next(key for key, kept in self._kept.items() if kept.tenant == most))

    def _drop(self, key: bytes) -> None:
        if (kept := self._kept.pop(key, None)) is not None:
            self._num_bytes[kept.tenant] -= kept.num_bytes

    def resume(
        self, tenant: str, messages: Sequence[Message]
    ) -> tuple[tuple[Message, ...], Waiting | None]:
        """The conversation with what callers were not shown put back in, and the run that its last
        results belong to, if there is one."""
        self._forget()
        whole: list[Message] = []
        latest: Waiting | None = None
        said = _Said(tenant)
        for message in messages:
            if message.role in ("user", "system"):
                latest = None
            ids = {call.id for call in message.tool_calls}
            found = self._kept.get(said.key(ids)) if ids else None
            said.add(message)
            if found is not None:
                latest = found.waiting
                whole += latest.messages
                continue
            whole.append(message)
        return tuple(whole), latest

    def _forget(self) -> None:
        while self._kept:
            key = next(iter(self._kept))
            if self._clock() - self._kept[key].since < MAX_SECONDS:
                return
            self._drop(key)


@dataclass(frozen=True, slots=True)
class _Kept:
    since: float
    tenant: str
    num_bytes: int
    waiting: Waiting


class _Said:
    """What a tenant's conversation has come to. Calls are known by that and by their ids: servers
    may number theirs, and then those of two conversations have the same."""

    def __init__(self, tenant: str):
        self._digest = hashlib.sha256(json.dumps(tenant).encode())

    def add(self, message: Message) -> None:
        if message.role in ("system", "user"):
            self._digest.update(json.dumps(message.content).encode())

    def key(self, ids: set[str]) -> bytes:
        digest = self._digest.copy()
        digest.update(json.dumps(sorted(ids)).encode())
        return digest.digest()


def _size(waiting: Waiting) -> int:
    texts = sum(map(_length, (*waiting.before, *waiting.messages)))
    values = sum(len(json.dumps(result.value, default=str)) for result in waiting.ours)
    return 1000 + texts + values  # what is not text is small


def _length(message: Message) -> int:
    calls = sum(len(call.arguments) for call in message.tool_calls)
    return len(message.content) + len(message.reasoning) + calls


def results_of(waiting: Waiting, messages: Sequence[Message]) -> list[ToolResult]:
    """What the nodes of a run came to: ours, and what the caller brought."""
    told = {m.tool_call_id: m.content for m in messages if m.role == "tool"}
    results, now = list(waiting.ours), time.perf_counter()
    for node_id, call in waiting.theirs:
        content = told.get(call.id, "")
        results.append(ToolResult(call, content, None, now, 0.0, value_of(content), node_id))
    return results


def value_of(content: str) -> object:
    """What references read of a result that came as text."""
    try:
        return json.loads(content)
    except ValueError:
        return content
