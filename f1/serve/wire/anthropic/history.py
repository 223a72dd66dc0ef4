"""Conversations as Anthropic writes them: blocks of text, calls (`tool_use`) and their results.

user       text…                              user
assistant  thinking… text… tool_use…     ──▶  assistant, with calls
user       tool_result… text…                 tool…, user
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import cast

from f1.planning.content import write_failure
from f1.serve.limits import Limits
from f1.serve.wire.fields import Fields
from f1.serve.wire.repair import repair
from f1.types import Message, Role, ToolCall

_Turn = tuple[str, list[Fields]]


def parse_history(
    body: Fields, limits: Limits, *, repaired: list[str] | None = None
) -> tuple[Message, ...]:
    """The system prompt and the conversation, its calls all answered; the shape of `body` was
    checked. Raises InvalidRequest; where `repaired` is given, calls and results that do not match
    are put right instead, and it is told how."""
    system = _texts(_blocks(body, "system", limits))
    messages = [Message("system", system)] if system else []
    turns = _turns(body, limits)
    for _, blocks in turns:
        if len(calls := _of_kind(blocks, "tool_use")) > (most := limits.max_calls_per_message):
            raise calls[most].refuse("type", f"may be 'tool_use' at most {most} times in a turn")
    if repaired is None:
        _check_answers(body, turns)
    role, blocks = turns[-1]
    if role == "assistant" and (repaired is None or not _of_kind(blocks, "tool_use")):
        raise body.refuse("messages", "must end with a user message: no answer can be begun for it")
    for role, blocks in turns:
        made = tuple(map(_parse_call, _of_kind(blocks, "tool_use")))
        results = [_parse_result(block, limits) for block in _of_kind(blocks, "tool_result")]
        messages += results
        if _of_kind(blocks, "text") or not results:
            thought = "\n".join(block.get("thinking") for block in _of_kind(blocks, "thinking"))
            messages.append(Message(cast(Role, role), _texts(blocks), made, reasoning=thought))
    return tuple(messages) if repaired is None else repair(messages, repaired)


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


def _of_kind(blocks: Sequence[Fields], kind: str) -> list[Fields]:
    return [block for block in blocks if block.get("type") == kind]


def _texts(blocks: Sequence[Fields]) -> str:
    return "\n".join(block.get("text") for block in _of_kind(blocks, "text"))


def _parse_call(block: Fields) -> ToolCall:
    arguments = json.dumps(dict(block.required_object("input").value), ensure_ascii=False)
    return ToolCall(block.required_string("id"), block.required_string("name"), arguments)


def _parse_result(block: Fields, limits: Limits) -> Message:
    content = _texts(_blocks(block, "content", limits))
    # Models know failures in this form, by which they do not take them for results.
    content = write_failure(content) if block.boolean("is_error") else content
    return Message("tool", content, tool_call_id=block.required_string("tool_use_id"))


def _check_answers(body: Fields, turns: Sequence[_Turn]) -> None:
    """Every call is answered once in the next message, which begins with the results."""
    open_ids: list[str] = []
    for _, blocks in turns:
        for index, result in enumerate(_of_kind(blocks, "tool_result")):
            if (call_id := result.get("tool_use_id")) not in open_ids:
                expected = "must be the id of a 'tool_use', not yet answered, of the message before"
                raise result.refuse("tool_use_id", expected)
            if result is not blocks[index]:
                raise result.refuse("type", "must not be 'tool_result' behind text")
            open_ids.remove(call_id)
        if open_ids:
            missing = ", ".join(call_id[:64] for call_id in open_ids[:8])
            told = "must answer every 'tool_use' in the next message: no 'tool_result' for"
            raise body.refuse("messages", f"{told} {missing}")
        for call in _of_kind(blocks, "tool_use"):
            if (call_id := call.get("id")) in open_ids:
                raise call.refuse("id", f"names '{call_id[:64]}', as a call before it does")
            open_ids.append(call_id)
