"""The body of POST /v1/chat/completions to and from a GenerateRequest.

Fields, ranges and nulls follow openai-openapi 2.3.0. Beyond OpenAI: `f1`, `timeout`, `top_k`,
`min_p`, `repetition_penalty`, and the response formats `{"type": "regex", "pattern": …}` and
`{"type": "ebnf", "grammar": …}`. Without `temperature` decoding is greedy.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from dataclasses import fields as fields_of
from typing import Any, cast

from f1.serve.limits import Limits
from f1.serve.wire import bodies
from f1.serve.wire.bodies import INT64, MAX_INT
from f1.serve.wire.fields import Fields
from f1.serve.wire.messages import parse_messages, write_message
from f1.serve.wire.runs import parse_options, write_options
from f1.types import (
    GenerateRequest,
    ResponseFormat,
    RunOptions,
    SamplingParams,
    Tool,
    ToolChoice,
)


@dataclass(frozen=True, slots=True)
class Own:
    """What F1 offers beyond an API, under its field `f1`."""

    eager_arguments: bool = False  # arguments are streamed as written, before they are known valid
    masked_mass: bool = False  # logprobs tell how likely the model found all that was not legal
    repair_history: bool = False  # calls and results that do not match are put right, not refused
    run: RunOptions = field(default_factory=RunOptions)  # how the system goes about it


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A parsed body: what to decode, with which model, and how the answer travels."""

    model: str
    generate: GenerateRequest
    stream: bool = False
    include_usage: bool = False
    repaired: tuple[str, ...] = ()  # what was put right in the history, where that was asked for
    timeout: float | None = None  # seconds in which the answer has to be there


def parse_chat_request(body: object, limits: Limits) -> ChatRequest:
    """Raises InvalidRequest naming the first field that is wrong."""
    bodies.chat(limits).check(body, "")
    fields = Fields(body)
    own = parse_own(fields, limits)
    repaired: list[str] | None = [] if own.repair_history else None
    tools = _parse_tools(fields, limits)
    choice, allowed = parse_tool_choice(fields, tools, own.run)
    parallel = fields.boolean("parallel_tool_calls")
    generate = GenerateRequest(
        messages=parse_messages(fields, limits, repaired=repaired, run=own.run),
        tools=allowed,
        tool_choice=choice,
        parallel_tool_calls=True if parallel is None else parallel,
        response_format=parse_format(fields.object("response_format")),
        sampling=parse_sampling(fields, _parse_logprobs(fields), masked_mass=own.masked_mass),
        max_tokens=_parse_max_tokens(fields),
        stop=parse_stop(fields),
        n=fields.integer("n") or 1,
        eager_arguments=own.eager_arguments,
        run=own.run,
    )
    stream, include_usage = parse_stream(fields)
    model = fields.required_string("model")
    timeout = fields.number("timeout")
    return ChatRequest(model, generate, stream, include_usage, tuple(repaired or ()), timeout)


def parse_own(fields: Fields, limits: Limits) -> Own:
    """F1's own options."""
    if (own := fields.object("f1")) is None:
        return Own(run=limits.defaults)
    switches = {f.name: own.boolean(f.name) or False for f in fields_of(Own) if f.name != "run"}
    return Own(**switches, run=parse_options(own, limits.defaults))


def _parse_max_tokens(fields: Fields) -> int | None:
    new = fields.integer("max_completion_tokens")
    old = fields.integer("max_tokens")  # deprecated by OpenAI, still sent
    return old if new is None else new


def parse_stream(fields: Fields) -> tuple[bool, bool]:
    stream = fields.boolean("stream") or False
    options = fields.object("stream_options")
    if options is None:
        return stream, False
    if not stream:
        raise fields.refuse("stream_options", "is only allowed with 'stream': true")
    return stream, options.boolean("include_usage") or False


def parse_stop(fields: Fields) -> tuple[str, ...]:
    value = fields.get("stop")
    return (value,) if isinstance(value, str) else tuple(value or ())


def parse_sampling(
    fields: Fields, num_logprobs: int | None, *, masked_mass: bool = False
) -> SamplingParams:
    seed = fields.integer("seed")
    number = fields.number

    def default(value: float | None, otherwise: float) -> float:
        return otherwise if value is None else value

    return SamplingParams(
        temperature=default(number("temperature"), 0.0),
        top_k=fields.integer("top_k") or 0,
        top_p=default(number("top_p"), 1.0),
        min_p=default(number("min_p"), 0.0),
        repetition_penalty=default(number("repetition_penalty"), 1.0),
        presence_penalty=default(number("presence_penalty"), 0.0),
        frequency_penalty=default(number("frequency_penalty"), 0.0),
        # Random streams are keyed by 63 bits; without a seed every request draws its own.
        seed=secrets.randbits(63) if seed is None else seed & (INT64 - 1),
        logit_bias=_parse_logit_bias(fields),
        num_logprobs=num_logprobs,
        masked_mass=masked_mass,
    )


def _parse_logprobs(fields: Fields) -> int | None:
    wanted = fields.boolean("logprobs") or False
    num_top = fields.integer("top_logprobs")
    if num_top is not None and not wanted:
        raise fields.refuse("top_logprobs", "is only allowed with 'logprobs': true")
    return (num_top or 0) if wanted else None


def _parse_logit_bias(fields: Fields) -> dict[int, float]:
    bias = fields.get("logit_bias") or {}
    if any(int(token) > MAX_INT for token in bias):
        raise fields.refuse("logit_bias", "must have token ids as keys")
    return {int(token): float(value) for token, value in bias.items() if value is not None}


def _parse_tools(fields: Fields, limits: Limits) -> tuple[Tool, ...]:
    return tuple(parse_tool(item) for item in fields.objects("tools", limits.max_tools))


def parse_tool(item: Fields) -> Tool:
    """One entry of `tools`. Whether its schema is a good one is f1.calling's to say."""
    return parse_function(item.required_object("function"))


def parse_function(function: Fields) -> Tool:
    """What it is called, what it takes, and whether calls are held to that."""
    name = function.required_string("name")
    strict = function.boolean("strict") is not False  # held to its schema unless told otherwise
    description = function.string("description") or ""
    parameters = function.get("parameters")
    if parameters is None:
        return Tool(name, description, strict=strict)
    return Tool(name, description, parameters, strict)


def parse_tool_choice(
    fields: Fields, tools: tuple[Tool, ...], run: RunOptions, *, flat: bool = False
) -> tuple[ToolChoice, tuple[Tool, ...]]:
    """The choice, and the tools it leaves to choose from. A function is named in an object of its
    own, or `flat`, beside its type; it may be a registered one, as far as is known here."""
    value = fields.get("tool_choice")
    if value is None or value in ("auto", "none"):
        return ToolChoice("none" if value == "none" else "auto"), tools
    registered = bool(run.tools or run.toolsets)
    if not tools and not registered:
        raise fields.refuse("tool_choice", "is only allowed with 'tools'")
    if value == "required":
        return ToolChoice("required"), tools
    choice = fields.required_object("tool_choice")
    if choice.get("type") == "allowed_tools":
        # The specification nests the fields under "allowed_tools"; older SDKs put them flat.
        return _parse_allowed_tools(choice.object("allowed_tools") or choice, tools, flat)
    names = None if registered else {tool.name for tool in tools}
    return ToolChoice("named", _chosen_name(choice, names, flat)), tools


def _parse_allowed_tools(
    choice: Fields, tools: tuple[Tool, ...], flat: bool
) -> tuple[ToolChoice, tuple[Tool, ...]]:
    mode = choice.string("mode")
    names = {tool.name for tool in tools}
    allowed = {_chosen_name(item, names, flat) for item in choice.objects("tools", len(tools))}
    if not allowed:
        raise choice.refuse("tools", "must name at least one tool")
    kept = tuple(tool for tool in tools if tool.name in allowed)
    return ToolChoice("required" if mode == "required" else "auto"), kept


def _chosen_name(choice: Fields, names: set[str] | None, flat: bool) -> str:
    """None: any may be meant."""
    function = choice if flat else choice.required_object("function")
    name = function.required_string("name")
    if names is not None and name not in names:
        raise function.refuse("name", f"names '{name[:64]}', which is not among the tools")
    return name


def parse_format(value: Fields | None, *, flat: bool = False) -> ResponseFormat:
    """What the content must be. A schema stands in an object of its own, or `flat`, beside its
    type."""
    if value is None:
        return ResponseFormat()
    match value.string("type"):
        case "json_object":
            return ResponseFormat("json_object")
        case "json_schema":
            # The content is held to the schema, strict or not; without one it is some object.
            schema = (value if flat else value.required_object("json_schema")).get("schema")
            return ResponseFormat("json_object" if schema is None else "json_schema", schema)
        case "regex":
            return ResponseFormat("regex", value.required_string("pattern"))
        case "ebnf":
            return ResponseFormat("ebnf", value.required_string("grammar"))
        case _:
            return ResponseFormat()


def write_chat_request(request: ChatRequest) -> dict[str, Any]:
    """The body whose parse is `request`; fields at their defaults are left out."""
    generate, sampling = request.generate, request.generate.sampling
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [write_message(message) for message in generate.messages],
        "temperature": sampling.temperature,
        "seed": sampling.seed,
        "n": generate.n,
        "stream": request.stream,
    }
    if request.stream and request.include_usage:
        body["stream_options"] = {"include_usage": True}
    if generate.tools:
        body["tools"] = [write_tool(tool) for tool in generate.tools]
        body["tool_choice"] = _write_tool_choice(generate.tool_choice)
        body["parallel_tool_calls"] = generate.parallel_tool_calls
    if generate.max_tokens is not None:
        body["max_completion_tokens"] = generate.max_tokens
    switches = {"eager_arguments": generate.eager_arguments, "masked_mass": sampling.masked_mass}
    own = {name: value for name, value in switches.items() if value} | write_options(generate.run)
    if own:
        body["f1"] = own
    if generate.stop:
        body["stop"] = list(generate.stop)
    if generate.response_format.kind != "text":
        body["response_format"] = _write_response_format(generate.response_format)
    if sampling.num_logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": sampling.num_logprobs}
    if sampling.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    standard = SamplingParams()
    for name in ("top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty",
                 "frequency_penalty"):  # fmt: skip
        if getattr(sampling, name) != getattr(standard, name):
            body[name] = getattr(sampling, name)
    return body


def write_tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {
        "name": tool.name,
        "description": tool.description,
        "parameters": dict(tool.parameters),
    }
    if not tool.strict:
        function["strict"] = False
    return {"type": "function", "function": function}


def _write_tool_choice(choice: ToolChoice) -> str | dict[str, Any]:
    if choice.mode == "named":
        return {"type": "function", "function": {"name": choice.name}}
    return choice.mode


def _write_response_format(format: ResponseFormat) -> dict[str, Any]:
    match format.kind:
        case "json_schema":
            schema = {"name": "response", "schema": dict(cast("Mapping[str, Any]", format.value))}
            return {"type": "json_schema", "json_schema": schema}
        case "regex":
            return {"type": "regex", "pattern": format.value}
        case "ebnf":
            return {"type": "ebnf", "grammar": format.value}
        case _:
            return {"type": format.kind}
