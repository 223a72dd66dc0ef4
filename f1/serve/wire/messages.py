"""Conversations on the wire: roles, parts of content, calls and their results."""

from __future__ import annotations

from typing import Any, cast

from f1.errors import InvalidRequest
from f1.serve.limits import Limits
from f1.serve.wire.fields import Fields, parse_json
from f1.serve.wire.repair import repair
from f1.types import Message, Role, RunOptions, ToolCall

Messages = tuple[Message, ...]
ORDINARY = RunOptions()


def parse_messages(
    body: Fields, limits: Limits, *, repaired: list[str] | None = None, run: RunOptions = ORDINARY
) -> Messages:
    """The conversation, its calls all answered. Raises InvalidRequest; where `repaired` is given,
    calls and results that do not match are put right instead, and it is told how. Of a session it
    is what is new; a run that is there needs none."""
    items = list(body.objects("messages", limits.max_messages))
    if not items and run.run_id:
        return ()
    if not items:
        raise body.refuse("messages", "must hold at least one message")
    messages = [_parse_message(item, limits) for item in items]
    if repaired is not None:
        return repair(messages, repaired)
    pairs = list(zip(items, messages, strict=True))
    if run.session_id:  # results that come first are of calls that the session has
        first = next((i for i, m in enumerate(messages) if m.role != "tool"), len(messages))
        pairs = pairs[first:]
    _check_answers(body, pairs)
    return tuple(messages)


def _parse_message(item: Fields, limits: Limits) -> Message:
    role = item.required_string("role")
    content = _parse_content(item)
    calls = _parse_calls(item, limits) if role == "assistant" else ()
    if content is None and not calls and not item.has("refusal"):
        raise item.refuse("content", "must be a string or an array of text parts")
    call_id = item.required_string("tool_call_id") if role == "tool" else None
    # "developer" is OpenAI's newer word for "system"; no open model's template knows it.
    plain = cast(Role, "system" if role == "developer" else role)
    text = content or item.string("refusal") or ""
    return Message(plain, text, calls, call_id, item.string("reasoning_content") or "")


def _parse_content(item: Fields) -> str | None:
    content = item.get("content")
    if content is None or isinstance(content, str):
        return content
    return "\n".join(part[part["type"]] for part in content)


def _parse_calls(item: Fields, limits: Limits) -> tuple[ToolCall, ...]:
    calls = []
    for call in item.objects("tool_calls", limits.max_calls_per_message):
        function = call.required_object("function")
        arguments = parse_arguments(function)
        calls.append(
            ToolCall(call.required_string("id"), function.required_string("name"), arguments)
        )
    return tuple(calls)


def parse_arguments(function: Fields) -> str:
    """The JSON text of an object."""
    text = function.string("arguments")
    if not text:  # some clients write a call without arguments as ""
        return "{}"
    try:
        is_object = isinstance(parse_json(text.encode(errors="surrogatepass")), dict)
    except InvalidRequest:
        is_object = False
    if not is_object:
        raise function.refuse("arguments", "must be the JSON text of an object")
    return text


def _check_answers(body: Fields, pairs: list[tuple[Fields, Message]]) -> None:
    """Each call is answered once, by tool messages that directly follow it, in any order."""
    open_ids: list[str] = []
    for item, message in pairs:
        if message.role == "tool":
            if message.tool_call_id not in open_ids:
                raise item.refuse(
                    "tool_call_id",
                    "must be the id of a call, not yet answered, of the assistant message before",
                )
            open_ids.remove(message.tool_call_id)
            continue
        _check_none_open(body, open_ids)
        open_ids = [call.id for call in message.tool_calls]
        if len(set(open_ids)) != len(open_ids):
            raise item.refuse("tool_calls", "must have ids that differ")
    _check_none_open(body, open_ids)


def _check_none_open(body: Fields, open_ids: list[str]) -> None:
    if open_ids:
        missing = ", ".join(call_id[:64] for call_id in open_ids[:8])
        raise body.refuse("messages", f"must answer every call: no tool message for {missing}")


def write_message(message: Message) -> dict[str, Any]:
    result: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning:
        result["reasoning_content"] = message.reasoning
    if message.tool_calls:
        result["tool_calls"] = [write_call(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        result["tool_call_id"] = message.tool_call_id
    return result


def write_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}
