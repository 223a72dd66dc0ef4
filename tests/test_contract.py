"""The contract of the README, line by line: a real model, real HTTP, streamed and whole."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import openai
import pytest
from scripted import ScriptedEngine
from serving import Running, serving

from f1.engine import AsyncEngine
from f1.settings import Settings
from f1.types import (
    CallDelta,
    Event,
    Finished,
    GenerateRequest,
    ReasoningDelta,
    ToolCall,
    Usage,
)

Json = dict[str, Any]


def function(name: str, schema: Json | None = None, **fields: Any) -> Json:
    parameters = {} if schema is None else {"parameters": schema}
    return {"type": "function", "function": {"name": name, **parameters, **fields}}


CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 30}},
        "required": ["city"], "additionalProperties": False}  # fmt: skip
WEATHER, CLOCK, FERRY = (
    function("get_weather", CITY, description="Get the weather in a city."),
    function("get_time", description="Get the time."),
    function("book_ferry", {"type": "object", "properties": {"seats": {"enum": [1, 2, 3]}},
                            "required": ["seats"]}),
)  # fmt: skip
ASK = [{"role": "user", "content": "What is the weather in Oslo and in Rome?"}]
HELLO = [{"role": "user", "content": "Say hello."}]


@pytest.fixture(scope="module")
def server(smollm_path: Path) -> Iterator[Running]:
    settings = Settings(kv_memory=2**27)
    with serving(lambda: AsyncEngine.start(str(smollm_path), settings)) as running:
        while httpx.get(f"{running.url}/ready").status_code != 200:
            pass
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120
    ) as client:
        yield client


def whole(server: Running, **fields: Any) -> Json:
    """The answer, without what differs from one answer to the next."""
    body = {"model": "f1", "messages": ASK, "max_tokens": 200, "seed": 7} | fields
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=300)
    assert answer.status_code == 200, answer.text
    return _without_ids(answer.json())


def streamed(server: Running, **fields: Any) -> Json:
    """The same, put together from the chunks of a stream by the rules of OpenAI's clients."""
    options = {"stream": True, "stream_options": {"include_usage": True}}
    body = {"model": "f1", "messages": ASK, "max_tokens": 200, "seed": 7} | fields | options
    url = f"{server.url}/v1/chat/completions"
    choices: dict[int, Json] = {}
    usage = None
    with httpx.stream("POST", url, json=body, timeout=300) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    *lines, done = lines
    assert done == "[DONE]"
    for chunk in map(json.loads, lines):
        assert "error" not in chunk, chunk
        usage = chunk["usage"] or usage
        for part in chunk["choices"]:
            empty: Json = {"content": "", "thoughts": "", "calls": {}}
            _add(choices.setdefault(part["index"], empty), part)
    ordered = [_as_whole(choice) | {"index": index} for index, choice in sorted(choices.items())]
    return _without_ids({"choices": ordered, "usage": usage})


def _add(choice: Json, part: Json) -> None:
    delta = part["delta"]
    choice["content"] += delta.get("content") or ""
    choice["thoughts"] += delta.get("reasoning_content") or ""
    if part["logprobs"]:
        choice.setdefault("logprobs", []).extend(part["logprobs"]["content"])
    for piece in delta.get("tool_calls", ()):
        call = choice["calls"].setdefault(piece["index"], {"name": "", "arguments": ""})
        call["name"] += piece["function"].get("name", "")
        call["arguments"] += piece["function"]["arguments"]
    if part["finish_reason"]:
        choice |= {"finish_reason": part["finish_reason"], "f1": part.get("f1")}


def _as_whole(choice: Json) -> Json:
    calls = [choice["calls"][index] for index in range(len(choice["calls"]))]
    message = {"role": "assistant", "content": choice["content"], "refusal": None}
    if calls:
        message["content"] = message["content"] or None
        message["tool_calls"] = [{"type": "function", "function": call} for call in calls]
    if choice["thoughts"]:
        message["reasoning_content"] = choice["thoughts"]
    logprobs = {"content": choice["logprobs"], "refusal": None} if "logprobs" in choice else None
    end = {"finish_reason": choice["finish_reason"], "logprobs": logprobs}
    return {"message": message} | end | ({"f1": choice["f1"]} if choice["f1"] else {})


def _without_ids(body: Json) -> Json:
    for choice in body["choices"]:
        for call in choice["message"].get("tool_calls", ()):
            call.pop("id", None)
    usage = {key: body["usage"][key] for key in ("prompt_tokens", "completion_tokens")}
    return {"choices": body["choices"], "usage": usage}


def calls_of(body: Json) -> list[Json]:
    (choice,) = body["choices"]
    return [call["function"] for call in choice["message"].get("tool_calls", ())]


# --- 1: a stream says what the whole answer says, byte for byte ---------------------------------

REQUESTS: dict[str, Json] = {
    "text": {"messages": HELLO},
    "text, tools not used": {"tools": [CLOCK]},
    "sampled": {"messages": HELLO, "temperature": 1, "n": 3, "max_tokens": 30},
    "logprobs": {"messages": HELLO, "logprobs": True, "top_logprobs": 2, "max_tokens": 20},
    "stop": {"messages": HELLO, "stop": ["o", "!"]},
    "required": {"tools": [WEATHER, CLOCK], "tool_choice": "required"},
    "named": {"tools": [WEATHER, FERRY], "tool_choice": function("book_ferry")},
    "sampled calls": {"tools": [WEATHER, FERRY], "tool_choice": "required", "temperature": 1.5,
                      "n": 3},
    "json": {"response_format": {"type": "json_object"}, "max_tokens": 60},
    "schema": {"response_format": {"type": "json_schema",
                                   "json_schema": {"name": "city", "schema": CITY}}},
    "pattern": {"response_format": {"type": "regex", "pattern": "(Oslo|Rome)é{2}"}},
    "eager": {"tools": [WEATHER], "tool_choice": "required", "f1": {"eager_arguments": True}},
}  # fmt: skip


@pytest.mark.parametrize("name", REQUESTS)
def test_1_a_stream_says_what_the_whole_answer_says(server: Running, name: str) -> None:
    assert streamed(server, **REQUESTS[name]) == whole(server, **REQUESTS[name])


@pytest.mark.parametrize("name", ["text", "required", "named", "schema"])
def test_1_wherever_the_answer_is_cut(server: Running, name: str) -> None:
    for max_tokens in count(1):
        request = REQUESTS[name] | {"max_tokens": max_tokens}
        answer = whole(server, **request)
        assert streamed(server, **request) == answer
        (choice,) = answer["choices"]
        assert answer["usage"]["completion_tokens"] <= max_tokens
        if choice["finish_reason"] != "length" or max_tokens == 40:
            break


# --- 2: tool_choice and parallel_tool_calls hold while decoding ----------------------------------


def test_2_every_tool_choice_holds(server: Running) -> None:
    tools = [WEATHER, CLOCK, FERRY]
    allowed = {"mode": "required", "tools": [function("get_time")]}
    cases: list[tuple[Any, set[str]]] = [
        ("required", {"get_weather", "get_time", "book_ferry"}),
        (function("book_ferry"), {"book_ferry"}),
        ({"type": "allowed_tools", "allowed_tools": allowed}, {"get_time"}),
    ]
    for seed in range(4):
        for choice, names in cases:
            answer = whole(server, tools=tools, tool_choice=choice, temperature=1, seed=seed)
            assert calls_of(answer)
            assert {call["name"] for call in calls_of(answer)} <= names
            assert answer["choices"][0]["finish_reason"] == "tool_calls"
        none = whole(server, tools=tools, tool_choice="none", temperature=1, seed=seed)
        assert not calls_of(none)
        assert "get_weather" not in (none["choices"][0]["message"]["content"] or "")[:20]


def test_2_one_call_at_most_where_parallel_calls_are_not_wanted(server: Running) -> None:
    request = {"tools": [WEATHER, FERRY], "tool_choice": "required", "temperature": 1}
    counts = {True: 0, False: 0}
    for parallel in counts:
        for seed in range(6):
            answer = whole(server, **request, seed=seed, parallel_tool_calls=parallel)
            counts[parallel] = max(counts[parallel], len(calls_of(answer)))
    assert counts[False] == 1
    assert counts[True] > 1  # strict and parallel, both


# --- 3: every call is valid; what cannot be held is said, never dropped --------------------------

MOST = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9,
        "not": {"multipleOf": 7}}}, "required": ["n"]}  # fmt: skip


def test_3_a_keyword_no_grammar_holds_is_validated_and_reported(server: Running) -> None:
    answer = whole(server, tools=[function("pick", MOST)], tool_choice="required",
                   messages=[{"role": "user", "content": "Pick 4."}])  # fmt: skip
    for call in calls_of(answer):
        jsonschema.validate(json.loads(call["arguments"]), MOST)
    (relaxed,) = answer["choices"][0]["f1"]["relaxed"]
    assert (relaxed["where"], relaxed["keyword"]) == ("pick", "not")
    assert relaxed["path"].endswith("n")


def test_3_what_cannot_be_compiled_is_refused_by_name(server: Running) -> None:
    schema = {"type": "object", "properties": {"x": {"$ref": "https://example.com/schema"}}}
    body = {"model": "f1", "messages": ASK, "tools": [WEATHER, function("f", schema)]}
    refused = httpx.post(f"{server.url}/v1/chat/completions", json=body)
    assert refused.status_code == 400
    assert "'f'" in refused.json()["error"]["message"]
    assert refused.json()["error"]["param"].startswith("tools.f.parameters")


def test_3_a_tool_that_is_not_strict_is_held_to_its_name_alone(server: Running) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer", "pattern": 3}}}
    body = {"model": "f1", "messages": ASK, "tools": [function("f", schema, strict=False)]}
    answer = whole(server, **body, tool_choice="required")
    for call in calls_of(answer):
        assert call["name"] == "f"
        assert isinstance(json.loads(call["arguments"]), dict)


# --- 4: a call that is cut is no call -------------------------------------------------------------


def test_4_a_cut_call_is_no_call_and_says_what_it_would_have_taken(server: Running) -> None:
    request = {"tools": [WEATHER], "tool_choice": "required"}
    for max_tokens in (1, 5, 12):
        (choice,) = whole(server, **request, max_tokens=max_tokens)["choices"]
        assert choice["finish_reason"] == "length"
        assert "tool_calls" not in choice["message"]
        assert not choice["message"]["content"]
        assert choice["f1"]["needed_tokens"] > max_tokens


# --- 5: the JSON Schema that tools use in the wild ------------------------------------------------

WILD: dict[str, Json] = {
    "nested": {"type": "object", "properties": {"a": {"type": "array", "minItems": 1, "items": {
        "type": "object", "properties": {"b": {"type": "boolean"}}, "required": ["b"]}}},
        "required": ["a"]},
    "recursive": {"type": "object", "$defs": {"t": {"type": "object", "properties": {
        "v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/t"}, {"type": "null"}]}},
        "required": ["v", "next"]}}, "properties": {"t": {"$ref": "#/$defs/t"}}, "required": ["t"]},
    "nullable": {"type": "object", "properties": {"x": {"type": ["string", "null"]}},
                 "required": ["x"]},
    "allOf": {"type": "object", "properties": {"n": {"allOf": [
        {"type": "integer", "minimum": 3}, {"maximum": 5}]}}, "required": ["n"]},
    "formats": {"type": "object", "properties": {"d": {"type": "string", "format": "date"},
                "e": {"type": "string", "format": "email"}}, "required": ["d", "e"]},
    "pattern": {"type": "object", "properties": {"p": {"type": "string",
                "pattern": "^[A-Z]{3}-[0-9]{2}$"}}, "required": ["p"]},
    "tuple": {"type": "object", "properties": {"t": {"type": "array", "prefixItems": [
        {"type": "integer"}, {"enum": ["a", "b"]}], "items": False, "minItems": 2}},
        "required": ["t"]},
    "names": {"type": "object", "properties": {'a "b"\\c é {}': {"const": 1}, "": {"const": 2}},
              "required": ['a "b"\\c é {}', ""]},
    "enum": {"type": "object", "properties": {"e": {"enum": [f"v{i}" for i in range(700)]}},
             "required": ["e"]},
    "map": {"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 2},
    "empty": {},
    "missing": {"type": "object"},
}  # fmt: skip


@pytest.mark.parametrize("name", WILD)
def test_5_schemas_of_the_wild_make_valid_calls(server: Running, name: str) -> None:
    answer = whole(server, tools=[function("f", WILD[name])], tool_choice="required",
                   parallel_tool_calls=False, max_tokens=400)  # fmt: skip
    for call in calls_of(answer):
        jsonschema.validate(json.loads(call["arguments"]), {"type": "object", **WILD[name]})
    # The smallest model does not always come to an end; what it began is then no call.
    assert calls_of(answer) or answer["choices"][0]["finish_reason"] == "length"


# --- 6: histories of any shape --------------------------------------------------------------------


def test_6_histories_of_any_shape_are_answered(client: openai.OpenAI) -> None:
    first, second = (
        {"id": f"call_{i}", "type": "function",
         "function": {"name": "get_weather", "arguments": json.dumps({"city": city})}}
        for i, city in enumerate(("Oslo", "Rome"))
    )  # fmt: skip
    text = [{"type": "text", "text": "4 °C"}, {"type": "text", "text": "rain"}]
    history: Any = [
        {"role": "developer", "content": "Be brief."},
        {"role": "system", "content": [{"type": "text", "text": "Use metric units."}]},
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [first, second]},
        {"role": "tool", "tool_call_id": "call_1", "content": text},
        {"role": "tool", "tool_call_id": "call_0", "content": "20 °C"},
        {"role": "assistant", "content": "", "refusal": None},
        {"role": "user", "content": []},
        {"role": "user", "content": "Thanks."},
    ]
    for end in (5, 6, 7, 8, 9):
        messages = history[:end]
        if end == 5:
            with pytest.raises(openai.BadRequestError, match="call_0"):
                client.chat.completions.create(model="f1", messages=messages, max_tokens=4)
            continue
        answer = client.chat.completions.create(model="f1", messages=messages, max_tokens=4)
        assert answer.usage.completion_tokens > 0


def test_6_a_dangling_call_is_repaired_when_asked(client: openai.OpenAI) -> None:
    call = {"id": "x", "type": "function", "function": {"name": "get_time", "arguments": ""}}
    history: Any = [*ASK, {"role": "assistant", "tool_calls": [call]}, *HELLO]
    answer = client.chat.completions.create(
        model="f1", messages=history, max_tokens=4, extra_body={"f1": {"repair_history": True}}
    )
    assert answer.choices[0].model_extra["f1"]["repaired"] == ["call 'x' had no result"]


# --- 7 to 10 --------------------------------------------------------------------------------------


def test_7_too_much_for_the_context_is_refused_with_the_numbers(client: openai.OpenAI) -> None:
    long: Any = [{"role": "user", "content": "word " * 10_000}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="smollm2-135m", messages=long)
    assert caught.value.code == "context_length_exceeded"
    digits = [int(word) for word in caught.value.message.split() if word.isdigit()]
    assert len(digits) >= 2


class Thinking(ScriptedEngine):
    """Says what no model at hand would: how thoughts are told from text is in test_thought.py."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        yield ReasoningDelta(0, "I could call <tool_call>, ")
        yield ReasoningDelta(0, "and I will.")
        yield CallDelta(0, 0, ToolCall("call_1", "get_time", "{}"))
        yield Finished(0, "tool_calls", Usage(5, 9, 0, 6))


def test_8_thoughts_are_reasoning_content() -> None:
    with serving(lambda: Thinking()) as server:
        while httpx.get(f"{server.url}/ready").status_code != 200:
            pass
        answer = whole(server, tools=[CLOCK])
        assert streamed(server, tools=[CLOCK]) == answer
    (choice,) = answer["choices"]
    assert choice["message"]["reasoning_content"] == "I could call <tool_call>, and I will."
    assert choice["message"]["content"] is None
    assert [call["name"] for call in calls_of(answer)] == ["get_time"]


def test_9_the_same_seed_gives_the_same_tokens_in_any_company(server: Running) -> None:
    names = ("sampled", "sampled calls", "required", "text", "schema")
    alone = [whole(server, **REQUESTS[name]) for name in names]

    async def together() -> list[Json]:
        work = [asyncio.to_thread(whole, server, **REQUESTS[name]) for name in names]
        return await asyncio.gather(*work)

    assert asyncio.run(together()) == alone


def test_10_a_hostile_request_hurts_itself_alone(server: Running) -> None:
    slow = {"response_format": {"type": "regex", "pattern": "((a+)+)+b"}, "max_tokens": 400}
    hostile: list[Json] = [
        {"messages": [{"role": "user", "content": "x"}] * 5000},
        {"tools": [function(f"f{i}") for i in range(600)]},
        {"response_format": {"type": "ebnf", "grammar": "root ::= root"}},
        {"n": 10**6},
        {"timeout": 0.001},
        slow,
    ]

    async def ask(body: Json) -> int:
        async with httpx.AsyncClient(timeout=300) as http:
            url = f"{server.url}/v1/chat/completions"
            answer = await http.post(url, json={"model": "f1", "messages": HELLO} | body)
            return answer.status_code

    async def all_at_once() -> list[int]:
        return await asyncio.gather(*map(ask, hostile))

    alone = whole(server, **REQUESTS["required"])
    with ThreadPoolExecutor(1) as pool:
        beside = pool.submit(whole, server, **REQUESTS["required"])
        statuses = asyncio.run(all_at_once())
        assert beside.result() == alone
    assert statuses[:-1] == [400, 400, 400, 400, 408]
    assert statuses[-1] in (200, 400, 500)  # to its end, or stopped when it took too long
