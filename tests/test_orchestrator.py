"""The loop from a question to an answer, with turns that are given."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace

import pytest
from scripted import ScriptedEngine, call

from f1.errors import InvalidRequest
from f1.planning.orchestrator import Orchestrator, System
from f1.planning.outcome import CallTools, GiveUp, Progress, Reply, report_of
from f1.planning.run import Engine
from f1.tools.function import FunctionTool, tool
from f1.types import (
    Budget,
    CallDelta,
    Event,
    Finished,
    GenerateRequest,
    Message,
    Node,
    Note,
    TextDelta,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)

BOTH_CALLED = threading.Barrier(2, timeout=30)


@tool
def price(item: str) -> int:
    """Price of an item; returns only once two calls run."""
    BOTH_CALLED.wait()
    return {"tea": 3, "cake": 4}[item]


@tool
def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


ASK = GenerateRequest((Message("user", "What do tea and cake cost?"),))


def of(engine: Engine, functions: Sequence[FunctionTool] = ()) -> Orchestrator:
    return Orchestrator(System.of(engine), [function.spec for function in functions])


def within(request: GenerateRequest, **run: object) -> GenerateRequest:
    return replace(request, run=replace(request.run, **run))  # type: ignore[arg-type]


def called(items: Sequence[Progress]) -> list[list[str]]:
    """The ids of the calls, by the turn that made them: those of one are told of before any of the
    next."""
    turns: list[list[str]] = [[]]
    for item in items:
        if isinstance(item, ToolResult) and turns[-1]:
            turns.append([])
        elif isinstance(item, Node):
            turns[-1].append(item.call_id)
    return [turn for turn in turns if turn]


async def run(orchestrator: Orchestrator, request: GenerateRequest = ASK) -> list[Progress]:
    async with aclosing(orchestrator.run(request)) as progress:
        return [item async for item in progress]


async def test_two_calls_at_once_then_a_third_with_both_results() -> None:
    def sum_of_results(request: GenerateRequest) -> Sequence[object]:
        a, b = (int(m.content) for m in request.messages if m.role == "tool")
        return [call("add", a=a, b=b)]

    engine = ScriptedEngine(
        [call("price", "1", item="tea"), call("price", "2", item="cake")],
        sum_of_results,  # type: ignore[arg-type]
        lambda request: f"It is {request.messages[-1].content}.",
    )
    items = await run(of(engine, [price, add]))
    assert called(items) == [["1", "2"], ["call_add"]]
    results = {item.call.id: item.content for item in items if isinstance(item, ToolResult)}
    assert results == {"1": "3", "2": "4", "call_add": "7"}
    assert isinstance(items[-1], Reply)
    assert items[-1].completion.message.content == "It is 7. "
    assert items[-1].completion.usage.prompt_tokens == 30
    # Results stand in the order of the calls, right after the turn that made them.
    roles = [(m.role, m.tool_call_id) for m in engine.requests[1].messages]
    assert roles == [("user", None), ("assistant", None), ("tool", "1"), ("tool", "2")]


THEIRS = Tool("open_door", "Opens a door.")


async def test_calls_to_a_clients_tools_are_returned_never_run() -> None:
    engine = ScriptedEngine([call("open_door"), call("add", a=1, b=2)])
    request = GenerateRequest(ASK.messages, tools=(THEIRS,))
    *_, outcome = await run(of(engine, [add]), request)
    assert isinstance(outcome, CallTools)
    assert [c.name for c in outcome.calls] == ["open_door"]
    assert report_of(outcome).ending == "client_calls"
    assert [t.name for t in engine.requests[0].tools] == ["open_door", "add"]


async def test_the_last_step_has_to_answer() -> None:
    def turn(request: GenerateRequest) -> object:
        if request.tool_choice.mode == "none":
            return "Enough."
        return [call("add", a=1, b=2)]

    engine = ScriptedEngine(turn)  # type: ignore[arg-type]
    items = await run(of(engine, [add]), within(ASK, budget=Budget(steps=3)))
    assert isinstance(items[-1], Reply)
    assert len(engine.requests) == 3


async def test_gives_up_when_the_model_only_calls() -> None:
    engine = ScriptedEngine([call("add", a=1, b=2)])
    items = await run(of(engine, [add]), within(ASK, budget=Budget(steps=2)))
    assert isinstance(items[-1], GiveUp)
    assert "2 steps" in items[-1].why


async def test_gives_up_on_silence() -> None:
    (outcome,) = await run(of(ScriptedEngine(""), [add]))
    assert isinstance(outcome, GiveUp)


async def test_a_failed_call_is_read_by_the_model() -> None:
    engine = ScriptedEngine([call("add", a=1, b="x")], lambda request: request.messages[-1].content)
    items = await run(of(engine, [add]))
    assert isinstance(items[-1], Reply)
    assert "do not fit the schema" in items[-1].completion.message.content


async def test_a_forced_call_is_forced_once() -> None:
    engine = ScriptedEngine([call("add", a=1, b=2)], "Three.")
    request = GenerateRequest(ASK.messages, tool_choice=ToolChoice("named", "add"))
    await run(of(engine, [add]), request)
    assert [r.tool_choice.mode for r in engine.requests] == ["named", "auto"]


@pytest.mark.parametrize(
    "request_", [GenerateRequest(ASK.messages, n=2), GenerateRequest(ASK.messages, (Tool("add"),))]
)
async def test_refuses_several_choices_and_names_given_twice(request_: GenerateRequest) -> None:
    with pytest.raises(InvalidRequest):
        await run(of(ScriptedEngine("Hi."), [add]), request_)


async def events_of(orchestrator: Orchestrator, request: GenerateRequest) -> list[Event]:
    async with aclosing(orchestrator.generate(request)) as events:
        return [event async for event in events]


async def test_as_an_engine_it_hides_its_own_calls() -> None:
    engine = ScriptedEngine([call("add", a=1, b=2)], [call("open_door")])
    request = GenerateRequest(ASK.messages, tools=(THEIRS,))
    events = await events_of(of(engine, [add]), request)
    match events:
        case [CallDelta(0, 0, open_door), Finished(0, "tool_calls", usage)]:
            assert open_door.name == "open_door"
            assert usage.prompt_tokens == 20
        case _:
            pytest.fail(f"unexpected events: {events}")


async def test_without_tools_of_its_own_it_passes_everything_on() -> None:
    request = GenerateRequest(ASK.messages, n=2)
    events = await events_of(of(ScriptedEngine("Hello there.")), request)
    assert {event.choice for event in events} == {0, 1}


async def test_closing_the_run_stops_the_turn() -> None:
    engine = ScriptedEngine("One two …")
    async with aclosing(of(engine, [add]).run(ASK)) as progress:
        async for item in progress:
            assert isinstance(item, TextDelta)
            break
    assert engine.stopped_early == 1


async def test_a_call_with_numbers_nobody_said_waits_for_results() -> None:
    guess = call("add", "guess", a=111, b=222)
    engine = ScriptedEngine(
        [call("price", "1", item="tea"), call("price", "2", item="cake"), guess],
        [call("add", "3", a=3, b=4)],
        "Seven.",
    )
    items = await run(of(engine, [price, add]))
    assert called(items) == [["1", "2"], ["3"]]
    assert any(isinstance(item, Note) and "add waited" in item.text for item in items)
    # The model does not see that it guessed.
    assert "guess" not in [c.id for m in engine.requests[1].messages for c in m.tool_calls]


async def test_where_all_is_guessed_the_other_tools_are_tried_first() -> None:
    guess = call("add", "guess", a=111, b=222)
    found = [call("price", "1", item="tea"), call("price", "2", item="cake")]
    engine = ScriptedEngine([guess], found, [call("add", "3", a=3, b=4)], "Seven.")
    items = await run(of(engine, [price, add]))
    assert [t.name for t in engine.requests[1].tools] == ["price"]
    assert called(items) == [["1", "2"], ["3"]]


async def test_a_guess_runs_where_nothing_else_is_to_be_found_out() -> None:
    engine = ScriptedEngine([call("add", "1", a=111, b=222)], "Hm.", "333.")
    items = await run(of(engine, [price, add]))
    assert called(items) == [["1"]]
    assert "Hm. " not in [item.text for item in items if isinstance(item, TextDelta)]


async def test_a_call_made_before_is_not_made_again() -> None:
    engine = ScriptedEngine(
        [call("add", "1", a=1, b=2)],
        [ToolCall("2", "add", '{ "b": 2, "a": 1 }')],
        "Three.",
    )
    items = await run(of(engine, [add]))
    assert len([item for item in items if isinstance(item, ToolResult)]) == 1
    assert engine.requests[2].tool_choice == ToolChoice("none")
    assert isinstance(items[-1], Reply)
