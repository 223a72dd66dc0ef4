"""Histories whose calls and results do not match, as agents leave them behind when they are stopped
or when a person says no: put right, because the caller asked for that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from f1.types import Message, ToolCall

NO_RESULT = '{"error": "this call was not run"}'


def repair(messages: Sequence[Message], repaired: list[str]) -> tuple[Message, ...]:
    """Every call answered exactly once, directly behind it; `repaired` is told what was changed.

    A call nobody answered gets NO_RESULT; a second answer and one to no call are left out; a second
    call of one id gets an id of its own.
    """
    whole: list[Message] = []
    open_calls: list[ToolCall] = []

    def close() -> None:
        for call in open_calls:
            repaired.append(f"call '{call.id[:64]}' had no result")
            whole.append(Message("tool", NO_RESULT, tool_call_id=call.id))
        open_calls.clear()

    renamed: dict[str, list[str]] = {}
    for message in messages:
        if message.role == "tool":
            ids = renamed.get(message.tool_call_id or "", [])
            answered = next((call for call in open_calls if call.id in ids), None)
            if answered is None:
                told = (message.tool_call_id or "")[:64]
                repaired.append(f"a result for '{told}' answered no open call")
                continue
            open_calls.remove(answered)
            whole.append(replace(message, tool_call_id=answered.id))
            continue
        close()
        calls, renamed = _with_ids_of_their_own(message.tool_calls, repaired)
        open_calls.extend(calls)
        whole.append(replace(message, tool_calls=calls))
    close()
    return tuple(whole)


def _with_ids_of_their_own(
    calls: Sequence[ToolCall], repaired: list[str]
) -> tuple[tuple[ToolCall, ...], dict[str, list[str]]]:
    """The calls, and the ids that each id given now stands for."""
    kept: list[ToolCall] = []
    ids: dict[str, list[str]] = {}
    for call in calls:
        own = call.id
        while any(own == other.id for other in kept):
            own += "_"
        if own != call.id:
            repaired.append(f"two calls had the id '{call.id[:64]}'")
        ids.setdefault(call.id, []).append(own)
        kept.append(replace(call, id=own))
    return tuple(kept), ids
