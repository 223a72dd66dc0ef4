"""`f1` over HTTP, with OpenAI's client: registered tools that the server runs, the caller's own,
plans, progress. What the model says is scripted, all else is real."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from scripted import Spelling, call
from serving import Running, serving, wait_until_loaded

from f1.engine import AsyncEngine
from f1.tools.function import tool
from f1.tools.registry import OPERATOR
from f1.types import GenerateRequest, Tool


@tool(read_only=True)
def stock(item: str) -> dict[str, int]:
    """How many there are of an item."""
    return {"count": len(item)}


@tool(read_only=True)
def double(number: int) -> int:
    """Twice the number."""
    return 2 * number


DOOR = {"type": "function", "function": {"name": "open_door", "description": "Opens a door."}}
PLAN = {
    "nodes": [
        {"id": "1", "tool": "stock", "arguments": {"item": "tea"}},
        {"id": "2", "tool": "double", "arguments": {"number": {"ref": "1", "path": "count"}}},
    ]
}


def turn(request: GenerateRequest) -> Any:
    """Looks up, and answers with what it found; opens the door where there is one."""
    results = [m.content for m in request.messages if m.role == "tool"]
    if results:
        return " and ".join(results)
    calls = [call("stock", item="tea"), call("open_door")]
    names = {tool.name for tool in request.tools}
    return [each for each in calls if each.name in names] or "Nothing to do."


@pytest.fixture(scope="module")
def server(smollm_path: Path) -> Iterator[Running]:
    load = lambda: Spelling(AsyncEngine.start(str(smollm_path)), turn)  # noqa: E731
    with serving(load) as running, httpx.Client() as http:
        wait_until_loaded(http, running)
        for function in (stock, double):
            running.state.registrar.registry.put_tool(OPERATOR, function.spec)
        yield running


@pytest.fixture
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def ask(client: openai.OpenAI, sent: Sequence[Any] = (), /, *more: Any, **own: Any) -> Any:
    messages = [{"role": "user", "content": "How much tea is there?"}, *more]
    given: dict[str, Any] = {"tools": sent} if sent else {}
    return client.chat.completions.create(
        model="f1", messages=messages, extra_body={"f1": own}, **given
    ).choices[0]


def test_the_server_runs_what_is_registered(client: openai.OpenAI) -> None:
    choice = ask(client, (), tools=["stock"])
    assert choice.message.content == '{"count":3} '
    assert choice.finish_reason == "stop"
    (result,) = choice.f1["results"]
    assert (result["tool"], result["content"]) == ("stock", '{"count":3}')
    assert choice.f1["ending"] == "answered"


def test_ours_and_the_callers_in_one_turn(client: openai.OpenAI) -> None:
    choice = ask(client, [DOOR], tools=["stock"])
    assert choice.finish_reason == "tool_calls"
    (theirs,) = choice.message.tool_calls
    assert theirs.function.name == "open_door"
    told = {"role": "tool", "tool_call_id": theirs.id, "content": "open"}
    said = choice.message.model_dump(exclude_none=True)
    choice = ask(client, [DOOR], said, told, tools=["stock"])
    assert choice.message.content == '{"count":3} and open '


def test_a_plan_comes_back_edited(client: openai.OpenAI) -> None:
    planned = ask(client, (), tools=["stock", "double"], plan="only")
    assert planned.message.content in ("", None)
    assert planned.f1["ending"] == "planned"
    (node,) = planned.f1["plan"]["nodes"]
    assert (node["tool"], node["arguments"]) == ("stock", {"item": "tea"})
    node["arguments"] = {"item": "coffee"}
    done = ask(client, (), tools=["stock", "double"], plan={"nodes": [node]})
    assert done.message.content == '{"count":6} '


def test_references_are_put_in_by_value(client: openai.OpenAI) -> None:
    done = ask(client, (), tools=["stock", "double"], plan=PLAN)
    assert [json.loads(r["arguments"]) for r in done.f1["results"]] == [
        {"item": "tea"},
        {"number": 3},
    ]
    assert done.f1["plan"]["nodes"][1]["arguments"] == PLAN["nodes"][1]["arguments"]


@pytest.mark.parametrize(
    ("own", "param"),
    [
        ({"tools": ["nothing"]}, "f1.tools[0]"),
        ({"toolsets": ["nothing"]}, "f1.toolsets[0]"),
        ({"strategy": "wild"}, "f1.strategy"),
        (
            {"plan": {"nodes": [{"id": "1", "tool": "no", "arguments": {}}]}},
            "f1.plan.nodes[0].tool",
        ),
        ({"tools": ["stock"], "roles": {"caller": "nobody"}}, "f1.roles.caller"),
        ({"budget": {"steps": 0}}, "f1.budget.steps"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_named(client: openai.OpenAI, own: dict[str, Any], param: str) -> None:
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as refused:
        ask(client, (), **own)
    assert refused.value.body["param"] == param  # type: ignore[index]


def test_a_stream_tells_what_happens_and_then_says_the_same(client: openai.OpenAI) -> None:
    whole = ask(client, (), tools=["stock"])
    stream = client.chat.completions.create(
        model="f1",
        messages=[{"role": "user", "content": "How much tea is there?"}],
        stream=True,
        extra_body={"f1": {"tools": ["stock"], "progress": True}},
    )
    choices = [choice for chunk in stream for choice in chunk.choices]
    told = [choice.f1 for choice in choices if hasattr(choice, "f1")]
    assert [next(iter(item)) for item in told[:-1]] == ["node", "started", "result"]
    assert "".join(c.delta.content or "" for c in choices) == whole.message.content
    assert told[-1]["ending"] == whole.f1["ending"]


def test_the_operators_defaults_give_way_to_what_a_request_brings(server: Running) -> None:
    registry, state = server.state.registrar.registry, server.state
    registry.put_toolset(OPERATOR, "stock", [stock.spec])
    theirs = Tool("stock", "Something else.", {"type": "object", "properties": {}})
    defaults = replace(state.limits.defaults, toolsets=("stock",))
    asked = GenerateRequest((), (theirs,), run=defaults)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state, "limits", replace(state.limits, defaults=defaults))
        assert state.system.registered("", asked) == ()
        assert len(state.system.registered("", replace(asked, tools=()))) == 1
