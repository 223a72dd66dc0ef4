"""What bodies of /v1/messages may hold: fields follow the `anthropic` package 2.12.0, with the
sampling fields of the versions before it. Blocks are open: clients send back what they were sent.
"""

from __future__ import annotations

from functools import cache

from f1.serve.limits import Limits
from f1.serve.wire import runs
from f1.serve.wire.bodies import INT64, MAX_INT, timeout
from f1.serve.wire.shape import (
    Either,
    Flag,
    Free,
    Integer,
    Items,
    Keyed,
    Number,
    Record,
    Shape,
    Tagged,
    Text,
    Word,
    tagged,
)

_TOOL_NAME = Text(1, 128, "[A-Za-z0-9_-]{1,128}", "1 to 128 of A-Z, a-z, 0-9, '_' and '-'")
_MAX_STOPS = 16


@cache
def messages(limits: Limits) -> Record:
    """POST /v1/messages. Beyond Anthropic: `f1`, `seed` and `timeout`."""
    fields: dict[str, Shape] = {
        "max_tokens": Integer(1, MAX_INT),
        "stop_sequences": Items(Text(1, limits.max_stop_chars), 0, _MAX_STOPS),
        "stream": Flag(),
        "temperature": Number(0, 1),
        "top_p": Number(0, 1),
        "top_k": Integer(0, MAX_INT),
        "seed": Integer(-INT64, INT64 - 1),
        "timeout": timeout(limits),
        "f1": Record(
            dict.fromkeys(("eager_arguments", "repair_history"), Flag()) | runs.options(limits)
        ),
    }
    return Record(_prompt(limits) | fields, ("model", "max_tokens", "messages"))


@cache
def count_tokens(limits: Limits) -> Record:
    """POST /v1/messages/count_tokens: what is about the prompt."""
    return Record(_prompt(limits), ("model", "messages"))


def _prompt(limits: Limits) -> dict[str, Shape]:
    return {
        "model": Text(1, limits.max_name_chars),
        "messages": Items(_message(limits), 1, limits.max_messages),
        "system": _content({"text": _text()}, limits),
        "tools": Items(_tool(limits), 0, limits.max_tools),
        "tool_choice": _tool_choice(),
        "output_config": _output_config(),
    } | _ignored(limits)


def _ignored(limits: Limits) -> dict[str, Shape]:
    """Taken because clients send them; they do not change what is decoded. A model thinks or does
    not, as it was trained; prompts are cached without being told where."""
    labels = ("inference_geo", "service_tier", "speed", "user_profile_id", "workspace_id")
    objects = ("cache_control", "diagnostics", "thinking")
    return (
        {"metadata": Keyed(Text(0, 64), Text(0, 512), 16)}
        | dict.fromkeys(labels, Text(0, limits.max_name_chars))
        | dict.fromkeys(objects, Free())
    )


def _message(limits: Limits) -> Tagged:
    name = Text(1, limits.max_name_chars)
    said = {"text": _text()}
    result: dict[str, Shape] = {
        "tool_use_id": name,
        "content": _content(said, limits),
        "is_error": Flag(),
        "cache_control": Free(),
    }
    use = {"id": name, "name": name, "input": Free(), "cache_control": Free()}
    blocks = {
        "user": said | {"tool_result": Record(result, ("tool_use_id",), open=True)},
        "assistant": said
        | {
            "thinking": Record({"thinking": Text()}, ("thinking",), open=True),
            "redacted_thinking": Record({}, open=True),
            "tool_use": Record(use, ("id", "name", "input"), open=True),
        },
        "system": said,
    }
    return tagged(
        "role",
        {
            role: Record({"content": _content(of_role, limits)}, ("content",))
            for role, of_role in blocks.items()
        },
    )


def _content(blocks: dict[str, Record], limits: Limits) -> Either:
    return Either((Text(), Items(tagged("type", blocks), 0, limits.max_parts)))


def _text() -> Record:
    return Record({"text": Text(), "cache_control": Free()}, ("text",), open=True)


def _tool(limits: Limits) -> Record:
    """A client's own. Anthropic's (web search, a shell) have other types; none of them is here."""
    fields: dict[str, Shape] = {
        "type": Word(("custom",)),
        "name": _TOOL_NAME,
        "description": Text(0, limits.max_description_chars),
        "input_schema": Free(),
        "strict": Flag(),
        "eager_input_streaming": Flag(),
        "defer_loading": Flag(),
        "allowed_callers": Items(Word(("direct",)), 0, 8),
        "input_examples": Items(Free(), 0, 64),  # not shown to the model
        "cache_control": Free(),
    }
    return Record(fields, ("name", "input_schema"))


def _tool_choice() -> Tagged:
    single: dict[str, Shape] = {"disable_parallel_tool_use": Flag()}
    return tagged(
        "type",
        {
            "auto": Record(single),
            "any": Record(single),
            "tool": Record(single | {"name": _TOOL_NAME}, ("name",)),
            "none": Record(single),
        },
    )


def _output_config() -> Record:
    format = tagged("type", {"json_schema": Record({"schema": Free()}, ("schema",))})
    effort = Word(("low", "medium", "high", "xhigh", "max"))  # of no effect
    return Record({"effort": effort, "format": format})
