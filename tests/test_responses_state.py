"""`/v1/responses` with scripted answers: conversations that go on, what is stored, what is refused,
and every event. The real model answers in test_responses.py."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pydantic
import pytest
from openai.types.responses import Response, ResponseItemList, ResponseStreamEvent
from scripted import ScriptedEngine, call
from serving import serving

from f1.errors import ConstraintError, InvalidRequest
from f1.serve.limits import Limits
from f1.serve.wire.responses.items import Item, conversation
from f1.serve.wire.responses.request import parse_responses_request
from f1.store.responses import ResponseStore
from f1.types import (
    ArgumentsDelta,
    CallBegun,
    CallDelta,
    Event,
    Finished,
    GenerateRequest,
    Message,
    ReasoningDelta,
    Report,
    ResponseFormat,
    TextDelta,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolChoice,
    Usage,
)

CLOCK: Any = {"type": "function", "name": "clock"}
HELLO: Any = {"model": "f1", "input": "Hello"}


@contextmanager
def answering(
    engine: ScriptedEngine, store: ResponseStore | None = None
) -> Iterator[openai.OpenAI]:
    with serving(lambda: engine, store=store) as server:
        while httpx.get(f"{server.url}/ready").status_code != 200:
            pass
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
            yield client


@pytest.fixture
def store(tmp_path: Path) -> ResponseStore:
    return ResponseStore(tmp_path / "responses.sqlite", 2**20)


# --- conversations that go on --------------------------------------------------------------------


def test_a_tool_loop_by_previous_response_id_is_the_same_as_by_full_input(
    store: ResponseStore,
) -> None:
    turns = [[call("clock", zone="UTC"), call("sun")], "It is noon."]
    engine = ScriptedEngine(*turns, *turns)
    with answering(engine, store) as client:
        first = client.responses.create(
            model="f1", input="What time is it?", instructions="Be brief.", tools=[CLOCK]
        )
        outputs: Any = [
            {"type": "function_call_output", "call_id": "call_sun", "output": "up"},
            {
                "type": "function_call_output",
                "call_id": "call_clock",
                "output": [{"type": "input_text", "text": "12:00"}],
            },
        ]
        followed = client.responses.create(
            model="f1", previous_response_id=first.id, input=outputs, instructions="Be quick."
        )
        assert followed.output_text == "It is noon. "
        assert followed.previous_response_id == first.id

        asked: Any = [{"role": "user", "content": "What time is it?"}]
        client.responses.create(model="f1", input=asked, tools=[CLOCK], store=False)
        client.responses.create(
            model="f1", input=[*asked, *first.output, *outputs], instructions="Be quick."
        )
    by_id, in_full = engine.requests[1].messages, engine.requests[3].messages
    assert by_id == in_full
    clock, sun = call("clock", zone="UTC"), call("sun")
    assert by_id == (
        Message("system", "Be quick."),  # instructions are not carried over
        Message("user", "What time is it?"),
        Message("assistant", "", (clock, sun)),
        Message("tool", "up", tool_call_id="call_sun"),
        Message("tool", "12:00", tool_call_id="call_clock"),
    )


def test_a_conversation_of_many_turns_streamed_is_followed_whole(store: ResponseStore) -> None:
    engine = ScriptedEngine("One", "Two", "Three")
    with answering(engine, store) as client:
        previous = None
        for text in ("a", "b", "c"):
            with client.responses.stream(
                model="f1", input=text, previous_response_id=previous or openai.omit
            ) as stream:
                previous = stream.get_final_response().id
    said = [message.content for message in engine.requests[-1].messages]
    assert said == ["a", "One ", "b", "Two ", "c"]


def test_a_conversation_may_not_grow_without_bounds(store: ResponseStore) -> None:
    with answering(ScriptedEngine("One"), store) as client:
        asked: Any = [{"role": "user", "content": "a"}] * 1500
        made = client.responses.create(model="f1", input=asked)
        with pytest.raises(openai.BadRequestError, match="at most"):
            client.responses.create(model="f1", input=asked, previous_response_id=made.id)


def test_references_stand_for_stored_items(store: ResponseStore) -> None:
    engine = ScriptedEngine([call("clock")], "Noon.")
    with answering(engine, store) as client:
        first = client.responses.create(model="f1", input="When?", tools=[CLOCK])
        items: Any = [
            {"role": "user", "content": "When?"},
            {"type": "item_reference", "id": first.output[0].id},
            {"type": "function_call_output", "call_id": "call_clock", "output": "12:00"},
        ]
        client.responses.create(model="f1", input=items)
        assert [m.role for m in engine.requests[1].messages] == ["user", "assistant", "tool"]
        with pytest.raises(openai.BadRequestError, match=r"input\[0\].id"):
            client.responses.create(
                model="f1", input=[{"type": "item_reference", "id": "msg_unknown"}]
            )


def test_a_stored_response_is_read_listed_and_deleted(store: ResponseStore) -> None:
    with answering(ScriptedEngine("One"), store) as client:
        asked: Any = [{"role": "user", "content": text} for text in ("a\0", "b", "c\U0001f600")]
        made = client.responses.create(model="f1", input=asked, metadata={"who": "me"})
        assert client.responses.retrieve(made.id).to_json() == made.to_json()
        page = client.responses.input_items.list(made.id, limit=2)
        ResponseItemList.model_validate(json.loads(page.to_json()), strict=True)
        texts = [item.content[0].text for item in page]  # goes on to the second page
        assert texts == ["c\U0001f600", "b", "a\0"]
        ascending = client.responses.input_items.list(made.id, order="asc").data
        assert [item.content[0].text for item in ascending] == texts[::-1]
        client.responses.delete(made.id)
        for gone in (client.responses.retrieve, client.responses.delete):
            with pytest.raises(openai.NotFoundError):
                gone(made.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.input_items.list(made.id)
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(model="f1", input="d", previous_response_id=made.id)
        assert caught.value.code == "previous_response_not_found"
        assert caught.value.param == "previous_response_id"


def test_what_is_not_to_be_stored_is_not(store: ResponseStore) -> None:
    with answering(ScriptedEngine("One"), store) as client:
        made = client.responses.create(**HELLO, store=False)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(made.id)
        assert made.to_dict()["store"] is False


def test_a_server_that_stores_none_says_so() -> None:
    with answering(ScriptedEngine("One")) as client:
        made = client.responses.create(**HELLO, store=True)
        assert made.to_dict()["store"] is False
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(made.id)


def test_where_nothing_can_be_stored_no_work_is_done(tmp_path: Path) -> None:
    engine = ScriptedEngine("One")
    with answering(engine, ResponseStore(tmp_path, 2**20)) as client:  # the path is a folder
        with pytest.raises(openai.InternalServerError) as caught:
            client.responses.create(**HELLO)
        assert (caught.value.status_code, caught.value.code) == (503, "not_stored")
        assert str(tmp_path) not in caught.value.message
        assert not engine.requests
        client.responses.create(**HELLO, store=False)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_cannot_be_stored_is_not_called_complete(
    tmp_path: Path, stream: bool
) -> None:
    store = ResponseStore(tmp_path / "responses.sqlite", 3000)
    with answering(ScriptedEngine("word " * 1000, "short"), store) as client:
        if stream:
            events = list(client.responses.create(**HELLO, stream=True))
            assert [event.type for event in events[-2:]] == ["error", "response.failed"]
        else:
            with pytest.raises(openai.InternalServerError, match="are kept in all"):
                client.responses.create(**HELLO)
        assert client.responses.create(**HELLO).status == "completed"


# --- every event ---------------------------------------------------------------------------------


def token(text: str) -> TokenLogprob:
    return TokenLogprob(text, -0.5, text.encode(), (TokenLogprob("x", float("-inf"), b"x"),))


CALL = ToolCall("call_1", "clock", '{"zone":"UTC"}')
USAGE = Usage(7, 5, 4, 2)
SCRIPTS: dict[str, list[Event]] = {
    "thoughts, words and calls": [
        ReasoningDelta(0, "Let me "),
        ReasoningDelta(0, "think."),
        TextDelta(0, "I "),
        TextDelta(0, "look."),
        CallDelta(0, 0, CALL),
        CallDelta(0, 1, ToolCall("call_2", "sun", "{}"), bounded=True),
        Finished(0, "tool_calls", USAGE, Report(bounded=(1,))),
    ],
    "eager": [
        CallBegun(0, 0, "call_1", "clock"),
        ArgumentsDelta(0, 0, '{"zone":'),
        ArgumentsDelta(0, 0, '"UTC"}'),
        CallDelta(0, 0, CALL),
        Finished(0, "tool_calls", USAGE),
    ],
    "eager and cut": [
        TextDelta(0, "I look."),
        CallBegun(0, 0, "call_1", "clock"),
        ArgumentsDelta(0, 0, '{"zone":'),
        Finished(0, "length", USAGE, Report(needed_tokens=20)),
    ],
    "cut words": [TextDelta(0, "I lo"), Finished(0, "length", USAGE)],
    "logprobs": [
        ReasoningDelta(0, "?", (token("?"),)),
        TextDelta(0, "a", (token("a"),)),
        TextDelta(0, "b", (token("b"),)),
        Finished(0, "stop", USAGE),
    ],
    "nothing": [Finished(0, "stop", USAGE)],
}


class Playing(ScriptedEngine):
    """Plays events; then fails, if told to."""

    def __init__(self, events: list[Event], error: Exception | None = None):
        super().__init__("")
        self.events = events
        self.error = error

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        self.requests.append(request)
        for event in self.events:
            yield event
        if self.error:
            raise self.error


EVENT: Any = pydantic.TypeAdapter(ResponseStreamEvent)


def streamed(client: openai.OpenAI, **fields: Any) -> list[dict[str, Any]]:
    """The events as they are on the wire, each held to the types of OpenAI's package."""
    url = f"{client.base_url}responses"
    with httpx.stream("POST", url, json=HELLO | fields | {"stream": True}, timeout=60) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        blocks = answer.read().decode().split("\n\n")
    events = []
    for number, block in enumerate(block for block in blocks if block):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        EVENT.validate_python(event, strict=True)
        events.append(event)
    return events


@pytest.mark.parametrize("script", SCRIPTS)
def test_events_tell_what_the_final_response_holds(script: str) -> None:
    eager = {"f1": {"eager_arguments": True}} if "eager" in script else {}
    with answering(Playing(SCRIPTS[script])) as client:
        events = streamed(client, **eager)
        url = f"{client.base_url}responses"
        whole = httpx.post(url, json=HELLO | eager, timeout=60).json()
    final = events[-1]["response"]
    Response.model_validate(final, strict=True)
    assert json.dumps(anonymous(final)) == json.dumps(anonymous(whole))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[0]["response"] == events[1]["response"]
    assert events[0]["response"].items() >= {"status": "in_progress", "output": []}.items()
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == final["output"]
    assert rebuilt(events) == [
        "".join(part["text"] for part in item["content"])
        if "content" in item
        else item["arguments"]
        for item in final["output"]
    ]


def rebuilt(events: list[dict[str, Any]]) -> list[str]:
    """What the deltas of each finished item add up to, checked against what `done` says."""
    pieces: dict[int, list[str]] = {}
    ids: dict[int, str] = {}
    finished = []
    for event in events:
        kind, index = event["type"].split(".")[-1], event.get("output_index")
        if event["type"] == "response.output_item.added":
            assert event["item"]["status"] == "in_progress"
            ids[index], pieces[index] = event["item"]["id"], []
        elif event["type"] == "response.output_item.done":
            assert event["item"]["id"] == ids[index]
            finished.append("".join(pieces[index]))
        elif index is not None:
            assert event["item_id"] == ids[index]
            if kind == "delta":
                pieces[index].append(event["delta"])
            elif "part" not in event:
                assert "".join(pieces[index]) == event.get("text", event.get("arguments"))
    return finished


def anonymous(response: Any) -> Any:
    """Without ids and times."""
    if isinstance(response, dict):
        hidden = ("id", "created_at", "completed_at")
        return {key: anonymous(value) for key, value in response.items() if key not in hidden}
    return [anonymous(item) for item in response] if isinstance(response, list) else response


def test_the_order_of_all_events() -> None:
    with answering(Playing(SCRIPTS["thoughts, words and calls"])) as client:
        kinds = [event["type"].removeprefix("response.") for event in streamed(client)]
    text = ["output_item.added", "content_part.added"]
    ended = ["content_part.done", "output_item.done"]
    a_call = [
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.done",
        "output_item.done",
    ]  # fmt: skip
    assert kinds == [
        "created", "in_progress",
        *text, *["reasoning_text.delta"] * 2, "reasoning_text.done", *ended,
        *text, *["output_text.delta"] * 2, "output_text.done", *ended,
        *a_call, *a_call, "completed",
    ]  # fmt: skip


def test_a_cut_call_is_no_call_and_the_budget_is_told() -> None:
    with answering(Playing(SCRIPTS["eager and cut"])) as client:
        made = client.responses.create(**HELLO, extra_body={"f1": {"eager_arguments": True}})
    assert made.status == "incomplete"
    assert made.incomplete_details is not None
    assert made.incomplete_details.reason == "max_output_tokens"
    assert [item.type for item in made.output] == ["message"]
    assert made.to_dict()["f1"] == {"needed_tokens": 20}
    assert made.completed_at is None


def test_logprobs_stand_with_the_text() -> None:
    with answering(Playing(SCRIPTS["logprobs"])) as client:
        made: Any = client.responses.create(**HELLO, top_logprobs=1)
    logprobs = made.output[1].content[0].logprobs
    assert made.usage.output_tokens_details.reasoning_tokens == 2
    assert [(item.token, item.logprob, item.bytes) for item in logprobs] == [
        ("a", -0.5, [97]), ("b", -0.5, [98]),
    ]  # fmt: skip
    assert [top.logprob for item in logprobs for top in item.top_logprobs] == [-9999.0] * 2


@pytest.mark.parametrize(
    ("error", "told", "code"),
    [
        (ConstraintError("no token is legal"), "no token is legal", "constraint_error"),
        (RuntimeError("at /secret/path"), "internal error", "internal_error"),
    ],
)
def test_a_failure_in_the_middle_ends_the_stream_as_failed(
    error: Exception, told: str, code: str, store: ResponseStore
) -> None:
    with answering(Playing([TextDelta(0, "Well")], error), store) as client:
        *_, failure, last = streamed(client)
        assert (failure["type"], failure["code"]) == ("error", code)
        assert told in failure["message"]
        assert last["type"] == "response.failed"
        assert last["response"]["status"] == "failed"
        assert last["response"]["error"]["code"] == "server_error"
        assert "secret" not in json.dumps(last)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(last["response"]["id"])


# --- what is asked -------------------------------------------------------------------------------


def parse(**fields: Any) -> GenerateRequest:
    return parse_responses_request(HELLO | fields, Limits()).generate


def said(*items: Any, repaired: list[str] | None = None) -> tuple[Message, ...]:
    return said_by({"model": "f1", "input": list(items)}, repaired)


def said_by(body: Any, repaired: list[str] | None = None) -> tuple[Message, ...]:
    asked = parse_responses_request(body, Limits())
    found = [item for item in asked.items if isinstance(item, Item)]
    return conversation(asked.instructions, found, Limits(), repaired=repaired)


def a_call(call_id: str, name: str = "clock") -> dict[str, str]:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": "{}"}


def an_output(call_id: str, output: object = "x") -> dict[str, object]:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def user(text: str = "Hi") -> dict[str, Any]:
    return {"role": "user", "content": text}


def test_items_in_every_shape() -> None:
    messages = said(
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "!"}]},
        {"role": "user", "content": [{"type": "input_text", "text": t} for t in "ab"]},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]},
        {
            "type": "reasoning",
            "id": "rs_2",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "So."}],
        },
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [
                {"type": "output_text", "text": "I look.", "annotations": [], "logprobs": []},
                {"type": "refusal", "refusal": "No."},
            ],
        },
        a_call("1") | {"id": "fc_1", "status": "completed"},
        a_call("2", "sun") | {"arguments": ""},
        an_output("2", [{"type": "input_text", "text": "up"}]),
        user("Well?"),
        an_output("1", "noon"),  # late, and put where it belongs
        {"role": "assistant", "content": "It is noon."},
        {"role": "assistant", "content": "Bye."},
        a_call("1"),  # an id may come again once it is answered
        an_output("1"),
    )
    assert messages == (
        Message("system", "Be brief.\n\n!"),
        Message("user", "a\nb"),
        Message(
            "assistant",
            "I look.\nNo.",
            (ToolCall("1", "clock", "{}"), ToolCall("2", "sun", "{}")),
            reasoning="Hm.\nSo.",
        ),
        Message("tool", "up", tool_call_id="2"),
        Message("tool", "noon", tool_call_id="1"),
        Message("user", "Well?"),
        Message("assistant", "It is noon."),
        Message("assistant", "Bye.", (ToolCall("1", "clock", "{}"),)),
        Message("tool", "x", tool_call_id="1"),
    )


def test_a_history_that_does_not_match_is_put_right_on_request() -> None:
    repaired: list[str] = []
    items = [user(), a_call("1"), a_call("1"), an_output("1"), an_output("9"), user(), a_call("2")]
    messages = said(*items, repaired=repaired)
    assert [m.role for m in messages].count("tool") == sum(len(m.tool_calls) for m in messages) == 3
    assert len(repaired) >= 3


def test_tools_choices_and_formats() -> None:
    both = {"tools": [CLOCK, CLOCK | {"name": "sun", "strict": False, "description": "Up?"}]}
    assert parse(**both).tools == (Tool("clock"), Tool("sun", "Up?", strict=False))
    named = parse(**both, tool_choice={"type": "function", "name": "sun"})
    assert named.tool_choice == ToolChoice("named", "sun")
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [CLOCK]}
    request = parse(**both, tool_choice=allowed, parallel_tool_calls=False)
    assert (request.tools, request.tool_choice) == ((Tool("clock"),), ToolChoice("required"))
    assert not request.parallel_tool_calls
    schema = {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": True}
    format = parse(text={"format": schema}).response_format
    assert format == ResponseFormat("json_schema", {"type": "object"})
    assert parse(text={"format": {"type": "json_object"}}).response_format.kind == "json_object"
    assert parse(include=["message.output_text.logprobs"]).sampling.num_logprobs == 0
    assert parse(top_logprobs=3).sampling.num_logprobs == 3
    assert parse().sampling.num_logprobs is None
    assert parse(f1={"eager_arguments": True}).eager_arguments


def test_null_counts_as_absent() -> None:
    names = (
        "background conversation include instructions max_output_tokens max_tool_calls metadata"
        " moderation parallel_tool_calls previous_response_id prompt prompt_cache_key reasoning"
        " safety_identifier service_tier store stream stream_options temperature text tool_choice"
        " tools top_logprobs top_p truncation user"
    ).split()
    assert parse(**dict.fromkeys(names), seed=1) == parse(seed=1)


def given(*items: Any) -> dict[str, Any]:
    return {"input": list(items)}


PART = {"type": "input_text"}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"input": None}, "input"),
    ({"input": []}, "input"),
    ({"input": 5}, "input"),
    (given("Hello"), "input[0]"),
    ({"input": [user()] * 3000}, "input"),
    (given({"role": "robot", "content": ""}), "input[0].role"),
    (given({"type": "web_search_call", "id": "x"}), "input[0].type"),
    (given({"type": 5}), "input[0].type"),
    (given({}), "input[0].type"),
    (given({"role": "user"}), "input[0].content"),
    (given({"role": "user", "content": {}}), "input[0].content"),
    (given({"role": "user", "content": [{"type": "input_image"}]}), "input[0].content[0].type"),
    (given({"role": "user", "content": [PART]}), "input[0].content[0].text"),
    (given({"role": "user", "content": [PART | {"text": "x"}] * 300}), "input[0].content"),
    (given(user() | {"id": "x" * 200}), "input[0].id"),
    (given(user() | {"status": "new"}), "input[0].status"),
    (given(a_call("1")), "input"),
    (given(a_call("1"), a_call("1"), an_output("1")), "input[1].call_id"),
    (given(user(), an_output("1")), "input[1].call_id"),
    (given(a_call("1"), an_output("1"), an_output("1")), "input[2].call_id"),
    (given(*(a_call(str(i)) for i in range(129))), "input[128].type"),
    (given(a_call("1") | {"arguments": "{"}), "input[0].arguments"),
    (given(a_call("1") | {"arguments": {}}), "input[0].arguments"),
    (given(a_call("1") | {"name": ""}), "input[0].name"),
    (given(a_call("")), "input[0].call_id"),
    (given(a_call("1"), an_output("1", None)), "input[1].output"),
    (given(a_call("1"), an_output("1", [{"type": "input_file"}])), "input[1].output[0].type"),
    (given({"type": "reasoning", "summary": [{"type": "x"}]}), "input[0].summary[0].type"),
    (given({"type": "item_reference"}), "input[0].id"),
    ({"instructions": ["x"]}, "instructions"),
    ({"previous_response_id": 5}, "previous_response_id"),
    *[({name: value}, name)
      for name in ("temperature", "top_p")
      for value in (float("nan"), float("inf"), -3, "1", True, [])],
    *[({"max_output_tokens": value}, "max_output_tokens")
      for value in (-1, 0, 2**31, 1.5, "1", True)],
    ({"top_logprobs": 21}, "top_logprobs"),
    ({"include": ["everything"]}, "include[0]"),
    ({"include": "message.output_text.logprobs"}, "include"),
    ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
    ({"metadata": {"a": 1}}, "metadata.a"),
    ({"metadata": {"a": "x" * 513}}, "metadata.a"),
    ({"truncation": "always"}, "truncation"),
    ({"service_tier": "gold"}, "service_tier"),
    ({"reasoning": {"amount": 1}}, "reasoning.amount"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_obfuscation": True}}, "stream_options"),
    ({"store": "no"}, "store"),
    ({"background": True}, "background"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"prompt": {"id": "x"}}, "prompt"),
    ({"text": {"format": {"type": "yaml"}}}, "text.format.type"),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
    ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
    ({"text": {"style": "x"}}, "text.style"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [CLOCK | {"name": "a b"}]}, "tools[0].name"),
    ({"tools": [CLOCK | {"parameters": []}]}, "tools[0].parameters"),
    ({"tools": [CLOCK | {"defer_loading": True}]}, "tools[0].defer_loading"),
    ({"tools": [{"type": "function", "function": {"name": "x"}}]}, "tools[0].function"),
    ({"tools": [CLOCK] * 600}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [CLOCK], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice.name"),
    ({"tools": [CLOCK], "tool_choice": {"type": "web_search"}}, "tool_choice.type"),
    ({"f1": {"magic": True}}, "f1.magic"),
    ({"messages": []}, "messages"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), WRONG)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        said_by(HELLO | fields)
    assert caught.value.param == param
    assert param in caught.value.message
    assert len(caught.value.message) < 400
