"""The client's own logic: requests built, threads crossed, results typed. (test_server.py has it
talk to a real server, and both to a real model.)"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, closing

import pydantic
import pytest
from scripted import ScriptedEngine, Turn, call
from serving import serving

from f1 import F1, F1Error, Message, Tool, tool
from f1.errors import EngineStopped, InvalidRequest, Unauthorized
from f1.planning.outcome import CallTools, Reply
from f1.portal import Portal
from f1.serve.access import Access, Key
from f1.types import CallDelta, Finished, TextDelta


@tool
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


DOOR = {"type": "function", "function": {"name": "open_door", "description": "Opens a door."}}


class City(pydantic.BaseModel):
    name: str
    people: int


@pytest.fixture
def embed(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """A client around a scripted engine in place of a model."""
    clients = []

    def make(*turns: Turn) -> tuple[F1, ScriptedEngine]:
        engine = ScriptedEngine(*turns)
        monkeypatch.setattr("f1.client._embed", lambda *_: (engine, engine.close))
        clients.append(F1())
        return clients[-1], engine

    yield make
    for client in clients:
        client.close()


def test_chat_describes_functions_dicts_and_tools(embed) -> None:
    f1, engine = embed("Hello there.")
    result = f1.chat("Hi", tools=[add, DOOR, Tool("wave")], tool_choice="add", seed=3, top_k=2)
    assert (result.text, result.reason, result.calls) == ("Hello there. ", "stop", ())
    (request,) = engine.requests
    assert [t.name for t in request.tools] == ["add", "open_door", "wave"]
    assert request.tools[0] == add.tool
    assert request.tool_choice.name == "add"
    assert (request.sampling.seed, request.sampling.top_k) == (3, 2)


def test_a_turn_can_be_appended_and_answered(embed) -> None:
    f1, engine = embed([call("add", a=1, b=2)], "Three.")
    first = f1.chat("1 + 2?", tools=[add])
    answer = {"role": "tool", "tool_call_id": first.calls[0].id, "content": "3"}
    assert f1.chat([Message("user", "1 + 2?"), first.message, answer], [add]).text == "Three. "
    assert [m.role for m in engine.requests[1].messages] == ["user", "assistant", "tool"]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": float("nan")},
        {"temprature": 1},
        {"tool_choice": "subtract"},
        {"seed": "x"},
        {"n": 2},
        {"timeout": 1},
    ],
)
def test_wrong_options_are_refused_before_any_work(embed, options) -> None:
    f1, engine = embed("Hello.")
    with pytest.raises(F1Error) as caught:
        f1.chat("Hi", [add], **options)
    assert caught.value.status == 400
    assert engine.requests == []


def test_response_format_takes_a_pydantic_model(embed) -> None:
    f1, engine = embed('{"name": "Rome", "people": 3}')
    result = f1.chat("A city", response_format=City)
    assert result.parsed == City(name="Rome", people=3)
    assert engine.requests[0].response_format.value == City.model_json_schema()


def test_stream(embed) -> None:
    f1, _ = embed("One two.")
    assert [type(event) for event in f1.stream("Count")] == [TextDelta, TextDelta, Finished]


def test_a_stream_closed_early_stops_the_work(embed) -> None:
    f1, engine = embed("One two …")
    with closing(f1.stream("Count")) as events:
        next(events)
    assert engine.stopped_early == 1


def test_run_calls_functions_and_answers(embed) -> None:
    f1, _ = embed([call("add", a=1, b=2)], "Three.")
    result = f1.run("1 + 2?", [add])
    assert isinstance(result.outcome, Reply)
    assert (result.text, result.calls) == ("Three. ", ())
    assert [r.content for r in result.results] == ["3"]


def test_run_returns_calls_that_are_not_its_own(embed) -> None:
    f1, _ = embed([call("open_door")])
    result = f1.run("Let me in", [add, DOOR])
    assert isinstance(result.outcome, CallTools)
    assert (result.text, [c.name for c in result.calls]) == ("", ["open_door"])


async def test_async_calls(embed) -> None:
    f1, _ = embed("Hello.", [call("add", a=1, b=2)])
    assert (await f1.achat("Hi")).text == "Hello. "
    events = [event async for event in f1.astream("Hi", [add])]
    assert [type(event) for event in events] == [CallDelta, Finished]


async def test_arun_runs_coroutine_tools_on_the_callers_loop(embed) -> None:
    loops = []

    @tool
    async def where() -> str:
        """Tells nothing."""
        loops.append(asyncio.get_running_loop())
        return "here"

    f1, _ = embed([call("where")], "Done.")
    assert (await f1.arun("Where?", [where])).text == "Done. "
    assert loops == [asyncio.get_running_loop()]


async def test_a_cancelled_async_call_stops_the_work(embed) -> None:
    f1, engine = embed("One two …")
    async with aclosing(f1.astream("Count")) as events:
        await anext(events)
    assert engine.stopped_early == 1


async def test_a_call_cancelled_before_it_began_ends(embed) -> None:
    f1, engine = embed("Hello.")
    gate = threading.Event()
    f1._portal._loop.call_soon_threadsafe(gate.wait)  # nothing begins before it opens
    asking = asyncio.create_task(f1.achat("Hi"))
    await asyncio.sleep(0)  # it has asked, and waits
    asking.cancel()
    await asyncio.sleep(0)  # it has called it off, and waits for the end
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert engine.requests == []


async def test_a_closed_client_says_so(embed) -> None:
    f1, _ = embed("Hello.")
    f1.close()
    with pytest.raises(EngineStopped, match="closed"):
        f1.chat("Hi")
    with pytest.raises(EngineStopped, match="closed"):
        list(f1.stream("Hi"))
    with pytest.raises(EngineStopped, match="closed"):
        await f1.achat("Hi")


def test_it_can_be_used_from_many_threads(embed) -> None:
    f1, engine = embed(*["Hello."] * 8)
    texts: list[str] = []
    threads = [threading.Thread(target=lambda: texts.append(f1.chat("Hi").text)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == ["Hello. "] * 8
    assert len(engine.requests) == 8


def test_closing_frees_the_engine(embed) -> None:
    f1, engine = embed("Hello.")
    with f1:
        f1.chat("Hi")
    f1.close()  # once more does no harm
    assert engine.closed


def test_a_servers_key_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    alice = Key("alice", hashlib.sha256(b"secret").digest())
    with serving(lambda: ScriptedEngine("Hello."), access=Access(keys=(alice,))) as server:
        while server.state.models is None:
            pass
        for key in ("", "wrong"):
            monkeypatch.setenv("F1_API_KEY", key)
            with F1(base_url=server.url) as f1, pytest.raises(Unauthorized):
                f1.chat("Hi")
        monkeypatch.setenv("F1_API_KEY", "secret")
        with F1(base_url=server.url) as f1:
            assert f1.chat("Hi").text == "Hello. "


def test_an_error_in_a_stream_reaches_the_reader() -> None:
    async def broken() -> AsyncGenerator[int]:
        yield 1
        raise ValueError("broken")

    portal = Portal()
    items = portal.iterate(broken)
    assert next(items) == 1
    with pytest.raises(ValueError, match="broken"):
        next(items)
    portal.close()


def test_registered_functions_are_named_and_run(embed) -> None:
    f1, engine = embed([call("add", a=1, b=2)], "Three.", "Nothing to do.", "A set.")
    assert f1.register([add, DOOR]) == ("add", "open_door")
    assert [tool.name for tool in f1.tools()] == ["add", "open_door"]
    assert engine.registered == [["add"], ["open_door"]]
    result = f1.run("1 + 2?", f1={"tools": ["add"]})
    assert (result.text, [r.content for r in result.results]) == ("Three. ", ["3"])
    assert f1.chat("Hi", f1={"tools": ["add", "open_door"]}).text.startswith("Nothing")
    assert [t.name for t in engine.requests[-1].tools] == ["add", "open_door"]
    assert f1.register([add], toolset="sums") == ("sums",)
    f1.chat("Hi", f1={"toolsets": ["sums@1"]})
    assert [t.name for t in engine.requests[-1].tools] == ["add"]
    with pytest.raises(InvalidRequest) as caught:
        f1.run("Hi", f1={"toolsets": ["travel"]})
    assert caught.value.param == "f1.toolsets[0]"
    with pytest.raises(InvalidRequest) as caught:
        f1.register([add, add], toolset="twice")
    assert caught.value.param == "tools[1].name"


async def test_registered_coroutines_run_on_the_callers_loop(embed) -> None:
    f1, _ = embed([call("where")], "Here.")
    loops = []

    @tool
    async def where() -> str:
        """Tells where."""
        loops.append(asyncio.get_running_loop())
        return "here"

    await asyncio.to_thread(f1.register, [where])
    assert (await f1.arun("Where?", f1={"tools": ["where"]})).text == "Here. "
    assert loops == [asyncio.get_running_loop()]


def test_a_server_keeps_what_is_registered_and_returns_the_calls() -> None:
    engine = ScriptedEngine([call("add", a=1, b=2)], [call("add", a=1, b=2)], "Three.")
    with serving(lambda: engine) as server, F1(base_url=server.url) as f1:
        while not server.state.models or not server.state.models.started:
            pass
        assert f1.register([add], toolset="sums") == ("sums",)
        assert engine.registered == [["add"]]
        (kept,) = server.state.registrar.registry.toolset("", "sums").tools
        assert (kept.tool, kept.runner, kept.output) == (add.tool, None, add.output)
        (asked,) = f1.chat("1 + 2?", f1={"toolsets": ["sums"]}).calls
        assert asked.name == "add"
        assert f1.run("1 + 2?", f1={"toolsets": ["sums"]}).text == "Three. "
        with pytest.raises(InvalidRequest) as caught:
            f1.register([{"type": "function", "function": {"name": "x", "parameters": {"a": 1}}},
                         {"type": "function", "function": {"name": "x"}}], toolset="x")  # fmt: skip
        assert caught.value.param == "tools[1].name"
