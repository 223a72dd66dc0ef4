"""Conversations as the Responses API writes them: items, and the messages that they add up to.

reasoning, message, function_call, function_call   ─▶ one assistant message
function_call_output, function_call_output         ─▶ its results, wherever they stand
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from f1.serve.limits import Limits
from f1.serve.wire.fields import Fields, describe, refuse
from f1.serve.wire.messages import Messages, parse_arguments
from f1.serve.wire.repair import repair
from f1.types import Message, Role, ToolCall

Json = dict[str, Any]
Prefix = Literal["resp", "msg", "fc", "fco", "rs"]
_KINDS = ("message", "function_call", "function_call_output", "reasoning", "item_reference")
_ROLES = ("user", "assistant", "system", "developer")
_PARTS = ("input_text", "output_text", "refusal")
_MAX_ID_CHARS = 128


def new_id(prefix: Prefix) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"


@dataclass(frozen=True, slots=True)
class Item:
    """One item. `json` is closed and has an id: so it is kept, and read again by `parse_item`.
    `message` is what it says by itself: a text, a call, a result or a thought."""

    json: Json
    message: Message
    path: str


@dataclass(frozen=True, slots=True)
class Reference:
    """Stands for the item of that id in a stored response."""

    id: str
    path: str


def parse_items(body: Fields, field: str, limits: Limits) -> tuple[Item | Reference, ...]:
    """`input`: one text of the user, or items. Raises InvalidRequest."""
    value = body.get(field)
    if isinstance(value, str):
        return (parse_item(Fields({"role": "user", "content": value}, field), limits),)
    if value is not None and not isinstance(value, list):
        raise body.refuse(field, f"must be a string or an array of items, not {describe(value)}")
    return tuple(parse_item(item, limits) for item in body.objects(field, limits.max_messages))


def parse_item(item: Fields, limits: Limits) -> Item | Reference:
    kind = item.string("type") or ("message" if item.has("role") else None)
    if kind is None and item.value.keys() <= {"id", "type"} and item.has("id"):
        kind = "item_reference"  # OpenAI's type leaves it out
    match kind:
        case "message":
            return _parse_message(item, limits)
        case "function_call":
            return _parse_call(item)
        case "function_call_output":
            return _parse_result(item, limits)
        case "reasoning":
            return _parse_reasoning(item, limits)
        case "item_reference":
            return Reference(_required_id(item, "id"), item.path)
    raise item.refuse("type", "must be one of " + ", ".join(f"'{name}'" for name in _KINDS))


def _parse_message(item: Fields, limits: Limits) -> Item:
    role = item.one_of("role", _ROLES)
    if role is None:
        raise item.refuse("role", "must be one of " + ", ".join(f"'{name}'" for name in _ROLES))
    texts = _parse_texts(item, "content", limits)
    part: Json = {"type": "input_text"}
    if role == "assistant":
        part = {"type": "output_text", "annotations": [], "logprobs": []}
    content = [part | {"text": text} for text in texts]
    # "developer" is OpenAI's newer word for "system"; no open model's template knows it.
    plain = cast(Role, "system" if role == "developer" else role)
    kept = _keep(item, "message", "msg", {"role": role, "content": content})
    return Item(kept, Message(plain, "\n".join(texts)), item.path)


def _parse_call(item: Fields) -> Item:
    call = ToolCall(
        _required_id(item, "call_id"), item.required_string("name"), parse_arguments(item)
    )
    said = {"call_id": call.id, "name": call.name, "arguments": call.arguments}
    kept = _keep(item, "function_call", "fc", said)
    return Item(kept, Message("assistant", tool_calls=(call,)), item.path)


def _parse_result(item: Fields, limits: Limits) -> Item:
    call_id = _required_id(item, "call_id")
    texts = _parse_texts(item, "output", limits)
    output: str | list[Json] = [{"type": "input_text", "text": text} for text in texts]
    if isinstance(item.get("output"), str):
        output = texts[0]
    kept = _keep(item, "function_call_output", "fco", {"call_id": call_id, "output": output})
    return Item(kept, Message("tool", "\n".join(texts), tool_call_id=call_id), item.path)


def _parse_reasoning(item: Fields, limits: Limits) -> Item:
    """What was thought; where only a summary of it is told, that. `encrypted_content` is somebody
    else's, and says nothing here."""
    said: Json = {"summary": [], "content": []}
    for field, kind in (("summary", "summary_text"), ("content", "reasoning_text")):
        for part in item.objects(field, limits.max_parts):
            if part.get("type") != kind:
                raise part.refuse("type", f"must be '{kind}'")
            said[field].append({"type": kind, "text": _text(part, "text")})
    text = "\n".join(part["text"] for part in said["content"] or said["summary"])
    kept = _keep(item, "reasoning", "rs", said)
    return Item(kept, Message("assistant", reasoning=text), item.path)


def _parse_texts(item: Fields, field: str, limits: Limits) -> list[str]:
    value = item.get(field)
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise item.refuse(
            field, f"must be a string or an array of text parts, not {describe(value)}"
        )
    texts = []
    for part in item.objects(field, limits.max_parts):
        kind = part.get("type")
        if kind not in _PARTS:
            raise part.refuse(
                "type", f"must be 'input_text' or 'output_text', not {describe(kind)}"
            )
        texts.append(_text(part, "refusal" if kind == "refusal" else "text"))
    return texts


def _text(part: Fields, field: str) -> str:
    text = part.string(field)
    if text is None:
        raise part.refuse(field, "must be a string")
    return text


def _required_id(item: Fields, field: str) -> str:
    value = item.required_string(field)
    if len(value) > _MAX_ID_CHARS:
        raise item.refuse(field, f"may have at most {_MAX_ID_CHARS} characters")
    return value


def _keep(item: Fields, kind: str, prefix: Prefix, said: Json) -> Json:
    item_id = _required_id(item, "id") if item.has("id") else new_id(prefix)
    status = item.one_of("status", ("in_progress", "completed", "incomplete")) or "completed"
    return {"id": item_id, "type": kind, "status": status} | said


# --- items → messages ----------------------------------------------------------------------------


def conversation(
    instructions: str | None,
    items: Sequence[Item],
    limits: Limits,
    *,
    repaired: list[str] | None = None,
) -> Messages:
    """What the items say, every call answered. Raises InvalidRequest; where `repaired` is given,
    calls and outputs that do not match are put right instead, and it is told how."""
    if len(items) > limits.max_messages:
        raise refuse("input", f"may make a conversation of {limits.max_messages} items at most")
    turns = _turns(items, limits.max_calls_per_message, strict=repaired is None)
    messages = [message for turn in turns for message in turn]
    if instructions:
        messages.insert(0, Message("system", instructions))
    if not messages:
        raise refuse("input", "must hold at least one item")
    messages = _lead(messages)
    return tuple(messages) if repaired is None else repair(messages, repaired)


def _turns(items: Sequence[Item], max_calls: int, *, strict: bool) -> list[list[Message]]:
    """Messages, each with the results of its calls behind it."""
    turns: list[list[Message]] = []
    open_calls: dict[str, list[Message]] = {}  # by id: the turn it is in
    for item in items:
        message = item.message
        if message.role == "tool":
            turn = open_calls.pop(message.tool_call_id or "", None)
            if turn is not None:
                turn.append(message)
            elif strict:
                raise refuse(
                    f"{item.path}.call_id",
                    "must be the call_id of a function_call before it that has no output yet",
                )
            else:
                turns.append([message])
            continue
        if strict and any(call.id in open_calls for call in message.tool_calls):
            raise refuse(f"{item.path}.call_id", "is that of another call without an output")
        if turns and len(turns[-1]) == 1 and _continues(turns[-1][0], message):
            turns[-1][0] = _joined(turns[-1][0], message)
        else:
            turns.append([message])
        if len(turns[-1][0].tool_calls) > max_calls:
            raise refuse(f"{item.path}.type", f"may be a call at most {max_calls} times in a turn")
        open_calls |= {call.id: turns[-1] for call in message.tool_calls}
    if strict and open_calls:
        missing = ", ".join(call_id[:64] for call_id in list(open_calls)[:8])
        raise refuse(
            "input", f"must answer every function_call: no function_call_output for {missing}"
        )
    return turns


def _continues(turn: Message, message: Message) -> bool:
    """Whether it is more of the same assistant's turn: thoughts, then words, then calls."""
    if turn.role != "assistant" or message.role != "assistant":
        return False
    if message.tool_calls:
        return True
    return not turn.tool_calls and not turn.content


def _joined(turn: Message, message: Message) -> Message:
    return replace(
        turn,
        content=turn.content + message.content,
        reasoning="\n".join(text for text in (turn.reasoning, message.reasoning) if text),
        tool_calls=turn.tool_calls + message.tool_calls,
    )


def _lead(messages: list[Message]) -> list[Message]:
    """Instructions and the system's messages directly behind them are one message: the place that
    models are trained to find them in."""
    count = next((i for i, m in enumerate(messages) if m.role != "system"), len(messages))
    if count < 2:
        return messages
    text = "\n\n".join(message.content for message in messages[:count])
    return [Message("system", text), *messages[count:]]
