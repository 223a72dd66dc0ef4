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
    parse_tool_choice,
)
from f1.serve.wire.responses.bodies import LOGPROBS, responses
from f1.serve.wire.responses.items import Item, Reference, conversation, parse_items
from f1.types import GenerateRequest, ResponseFormat, Tool

Json = dict[str, Any]

# Told again in the response; they do not change what is decoded.
_ECHOED = ("prompt_cache_key", "safety_identifier", "user")
_FUNCTION_REFUSED = ("allowed_callers", "async", "defer_loading", "output_schema")


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
    responses(limits).check(body, "")
    fields = Fields(body)
    if fields.boolean("background"):
        raise fields.refuse("background", "is not supported by this server")
    own = parse_own(fields, limits)
    tools = tuple(_parse_tool(item) for item in fields.objects("tools", limits.max_tools))
    choice, allowed = parse_tool_choice(fields, tools, own.run, flat=True)
    parallel = fields.boolean("parallel_tool_calls")
    text = fields.object("text") or Fields({}, "text")
    generate = GenerateRequest(
        messages=(),
        tools=allowed,
        tool_choice=choice,
        parallel_tool_calls=True if parallel is None else parallel,
        response_format=_parse_format(text),
        sampling=parse_sampling(fields, _parse_logprobs(fields), masked_mass=own.masked_mass),
        max_tokens=fields.get("max_output_tokens"),
        stop=parse_stop(fields),
        eager_arguments=own.eager_arguments,
        run=own.run,
    )
    store = fields.boolean("store") is not False and may_store
    return ResponsesRequest(
        model=fields.required_string("model"),
        generate=generate,
        items=parse_items(fields, "input", limits),
        echo=_echo(fields, generate, text, tools) | {"store": store},
        instructions=fields.string("instructions"),
        previous_response_id=fields.string("previous_response_id") or None,
        store=store,
        stream=_parse_stream(fields),
        timeout=fields.number("timeout"),
        repair_history=own.repair_history,
    )


def whole_request(
    asked: ResponsesRequest, items: Sequence[Item], limits: Limits
) -> tuple[GenerateRequest, list[str]]:
    """What to decode, with all that the conversation consists of, and what was put right in that
    where this was asked for. Raises InvalidRequest."""
    repaired: list[str] = []
    told = repaired if asked.repair_history else None
    messages = conversation(asked.instructions, items, limits, repaired=told)
    return replace(asked.generate, messages=messages), repaired


def _parse_tool(item: Fields) -> Tool:
    for name in _FUNCTION_REFUSED:
        if item.get(name):
            raise item.refuse(name, "is not supported by this server", code="unsupported_field")
    return parse_function(item)


def _parse_format(text: Fields) -> ResponseFormat:
    return parse_format(text.object("format"), flat=True)


def _parse_logprobs(fields: Fields) -> int | None:
    """Asked for by `include`, and by `top_logprobs` alone: what else could that mean?"""
    wanted = LOGPROBS in (fields.get("include") or ())
    num_top: int = fields.get("top_logprobs") or 0
    return num_top if wanted or num_top else None


def _parse_stream(fields: Fields) -> bool:
    stream = fields.boolean("stream") or False
    options = fields.object("stream_options")
    if options is not None and not stream:
        raise fields.refuse("stream_options", "is only allowed with 'stream': true")
    return stream


# --- what the response tells again ---------------------------------------------------------------


def _echo(fields: Fields, generate: GenerateRequest, text: Fields, tools: tuple[Tool, ...]) -> Json:
    metadata = fields.get("metadata") or {}
    reasoning = fields.get("reasoning") or {}
    return {
        "background": False,
        "instructions": fields.string("instructions"),
        "max_output_tokens": generate.max_tokens,
        "max_tool_calls": fields.get("max_tool_calls"),
        "metadata": {name: value for name, value in metadata.items() if value is not None},
        "model": fields.required_string("model"),
        "parallel_tool_calls": generate.parallel_tool_calls,
        "previous_response_id": fields.string("previous_response_id") or None,
        "reasoning": {name: reasoning.get(name) for name in ("effort", "summary")},
        "service_tier": "default",
        "temperature": generate.sampling.temperature,
        "text": {
            "format": _write_format(text),
            "verbosity": text.get("verbosity") or "medium",
        },
        "tool_choice": _write_choice(fields, generate),
        "tools": [_write_tool(tool) for tool in tools],
        "top_logprobs": generate.sampling.num_logprobs or 0,
        "top_p": generate.sampling.top_p,
        # Nothing is ever left out of a conversation: one that is too long is refused.
        "truncation": "disabled",
    } | {name: fields.string(name) for name in _ECHOED}


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
