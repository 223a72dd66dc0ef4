"""Conversations as Anthropic writes them: blocks of text, calls (`tool_use`) and their results.

user       text…                              user
assistant  thinking… text… tool_use…     ──▶  assistant, with calls
user       tool_result… text…                 tool…, user
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from f1.errors import InvalidRequest
from f1.serve.limits import Limits
from f1.serve.wire.fields import Fields, describe
from f1.tools.runner import write_failure
from f1.types import Message, ToolCall

_KINDS = {
    "user": ("text", "tool_result"),
    "assistant": ("text", "thinking", "redacted_thinking", "tool_use"),
    "system": ("text",),
}
_Turn = tuple[str, list[Fields]]


def parse_history(body: Fields, limits: Limits) -> tuple[Message, ...]:
    """The system prompt and the conversation, its calls all answered. Raises InvalidRequest."""
    messages = [Message("system", text)] if (text := _parse_system(body, limits)) else []
    open_ids: list[str] = []
    turns = _turns(body, limits)
    for role, blocks in turns:
        if role == "user":
            messages += _parse_user(body, blocks, open_ids, limits)
            open_ids = []
            continue
        _check_answered(body, open_ids)
        texts = "\n".join(_text(block) for block in blocks if block.get("type") == "text")
        if role == "system":
            messages.append(Message("system", texts))
            continue
        calls = _parse_calls(blocks, limits)
        open_ids = [call.id for call in calls]
        messages.append(Message("assistant", texts, calls, reasoning=_thinking(blocks)))
    _check_answered(body, open_ids)
    if turns[-1][0] == "assistant":
        raise body.refuse("messages", "must end with a user message: no answer can be begun for it")
    return tuple(messages)


def _parse_system(body: Fields, limits: Limits) -> str:
    blocks = _blocks(body, "system", ("text",), limits) if body.has("system") else []
    return "\n".join(map(_text, blocks))


def _turns(body: Fields, limits: Limits) -> list[_Turn]:
    """Roles and their blocks; neighbours of one role are one turn, as the API has it."""
    turns: list[_Turn] = []
    for item in body.objects("messages", limits.max_messages):
        role = item.one_of("role", tuple(_KINDS))
        if role is None:
            raise item.refuse("role", "must be 'user' or 'assistant'")
        blocks = _blocks(item, "content", _KINDS[role], limits)
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(blocks)
        else:
            turns.append((role, blocks))
    if not turns:
        raise body.refuse("messages", "must hold at least one message")
    return turns


def _blocks(item: Fields, field: str, kinds: tuple[str, ...], limits: Limits) -> list[Fields]:
    """A string is short for one block of text."""
    content = item.get(field)
    if isinstance(content, str):
        return [Fields({"type": "text", "text": content}, item.name_of(field))]
    if not isinstance(content, list | tuple):
        raise item.refuse(field, f"must be a string or an array of blocks, not {describe(content)}")
    blocks = list(item.objects(field, limits.max_parts))
    for block in blocks:
        if block.one_of("type", kinds) is None:
            raise block.refuse("type", "must be one of " + ", ".join(f"'{kind}'" for kind in kinds))
        block.object("cache_control")  # prompts are cached without being told where
    return blocks


def _text(block: Fields) -> str:
    text = block.string("text")
    if text is None:
        raise block.refuse("text", "must be a string")
    return text


def _thinking(blocks: Sequence[Fields]) -> str:
    """What was redacted stays so."""
    thoughts = [block for block in blocks if block.get("type") == "thinking"]
    return "\n".join(block.string("thinking") or "" for block in thoughts)


def _parse_calls(blocks: Sequence[Fields], limits: Limits) -> tuple[ToolCall, ...]:
    calls: dict[str, ToolCall] = {}
    for block in blocks:
        if block.get("type") != "tool_use":
            continue
        call_id, name = block.required_string("id"), block.required_string("name")
        if call_id in calls:
            raise block.refuse("id", f"names '{call_id[:64]}', as a call before it does")
        arguments = dict(block.required_object("input").value)
        calls[call_id] = ToolCall(call_id, name, json.dumps(arguments, ensure_ascii=False))
        if len(calls) > limits.max_calls_per_message:
            most = limits.max_calls_per_message
            raise block.refuse("type", f"may be 'tool_use' at most {most} times in a message")
    return tuple(calls.values())


def _parse_user(
    body: Fields, blocks: Sequence[Fields], open_ids: list[str], limits: Limits
) -> list[Message]:
    """The results of the calls before, then what is said with them."""
    results: list[Message] = []
    texts: list[str] = []
    for block in blocks:
        if block.get("type") == "text":
            texts.append(_text(block))
            continue
        call_id = block.required_string("tool_use_id")
        if call_id not in open_ids:
            expected = "must be the id of a 'tool_use', not yet answered, of the message before"
            raise block.refuse("tool_use_id", expected)
        if texts:
            raise block.refuse("type", "must not be 'tool_result' behind text: results come first")
        open_ids.remove(call_id)
        results.append(Message("tool", _parse_result(block, limits), tool_call_id=call_id))
    _check_answered(body, open_ids)
    said = [Message("user", "\n".join(texts))] if texts or not results else []
    return results + said


def _parse_result(block: Fields, limits: Limits) -> str:
    blocks = _blocks(block, "content", ("text",), limits) if block.has("content") else []
    content = "\n".join(map(_text, blocks))
    # Models were shown failures in this form, so that they are not taken for results.
    return write_failure(content) if block.boolean("is_error") else content


def _check_answered(body: Fields, open_ids: Sequence[str]) -> None:
    if open_ids:
        missing = ", ".join(call_id[:64] for call_id in open_ids[:8])
        raise _unanswered(body, missing)


def _unanswered(body: Fields, missing: str) -> InvalidRequest:
    told = f"must answer every 'tool_use' in the next message: no 'tool_result' for {missing}"
    return body.refuse("messages", told)
