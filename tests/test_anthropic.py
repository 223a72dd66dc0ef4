"""/v1/messages with a real model behind it, asked by the official Anthropic client."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pydantic
import pytest
from scripted import ScriptedEngine
from serving import Running, serving
from test_app import Faulty

from f1.engine import AsyncEngine
from f1.errors import ConstraintError
from f1.serve.access import Access, Key
from f1.serve.limits import Limits
from f1.settings import Settings
from f1.types import Event, Finished, GenerateRequest, ReasoningDelta, TextDelta, Usage

WEATHER: Any = {
    "name": "get_weather",
    "description": "Get the weather in a city.",
    "input_schema": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        },
        "required": ["city", "unit"],
    },
}
CLOCK: Any = {
    "name": "get_time",
    "description": "Get the time.",
    "input_schema": {"type": "object", "properties": {}},
}
ASK: Any = [{"role": "user", "content": "What is the weather in Oslo?"}]
HELLO: Any = [{"role": "user", "content": "Say hello."}]


def client_of(running: Running) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=running.url, api_key="none", max_retries=0, timeout=120)


def wait_until_ready(running: Running) -> None:
    while httpx.get(f"{running.url}/ready").status_code != 200:
        pass


@pytest.fixture(scope="module")
def server(smollm_path: Path) -> Iterator[Running]:
    settings = Settings(kv_memory=2**27)
    with serving(lambda: AsyncEngine.start(str(smollm_path), settings)) as running:
        wait_until_ready(running)
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[anthropic.Anthropic]:
    with client_of(server) as client:
        yield client


def comparable(message: Any) -> dict[str, Any]:
    """Without what differs from answer to answer: ids, what was cached by then, and what the
    client leaves out of a stream because it is ours."""
    body = message.to_dict()
    body.pop("f1", None)
    usage = body.pop("usage")
    body["tokens"] = (
        usage["output_tokens"],
        usage["input_tokens"] + usage["cache_read_input_tokens"],
    )
    for block in body["content"]:
        block.pop("id", None)
    del body["id"]
    return body


CASES: dict[str, dict[str, Any]] = {
    "words": {"messages": HELLO, "max_tokens": 24, "system": "You are polite."},
    "raw model": {"messages": HELLO, "max_tokens": 8, "model": "smollm2-135m"},
    "any": {"tool_choice": {"type": "any"}},
    "any, one": {"tool_choice": {"type": "any", "disable_parallel_tool_use": True}},
    "tool": {"tool_choice": {"type": "tool", "name": "get_weather"}},
    "none": {"tool_choice": {"type": "none"}, "max_tokens": 24},
    "auto": {"tool_choice": {"type": "auto"}, "max_tokens": 60},
    "eager": {"tools": [WEATHER | {"eager_input_streaming": True}], "tool_choice": {"type": "any"}},
    "cut": {"tool_choice": {"type": "any"}, "max_tokens": 4},
    "sampled": {"messages": HELLO, "max_tokens": 12, "extra_body": {"temperature": 1, "seed": 3}},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_message_streams_to_the_same_message(client: anthropic.Anthropic, case: str) -> None:
    asked = {"model": "f1", "messages": ASK, "max_tokens": 200, "tools": [WEATHER, CLOCK]}
    asked |= CASES[case]
    if asked["messages"] is HELLO:
        del asked["tools"]
    whole = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    assert comparable(streamed) == comparable(whole)
    assert whole.id.startswith("msg_")
    assert whole._request_id is not None
    assert (whole.type, whole.role, whole.model) == ("message", "assistant", asked["model"])
    used = [block for block in whole.content if block.type == "tool_use"]
    if case in ("any", "any, one", "tool", "eager"):
        assert whole.stop_reason == "tool_use"
        assert used == whole.content
        assert len(used) == 1 or case in ("any", "eager")
    elif case == "cut":  # half a call is no call
        assert (whole.stop_reason, whole.content) == ("max_tokens", [])
        assert whole.to_dict()["f1"]["needed_tokens"] > 4
    elif case != "auto":
        assert not used
        assert whole.stop_reason in ("end_turn", "max_tokens")
        assert whole.content[0].text
    for block in used:
        if block.name == "get_weather":
            assert block.input.keys() == {"city", "unit"}
            assert block.input["unit"] in ("celsius", "fahrenheit")


def test_the_order_of_the_events(server: Running) -> None:
    url = f"{server.url}/v1/messages"
    body = {"model": "f1", "max_tokens": 8, "messages": HELLO, "stream": True}
    lines = httpx.post(url, json=body, timeout=120).text.splitlines()
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    assert names[:3] == ["message_start", "ping", "content_block_start"]
    assert set(names[3:-3]) == {"content_block_delta"}
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_the_stop_sequence_that_was_met_is_told(client: anthropic.Anthropic) -> None:
    def ask(**fields: Any) -> Any:
        return client.messages.create(model="f1", messages=HELLO, max_tokens=24, **fields)

    text = ask().content[0].text
    stop = text[3:6]
    stopped = ask(stop_sequences=["never said", stop])
    assert stopped.content[0].text == text[: text.index(stop)]
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", stop)
    assert ask().stop_sequence is None


def test_results_are_sent_back_with_words(client: anthropic.Anthropic) -> None:
    asked: Any = {"model": "f1", "tools": [WEATHER], "max_tokens": 300}
    first = client.messages.create(messages=ASK, tool_choice={"type": "any"}, **asked)
    results: Any = [
        {"type": "tool_result", "tool_use_id": block.id, "content": '{"sky": "clear"}'}
        for block in first.content
    ]
    history = [*ASK, {"role": "assistant", "content": first.content}]
    said: Any = {"type": "text", "text": "In one sentence."}
    second = client.messages.create(
        messages=[*history, {"role": "user", "content": [*results, said]}],
        tool_choice={"type": "none"},
        **asked | {"max_tokens": 16},
    )
    assert second.stop_reason in ("end_turn", "max_tokens")
    assert second.content[0].type == "text"
    # What was computed for the first answer is not computed again.
    assert second.usage.cache_read_input_tokens > 0
    with pytest.raises(anthropic.BadRequestError, match="tool_result"):
        client.messages.create(messages=[*history, *HELLO], **asked)


class City(pydantic.BaseModel):
    name: str
    is_capital: bool


def test_output_format(client: anthropic.Anthropic) -> None:
    parsed = client.messages.parse(model="f1", messages=ASK, output_format=City, max_tokens=100)
    assert isinstance(parsed.parsed_output, City)


ERRORS: list[tuple[dict[str, Any], type[anthropic.APIStatusError], str, str]] = [
    ({"model": "gpt-9"}, anthropic.NotFoundError, "not_found_error", "gpt-9"),
    ({"messages": []}, anthropic.BadRequestError, "invalid_request_error", "messages"),
    ({"max_tokens": 2**30}, anthropic.BadRequestError, "invalid_request_error", "context"),
    ({"tools": [{"name": "f", "input_schema": {"type": "string"}}]},
     anthropic.BadRequestError, "invalid_request_error", "'f'"),
    ({"tools": [CLOCK, CLOCK]}, anthropic.BadRequestError, "invalid_request_error", "get_time"),
    ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "no"}}}},
     anthropic.BadRequestError, "invalid_request_error", "output_config.format.schema.type"),
    ({"extra_body": {"container": "x"}}, anthropic.BadRequestError, "invalid_request_error",
     "container"),
]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fields", "kind", "name", "told"), ERRORS)
def test_errors_are_the_clients_classes_and_the_next_is_served(
    client: anthropic.Anthropic,
    fields: dict[str, Any],
    kind: type[anthropic.APIStatusError],
    name: str,
    told: str,
    stream: bool,
) -> None:
    asked: Any = {"model": "f1", "messages": HELLO, "max_tokens": 1, "stream": stream}
    with pytest.raises(kind, match=told) as caught:
        client.messages.create(**asked | fields)
    body: Any = caught.value.body
    assert (body["type"], body["error"]["type"]) == ("error", name)
    assert body["request_id"] == caught.value.request_id
    assert client.messages.create(model="f1", messages=HELLO, max_tokens=1).id


def test_errors_before_parsing_have_anthropics_shape(server: Running) -> None:
    url = f"{server.url}/v1/messages"
    for answer, status in (
        (httpx.get(url), 405),
        (httpx.post(url, content=b"{"), 400),
        (httpx.post(f"{url}/nothing", json={}), 404),
    ):
        assert answer.status_code == status
        assert answer.json()["type"] == "error"
        assert answer.json()["request_id"] == answer.headers["request-id"]
    assert "type" not in httpx.get(f"{server.url}/v1/nothing").json()


def test_what_is_counted_is_what_is_read(client: anthropic.Anthropic) -> None:
    asked: Any = {"model": "f1", "messages": ASK, "tools": [WEATHER, CLOCK], "system": "Be brief."}
    alone = client.messages.count_tokens(model="f1", messages=ASK)
    counted = client.messages.count_tokens(**asked)
    usage = client.messages.create(**asked, max_tokens=1).usage
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens
    assert counted.input_tokens > alone.input_tokens
    with pytest.raises(anthropic.NotFoundError, match="gpt-9"):
        client.messages.count_tokens(model="gpt-9", messages=ASK)


def test_headers_of_the_api_are_of_no_effect(client: anthropic.Anthropic) -> None:
    headers = {"anthropic-version": "1999-01-01", "anthropic-beta": "no-such-thing"}
    asked: Any = {"model": "f1", "messages": HELLO, "max_tokens": 4}
    one = client.messages.create(**asked, extra_headers=headers)
    beta = client.beta.messages.create(**asked, betas=["no-such-thing"])
    assert comparable(one) == comparable(beta) == comparable(client.messages.create(**asked))


def test_who_has_no_key_is_told_so_in_anthropics_shape() -> None:
    asked: Any = {"model": "f1", "messages": HELLO, "max_tokens": 1}
    key = Key("alice", hashlib.sha256(b"open sesame").digest())
    with serving(lambda: ScriptedEngine("Hi."), access=Access((key,))) as running:
        with client_of(running) as client, pytest.raises(anthropic.AuthenticationError) as refused:
            client.messages.create(**asked)
        assert refused.value.type == "authentication_error"
        wait_until_ready(running)
        with client_of(running).copy(api_key="open sesame") as client:
            assert client.messages.create(**asked).content[0].text == "Hi. "


def test_a_server_that_cannot_answer_says_so() -> None:
    asked: Any = {"model": "f1", "messages": HELLO, "max_tokens": 1}
    may_load = threading.Event()

    def load() -> ScriptedEngine:
        may_load.wait(60)
        return ScriptedEngine("Hi …")

    with serving(load) as running, client_of(running) as client:
        try:
            with pytest.raises(anthropic.InternalServerError) as early:
                client.messages.create(**asked)
            assert early.value.type == "overloaded_error"
        finally:
            may_load.set()
        wait_until_ready(running)
        with pytest.raises(anthropic.APIStatusError) as late:
            client.messages.create(**asked, extra_body={"timeout": 0.01})
        assert (late.value.status_code, late.value.type) == (408, "timeout_error")
    with serving(lambda: ScriptedEngine("Hi …"), Limits(max_running=1, max_queued=0)) as running:
        wait_until_ready(running)
        with client_of(running) as client:
            with client.messages.create(**asked, stream=True) as stream:
                next(iter(stream))
                with pytest.raises(anthropic.RateLimitError) as full:
                    client.messages.create(**asked)
            assert full.value.type == "rate_limit_error"
    with serving(lambda: ScriptedEngine("Hi."), Limits(max_body_bytes=300)) as running:
        wait_until_ready(running)
        with client_of(running) as client:
            with pytest.raises(anthropic.ContentTooLargeError) as large:
                client.messages.create(**asked, system="x" * 300)
            assert large.value.type == "request_too_large"


class Thinking(ScriptedEngine):
    """Thinks before it speaks."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        self.requests.append(request)
        yield ReasoningDelta(0, "They said ")
        yield ReasoningDelta(0, "hello.")
        yield TextDelta(0, "Hello!")
        yield Finished(0, "stop", Usage(10, 8, reasoning_tokens=5))


def test_thoughts_are_blocks_that_can_be_sent_back() -> None:
    engine = Thinking("")
    with serving(lambda: engine) as running, client_of(running) as client:
        wait_until_ready(running)
        asked: Any = {"model": "scripted", "max_tokens": 2048, "thinking": {"type": "adaptive"}}
        whole = client.messages.create(messages=HELLO, **asked)
        with client.messages.stream(messages=HELLO, **asked) as stream:
            streamed = stream.get_final_message()
        assert comparable(streamed) == comparable(whole)
        thought, said = whole.content
        assert (thought.type, thought.thinking) == ("thinking", "They said hello.")
        assert (said.type, said.text) == ("text", "Hello!")
        for message in (whole, streamed):
            assert message.usage.output_tokens_details.thinking_tokens == 5
        back = [*HELLO, {"role": "assistant", "content": whole.content}, *HELLO]
        client.messages.create(messages=back, **asked)
    answer = engine.requests[-1].messages[1]
    assert (answer.reasoning, answer.content) == ("They said hello.", "Hello!")


def test_a_failure_in_the_middle_is_an_error_event() -> None:
    asked: Any = {"model": "f1", "messages": HELLO, "max_tokens": 9}
    with serving(lambda: Faulty(ConstraintError("no token is legal"))) as running:
        wait_until_ready(running)
        with client_of(running) as client, client.messages.create(**asked, stream=True) as stream:
            with pytest.raises(anthropic.APIStatusError, match="no token is legal") as caught:
                list(stream)
            assert caught.value.type == "api_error"
