"""Conversations as Anthropic writes them: blocks of text, calls (`tool_use`) and their results.

user       text…                              user
assistant  thinking… text… tool_use…     ──▶  assistant, with calls
user       tool_result… text…                 tool…, user
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from f1.serve.limits import Limits
from f1.serve.wire.fields import Fields
from f1.tools.runner import write_failure
from f1.types import Message, ToolCall

_Turn = tuple[str, list[Fields]]


def parse_history(body: Fields, limits: Limits) -> tuple[Message, ...]:
    """The system prompt and the conversation, its calls all answered. The shape of `body` was
    checked. Raises InvalidRequest."""
    system = _texts(_blocks(body, "system", limits))
    messages = [Message("system", system)] if system else []
    open_ids: list[str] = []
    turns = _turns(body, limits)
    for role, blocks in turns:
        if role == "user":
            results = _parse_results(blocks, open_ids, limits)
            messages += results
            said = any(block.get("type") == "text" for block in blocks)
            if said or not results:
                messages.append(Message("user", _texts(blocks)))
        _check_answered(body, open_ids)
        if role == "system":
            messages.append(Message("system", _texts(blocks)))
        elif role == "assistant":
            calls = _parse_calls(blocks, limits)
            open_ids = [call.id for call in calls]
            messages.append(Message("assistant", _texts(blocks), calls, reasoning=_thought(blocks)))
    _check_answered(body, open_ids)
    if turns[-1][0] == "assistant":
        raise body.refuse("messages", "must end with a user message: no answer can be begun for it")
    return tuple(messages)


def _turns(body: Fields, limits: Limits) -> list[_Turn]:
    """Roles and their blocks; neighbours of one role are one turn, as the API has it."""
    turns: list[_Turn] = []
    for item in body.objects("messages", limits.max_messages):
        role, blocks = item.required_string("role"), _blocks(item, "content", limits)
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(blocks)
        else:
            turns.append((role, blocks))
    return turns


def _blocks(item: Fields, field: str, limits: Limits) -> list[Fields]:
    """A string is short for one block of text."""
    content = item.get(field)
    if isinstance(content, str):
        return [Fields({"type": "text", "text": content}, item.name_of(field))]
    return list(item.objects(field, limits.max_parts))


def _texts(blocks: Sequence[Fields]) -> str:
    return "\n".join(block.get("text") for block in blocks if block.get("type") == "text")


def _thought(blocks: Sequence[Fields]) -> str:
    """What was redacted stays so."""
    return "\n".join(block.get("thinking") for block in blocks if block.get("type") == "thinking")


def _parse_calls(blocks: Sequence[Fields], limits: Limits) -> tuple[ToolCall, ...]:
    calls: dict[str, ToolCall] = {}
    for block in blocks:
        if block.get("type") != "tool_use":
            continue
        call_id, name = block.required_string("id"), block.required_string("name")
        if call_id in calls:
            raise block.refuse("id", f"names '{call_id[:64]}', as a call before it does")
        if len(calls) == (most := limits.max_calls_per_message):
            raise block.refuse("type", f"may be 'tool_use' at most {most} times in a message")
        arguments = dict(block.required_object("input").value)
        calls[call_id] = ToolCall(call_id, name, json.dumps(arguments, ensure_ascii=False))
    return tuple(calls.values())


def _parse_results(blocks: Sequence[Fields], open_ids: list[str], limits: Limits) -> list[Message]:
    """The results of the calls that are open, in the order given; closes them."""
    results: list[Message] = []
    for index, block in enumerate(blocks):
        if block.get("type") != "tool_result":
            continue
        call_id = block.required_string("tool_use_id")
        if call_id not in open_ids:
            expected = "must be the id of a 'tool_use', not yet answered, of the message before"
            raise block.refuse("tool_use_id", expected)
        if len(results) < index:
            raise block.refuse("type", "must not be 'tool_result' behind text: results come first")
        open_ids.remove(call_id)
        content = _texts(_blocks(block, "content", limits))
        # Models know failures in this form, by which they do not take them for results.
        content = write_failure(content) if block.boolean("is_error") else content
        results.append(Message("tool", content, tool_call_id=call_id))
    return results


def _check_answered(body: Fields, open_ids: Sequence[str]) -> None:
    if open_ids:
        missing = ", ".join(call_id[:64] for call_id in open_ids[:8])
        told = f"must answer every 'tool_use' in the next message: no 'tool_result' for {missing}"
        raise body.refuse("messages", told)
