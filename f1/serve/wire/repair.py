"""Histories whose calls and results do not match, as agents leave them behind when they are stopped
or when a person says no: put right, because the caller asked for that."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count

from f1.types import Message, ToolCall

NO_RESULT = '{"error": "this call was not run"}'


def repair(messages: Sequence[Message], repaired: list[str]) -> tuple[Message, ...]:
    """Every call answered exactly once, directly behind it; `repaired` is told what was changed.

    A call nobody answered gets NO_RESULT; a second answer and one to no call are left out; a second
    call of one id gets an id of its own.
    """
    whole: list[Message] = []
    open_calls: dict[str, ToolCall] = {}

    def close() -> None:
        for call_id in open_calls:
            repaired.append(f"call '{call_id[:64]}' had no result")
            whole.append(Message("tool", NO_RESULT, tool_call_id=call_id))
        open_calls.clear()

    renamed: dict[str, deque[str]] = {}
    for message in messages:
        if message.role == "tool":
            told = message.tool_call_id or ""
            if not renamed.get(told):
                repaired.append(f"a result for '{told[:64]}' answered no open call")
                continue
            own = renamed[told].popleft()
            del open_calls[own]
            whole.append(replace(message, tool_call_id=own))
            continue
        close()
        calls, renamed = _with_ids_of_their_own(message.tool_calls, repaired)
        open_calls.update((call.id, call) for call in calls)
        whole.append(replace(message, tool_calls=calls))
    close()
    return tuple(whole)


def _with_ids_of_their_own(
    calls: Sequence[ToolCall], repaired: list[str]
) -> tuple[tuple[ToolCall, ...], dict[str, deque[str]]]:
    """The calls, and the ids that each id given now stands for."""
    kept: dict[str, ToolCall] = {}
    ids: dict[str, deque[str]] = {}
    suffixes: dict[str, Iterator[str]] = {}  # of an id: the next one, however many were tried
    for call in calls:
        own = call.id
        while own in kept:
            own = call.id + next(suffixes.setdefault(call.id, _suffixes()))
        if own != call.id:
            repaired.append(f"two calls had the id '{call.id[:64]}'")
        ids.setdefault(call.id, deque()).append(own)
        kept[own] = replace(call, id=own)
    return tuple(kept.values()), ids


def _suffixes() -> Iterator[str]:
    yield "_"
    yield from (f"_{number}" for number in count(2))
