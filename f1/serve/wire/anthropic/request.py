"""The body of POST /v1/messages and of /v1/messages/count_tokens to a GenerateRequest."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from f1.serve.limits import Limits
from f1.serve.wire.anthropic import bodies
from f1.serve.wire.anthropic.history import parse_history
from f1.serve.wire.bodies import INT64
from f1.serve.wire.fields import Fields
from f1.serve.wire.request import parse_own
from f1.types import (
    GenerateRequest,
    ResponseFormat,
    RunOptions,
    SamplingParams,
    Tool,
    ToolChoice,
)


@dataclass(frozen=True, slots=True)
class MessagesRequest:
    """A parsed body. Of `eager_tools` the arguments are streamed before they are known valid."""

    model: str
    generate: GenerateRequest
    stream: bool = False
    eager_tools: frozenset[str] = frozenset()
    repaired: tuple[str, ...] = ()  # what was put right in the history, where that was asked for
    timeout: float | None = None  # seconds in which the answer has to be there


def parse_messages_request(body: object, limits: Limits) -> MessagesRequest:
    """Raises InvalidRequest naming the first field that is wrong."""
    bodies.messages(limits).check(body, "")
    return _parse(Fields(body), limits)


def parse_count_request(body: object, limits: Limits) -> MessagesRequest:
    """The same without what is about the answer. Raises InvalidRequest."""
    bodies.count_tokens(limits).check(body, "")
    return _parse(Fields(body), limits)


def _parse(fields: Fields, limits: Limits) -> MessagesRequest:
    items = list(fields.objects("tools", limits.max_tools))
    tools = tuple(map(_parse_tool, items))
    own = parse_own(fields, limits)
    choice, parallel = _parse_tool_choice(fields, tools, own.run)
    stream = fields.boolean("stream") or False
    eager = frozenset(
        tool.name
        for tool, item in zip(tools, items, strict=True)
        if stream and (own.eager_arguments or item.boolean("eager_input_streaming"))
    )
    repaired: list[str] | None = [] if own.repair_history else None
    generate = GenerateRequest(
        messages=parse_history(fields, limits, repaired=repaired),
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=parallel,
        response_format=_parse_format(fields),
        sampling=_parse_sampling(fields),
        max_tokens=fields.integer("max_tokens"),
        stop=tuple(fields.get("stop_sequences") or ()),
        eager_arguments=bool(eager),
        run=own.run,
    )
    model, timeout = fields.required_string("model"), fields.number("timeout")
    return MessagesRequest(model, generate, stream, eager, tuple(repaired or ()), timeout)


def _parse_tool(item: Fields) -> Tool:
    if item.boolean("defer_loading"):
        raise item.refuse("defer_loading", "is not supported: every tool is shown to the model")
    strict = item.boolean("strict") is not False  # held to its schema unless told otherwise
    description, schema = item.string("description") or "", item.required_object("input_schema")
    return Tool(item.required_string("name"), description, schema.value, strict)


def _parse_tool_choice(
    fields: Fields, tools: tuple[Tool, ...], run: RunOptions
) -> tuple[ToolChoice, bool]:
    """The choice, and whether several calls may be made."""
    choice = fields.object("tool_choice")
    if choice is None:
        return ToolChoice("auto"), True
    parallel = not choice.boolean("disable_parallel_tool_use")
    match choice.get("type"):
        case "none":
            return ToolChoice("none"), parallel
        case "auto":
            return ToolChoice("auto"), parallel
    registered = bool(run.tools or run.toolsets)
    if not tools and not registered:
        raise fields.refuse("tool_choice", "may ask for a call only with 'tools'")
    if choice.get("type") == "any":
        return ToolChoice("required"), parallel
    name = choice.required_string("name")
    if not registered and name not in {tool.name for tool in tools}:
        raise choice.refuse("name", f"names '{name[:64]}', which is not among the tools")
    return ToolChoice("named", name), parallel


def _parse_format(fields: Fields) -> ResponseFormat:
    config = fields.object("output_config")
    format = config.object("format") if config is not None else None
    if format is None:
        return ResponseFormat()
    return ResponseFormat("json_schema", format.required_object("schema").value)


def _parse_sampling(fields: Fields) -> SamplingParams:
    """Greedy without a temperature."""
    top_p, seed = fields.number("top_p"), fields.integer("seed")
    return SamplingParams(
        temperature=fields.number("temperature") or 0.0,
        top_k=fields.integer("top_k") or 0,
        top_p=1.0 if top_p is None else top_p,
        # Random streams are keyed by 63 bits; without a seed every request draws its own.
        seed=secrets.randbits(63) if seed is None else seed & (INT64 - 1),
    )
