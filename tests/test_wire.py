"""Bodies read into requests, and what is said of the ones that are wrong."""

from __future__ import annotations

import json
import math
from typing import Any

import orjson
import pytest

from f1.errors import (
    ConstraintError,
    ContextLengthExceeded,
    EngineStopped,
    F1Error,
    Forbidden,
    InvalidRequest,
    InvalidSchema,
    ModelNotFound,
    Unauthorized,
)
from f1.planning.collect import Collector
from f1.serve.limits import Limits
from f1.serve.wire.fields import MAX_DEPTH, MAX_VALUES, parse_json
from f1.serve.wire.remote import ChunkReader, read_error
from f1.serve.wire.request import ChatRequest, parse_chat_request, write_chat_request
from f1.serve.wire.response import ChatWriter, write_error
from f1.types import (
    ArgumentsDelta,
    CallBegun,
    CallDelta,
    Event,
    Finished,
    Message,
    ReasoningDelta,
    Relaxed,
    Report,
    ResponseFormat,
    TextDelta,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolChoice,
    Usage,
)

HELLO = {"model": "f1", "messages": [{"role": "user", "content": "Hello"}]}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}
CLOCK = {"type": "function", "function": {"name": "clock"}}


def parse(**fields: object) -> ChatRequest:
    return parse_chat_request(HELLO | fields, Limits())


def messages(*items: dict[str, Any]) -> dict[str, Any]:
    return {"messages": list(items)}


def calls(*ids: str, arguments: object = "{}") -> dict[str, Any]:
    items = [
        {"id": i, "type": "function", "function": {"name": "clock", "arguments": arguments}}
        for i in ids
    ]
    return {"role": "assistant", "content": None, "tool_calls": items}


USER = {"role": "user", "content": "Hi"}
NULLABLE = (
    "n", "stop", "stream", "stream_options", "seed", "temperature", "top_p", "logprobs",
    "top_logprobs", "logit_bias", "frequency_penalty", "presence_penalty", "max_tokens",
    "max_completion_tokens", "store", "metadata", "tools", "tool_choice", "parallel_tool_calls",
    "response_format", "functions", "user",
)  # fmt: skip


def test_null_counts_as_absent() -> None:
    nulls = parse(**dict.fromkeys(NULLABLE))
    assert nulls.generate.sampling.seed >= 0
    assert parse(**dict.fromkeys(NULLABLE) | {"seed": 1}) == parse(seed=1)


def test_a_full_conversation() -> None:
    request = parse(
        messages=[
            {"role": "developer", "content": "Be brief."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
            calls("1", "2", arguments=""),
            {"role": "tool", "tool_call_id": "2", "content": "two"},
            {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "one"}]},
        ]
    )
    assert request.generate.messages == (
        Message("system", "Be brief."),
        Message("user", "a\nb"),
        Message("assistant", "", (ToolCall("1", "clock", "{}"), ToolCall("2", "clock", "{}"))),
        Message("tool", "two", tool_call_id="2"),
        Message("tool", "one", tool_call_id="1"),
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("auto", ToolChoice("auto")),
        (None, ToolChoice("auto")),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ({"type": "function", "function": {"name": "clock"}}, ToolChoice("named", "clock")),
    ],
)
def test_tool_choice(value: object, expected: ToolChoice) -> None:
    request = parse(tools=[WEATHER, CLOCK], tool_choice=value).generate
    assert request.tool_choice == expected
    assert request.tools[1] == Tool("clock")


def test_allowed_tools_leave_fewer_tools() -> None:
    allowed = {"mode": "required", "tools": [CLOCK]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    request = parse(tools=[WEATHER, CLOCK], tool_choice=choice).generate
    assert (request.tools, request.tool_choice) == ((Tool("clock"),), ToolChoice("required"))


def test_without_a_seed_every_request_draws_its_own() -> None:
    assert parse().generate.sampling.seed != parse().generate.sampling.seed
    assert parse(seed=-5).generate.sampling.seed == parse(seed=-5).generate.sampling.seed >= 0


SCHEMA = {"type": "object"}
WRONG = [
    ({"model": None}, "model"),
    ({"model": 3}, "model"),
    ({"messages": []}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": "Hello"}, "messages"),
    ({"messages": ["Hello"]}, "messages[0]"),
    ({"messages": [USER] * 3000}, "messages"),
    (messages({"role": "robot", "content": ""}), "messages[0].role"),
    (messages({"content": ""}), "messages[0].role"),
    (messages({"role": "user"}), "messages[0].content"),
    (messages({"role": "user", "content": 5}), "messages[0].content"),
    (messages({"role": "user", "content": [{"type": "image_url"}]}), "messages[0].content[0].type"),
    (messages({"role": "user", "content": [{"type": "text"}]}), "messages[0].content[0].text"),
    (messages({"role": "assistant"}), "messages[0].content"),
    (messages(USER, {"role": "tool", "content": "x"}), "messages[1].tool_call_id"),
    (messages(USER, {"role": "tool", "tool_call_id": "1", "content": "x"}),
     "messages[1].tool_call_id"),
    (messages(USER, calls("1")), "messages"),
    (messages(USER, calls("1"), USER), "messages"),
    (messages(USER, calls("1", "1")), "messages[1].tool_calls"),
    (messages(USER, calls("1", arguments="{not json")),
     "messages[1].tool_calls[0].function.arguments"),
    (messages(USER, calls("1", arguments='{"a": 1, "a": 2}')),
     "messages[1].tool_calls[0].function.arguments"),
    (messages(USER, calls("1", arguments='{"a":' * 500 + "1" + "}" * 500)),
     "messages[1].tool_calls[0].function.arguments"),
    (messages(USER, calls("1", arguments="[1]")), "messages[1].tool_calls[0].function.arguments"),
    (messages(USER, calls("1", arguments={})), "messages[1].tool_calls[0].function.arguments"),
    *[({name: value}, name)
      for name in ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty",
                   "repetition_penalty")
      for value in (math.nan, math.inf, -math.inf, 1e300, -3, "1", True, [])],
    *[({name: value}, name)
      for name in ("n", "max_tokens", "max_completion_tokens")
      for value in (-1, 0, 2**31, 2**63, 1.5, "1", True)],
    *[({"top_k": value}, "top_k") for value in (-1, 2**31, 1.5, "1", True)],
    *[({"seed": value}, "seed") for value in (2**63, -(2**63) - 1, 1e29, "1")],
    ({"logprobs": 1}, "logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"-1": 1}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias.1"),
    ({"logit_bias": {str(i): 1 for i in range(2000)}}, "logit_bias"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"stop": [1]}, "stop[0]"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"tools": {}}, "tools"),
    ({"tools": [CLOCK] * 600}, "tools"),
    ({"tools": [{"function": {"name": "x"}}]}, "tools[0].type"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
    ({"tools": [{"type": "function", "function": {"name": "a" * 65}}]}, "tools[0].function.name"),
    ({"tools": [{"type": "function", "function": {"name": "a", "parameters": [1]}}]},
     "tools[0].function.parameters"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [CLOCK], "tool_choice": "sometimes"}, "tool_choice"),
    ({"tools": [CLOCK], "tool_choice": {"type": "function", "function": {"name": "x"}}},
     "tool_choice.function.name"),
    ({"response_format": {"type": "yaml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
     "response_format.json_schema.name"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": 3}}},
     "response_format.json_schema.schema"),
    ({"functions": [{}]}, "functions"),
    ({"f1": 1}, "f1"),
    ({"f1": {"eager": True}}, "f1.eager"),
    ({"f1": {"eager_arguments": "yes"}}, "f1.eager_arguments"),
    ({"chat_template": "{{ x }}"}, "chat_template"),
    ({"chat_template_kwargs": {}}, "chat_template_kwargs"),
    ({"tools": [{"type": "function", "function": {"name": "a", "strict": 1}}]},
     "tools[0].function.strict"),
    ({"temprature": 1}, "temprature"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), WRONG)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(**fields)
    assert caught.value.param == param
    assert param in caught.value.message
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[" * 10_000 + b"]" * 10_000, b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b'{"temperature": NaN}', b'{"temperature": Infinity}', b'{"temperature": 1e999}',
        b'{"model": "\\ud800"}', b"\xff\xfe", b"null x",
    ],
    ids=lambda body: repr(body[:16]),
)  # fmt: skip
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_json(body)
    assert caught.value.code == "invalid_json"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"tool": "safe", "x": {}, "tool": "danger"}', "tool"),
        (b'{"x": [{"a": 1, "b": 2, "\\u0061": 3}]}', "a"),  # the same key, spelt otherwise
        (b'{"model": ' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", "model"),
        (b'{"unknown": ' + b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH + b"}", "unknown"),
    ],
    ids=lambda value: str(value)[:16],
)
def test_what_parsers_differ_on_and_what_is_nested_too_deep_is_named(
    body: bytes, param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_json(body)
    assert (caught.value.param, caught.value.code) == (param, "invalid_json")


@pytest.mark.parametrize("value", [b"1", b"{}", b"[]", b'""', b'{"a":[]}'])
def test_more_values_than_are_made_in_a_moment_are_refused(value: bytes) -> None:
    with pytest.raises(InvalidRequest, match="more than 400000 values"):
        parse_json(b"[" + (value + b",") * MAX_VALUES + b"1]")
    assert len(parse_json(b"[" + (value + b",") * (MAX_VALUES // 4) + b"1]")) > 1  # type: ignore[arg-type]


def test_json_as_deep_as_may_be_is_read() -> None:
    body = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert parse_json(body) == json.loads(body)


@pytest.mark.parametrize("body", [None, [], 1, "x"])
def test_a_body_that_is_no_object_is_refused(body: object) -> None:
    with pytest.raises(InvalidRequest, match="body"):
        parse_chat_request(body, Limits())


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"stream": True, "stream_options": {"include_usage": True}, "n": 3},
        {"tools": [WEATHER, CLOCK], "tool_choice": "required", "parallel_tool_calls": False},
        {"tools": [CLOCK], "tool_choice": {"type": "function", "function": {"name": "clock"}}},
        {"response_format": {"type": "regex", "pattern": "a+"}},
        {"response_format": {"type": "ebnf", "grammar": 'root ::= "a"'}},
        {"response_format": {"type": "json_object"}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": SCHEMA},
            }
        },
        {"temperature": 0.5, "top_k": 4, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.1},
        {"logit_bias": {"5": -100}, "logprobs": True, "top_logprobs": 2, "stop": ["a", "b"]},
        {"max_tokens": 7, "presence_penalty": 1, "frequency_penalty": -1},
        messages(USER, calls("1"), {"role": "tool", "tool_call_id": "1", "content": "x"}),
        messages(USER, {"role": "assistant", "content": "x", "reasoning_content": "thought"}),
        {"f1": {"eager_arguments": True, "masked_mass": True}, "logprobs": True},
        {"tools": [{"type": "function", "function": {"name": "clock", "strict": False}}]},
    ],
)
def test_what_is_written_reads_back_the_same(fields: dict[str, Any]) -> None:
    request = parse(seed=1, **fields)
    again = json.loads(json.dumps(write_chat_request(request)))
    assert parse_chat_request(again, Limits()) == request


def test_a_schema_less_response_format_is_any_object() -> None:
    request = parse(response_format={"type": "json_schema", "json_schema": {"name": "x"}})
    assert request.generate.response_format == ResponseFormat("json_object")


@pytest.mark.parametrize(
    "error",
    [
        ConstraintError("x", code="invalid_tool_call"),
        ContextLengthExceeded("x", param="messages"),
        InvalidSchema("x", param="tools.f.parameters"),
        EngineStopped("x"),
        Unauthorized("x"),
        Forbidden("x", code="host_not_allowed"),
    ],
)
def test_an_error_that_is_written_reads_back_the_same(error: F1Error) -> None:
    again = read_error(error.status, json.dumps(write_error(error)).encode())
    assert type(again) is type(error)
    assert (again.message, again.param, again.code) == (error.message, error.param, error.code)


@pytest.mark.parametrize(
    "data",
    [
        b"<html>",
        b"[]",
        b'{"choices": null}',
        b'{"choices": [{"delta": "x"}]}',
        b'{"choices": [{"index": 0, "delta": {"tool_calls": ["a"]}}]}',
        b'{"choices": [{"index": 0, "finish_reason": "stop", "f1": {"relaxed": [{"a": 1}]}}]}',
    ],
)
def test_what_is_no_chunk_is_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(EngineStopped, match="no chunk"):
        ChunkReader().read(data)


def test_an_error_of_another_server_is_read_as_far_as_it_goes() -> None:
    found = read_error(404, b'{"error": {"message": "no", "code": 404}}')
    assert (type(found), found.message, found.code) == (ModelNotFound, "no", ModelNotFound.code)
    assert "<html>" in read_error(502, b"<html>").message


FIRST = ToolCall("call_1", "clock", '{"zone": "Oslo"}')
REPORT = Report((Relaxed("clock", "properties.zone", "not", "no grammar can"),), 1, (0,), 57, True)
LOGPROB = TokenLogprob("Hi", -0.5, b"Hi", (TokenLogprob("Ho", -1.0, b"Ho"),), 0.25)
ANSWER: list[Event] = [
    ReasoningDelta(0, "Let me think."),
    TextDelta(0, "Hi", (LOGPROB,)),
    CallBegun(0, 0, FIRST.id, FIRST.name),
    ArgumentsDelta(0, 0, FIRST.arguments[:5]),
    ArgumentsDelta(0, 0, FIRST.arguments[5:]),
    CallDelta(0, 0, FIRST),
    CallBegun(0, 1, "call_2", "clock"),
    ArgumentsDelta(0, 1, '{"zone": "Ro'),
    Finished(0, "length", Usage(5, 9, 2), REPORT),
]
CALM = [event for event in ANSWER if not isinstance(event, CallBegun | ArgumentsDelta)]


@pytest.mark.parametrize(("eager", "events"), [(False, CALM), (True, ANSWER)])
def test_what_is_streamed_reads_back_the_same(eager: bool, events: list[Event]) -> None:
    writer = ChatWriter(parse(stream=True, stream_options={"include_usage": True},
                              f1={"eager_arguments": eager}))  # fmt: skip
    frames = [frame for event in events for frame in writer.write(event)]
    *frames, done = [*frames, *writer.close()]
    assert done.encode() == b"data: [DONE]\n\n"
    reader = ChunkReader(eager=eager)
    read = [event for frame in frames for event in reader.read(orjson.dumps(frame.data))]
    assert [*read, *reader.close()] == events


def test_logprobs_are_of_the_content_alone() -> None:
    thought = TokenLogprob("Hm", -2.0, b"Hm")
    events: list[Event] = [
        ReasoningDelta(0, "Hm", (thought,)),
        TextDelta(0, "Hi", (LOGPROB,)),
        ReasoningDelta(0, "Hm", (thought,)),
        Finished(0, "stop", Usage(5, 3)),
    ]
    collector = Collector()
    for event in events:
        collector.add(event)
    (whole,) = ChatWriter(parse()).whole([collector.completion()])["choices"]
    streamed = [
        token
        for event in events
        for frame in ChatWriter(parse(stream=True)).write(event)
        for token in (frame.data["choices"][0]["logprobs"] or {"content": []})["content"]
    ]
    assert [token["token"] for token in streamed] == ["Hi"]
    assert streamed == whole["logprobs"]["content"]


def test_the_whole_answer_says_what_the_stream_said() -> None:
    collector = Collector()
    for event in ANSWER:
        collector.add(event)
    (choice,) = ChatWriter(parse()).whole([collector.completion()])["choices"]
    message = choice["message"]
    assert (message["content"], message["reasoning_content"]) == ("Hi", "Let me think.")
    assert [call["function"]["arguments"] for call in message["tool_calls"]] == [FIRST.arguments]
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"]["content"][0]["masked_mass"] == 0.25
    relaxed = {"where": "clock", "path": "properties.zone", "keyword": "not",
               "why": "no grammar can"}  # fmt: skip
    told = {"relaxed": [relaxed], "asked_again": 1, "bounded": [0], "needed_tokens": 57,
            "looped": True}  # fmt: skip
    assert choice["f1"] == told
