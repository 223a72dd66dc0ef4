"""What bodies of /v1/responses may hold: fields follow the types of the `openai` package 3.54.

Beyond OpenAI: `f1`, `timeout`, `stop` and chat's sampling fields. Items are open: clients send back
what they were sent.
"""

from __future__ import annotations

from functools import cache

from f1.serve.limits import Limits
from f1.serve.wire import bodies
from f1.serve.wire.shape import (
    Either,
    Flag,
    Free,
    Integer,
    Items,
    Keyed,
    Record,
    Shape,
    Tagged,
    Text,
    Unsupported,
    Word,
    tagged,
)

LOGPROBS = "message.output_text.logprobs"
INCLUDABLE = (  # the others are parts of items that are never made here
    "code_interpreter_call.outputs", "computer_call_output.output.image_url",
    "file_search_call.results", "message.input_image.image_url", LOGPROBS,
    "reasoning.encrypted_content", "web_search_call.action.sources", "web_search_call.results",
)  # fmt: skip
_REFUSED = (
    "access_programs", "background_options", "context_management", "conversation", "image",
    "moderation", "prompt", "prompt_cache_options",
)  # fmt: skip
_ID = Text(1, 128)
_LABEL = Text(0, 512)
_EFFORT = Word(("low", "medium", "high"))


@cache
def responses(limits: Limits) -> Record:
    """POST /v1/responses."""
    labels = ("prompt_cache_key", "safety_identifier", "user")
    return Record(
        {
            "model": Text(1, limits.max_name_chars),
            "input": Either((Text(), Items(_item(limits), 0, limits.max_messages))),
            "instructions": Text(),
            "previous_response_id": Text(0, limits.max_name_chars),
            "store": Flag(),
            "background": Flag(),
            "stream": Flag(),
            "stream_options": Record({"include_obfuscation": Flag()}),
            "max_output_tokens": Integer(1, bodies.MAX_INT),
            "max_tool_calls": Integer(1, bodies.MAX_INT),
            "tools": Items(_tool(limits), 0, limits.max_tools),
            "tool_choice": _tool_choice(limits),
            "parallel_tool_calls": Flag(),
            "text": Record({"format": _format(limits), "verbosity": _EFFORT}),
            "include": Items(Word(INCLUDABLE), 0, len(INCLUDABLE)),
            "top_logprobs": Integer(0, 20),
            "reasoning": Record(
                dict.fromkeys(("context", "effort", "generate_summary", "mode", "summary"), _LABEL)
            ),
            "stop": bodies.stop(limits, 4),
            "metadata": Keyed(Text(0, 64), Text(0, 512), 16),
            "service_tier": Word(
                ("auto", "default", "flex", "scale", "priority", "fast", "ultrafast")
            ),
            "prompt_cache_retention": Word(("in_memory", "24h")),
            "truncation": Word(("auto", "disabled")),
            "timeout": bodies.timeout(limits),
            "f1": bodies.own(limits),
        }
        | bodies.sampling(limits)
        | dict.fromkeys(labels, _LABEL)
        | dict.fromkeys(_REFUSED, Unsupported()),
        required=("model",),
    )


def _item(limits: Limits) -> Tagged:
    """A message, or a reference, may leave its type out."""
    status = Word(("in_progress", "completed", "incomplete"))
    kept: dict[str, Shape] = {"id": _ID, "status": status}
    texts = _texts(limits)
    message: dict[str, Shape] = {
        "role": Word(("user", "assistant", "system", "developer")),
        "content": texts,
    }
    call: dict[str, Shape] = {
        "call_id": _ID,
        "name": Text(1, limits.max_name_chars),
        "arguments": Text(),
    }
    result: dict[str, Shape] = {"call_id": _ID, "output": texts}
    thought: dict[str, Shape] = {
        "summary": _parts(limits, {"summary_text": "text"}),
        "content": _parts(limits, {"reasoning_text": "text"}),
    }
    return tagged(
        "type",
        {
            "message": Record(kept | message, tuple(message), open=True),
            "function_call": Record(kept | call, ("call_id", "name"), open=True),
            "function_call_output": Record(kept | result, tuple(result), open=True),
            "reasoning": Record(kept | thought, open=True),
            "item_reference": Record({"id": _ID}, ("id",), open=True),
        },
        otherwise=Record(kept | message, open=True),
    )


def _texts(limits: Limits) -> Either:
    kinds = {"input_text": "text", "output_text": "text", "refusal": "refusal"}
    return Either((Text(), _parts(limits, kinds)))


def _parts(limits: Limits, kinds: dict[str, str]) -> Items:
    parts = {kind: Record({field: Text()}, (field,), open=True) for kind, field in kinds.items()}
    return Items(tagged("type", parts), 0, limits.max_parts)


def _tool(limits: Limits) -> Tagged:
    """OpenAI's own tools have other types: none of them is run here."""
    refused: dict[str, Shape] = {  # where they ask for something
        "allowed_callers": Items(_LABEL, 0, 8),
        "async": Flag(),
        "defer_loading": Flag(),
        "output_schema": Free(),
    }
    return tagged("type", {"function": Record(bodies.function(limits) | refused, ("name",))})


def _tool_choice(limits: Limits) -> Either:
    named = Record({"name": bodies.TOOL_NAME}, ("name",))
    fields: dict[str, Shape] = {
        "mode": Word(("auto", "required")),
        "tools": Items(tagged("type", {"function": named}), 0, limits.max_tools),
    }
    allowed = Record(fields | {"allowed_tools": Record(fields)})
    choices = tagged("type", {"function": named, "allowed_tools": allowed})
    return Either((Word(("auto", "none", "required")), choices))


def _format(limits: Limits) -> Tagged:
    schema: dict[str, Shape] = {
        "name": Text(1, limits.max_name_chars),
        "description": Text(0, limits.max_description_chars),
        "schema": Free(),
        "strict": Flag(),
    }
    return tagged(
        "type",
        {
            "text": Record({}),
            "json_object": Record({}),
            "json_schema": Record(schema, ("name", "schema")),
            "regex": Record({"pattern": Text(1, limits.max_pattern_chars)}, ("pattern",)),
            "ebnf": Record({"grammar": Text(1, limits.max_grammar_chars)}, ("grammar",)),
        },
    )
