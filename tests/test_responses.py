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
