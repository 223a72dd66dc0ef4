"""`/v1/responses` with a real model behind it, asked by the official OpenAI client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pydantic
import pytest
from openai.types.responses import Response
from serving import Running, serving

from f1.engine import AsyncEngine
from f1.settings import Settings
from f1.store.responses import ResponseStore

WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        },
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
    "strict": True,
}
CLOCK: Any = {"type": "function", "name": "get_time", "parameters": None, "strict": None}
ASK = "What is the weather in Oslo?"


class City(pydantic.BaseModel):
    name: str
    is_capital: bool


@pytest.fixture(scope="module")
def server(smollm_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    settings = Settings(kv_memory=2**27)
    store = ResponseStore(tmp_path_factory.mktemp("store") / "responses.sqlite", 2**24)
    with serving(lambda: AsyncEngine.start(str(smollm_path), settings), store=store) as running:
        while httpx.get(f"{running.url}/ready").status_code != 200:
            pass
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120
    ) as client:
        yield client


SHAPES: dict[str, dict[str, Any]] = {
    "text": {"input": "Say hello."},
    "cut": {"input": "Count to a hundred.", "max_output_tokens": 8},
    "required": {"input": ASK, "tools": [WEATHER, CLOCK], "tool_choice": "required"},
    "named": {
        "input": ASK,
        "tools": [WEATHER, CLOCK],
        "tool_choice": {"type": "function", "name": "get_weather"},
    },
    "allowed": {
        "input": ASK,
        "tools": [WEATHER, CLOCK],
        "tool_choice": {
            "type": "allowed_tools",
            "mode": "required",
            "tools": [{"type": "function", "name": "get_time"}],
        },
        "parallel_tool_calls": False,
    },
    "cut call": {
        "input": ASK,
        "tools": [WEATHER],
        "tool_choice": "required",
        "max_output_tokens": 4,
    },
    "eager": {
        "input": ASK,
        "tools": [WEATHER],
        "tool_choice": "required",
        "extra_body": {"f1": {"eager_arguments": True}},
    },
    "schema": {
        "input": "A city",
        "text": {
            "format": {"type": "json_schema", "name": "city", "schema": City.model_json_schema()}
        },
    },
    "logprobs": {
        "input": "Say hello.",
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 2,
        "max_output_tokens": 12,
    },
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_stream_ends_with_what_is_answered_whole(client: openai.OpenAI, shape: str) -> None:
    request: Any = {"model": "f1", "max_output_tokens": 60} | SHAPES[shape]
    whole = client.responses.create(**request)
    events = list(client.responses.create(**request, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last: Any = events[-1]
    assert last.type == f"response.{whole.status}"
    for response in (whole, last.response):
        Response.model_validate(response.to_dict(), strict=True)
    assert anonymous(last.response.to_dict()) == anonymous(whole.to_dict())
    assert json.dumps(anonymous(last.response.to_dict())) == json.dumps(anonymous(whole.to_dict()))


def anonymous(response: Any) -> Any:
    """Without ids, times, and how much of the prompt was found computed."""
    if isinstance(response, dict):
        return {
            key: anonymous(value)
            for key, value in response.items()
            if key not in ("id", "call_id", "created_at", "completed_at", "cached_tokens")
        }
    return [anonymous(item) for item in response] if isinstance(response, list) else response


def test_the_clients_own_stream_ends_with_the_same_call(client: openai.OpenAI) -> None:
    request: Any = {"model": "f1", "max_output_tokens": 100} | SHAPES["named"]
    (call,) = client.responses.create(**request).output
    with client.responses.stream(**request) as stream:
        (again,) = stream.get_final_response().output
    assert again.type == call.type == "function_call"
    assert (again.name, again.arguments) == (call.name, call.arguments)
    assert again.parsed_arguments.keys() == {"city", "unit"}


@pytest.mark.parametrize("streamed", [False, True])
def test_a_text_format_is_parsed(client: openai.OpenAI, streamed: bool) -> None:
    request: Any = {"model": "f1", "input": "A city", "text_format": City, "max_output_tokens": 100}
    if not streamed:
        parsed = client.responses.parse(**request).output_parsed
    else:
        with client.responses.stream(**request) as stream:
            parsed = stream.get_final_response().output_parsed
    assert isinstance(parsed, City)


@pytest.mark.parametrize("stateful", [False, True])
def test_a_tool_loop(client: openai.OpenAI, stateful: bool) -> None:
    asked: Any = [{"role": "user", "content": ASK}]
    first = client.responses.create(
        model="f1", input=asked, tools=[WEATHER], tool_choice="required", max_output_tokens=200,
        store=stateful,
    )  # fmt: skip
    outputs: Any = [
        {"type": "function_call_output", "call_id": item.call_id, "output": '{"sky": "clear"}'}
        for item in first.output
        if item.type == "function_call"
    ]
    assert outputs
    follows: Any = {"input": outputs, "previous_response_id": first.id}
    second = client.responses.create(
        model="f1", tools=[WEATHER], tool_choice="none", max_output_tokens=16,
        **(follows if stateful else {"input": [*asked, *first.output, *outputs]}),
    )  # fmt: skip
    assert second.output_text
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens


def test_logprobs_are_of_the_text(client: openai.OpenAI) -> None:
    request: Any = {"model": "f1"} | SHAPES["logprobs"]
    made: Any = client.responses.create(**request)
    part = made.output[0].content[0]
    data = b"".join(bytes(item.bytes) for item in part.logprobs)
    assert data.decode(errors="replace").startswith(part.text)
    assert all(len(item.top_logprobs) == 2 and item.logprob <= 0 for item in part.logprobs)


def with_schema(schema: object) -> dict[str, Any]:
    return {"tools": [{"type": "function", "name": "f", "parameters": schema, "strict": True}]}


BAD: list[tuple[dict[str, Any], int, str]] = [
    ({"model": "gpt-9"}, 404, "gpt-9"),
    ({"input": "word " * 40_000}, 400, "context"),
    ({"max_output_tokens": 2**30, "truncation": "auto"}, 400, "context"),
    (with_schema({"type": "string"}), 400, "f"),
    (with_schema({"type": "object", "properties": {"a": {"pattern": "(?=x)"}}}), 400, "f"),
    ({"tools": [CLOCK, CLOCK]}, 400, "get_time"),
    (
        {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": 5}}}},
        400,
        "text.format.schema.type",
    ),
    ({"text": {"format": {"type": "regex", "pattern": "(a"}}}, 400, ""),
    ({"previous_response_id": "resp_0"}, 400, "previous_response_id"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fields", "status", "told"), BAD)
def test_bad_requests_are_refused_and_the_next_is_served(
    server: Running, fields: dict[str, Any], status: int, told: str, stream: bool
) -> None:
    url, hello = f"{server.url}/v1/responses", {"model": "f1", "input": "Hi"}
    answer = httpx.post(url, json=hello | {"stream": stream} | fields, timeout=120)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert told in error["message"]
    assert not str(error["param"]).startswith(("messages", "response_format"))
    assert "response_format" not in error["message"]
    fine = httpx.post(url, json=hello | {"max_output_tokens": 1}, timeout=120)
    assert fine.json()["status"] == "incomplete"
