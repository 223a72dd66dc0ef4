"""The endpoint with a real model behind it, asked by the official OpenAI client and by ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pydantic
import pytest
from serving import Running, serving

from f1 import F1, F1Error, tool
from f1.engine import AsyncEngine
from f1.errors import ContextLengthExceeded, InvalidRequest, InvalidSchema, ModelNotFound
from f1.settings import Settings
from f1.types import TextDelta

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
        },
    },
}
CLOCK: Any = {"type": "function", "function": {"name": "get_time", "description": "Get the time."}}
ASK: Any = [{"role": "user", "content": "What is the weather in Oslo?"}]
HELLO: Any = [{"role": "user", "content": "Say hello."}]


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


def test_models(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names == ["f1", "smollm2-135m"]
    assert client.models.retrieve("f1").object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


@pytest.mark.parametrize("model", ["f1", "smollm2-135m"])
def test_a_completion_streams_to_the_same_text(client: openai.OpenAI, model: str) -> None:
    whole = client.chat.completions.create(model=model, messages=HELLO, max_tokens=24)
    assert whole._request_id.startswith("req_")
    choice = whole.choices[0]
    assert choice.finish_reason in ("stop", "length")
    assert choice.message.tool_calls is None
    assert whole.usage.completion_tokens <= 24
    chunks = list(
        client.chat.completions.create(
            model=model,
            messages=HELLO,
            max_tokens=24,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == choice.message.content
    assert chunks[-2].choices[0].finish_reason == choice.finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


@pytest.mark.parametrize(
    "tool_choice", ["required", {"type": "function", "function": {"name": "get_weather"}}]
)
def test_a_call_streams_to_the_same_call(client: openai.OpenAI, tool_choice: Any) -> None:
    request: Any = {
        "model": "f1",
        "messages": ASK,
        "tools": [WEATHER, CLOCK],
        "tool_choice": tool_choice,
        "parallel_tool_calls": False,
        "max_tokens": 200,
    }
    choice = client.chat.completions.create(**request).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    if tool_choice != "required":
        arguments = json.loads(call.function.arguments)
        assert arguments.keys() == {"city", "unit"}
        assert arguments["unit"] in ("celsius", "fahrenheit")
    with client.chat.completions.stream(**request) as stream:
        streamed = stream.get_final_completion().choices[0]
    assert streamed.finish_reason == "tool_calls"
    (again,) = streamed.message.tool_calls
    assert again.id
    assert (again.function.name, again.function.arguments) == (
        call.function.name,
        call.function.arguments,
    )


def test_every_delta_of_a_call_has_its_index_and_the_id_comes_once(client: openai.OpenAI) -> None:
    chunks = client.chat.completions.create(
        model="f1", messages=ASK, tools=[WEATHER], tool_choice="required", stream=True,
        max_tokens=200,
    )  # fmt: skip
    deltas = [d for c in chunks for d in c.choices[0].delta.tool_calls or []]
    by_index: dict[int, list[Any]] = {}
    for delta in deltas:
        by_index.setdefault(delta.index, []).append(delta)
    assert sorted(by_index) == list(range(len(by_index)))
    for pieces in by_index.values():
        assert [piece.id is not None for piece in pieces] == [True] + [False] * (len(pieces) - 1)
        assert sum(piece.function.name is not None for piece in pieces) == 1
        json.loads("".join(piece.function.arguments or "" for piece in pieces))


def test_a_call_cut_off_is_no_call(client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(
        model="f1", messages=ASK, tools=[WEATHER], tool_choice="required", max_tokens=4
    ).choices[0]
    assert choice.finish_reason == "length"
    assert choice.message.tool_calls is None
    assert not choice.message.content


def test_results_can_be_sent_back(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(
        model="f1", messages=ASK, tools=[WEATHER], tool_choice="required", max_tokens=300
    )
    message = first.choices[0].message
    results: Any = [
        {"role": "tool", "tool_call_id": call.id, "content": '{"sky": "clear"}'}
        for call in message.tool_calls
    ]
    second = client.chat.completions.create(
        model="f1", messages=[*ASK, message, *results], tools=[WEATHER], max_tokens=16
    )
    assert second.usage.prompt_tokens > first.usage.prompt_tokens


class City(pydantic.BaseModel):
    name: str
    is_capital: bool


def test_response_format(client: openai.OpenAI) -> None:
    parsed = client.chat.completions.parse(
        model="f1", messages=ASK, response_format=City, max_tokens=100
    )
    assert isinstance(parsed.choices[0].message.parsed, City)


def test_logprobs_n_seed_and_usage(client: openai.OpenAI) -> None:
    def ask(seed: int) -> Any:
        return client.chat.completions.create(
            model="f1", messages=HELLO, max_tokens=8, n=3, seed=seed, temperature=1.0,
            logprobs=True, top_logprobs=2,
        )  # fmt: skip

    first, again, other = ask(1), ask(1), ask(2)
    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert len(set(texts)) > 1
    assert texts == [choice.message.content for choice in again.choices]
    assert texts != [choice.message.content for choice in other.choices]
    for choice in first.choices:
        tokens = choice.logprobs.content
        text = b"".join(bytes(token.bytes) for token in tokens).decode(errors="replace")
        assert text.startswith(choice.message.content)
        assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in tokens)
    one = client.chat.completions.create(model="f1", messages=HELLO, max_tokens=8)
    assert first.usage.prompt_tokens == one.usage.prompt_tokens
    assert first.usage.completion_tokens > one.usage.completion_tokens


def test_stop_ends_the_content_and_is_not_in_it(client: openai.OpenAI) -> None:
    def ask(**fields: Any) -> Any:
        return client.chat.completions.create(
            model="f1", messages=HELLO, max_tokens=24, **fields
        ).choices[0]

    text = ask().message.content
    stop = text[3:6]
    stopped = ask(stop=stop)
    assert stopped.message.content == text[: text.index(stop)]
    assert stopped.finish_reason == "stop"


def test_many_at_once_answer_as_one_alone(server: Running) -> None:
    async def ask(city: str) -> str:
        messages: Any = [{"role": "user", "content": f"Name a street in {city}."}]
        answer = await many.chat.completions.create(model="f1", messages=messages, max_tokens=12)
        return answer.choices[0].message.content

    async def all_at_once(cities: list[str]) -> list[str]:
        async with many:
            alone = [await ask(city) for city in cities]
            assert list(await asyncio.gather(*map(ask, cities))) == alone
            return alone

    many = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    assert len(set(asyncio.run(all_at_once(["Oslo", "Rome", "Lima", "Bern"])))) > 1


CYCLE = {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}},
         "$defs": {"a": {"$ref": "#/$defs/a"}}}  # fmt: skip


def with_schema(schema: object) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}


BAD: list[tuple[dict[str, Any], int, str]] = [
    ({"messages": []}, 400, "messages"),
    ({"model": "gpt-9"}, 404, "gpt-9"),
    (with_schema(CYCLE), 400, "cycle"),
    (with_schema({"type": "string"}), 400, "f"),
    (with_schema([]), 400, "parameters"),
    (with_schema({"type": "object", "properties": {"a": {"pattern": "(?=x)"}}}), 400, "f"),
    (with_schema({"type": "object", "properties": {"a": {"type": "strnig"}}}), 400, "f"),
    ({"tools": [CLOCK, CLOCK]}, 400, "get_time"),
    ({"messages": [{"role": "user", "content": "word " * 40_000}]}, 400, "context"),
    ({"max_tokens": 2**30}, 400, "context"),
    ({"response_format": {"type": "regex", "pattern": "(a"}}, 400, ""),
    ({"response_format": {"type": "ebnf", "grammar": "root ::= undefined_rule"}}, 400, ""),
]
RAW = [
    b"", b"[" * 10_000, b'{"metadata":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    b'{"model":"f1","messages":[{"role":"user","content":"x"}],"temperature":NaN}',
    b'{"model":"f1","messages":[{"role":"user","content":"\\ud800"}]}',
]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fields", "status", "told"), BAD)
def test_bad_requests_are_refused_and_the_next_is_served(
    server: Running, fields: dict[str, Any], status: int, told: str, stream: bool
) -> None:
    body = {"model": "f1", "messages": HELLO, "max_tokens": 1, "stream": stream} | fields
    check_refused(server, json.dumps(body).encode(), status, told)


@pytest.mark.parametrize("body", RAW, ids=range(len(RAW)))
def test_bodies_that_are_not_json_are_refused(server: Running, body: bytes) -> None:
    check_refused(server, body, 400, "")


def check_refused(server: Running, body: bytes, status: int, told: str) -> None:
    url = f"{server.url}/v1/chat/completions"
    answer = httpx.post(url, content=body, timeout=120)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert told in error["message"]
    fine = httpx.post(url, json={"model": "f1", "messages": HELLO, "max_tokens": 1}, timeout=120)
    assert fine.status_code == 200


def test_unknown_paths_and_methods_have_openais_shape(server: Running) -> None:
    for answer in (
        httpx.get(f"{server.url}/v1/nothing"),
        httpx.get(f"{server.url}/v1/chat/completions"),
    ):
        assert answer.status_code in (404, 405)
        assert answer.json()["error"]["type"] == "invalid_request_error"


def test_control_tokens_in_what_users_write_are_plain_text(client: openai.OpenAI) -> None:
    def count(text: str) -> int:
        answer = client.chat.completions.create(
            model="f1", messages=[{"role": "user", "content": text}], max_tokens=1
        )
        return answer.usage.prompt_tokens

    # A control token would be one token; as text it takes several.
    assert count("a<|im_end|>b") >= count("ab") + 3


def test_clients_that_leave_free_their_sequences(server: Running) -> None:
    engine = server.engine
    assert isinstance(engine, AsyncEngine)
    before = engine.stats()["num_sampled_tokens"]
    # Asks for all that the context holds, and forbids the tokens that would end it sooner.
    endless = {"model": "f1", "messages": HELLO, "logit_bias": {"0": -100, "2": -100}}
    url = f"{server.url}/v1/chat/completions"
    for _ in range(3):
        with httpx.stream("POST", url, json=endless | {"stream": True}, timeout=120) as answer:
            next(answer.iter_lines())
    fine = httpx.post(url, json=endless | {"max_tokens": 4}, timeout=120)
    assert fine.json()["usage"]["completion_tokens"] == 4
    while server.state.admission.in_flight or engine.stats()["num_running"]:
        httpx.get(f"{server.url}/health")
    assert engine.stats()["num_sampled_tokens"] - before < engine.context_length


# --- our own client against the server ---------------------------------------------------------


@tool
def get_weather(city: str) -> str:
    """Get the weather in a city."""
    return f"Clear in {city}."


def test_our_client_gets_from_the_server_what_an_embedded_one_gets(
    server: Running, smollm_path: Path
) -> None:
    settings = Settings(kv_memory=2**26)
    with F1(base_url=server.url) as remote, F1(str(smollm_path), settings=settings) as embedded:
        for f1 in (remote, embedded):
            with pytest.raises(InvalidSchema, match="tool 'f'"):
                f1.chat("Hi", with_schema({"type": "string"})["tools"])
        results = [
            [
                f1.chat("Say hello.", max_tokens=16, logprobs=True, top_logprobs=1),
                f1.chat("Oslo?", [get_weather], tool_choice="get_weather", max_tokens=100),
                f1.chat("A city", response_format=City, max_tokens=100),
                f1.run("Oslo?", [get_weather], tool_choice="required", max_tokens=40),
            ]
            for f1 in (remote, embedded)
        ]
        one, other = results
        for mine, theirs in zip(one[:3], other[:3], strict=True):
            assert mine.text == theirs.text
            assert mine.reason == theirs.reason
            assert mine.parsed == theirs.parsed
            assert [c.arguments for c in mine.calls] == [c.arguments for c in theirs.calls]
            assert mine.usage.completion_tokens == theirs.usage.completion_tokens
        assert one[1].calls[0].name == "get_weather"
        assert [r.content for r in one[3].results] == [r.content for r in other[3].results]
        assert "Clear in" in one[3].results[0].content
        streamed = [
            "".join(e.text for e in f1.stream("Say hello.", max_tokens=16) if type(e) is TextDelta)
            for f1 in (remote, embedded)
        ]
        assert streamed == [one[0].text] * 2


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"messages": "word " * 40_000}, ContextLengthExceeded),
        ({"messages": [{"role": "tool", "content": "x"}]}, InvalidRequest),
    ],
)
def test_our_client_raises_what_the_server_says(
    server: Running, options: dict[str, Any], kind: type[F1Error]
) -> None:
    with F1(base_url=server.url) as f1, pytest.raises(kind):
        f1.chat(**options)


def test_our_client_with_a_wrong_model_or_no_server(server: Running) -> None:
    with F1("gpt-9", base_url=server.url) as f1, pytest.raises(ModelNotFound, match="gpt-9"):
        f1.chat("Hi")
    with F1(base_url="http://127.0.0.1:9") as f1, pytest.raises(F1Error) as caught:
        f1.chat("Hi")
    assert caught.value.code == "engine_stopped"
