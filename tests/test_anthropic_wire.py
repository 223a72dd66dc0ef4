"""Bodies of /v1/messages read into requests, what is said of the wrong ones, and how answers are
written that no model gives on demand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from f1.errors import F1Error, InvalidRequest
from f1.planning.collect import Collector
from f1.serve.limits import Limits
from f1.serve.wire.anthropic.request import (
    MessagesRequest,
    parse_count_request,
    parse_messages_request,
)
from f1.serve.wire.anthropic.writer import MessagesWriter
from f1.types import (
    ArgumentsDelta,
    CallBegun,
    CallDelta,
    Event,
    Finished,
    Message,
    ReasoningDelta,
    Report,
    ResponseFormat,
    TextDelta,
    Tool,
    ToolCall,
    ToolChoice,
    Usage,
)

USER = {"role": "user", "content": "Hi"}
BODY = {"model": "f1", "max_tokens": 9, "messages": [USER]}
SCHEMA = {"type": "object", "properties": {}}
CLOCK = {"name": "clock", "input_schema": SCHEMA}
WEATHER = {"name": "weather", "input_schema": SCHEMA, "description": "Sky.", "strict": False}
CACHED = {"cache_control": {"type": "ephemeral"}}


def parse(**fields: object) -> MessagesRequest:
    return parse_messages_request(BODY | fields, Limits())


def text(text: str, **fields: object) -> dict[str, Any]:
    return {"type": "text", "text": text} | fields


def calls(*ids: str, **arguments: object) -> dict[str, Any]:
    blocks = [{"type": "tool_use", "id": i, "name": "clock", "input": arguments} for i in ids]
    return {"role": "assistant", "content": blocks}


def result(call_id: str, *content: object, **fields: object) -> dict[str, Any]:
    body = {"content": content[0]} if content else {}
    return {"type": "tool_result", "tool_use_id": call_id} | body | fields


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def test_a_full_conversation() -> None:
    thought = {"type": "thinking", "thinking": "Two calls.", "signature": ""}
    hidden = {"type": "redacted_thinking", "data": "x"}
    asking = calls("1", "2", zone="ö")
    asking["content"] = [thought, hidden, text("Let me look."), *asking["content"]]
    request = parse(
        system=[text("Be brief.", **CACHED), text("Be kind.")],
        messages=[
            user(text("a"), text("b", **CACHED)),
            asking,
            user(
                result("2", [text("two"), text("three")], **CACHED),
                result("1", "no clock", is_error=True),
                text("Go on."),
            ),
            user(text("And on.")),
            {"role": "system", "content": "Now in French."},
            calls("3"),
            user(result("3")),
        ],
    )
    arguments = '{"zone": "ö"}'
    assert request.generate.messages == (
        Message("system", "Be brief.\nBe kind."),
        Message("user", "a\nb"),
        Message(
            "assistant",
            "Let me look.",
            (ToolCall("1", "clock", arguments), ToolCall("2", "clock", arguments)),
            reasoning="Two calls.",
        ),
        Message("tool", "two\nthree", tool_call_id="2"),
        Message("tool", '{"error":"no clock"}', tool_call_id="1"),
        Message("user", "Go on.\nAnd on."),
        Message("system", "Now in French."),
        Message("assistant", "", (ToolCall("3", "clock", "{}"),)),
        Message("tool", "", tool_call_id="3"),
    )


@pytest.mark.parametrize(
    ("value", "expected", "parallel"),
    [
        (None, ToolChoice("auto"), True),
        ({"type": "auto"}, ToolChoice("auto"), True),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice("auto"), False),
        ({"type": "any", "disable_parallel_tool_use": False}, ToolChoice("required"), True),
        ({"type": "any", "disable_parallel_tool_use": True}, ToolChoice("required"), False),
        ({"type": "tool", "name": "clock"}, ToolChoice("named", "clock"), True),
        ({"type": "none"}, ToolChoice("none"), True),
    ],
)
def test_tool_choice(value: object, expected: ToolChoice, parallel: bool) -> None:
    request = parse(tools=[WEATHER, CLOCK | CACHED], tool_choice=value).generate
    assert (request.tool_choice, request.parallel_tool_calls) == (expected, parallel)
    assert request.tools == (
        Tool("weather", "Sky.", SCHEMA, strict=False),
        Tool("clock", "", SCHEMA),
    )


def test_the_other_fields() -> None:
    request = parse(
        temperature=0.5, top_p=0.9, top_k=4, seed=-3, stop_sequences=["a", "b"], stream=True,
        output_config={"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
        metadata={"user_id": "u"}, service_tier="auto", thinking={"type": "adaptive"},
        tools=[CLOCK | {"eager_input_streaming": True, "type": "custom"}],
        cache_control={"type": "ephemeral"},
    )  # fmt: skip
    generate, sampling = request.generate, request.generate.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 4)
    assert sampling.seed == parse(seed=-3).generate.sampling.seed >= 0
    assert (generate.stop, generate.max_tokens, request.stream) == (("a", "b"), 9, True)
    assert generate.response_format == ResponseFormat("json_schema", SCHEMA)
    assert (generate.eager_arguments, request.eager_tools) == (True, frozenset({"clock"}))


def test_a_count_needs_no_max_tokens() -> None:
    counted = parse_count_request({"model": "f1", "messages": [USER], "tools": [CLOCK]}, Limits())
    assert counted.generate.tools == (Tool("clock", "", SCHEMA),)
    with pytest.raises(InvalidRequest, match="max_tokens"):
        parse_count_request(BODY, Limits())


def messages(*items: object) -> dict[str, Any]:
    return {"messages": list(items)}


def test_a_history_is_put_right_where_that_is_asked_for() -> None:
    """What is refused otherwise (see below)."""
    broken = [
        USER,
        calls("1", "1"),
        user(text("Stop."), result("1", "now"), result("2")),
        calls("3"),
    ]
    with pytest.raises(InvalidRequest):
        parse(messages=broken)
    request = parse(messages=broken, f1={"repair_history": True})
    roles = [message.role for message in request.generate.messages]
    assert roles == ["user", "assistant", "tool", "tool", "user", "assistant", "tool"]
    assert len(request.repaired) == 4
    assert parse(f1={"repair_history": True}).repaired == ()


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"max_tokens": None}, "max_tokens"),
    *[({"max_tokens": value}, "max_tokens") for value in (0, -1, 2**31, 1.5, "1", True)],
    *[({"temperature": value}, "temperature") for value in (-0.1, 1.1, "1", True, 1e300)],
    *[({"top_p": value}, "top_p") for value in (-1, 2, "1")],
    *[({"top_k": value}, "top_k") for value in (-1, 2**31, 1.5)],
    *[({"seed": value}, "seed") for value in (2**63, 1.5)],
    ({"stop_sequences": "a"}, "stop_sequences"),
    ({"stop_sequences": [""]}, "stop_sequences[0]"),
    ({"stop_sequences": ["a"] * 17}, "stop_sequences"),
    ({"stream": 1}, "stream"),
    ({"metadata": "me"}, "metadata"),
    ({"thinking": True}, "thinking"),
    ({"system": 5}, "system"),
    ({"system": [IMAGE]}, "system[0].type"),
    ({"container": "c"}, "container"),
    ({"mcp_servers": []}, "mcp_servers"),
    ({"max_token": 5}, "max_token"),
    ({"timeout": 0}, "timeout"),
    ({"f1": {"masked_mass": True}}, "f1.masked_mass"),
    ({"messages": None}, "messages"),
    ({"messages": [USER] * 3000}, "messages"),
    (messages(), "messages"),
    (messages("Hi"), "messages[0]"),
    (messages({"role": "tool", "content": "x"}), "messages[0].role"),
    (messages({"content": "x"}), "messages[0].role"),
    (messages({"role": "user"}), "messages[0].content"),
    (messages(user(IMAGE)), "messages[0].content[0].type"),
    (messages(user({"text": "x"})), "messages[0].content[0].type"),
    (messages(user({"type": "text"})), "messages[0].content[0].text"),
    (messages(user(text("x", cache_control=5))), "messages[0].content[0].cache_control"),
    (messages(user({"type": "tool_use"})), "messages[0].content[0].type"),
    (messages(USER, {"role": "assistant", "content": "I"}), "messages"),
    (messages(USER, calls("1")), "messages"),
    (messages(USER, calls("1"), USER), "messages"),
    (messages(USER, calls("1", "2"), user(result("1"))), "messages"),
    (messages(USER, calls("1"), {"role": "system", "content": "x"}, user(result("1"))), "messages"),
    (messages(USER, calls("1", "1")), "messages[1].content[1].id"),
    (messages(USER, calls(*map(str, range(100))), calls(*map(str, range(100, 200)))),
     "messages[2].content[28].type"),
    (messages(USER, calls("1"), user(result("2"))), "messages[2].content[0].tool_use_id"),
    (messages(USER, calls("1"), user(result("1"), result("1"))),
     "messages[2].content[1].tool_use_id"),
    (messages(USER, calls("1"), user(text("x"), result("1"))), "messages[2].content[1].type"),
    (messages(USER, calls("1"), user(result("1", [IMAGE]))),
     "messages[2].content[0].content[0].type"),
    (messages(user(result("1"))), "messages[0].content[0].tool_use_id"),
    (messages(USER, {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f",
      "input": "{}"}]}), "messages[1].content[0].input"),
    (messages(USER, {"role": "assistant", "content": [{"type": "server_tool_use"}]}),
     "messages[1].content[0].type"),
    ({"tools": {}}, "tools"),
    ({"tools": [CLOCK] * 600}, "tools"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"name": "clock"}]}, "tools[0].input_schema"),
    ({"tools": [CLOCK | {"name": "a b"}]}, "tools[0].name"),
    ({"tools": [CLOCK | {"name": "a" * 129}]}, "tools[0].name"),
    ({"tools": [CLOCK | {"parameters": {}}]}, "tools[0].parameters"),
    ({"tools": [CLOCK | {"strict": "yes"}]}, "tools[0].strict"),
    ({"tools": [CLOCK | {"defer_loading": True}]}, "tools[0].defer_loading"),
    ({"tools": [CLOCK | {"allowed_callers": ["code_execution_20250825"]}]},
     "tools[0].allowed_callers[0]"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"tools": [CLOCK], "tool_choice": "any"}, "tool_choice"),
    ({"tools": [CLOCK], "tool_choice": {"type": "required"}}, "tool_choice.type"),
    ({"tools": [CLOCK], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
    ({"tools": [CLOCK], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice.name"),
    ({"output_config": {"formats": 1}}, "output_config.formats"),
    ({"output_config": {"format": {"type": "json"}}}, "output_config.format.type"),
    ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), WRONG)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(**fields)
    assert caught.value.param == param
    assert param in caught.value.message
    assert len(caught.value.message) < 300


EAGER = parse(tools=[CLOCK | {"eager_input_streaming": True}, WEATHER], stream=True)
USAGE = Usage(prompt_tokens=10, completion_tokens=5, cached_tokens=4)
CALL = ToolCall("call_1", "clock", '{"zone": "Oslo"}')
OTHER = ToolCall("call_2", "weather", "{}")
ANSWERS: dict[str, list[Event]] = {
    "text": [TextDelta(0, "Hel"), TextDelta(0, "lo"), Finished(0, "stop", USAGE)],
    "stopped": [TextDelta(0, "Hel"), Finished(0, "stop", USAGE, stop="lo")],
    "thought": [
        ReasoningDelta(0, "Hm"), ReasoningDelta(0, "m."), TextDelta(0, "Look."),
        CallDelta(0, 0, CALL), CallDelta(0, 1, OTHER), Finished(0, "tool_calls", USAGE),
    ],
    "eager": [
        CallBegun(0, 0, "call_1", "clock"), ArgumentsDelta(0, 0, '{"zone": '),
        ArgumentsDelta(0, 0, '"Oslo"}'), CallDelta(0, 0, CALL),
        CallBegun(0, 1, "call_2", "weather"), ArgumentsDelta(0, 1, "{}"), CallDelta(0, 1, OTHER),
        Finished(0, "tool_calls", USAGE),
    ],
    "cut": [
        TextDelta(0, "Look."), Finished(0, "length", USAGE, Report(needed_tokens=40)),
    ],
    "nothing": [Finished(0, "length", USAGE)],
}  # fmt: skip


REASONS = {
    "text": "end_turn", "stopped": "stop_sequence", "thought": "tool_use", "eager": "tool_use",
    "cut": "max_tokens", "nothing": "max_tokens",
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_the_events_add_up_to_the_message(name: str) -> None:
    """By the rules of Anthropic's client, which test_anthropic.py asks."""
    writer, collector = MessagesWriter(EAGER, "req_1"), Collector()
    frames = [*writer.begin()]
    for event in ANSWERS[name]:
        collector.add(event)
        frames += writer.write(event)
    frames += writer.close()
    assert all(frame.event == frame.data["type"] for frame in frames)
    message = frames[0].data["message"]
    pieces: dict[int, str] = {}
    opened: int | None = None
    for data in [frame.data for frame in frames[2:-1]]:
        match data["type"]:
            case "content_block_start":
                assert opened is None
                opened = data["index"]
                assert opened == len(message["content"])
                message["content"].append(data["content_block"])
                pieces[opened] = ""
            case "content_block_delta":
                assert data["index"] == opened
                (kind,) = data["delta"].keys() - {"type"}
                assert (
                    data["delta"]["type"]
                    == {"partial_json": "input_json"}.get(kind, kind) + "_delta"
                )
                pieces[opened] += data["delta"][kind]
            case "content_block_stop":
                assert data["index"] == opened
                block = message["content"][opened]
                if block["type"] == "tool_use":
                    block["input"] = json.loads(pieces[opened])
                else:
                    block[block["type"]] = pieces[opened]
                opened = None
            case "message_delta":
                message |= data["delta"] | {k: data[k] for k in ("usage", "f1") if k in data}
    assert [frame.event for frame in frames[-2:]] == ["message_delta", "message_stop"]
    assert message == writer.whole([collector.completion()])
    assert message["stop_reason"] == REASONS[name]
    assert message["stop_sequence"] == ("lo" if name == "stopped" else None)
    assert message["usage"]["input_tokens"] + message["usage"]["cache_read_input_tokens"] == 10


def test_only_calls_that_ask_for_it_are_written_before_they_are_known_valid() -> None:
    writer = MessagesWriter(EAGER, "req_1")
    counts = [len(writer.write(event)) for event in ANSWERS["eager"]]
    #         begun, two pieces, end, held back…, all at once, the end of the message
    assert counts == [1, 1, 1, 1, 0, 0, 3, 1]


def test_a_failure_is_an_error_event() -> None:
    (frame,) = MessagesWriter(EAGER, "req_1").fail(F1Error("It broke."))
    error = {"type": "api_error", "message": "It broke."}
    assert (frame.event, frame.data) == (
        "error",
        {"type": "error", "error": error, "request_id": "req_1"},
    )
