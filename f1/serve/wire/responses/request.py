"""The body of POST /v1/responses to a GenerateRequest.

Fields and their ranges follow the types of the `openai` package 3.54. Beyond OpenAI: `f1`, `seed`,
`stop`, `top_k`, `min_p`, `repetition_penalty`, the penalties and `logit_bias`, as in chat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from f1.serve.limits import Limits
from f1.serve.wire.fields import Fields
from f1.serve.wire.request import (
    parse_format,
    parse_function,
    parse_own,
    parse_sampling,
    parse_stop,
    parse_timeout,
    parse_tool_choice,
)
from f1.serve.wire.responses.items import Item, Reference, conversation, parse_items
from f1.types import GenerateRequest, ResponseFormat, Tool

Json = dict[str, Any]

# Told again in the response; they do not change what is decoded.
_ECHOED = ("prompt_cache_key", "safety_identifier", "user")
_KNOWN = frozenset(
    {
        "background", "f1", "frequency_penalty", "include", "input", "instructions", "logit_bias",
        "max_output_tokens", "max_tool_calls", "metadata", "min_p", "model", "parallel_tool_calls",
        "presence_penalty", "previous_response_id", "prompt_cache_retention", "reasoning",
        "repetition_penalty", "seed", "service_tier", "stop", "store", "stream", "stream_options",
        "temperature", "text", "tool_choice", "tools", "top_k", "top_logprobs", "top_p",
        "truncation", *_ECHOED,
    }
)  # fmt: skip
# OpenAI's own, not offered here: null passes, anything else is refused by name.
_REFUSED = (
    "access_programs", "background_options", "context_management", "conversation", "image",
    "moderation", "prompt", "prompt_cache_options",
)  # fmt: skip
_LOGPROBS = "message.output_text.logprobs"
_INCLUDABLE = (  # the others are parts of items that are never made here
    "code_interpreter_call.outputs", "computer_call_output.output.image_url",
    "file_search_call.results", "message.input_image.image_url", _LOGPROBS,
    "reasoning.encrypted_content", "web_search_call.action.sources", "web_search_call.results",
)  # fmt: skip
_TIERS = ("auto", "default", "flex", "scale", "priority", "fast", "ultrafast")
_FUNCTION = frozenset({"type", "name", "description", "parameters", "strict"})
_FUNCTION_REFUSED = ("allowed_callers", "async", "defer_loading", "output_schema")
_MAX_INT = 2**31 - 1


@dataclass(frozen=True, slots=True)
class ResponsesRequest:
    """A parsed body. Its conversation is not whole before what it refers to was looked up."""

    model: str
    generate: GenerateRequest  # without messages
    items: tuple[Item | Reference, ...]
    echo: Json  # what the response tells again of the request
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool = True
    stream: bool = False
    timeout: float | None = None
    repair_history: bool = False


def parse_responses_request(
    body: object, limits: Limits, *, may_store: bool = True
) -> ResponsesRequest:
    """Raises InvalidRequest naming the first field that is wrong. Where this server stores none,
    the response says so; it is answered all the same, for to store is what clients leave unsaid."""
    fields = Fields(body)
    for name in _REFUSED:
        if fields.has(name):
            raise fields.refuse(name, "is not supported by this server", code="unsupported_field")
    fields.only(_KNOWN | frozenset(_REFUSED))
    if fields.boolean("background"):
        raise fields.refuse("background", "is not supported by this server")
    own = parse_own(fields)
    tools = tuple(_parse_tool(item) for item in fields.objects("tools", limits.max_tools))
    choice, allowed = parse_tool_choice(fields, tools, flat=True)
    parallel = fields.boolean("parallel_tool_calls")
    text = fields.object("text") or Fields({}, "text")
    text.only(frozenset({"format", "verbosity"}))
    generate = GenerateRequest(
        messages=(),
        tools=allowed,
        tool_choice=choice,
        parallel_tool_calls=True if parallel is None else parallel,
        response_format=_parse_format(text),
        sampling=parse_sampling(fields, limits, _parse_logprobs(fields)),
        max_tokens=fields.integer("max_output_tokens", 1, _MAX_INT),
        stop=parse_stop(fields, limits),
        eager_arguments=own.eager_arguments,
    )
    store = fields.boolean("store") is not False and may_store
    return ResponsesRequest(
        model=fields.required_string("model"),
        generate=generate,
        items=parse_items(fields, "input", limits),
        echo=_echo(fields, generate, text, tools) | {"store": store},
        instructions=fields.string("instructions"),
        previous_response_id=fields.string("previous_response_id"),
        store=store,
        stream=_parse_stream(fields),
        timeout=parse_timeout(fields, limits),
        repair_history=own.repair_history,
    )


def whole_request(
    asked: ResponsesRequest, items: Sequence[Item]
) -> tuple[GenerateRequest, list[str]]:
    """What to decode, with all that the conversation consists of, and what was put right in that
    where this was asked for. Raises InvalidRequest."""
    repaired: list[str] = []
    told = repaired if asked.repair_history else None
    messages = conversation(asked.instructions, items, repaired=told)
    return replace(asked.generate, messages=messages), repaired


def _parse_tool(item: Fields) -> Tool:
    if item.get("type") != "function":
        raise item.refuse("type", "must be 'function': no other tools are run here")
    for name in _FUNCTION_REFUSED:
        if item.get(name):
            raise item.refuse(name, "is not supported by this server", code="unsupported_field")
    item.only(_FUNCTION | frozenset(_FUNCTION_REFUSED))
    return parse_function(item)


def _parse_format(text: Fields) -> ResponseFormat:
    value = text.object("format")
    if value is not None and value.get("type") == "json_schema":
        value.required_object("schema")
    return parse_format(value, flat=True)


def _parse_logprobs(fields: Fields) -> int | None:
    """Asked for by `include`, and by `top_logprobs` alone: what else could that mean?"""
    wanted = False
    for index, item in enumerate(fields.array("include", len(_INCLUDABLE))):
        if item not in _INCLUDABLE:
            known = ", ".join(f"'{name}'" for name in _INCLUDABLE)
            raise fields.refuse(f"include[{index}]", f"must be one of {known}")
        wanted = wanted or item == _LOGPROBS
    num_top = fields.integer("top_logprobs", 0, 20) or 0
    return num_top if wanted or num_top else None


def _parse_stream(fields: Fields) -> bool:
    stream = fields.boolean("stream") or False
    options = fields.object("stream_options")
    if options is not None:
        if not stream:
            raise fields.refuse("stream_options", "is only allowed with 'stream': true")
        options.only(frozenset({"include_obfuscation"}))
        options.boolean("include_obfuscation")
    return stream


# --- what the response tells again ---------------------------------------------------------------


def _echo(fields: Fields, generate: GenerateRequest, text: Fields, tools: tuple[Tool, ...]) -> Json:
    fields.one_of("service_tier", _TIERS)
    fields.one_of("prompt_cache_retention", ("in_memory", "24h"))
    # Nothing is ever left out of a conversation: one that is too long is refused.
    fields.one_of("truncation", ("auto", "disabled"))
    return {
        "background": False,
        "instructions": fields.string("instructions"),
        "max_output_tokens": generate.max_tokens,
        "max_tool_calls": fields.integer("max_tool_calls", 1, _MAX_INT),
        "metadata": _parse_metadata(fields),
        "model": fields.required_string("model"),
        "parallel_tool_calls": generate.parallel_tool_calls,
        "previous_response_id": fields.string("previous_response_id"),
        "reasoning": _parse_reasoning(fields),
        "service_tier": "default",
        "temperature": generate.sampling.temperature,
        "text": {
            "format": _write_format(text),
            "verbosity": text.one_of("verbosity", ("low", "medium", "high")) or "medium",
        },
        "tool_choice": _write_choice(fields, generate),
        "tools": [_write_tool(tool) for tool in tools],
        "top_logprobs": generate.sampling.num_logprobs or 0,
        "top_p": generate.sampling.top_p,
        "truncation": "disabled",
    } | {name: fields.string(name) for name in _ECHOED}


def _parse_metadata(fields: Fields) -> Json:
    metadata = fields.object("metadata")
    if metadata is None:
        return {}
    if len(metadata.value) > 16:
        raise fields.refuse("metadata", "may hold at most 16 pairs")
    for name in metadata.value:
        value = metadata.string(name) or ""
        if len(name) > 64 or len(value) > 512:
            raise fields.refuse("metadata", "may have names of 64 and values of 512 characters")
    return {name: value for name, value in metadata.value.items() if value is not None}


def _parse_reasoning(fields: Fields) -> Json:
    reasoning = fields.object("reasoning") or Fields({}, "reasoning")
    reasoning.only(frozenset({"context", "effort", "generate_summary", "mode", "summary"}))
    for name in ("context", "generate_summary", "mode"):
        reasoning.string(name)
    return {"effort": reasoning.string("effort"), "summary": reasoning.string("summary")}


def _write_tool(tool: Tool) -> Json:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description or None,
        "parameters": dict(tool.parameters),
        "strict": tool.strict,
    }


def _write_choice(fields: Fields, generate: GenerateRequest) -> str | Json:
    choice = fields.get("tool_choice")
    if choice is None or isinstance(choice, str):
        return choice or "auto"
    if generate.tool_choice.mode == "named":
        return {"type": "function", "name": generate.tool_choice.name}
    allowed = [{"type": "function", "name": tool.name} for tool in generate.tools]
    return {"type": "allowed_tools", "mode": generate.tool_choice.mode, "tools": allowed}


def _write_format(text: Fields) -> Json:
    format = text.object("format")
    if format is None:
        return {"type": "text"}
    known = ("type", "name", "description", "schema", "strict", "pattern", "grammar")
    return {name: format.get(name) for name in known if format.has(name)}
