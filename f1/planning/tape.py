"""The turns of models in one run: those of its record, told again to who asks the same, and those
that are decoded now, written down.

What is asked is known again by its key: the role, the messages and the options, not the time.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from f1.errors import F1Error
from f1.trace.entries import CODEC, Entry, Launched, Turned, pack_ids
from f1.trace.recorder import Record, Redacts, RedactsNothing
from f1.types import CallDelta, Event, Finished, GenerateRequest, Message, Usage

Decode = Callable[[GenerateRequest], AsyncGenerator[Event]]


class Diverged(F1Error):
    """A run that is rebuilt does not do what it did: F1, its tools or its models have changed."""

    status = 409
    type = "invalid_request_error"
    code = "run_diverged"


class Interrupted(Exception):
    """The record of a run that has ended breaks off here: it ended in the middle of a turn."""


@dataclass(slots=True)
class _Open:
    """A turn that is being decoded."""

    entry: Turned
    began: float
    events: list[Event] = field(default_factory=list)
    first: float | None = None
    told: int = 0  # events that are written down already

    def written(self, *, whole: bool) -> Turned:
        self.told = len(self.events)
        finished = [event for event in self.events if isinstance(event, Finished)]
        usage = Usage(0, len(self.events))
        if finished:
            usage = Usage(
                sum(event.usage.prompt_tokens for event in finished),
                sum(event.usage.completion_tokens for event in finished),
                sum(event.usage.cached_tokens for event in finished),
                sum(event.usage.reasoning_tokens for event in finished),
            )
        return replace(
            self.entry,
            events=tuple(self.events),
            seconds=time.perf_counter() - self.began,
            usage=usage,
            first=self.first,
            whole=whole,
        )


class Tape:
    """Of one run. `past` is what happened before; not `live`: nothing is decoded any more."""

    def __init__(self, run_id: str, record: Record | None, past: Sequence[Entry], *, live: bool):
        self._run_id = run_id
        self._record = record
        self._live = live
        self._open: list[_Open] = []
        self._prompt: tuple[int, ...] = ()  # the last
        self._digests: dict[Message, str] = {}
        # Calls that were about to run and may have changed something, by their ids.
        launched = [entry for entry in past if isinstance(entry, Launched)]
        self._changing = {entry.call.id for entry in launched if not entry.read_only}
        turns = {entry.number: entry for entry in past if isinstance(entry, Turned)}
        self._turns: dict[str, deque[Turned]] = {}
        for _, turn in sorted(turns.items()):
            self._turns.setdefault(turn.key, deque()).append(turn)
        self._num_turns = max(turns, default=-1) + 1

    @property
    def replays(self) -> bool:
        """There are turns in the record that were not told again yet."""
        return any(self._turns.values())

    def note_open(self) -> None:
        """What was said so far in turns that go on is among the next that is written."""
        for turn in self._open:
            if self._record is not None and turn.told < len(turn.events):
                self._record.note(turn.written(whole=False))

    async def turn(
        self, step: int, role: str, request: GenerateRequest, decode: Decode
    ) -> AsyncGenerator[Event]:
        """The events of one turn: those of the record, or those that are decoded now."""
        key = self._key(role, request)
        if (recorded := self._recorded(key)) is not None:
            for event in recorded.events:
                yield event
            if not recorded.whole and not self._live and self._is_last(recorded):
                raise Interrupted
            for event in _missing(recorded, request.n):
                yield event
            return
        if self._record is None:
            async with aclosing(decode(request)) as events:
                async for event in events:
                    yield event
            return
        entry = Turned(
            self._num_turns, step, role, key, (), 0.0, Usage(0, 0),
            asked=_asked(request),
        )  # fmt: skip
        self._num_turns += 1
        open_ = _Open(entry, time.perf_counter())
        self._open.append(open_)
        whole = False
        try:
            async with aclosing(decode(replace(request, record=True))) as events:
                async for event in events:
                    if open_.first is None:
                        open_.first = time.perf_counter() - open_.began
                    if isinstance(event, Finished):
                        event = self._undressed(open_, event)
                    open_.events.append(event)
                    yield event
            whole = True
        finally:
            self._open.remove(open_)
            self._record.note(open_.written(whole=whole))

    def _recorded(self, key: str) -> Turned | None:
        turns = self._turns.get(key, deque())
        while turns:
            turn = turns.popleft()
            if turn.whole or self._must_stand(turn) or (not self._live and self._is_last(turn)):
                return turn
            if not turns and self._live:
                return None  # it was interrupted, and nothing came of it that cannot come again
        if self.replays:
            raise Diverged(
                f"the run {self._run_id} cannot be rebuilt: it asks a model for something else "
                "than it did; F1, its tools or its settings have changed since"
            )
        if not self._live:
            raise Interrupted
        return None

    def _is_last(self, turn: Turned) -> bool:
        return turn.number == self._num_turns - 1

    def _must_stand(self, turn: Turned) -> bool:
        """A call of it may have been made that may have changed something."""
        calls = (event.call.id for event in turn.events if isinstance(event, CallDelta))
        return not self._changing.isdisjoint(calls)

    def _undressed(self, turn: _Open, event: Finished) -> Finished:
        """Its tokens go into the entry, where prompts that begin as the one before are told from
        there on."""
        if (decoded := event.report.decoded) is None:
            return event
        entry = turn.entry
        if entry.prompt_ids is None:
            shared = _common(self._prompt, decoded.prompt_ids)
            self._prompt = decoded.prompt_ids
            packed = pack_ids(decoded.prompt_ids[shared:])
            entry = replace(entry, shared=shared, prompt_ids=packed)
        turn.entry = replace(
            entry,
            token_ids=(*entry.token_ids, pack_ids(decoded.token_ids)),
            choosing=(*entry.choosing, decoded.choosing),
        )
        return replace(event, report=replace(event.report, decoded=None))

    def _key(self, role: str, request: GenerateRequest) -> str:
        said = [
            role,
            [self._digest(message) for message in request.messages],
            [tool.name for tool in request.tools],
            request.shown_at,
            _asked(request),
            request.prompt,
        ]
        text = orjson.dumps(said, option=orjson.OPT_NON_STR_KEYS)
        return hashlib.sha256(text).hexdigest()[:32]

    def _digest(self, message: Message) -> str:
        """Of what may be kept of it: what is read back is that."""
        if (digest := self._digests.get(message)) is None:
            redaction: Redacts = self._record.redaction if self._record else RedactsNothing()
            text = orjson.dumps(redaction.redact(CODEC.encode(message)))
            digest = self._digests[message] = hashlib.sha256(text).hexdigest()[:32]
        return digest


def _asked(request: GenerateRequest) -> Mapping[str, Any]:
    """What of a turn's request is neither messages nor tools, as far as it is not usual."""
    ordinary = GenerateRequest(())
    names = (
        "tool_choice", "parallel_tool_calls", "response_format", "sampling", "stop", "n", "soft",
    )  # fmt: skip
    return {
        name: CODEC.encode(getattr(request, name))
        for name in names
        if getattr(request, name) != getattr(ordinary, name)
    }


def _missing(turn: Turned, n: int) -> Iterator[Event]:
    """A turn that was interrupted ends behind the last call it made."""
    finished = {event.choice for event in turn.events if isinstance(event, Finished)}
    for choice in range(n):
        if choice not in finished:
            calls = [e for e in turn.events if isinstance(e, CallDelta) and e.choice == choice]
            yield Finished(choice, "tool_calls" if calls else "stop", turn.usage)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many they begin with alike."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle - 1)
    return low
