"""The body of POST /v1/messages and of /v1/messages/count_tokens to a GenerateRequest.

Fields follow the `anthropic` package 2.12.0, with the sampling fields of the versions before it.
Beyond Anthropic: `seed`. Without `temperature` decoding is greedy.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from f1.serve.limits import Limits
from f1.serve.wire.anthropic_history import parse_history
from f1.serve.wire.fields import Fields
from f1.types import GenerateRequest, ResponseFormat, SamplingParams, Tool, ToolChoice

# Accepted because clients send them; they do not change what is decoded. A model thinks or does
# not, as it was trained; prompts are cached without being told where.
_IGNORED = frozenset(
    {
        "cache_control", "diagnostics", "inference_geo", "metadata", "service_tier", "speed",
        "thinking", "user_profile_id", "workspace_id",
    }
)  # fmt: skip
_PROMPT = frozenset({"messages", "model", "output_config", "system", "tool_choice", "tools"})
_KNOWN = (
    _IGNORED
    | _PROMPT
    | {"max_tokens", "seed", "stop_sequences", "stream", "temperature", "top_k", "top_p"}
)
_TOOL_FIELDS = frozenset(
    {
        "allowed_callers", "cache_control", "defer_loading", "description",
        "eager_input_streaming", "input_examples", "input_schema", "name", "strict", "type",
    }
)  # fmt: skip
_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")
_MAX_STOPS = 16
_MAX_INT = 2**31 - 1
_INT64 = 2**63


@dataclass(frozen=True, slots=True)
class MessagesRequest:
    """A parsed body. Of `eager_tools` the arguments are streamed before they are known valid."""

    model: str
    generate: GenerateRequest
    stream: bool = False
    eager_tools: frozenset[str] = frozenset()


def parse_messages_request(body: object, limits: Limits) -> MessagesRequest:
    """Raises InvalidRequest naming the first field that is wrong."""
    fields = Fields(body)
    fields.only(_KNOWN)
    max_tokens = fields.integer("max_tokens", 1, _MAX_INT)
    if max_tokens is None:
        raise fields.refuse("max_tokens", "must be given")
    return _parse(fields, limits, max_tokens)


def parse_count_request(body: object, limits: Limits) -> MessagesRequest:
    """The same without what is about the answer. Raises InvalidRequest."""
    fields = Fields(body)
    fields.only(_IGNORED | _PROMPT)
    return _parse(fields, limits, 1)


def _parse(fields: Fields, limits: Limits, max_tokens: int) -> MessagesRequest:
    for name in ("cache_control", "diagnostics", "metadata", "thinking"):
        fields.object(name)
    items = list(fields.objects("tools", limits.max_tools))
    tools = tuple(map(_parse_tool, items))
    choice, parallel = _parse_tool_choice(fields, tools)
    stream = fields.boolean("stream") or False
    eager = {i.get("name") for i in items if stream and i.boolean("eager_input_streaming")}
    generate = GenerateRequest(
        messages=parse_history(fields, limits),
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=parallel,
        response_format=_parse_format(fields),
        sampling=_parse_sampling(fields),
        max_tokens=max_tokens,
        stop=_parse_stops(fields, limits),
        eager_arguments=bool(eager),
    )
    return MessagesRequest(fields.required_string("model"), generate, stream, frozenset(eager))


def _parse_tool(item: Fields) -> Tool:
    kind = item.get("type")
    if kind not in (None, "custom"):
        known = "must be 'custom': tools that Anthropic defines are not known to this server"
        raise item.refuse("type", known, code="unsupported_field")
    item.only(_TOOL_FIELDS)
    name = item.required_string("name")
    if not _TOOL_NAME.match(name):
        raise item.refuse("name", "must be 1 to 128 of A-Z, a-z, 0-9, '_' and '-'")
    if item.boolean("defer_loading"):
        raise item.refuse("defer_loading", "is not supported: every tool is shown to the model")
    if any(caller != "direct" for caller in item.array("allowed_callers", 8)):
        raise item.refuse("allowed_callers", "may only hold 'direct'")
    item.object("cache_control")
    schema = item.get("input_schema")
    if not isinstance(schema, Mapping):
        raise item.refuse("input_schema", f"of tool '{name}' must be a JSON Schema object")
    strict = item.boolean("strict") is not False  # held to its schema unless told otherwise
    return Tool(name, item.string("description") or "", schema, strict)


def _parse_tool_choice(fields: Fields, tools: tuple[Tool, ...]) -> tuple[ToolChoice, bool]:
    """The choice, and whether several calls may be made."""
    choice = fields.object("tool_choice")
    if choice is None:
        return ToolChoice("auto" if tools else "none"), True
    choice.only(frozenset({"type", "name", "disable_parallel_tool_use"}))
    kind = choice.one_of("type", ("auto", "any", "tool", "none"))
    if kind is None:
        raise choice.refuse("type", "must be one of 'auto', 'any', 'tool', 'none'")
    parallel = not choice.boolean("disable_parallel_tool_use")
    if kind in ("any", "tool") and not tools:
        raise fields.refuse("tool_choice", f"may be '{kind}' only with 'tools'")
    if kind == "tool":
        name = choice.required_string("name")
        if name not in {tool.name for tool in tools}:
            raise choice.refuse("name", f"names '{name[:64]}', which is not among the tools")
        return ToolChoice("named", name), parallel
    if kind == "any":
        return ToolChoice("required"), parallel
    return ToolChoice("none" if kind == "none" or not tools else "auto"), parallel


def _parse_format(fields: Fields) -> ResponseFormat:
    config = fields.object("output_config")
    if config is None:
        return ResponseFormat()
    config.only(frozenset({"effort", "format"}))
    config.one_of("effort", ("low", "medium", "high", "xhigh", "max"))
    format = config.object("format")
    if format is None:
        return ResponseFormat()
    format.only(frozenset({"type", "schema"}))
    if format.one_of("type", ("json_schema",)) is None:
        raise format.refuse("type", "must be 'json_schema'")
    return ResponseFormat("json_schema", format.required_object("schema").value)


def _parse_sampling(fields: Fields) -> SamplingParams:
    top_p, seed = fields.number("top_p", 0, 1), fields.integer("seed", -_INT64, _INT64 - 1)
    return SamplingParams(
        temperature=fields.number("temperature", 0, 1) or 0.0,
        top_k=fields.integer("top_k", 0, _MAX_INT) or 0,
        top_p=1.0 if top_p is None else top_p,
        # Random streams are keyed by 63 bits; without a seed every request draws its own.
        seed=secrets.randbits(63) if seed is None else seed & (_INT64 - 1),
    )


def _parse_stops(fields: Fields, limits: Limits) -> tuple[str, ...]:
    items = fields.array("stop_sequences", _MAX_STOPS)
    for item in items:
        if not isinstance(item, str) or not 0 < len(item) <= limits.max_stop_chars:
            raise fields.refuse(
                "stop_sequences", f"must be strings of 1 to {limits.max_stop_chars} characters"
            )
    return tuple(items)
