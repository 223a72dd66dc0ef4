"""Runs of the system: mixed tools, plans, budgets, long conversations, early starts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import pytest
from scripted import ScriptedEngine, call

from f1.errors import InvalidRequest
from f1.planning.collect import gather
from f1.planning.compaction import compacted
from f1.planning.orchestrator import Orchestrator, System
from f1.planning.outcome import CallTools, GiveUp, Planned, Progress, Reply, report_of
from f1.planning.pending import MAX_BYTES, MAX_RUNS, MAX_SECONDS, Pending, Waiting
from f1.tools.function import tool
from f1.tools.spec import ToolSpec
from f1.types import (
    ArgumentsDelta,
    Budget,
    CallBegun,
    CallDelta,
    Event,
    Finished,
    GenerateRequest,
    Message,
    Node,
    ResponseFormat,
    RunEvent,
    RunOptions,
    Started,
    TextDelta,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Usage,
)


@tool(read_only=True)
def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


ASK = GenerateRequest((Message("user", "Open the door and add 1 and 2."),))
DOOR = Tool("open_door", "Opens a door.")
ROOM = Tool("enter", "Enters.", {"type": "object", "properties": {"room": {"type": "integer"}}})


async def run(system: System, request: GenerateRequest, *functions: Any) -> list[Progress]:
    own = [function.spec for function in functions]
    async with aclosing(Orchestrator(system, own).run(request)) as items:
        return [item async for item in items]


def within(request: GenerateRequest, **options: Any) -> GenerateRequest:
    return replace(request, run=replace(request.run, **options))


def back(request: GenerateRequest, outcome: CallTools, *results: str) -> GenerateRequest:
    """The request that a client makes when it has run the calls."""
    said = Message("assistant", "", outcome.calls)
    told = [
        Message("tool", content, tool_call_id=call.id)
        for call, content in zip(outcome.calls, results, strict=True)
    ]
    return replace(request, messages=(*request.messages, said, *told))


async def test_ours_and_theirs_in_one_turn_both_reach_the_model() -> None:
    engine = ScriptedEngine(
        [call("add", "ours", a=1, b=2), call("open_door", "theirs")],
        lambda request: " ".join(m.content for m in request.messages if m.role == "tool"),
    )
    system, request = System.of(engine), replace(ASK, tools=(DOOR,))
    *_, outcome = await run(system, request, add)
    assert isinstance(outcome, CallTools)
    assert [c.id for c in outcome.calls] == ["theirs"]
    *_, outcome = await run(system, back(request, outcome, "It is open."), add)
    assert isinstance(outcome, Reply)
    assert outcome.completion.message.content == "3 It is open. "
    calls = [c.id for m in engine.requests[1].messages for c in m.tool_calls]
    assert calls == ["ours", "theirs"]


async def test_another_tenant_gets_nothing_of_what_waits() -> None:
    engine = ScriptedEngine([call("add", "ours", a=1, b=2), call("open_door", "theirs")], "Done.")
    system, request = System.of(engine), replace(ASK, tools=(DOOR,))
    *_, outcome = await run(system, request, add)
    assert isinstance(outcome, CallTools)
    other = Orchestrator(system, [add.spec], tenant="other")
    async with aclosing(other.run(back(request, outcome, "It is open."))) as items:
        [item async for item in items]
    assert [c.id for m in engine.requests[1].messages for c in m.tool_calls] == ["theirs"]


async def test_a_plan_goes_on_with_what_the_caller_brings() -> None:
    """The door's answer is the number of the room that our tool, and theirs, need next."""
    plan = {
        "nodes": [
            {"id": "1", "tool": "open_door", "arguments": {}},
            {"id": "2", "tool": "add", "arguments": {"a": {"ref": "1", "path": "room"}, "b": 1}},
            {"id": "3", "tool": "enter", "arguments": {"room": {"ref": "2"}}},
        ]
    }
    engine = ScriptedEngine("All done.")
    system = System.of(engine)
    request = within(replace(ASK, tools=(DOOR, ROOM)), plan=plan)
    *_, outcome = await run(system, request, add)
    assert isinstance(outcome, CallTools)
    assert [c.name for c in outcome.calls] == ["open_door"]
    again = back(request, outcome, '{"room": 41}')
    *_, outcome = await run(system, again, add)
    assert isinstance(outcome, CallTools)
    assert [(c.name, c.arguments) for c in outcome.calls] == [("enter", '{"room": 42}')]
    *_, outcome = await run(system, back(again, outcome, "In."), add)
    assert isinstance(outcome, Reply)
    assert [r.content for r in report_of(outcome).results] == ['{"room": 41}', "42", "In."]
    assert len(engine.requests) == 1  # the plan was the caller's: only the answer is decoded


async def test_a_plan_alone_runs_nothing() -> None:
    engine = ScriptedEngine([call("add", a=1, b=2)], "Three.")
    items = await run(System.of(engine), within(ASK, plan_only=True), add)
    assert isinstance(items[-1], Planned)
    assert [node.tool for node in report_of(items[-1]).plan.nodes] == ["add"]
    assert not any(isinstance(item, Started | ToolResult) for item in items)


@pytest.mark.parametrize("bad", [{"nodes": [{"id": "1", "tool": "no", "arguments": {}}]}, {}])
async def test_a_plan_that_cannot_be_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await run(System.of(ScriptedEngine("")), within(ASK, plan=bad), add)
    assert (refused.value.param or "").startswith("f1.plan.nodes")


@dataclass
class Pausing:
    """Decodes one call, then nothing until it may."""

    go_on: asyncio.Event

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        usage = Usage(1, 1)
        if any(m.role == "tool" for m in request.messages):
            yield TextDelta(0, "Done.")
            yield Finished(0, "stop", usage)
            return
        yield CallDelta(0, 0, call("note", "1"))
        await self.go_on.wait()
        yield CallDelta(0, 1, call("note", "2", again=True))
        yield Finished(0, "tool_calls", usage)


async def test_a_call_starts_while_the_rest_is_decoded() -> None:
    ran = asyncio.Event()

    @tool
    async def note(again: bool = False) -> str:
        """Notes."""
        ran.set()
        return "noted"

    # The second call is decoded only once the first has run: a run that waited for the end of the
    # turn would never get there.
    items = await asyncio.wait_for(run(System.of(Pausing(ran)), ASK, note), 30)
    assert isinstance(items[-1], Reply)
    kinds = [type(item) for item in items]
    assert kinds.index(Started) < max(i for i, kind in enumerate(kinds) if kind is Node)


# --- budgets -------------------------------------------------------------------------------------


def counting(request: GenerateRequest) -> object:
    """Asks for a call that it has not made, as long as it may."""
    if request.tool_choice.mode == "none":
        return "Enough."
    return [call("add", f"c{len(request.messages)}", a=len(request.messages) % 10, b=1)]


@pytest.mark.parametrize(
    ("budget", "requests", "calls", "ending"),
    [
        (Budget(steps=3), 3, 2, "answered"),
        (Budget(steps=1), 1, 1, "steps"),
        (Budget(calls=2), 3, 2, "answered"),
        (Budget(tokens=1), 1, 1, "tokens"),
        (Budget(seconds=0.0), 1, 0, "seconds"),
    ],
)
async def test_a_budget_ends_the_run_and_says_so(
    budget: Budget, requests: int, calls: int, ending: str
) -> None:
    engine = ScriptedEngine(counting)  # type: ignore[arg-type]
    items = await run(System.of(engine), within(ASK, budget=budget), add)
    report = report_of(items[-1])  # type: ignore[arg-type]
    assert (len(engine.requests), len(report.results)) == (requests, calls) or ending == "seconds"
    assert report.ending == ending
    assert isinstance(items[-1], Reply if ending == "answered" else GiveUp)
    assert items[-1].completion.message.tool_calls == ()


async def test_a_tool_that_never_ends_does_not_outlast_the_budget() -> None:
    @tool
    async def hang() -> None:
        """Hangs."""
        await asyncio.Event().wait()

    engine = ScriptedEngine([call("hang")])
    items = await run(System.of(engine), within(ASK, budget=Budget(seconds=0.05)), hang)
    assert report_of(items[-1]).ending == "seconds"  # type: ignore[arg-type]


async def test_progress_shows_in_the_events_where_it_is_asked_for() -> None:
    async def events_of(request: GenerateRequest) -> list[Event]:
        engine = ScriptedEngine([call("add", a=1, b=2)], "Three.")
        orchestrator = Orchestrator(System.of(engine), [add.spec])
        async with aclosing(orchestrator.generate(request)) as events:
            return [event async for event in events]

    silent, told = await events_of(ASK), await events_of(within(ASK, progress=True))
    assert [e for e in told if not isinstance(e, RunEvent)] == [
        replace(e, report=told[-1].report) if isinstance(e, Finished) else e  # type: ignore[union-attr]
        for e in silent
    ]
    kinds = [type(e.item) for e in told if isinstance(e, RunEvent)]
    assert kinds == [Node, Started, ToolResult]


# --- the same again ------------------------------------------------------------------------------


async def test_a_look_may_be_taken_again_once_something_has_changed() -> None:
    state = {"n": 0}

    @tool(read_only=True)
    def look() -> int:
        """Looks."""
        return state["n"]

    @tool
    def change() -> str:
        """Changes it."""
        state["n"] += 1
        return "changed"

    engine = ScriptedEngine(
        [call("look", "1")], [call("change", "2")], [call("look", "3")], [call("look", "4")], "One."
    )
    request = GenerateRequest((Message("user", "Look, change it, and look again."),))
    items = await run(System.of(engine), request, look, change)
    results = report_of(items[-1]).results  # type: ignore[arg-type]
    assert [r.content for r in results] == ["0", "changed", "1"]


async def test_a_call_that_failed_may_be_made_once_more() -> None:
    left = [1]

    @tool
    def shy() -> str:
        """Fails once."""
        if left:
            left.pop()
            raise RuntimeError("not yet")
        return "here"

    engine = ScriptedEngine([call("shy", "1")], [call("shy", "2")], [call("shy", "3")], "Here.")
    items = await run(System.of(engine), ASK, shy)
    failed = [r.failed for r in report_of(items[-1]).results]  # type: ignore[arg-type]
    assert failed == ["error", None]


# --- long conversations --------------------------------------------------------------------------


class Counting(ScriptedEngine):
    """Reads a token a word."""

    def __init__(self, context_length: int):
        super().__init__("Yes.")
        self.context_length = context_length

    async def tokenize(self, request: GenerateRequest) -> list[int]:
        return [0] * sum(len(message.content.split()) for message in request.messages)


def talk(num_turns: int) -> GenerateRequest:
    """Twenty words a turn, behind a system message."""
    said = [
        message
        for turn in range(num_turns)
        for message in (
            Message("user", f"q{turn} " + "word " * 9),
            Message("assistant", f"a{turn} " + "word " * 9),
        )
    ]
    return GenerateRequest(
        (Message("system", "Be brief."), *said, Message("user", "last")), max_tokens=10
    )


async def test_what_fits_is_left_alone() -> None:
    request = talk(10)
    assert await compacted(request, Counting(10_000)) == (request, 0)
    assert await compacted(request, ScriptedEngine("")) == (request, 0)  # it cannot count


@pytest.mark.parametrize("num_turns", range(30, 60, 7))
async def test_old_turns_go_in_eights_and_it_is_said(num_turns: int) -> None:
    request = talk(num_turns)
    shorter, dropped = await compacted(request, Counting(400))
    first, *rest = shorter.messages
    assert first.role == "system"
    assert first.content.startswith("Be brief.")
    assert f"({dropped} earlier messages" in first.content
    assert dropped % 16 == 0
    assert tuple(rest) == request.messages[1 + dropped :]
    assert len(await Counting(400).tokenize(shorter)) <= 390


async def test_the_next_turns_begin_as_this_one() -> None:
    """So what was computed for one prompt serves the next."""
    dropped = [(await compacted(talk(n), Counting(400)))[1] for n in range(30, 60)]
    assert dropped == sorted(dropped)
    assert len(set(dropped)) <= 6


async def test_a_last_turn_that_does_not_fit_is_not_helped() -> None:
    request = GenerateRequest((Message("user", "word " * 10_000),), max_tokens=10)
    assert await compacted(request, Counting(400)) == (request, 0)


async def test_the_run_says_what_it_left_out() -> None:
    engine = Counting(400)
    async with aclosing(Orchestrator(System.of(engine)).generate(talk(40))) as events:
        (completion,) = await gather(events, 1)
    assert completion.report.run is not None
    assert completion.report.run.dropped > 0
    assert (
        len(engine.requests[0].messages) == len(talk(40).messages) - completion.report.run.dropped
    )


# --- what waits for callers ----------------------------------------------------------------------


def waiting(number: int) -> Waiting:
    given = ToolCall(f"id{number}", "open_door", "{}")
    return Waiting((Message("assistant", "", (given,)),), (("1", given),))


def asked(number: int) -> Sequence[Message]:
    given = ToolCall(f"id{number}", "open_door", "{}")
    return [Message("assistant", "", (given,)), Message("tool", "x", tool_call_id=given.id)]


def test_what_waits_is_forgotten_in_time_and_in_number() -> None:
    now = [0.0]
    pending = Pending(lambda: now[0])
    for number in range(MAX_RUNS + 1):
        pending.keep("", (), waiting(number))
    assert pending.resume("", asked(0))[1] is None
    assert pending.resume("", asked(1))[1] is not None
    assert pending.resume("", asked(1))[1] is not None  # a client may try again
    now[0] = MAX_SECONDS
    assert pending.resume("", asked(1))[1] is None


def test_options_are_checked_where_they_are_used() -> None:
    assert RunOptions() == GenerateRequest(()).run
    assert ToolSpec(DOOR).runner is None


# --- roles ---------------------------------------------------------------------------------------


async def test_each_role_is_played_by_its_model() -> None:
    caller = ScriptedEngine([call("add", a=1, b=2)], "I say three.")
    writer, router = ScriptedEngine("It is three."), ScriptedEngine("react")
    system = System.of(caller)
    roles = {**system.engines({}), "writer": writer, "router": router}
    items = await run(replace(system, engines=lambda wishes: roles), ASK, add)
    assert isinstance(items[-1], Reply)
    assert items[-1].completion.message.content == "It is three. "
    assert "I say" not in "".join(item.text for item in items if isinstance(item, TextDelta))
    assert [len(engine.requests) for engine in (caller, writer, router)] == [2, 1, 1]
    assert report_of(items[-1]).strategy == "react"


# --- many tools ----------------------------------------------------------------------------------


async def test_a_tool_that_was_left_out_is_found_and_called() -> None:
    @tool(read_only=True)
    def frost_warning(place: str) -> str:
        """Whether the night freezes."""
        return f"frost in {place}"

    others = [replace(add, tool=replace(add.tool, name=f"add_{n}")) for n in range(40)]
    engine = ScriptedEngine(
        [call("search_tools", "1", query="does the night freeze")],
        [call("frost_warning", "2", place="Oslo")],
        "Frost.",
    )
    request = within(ASK, max_tools=4)
    items = await run(System.of(engine), request, *others, frost_warning)
    shown = [{tool.name for tool in request.tools} for request in engine.requests]
    assert "frost_warning" not in shown[0]
    assert "search_tools" in shown[0]
    assert "frost_warning" in shown[1]
    report = report_of(items[-1])  # type: ignore[arg-type]
    assert [r.content for r in report.results][1:] == ["frost in Oslo"]
    assert "searched" in {selected.why for selected in report.selected}
    assert report.num_tools == 41


# --- what small models do ------------------------------------------------------------------------

BOOKED: list[str] = []


@tool(read_only=True)
def flights(to: str) -> list[str]:
    """Flights to a city."""
    return ["DY912"] if to == "Lisbon" else []


@tool
def book_flight(flight: str) -> str:
    """Books a flight."""
    BOOKED.append(flight)
    return "booked"


@tool
def book_hotel(name: str) -> str:
    """Books a hotel."""
    BOOKED.append(name)
    return "booked"


def words(text: str) -> GenerateRequest:
    BOOKED.clear()
    return GenerateRequest((Message("user", text),))


async def test_what_waited_is_called_for_once_there_are_results() -> None:
    def third(request: GenerateRequest) -> Any:
        assert request.tool_choice == ToolChoice("named", "book_flight")
        return [call("book_flight", "2", flight="DY912")]

    engine = ScriptedEngine(
        [call("book_flight", "guess", flight="LH123")],
        [call("flights", "1", to="Lisbon")],
        third,
        "Booked.",
    )
    await run(System.of(engine), words("Book a flight to Lisbon."), flights, book_flight)
    assert BOOKED == ["DY912"]


async def test_the_user_is_asked_for_what_nobody_has_said() -> None:
    engine = ScriptedEngine([call("book_flight", flight="LH123")], "No idea.", "Which flight?")
    items = await run(System.of(engine), words("Book a flight."), flights, book_flight)
    assert isinstance(items[-1], Reply)
    assert items[-1].completion.message.content == "Which flight? "
    assert engine.requests[-1].response_format.kind == "regex"
    assert "the flight" in engine.requests[-1].messages[-1].content
    assert BOOKED == []


async def test_after_a_failure_another_call_is_asked_for() -> None:
    @tool(read_only=True)
    def weather(city: str) -> str:
        """Weather."""
        if city != "Vienna":
            raise LookupError(f"no city '{city}'; did you mean 'Vienna'?")
        return "cloudy"

    modes: list[str] = []

    def again(request: GenerateRequest) -> Any:
        modes.append(request.tool_choice.mode)
        return [call("weather", f"c{len(modes)}", city="Vienna" if len(modes) == 2 else "Wien")]

    engine = ScriptedEngine([call("weather", city="Wien")], again, again, "Cloudy.")
    items = await run(System.of(engine), words("Weather in Wien?"), weather)
    assert modes == ["named", "required"]
    assert [r.failed for r in report_of(items[-1]).results] == ["error", "error", None]  # type: ignore[arg-type]


async def test_what_nobody_asked_for_is_not_done_on_top() -> None:
    engine = ScriptedEngine(
        [call("flights", "1", to="Lisbon"), call("book_flight", "0", flight="LH123")],
        [call("book_flight", "2", flight="DY912")],
        [call("book_hotel", "3", name="Lisbon")],
        "Booked.",
    )
    items = await run(
        System.of(engine), words("Book a flight to Lisbon."), flights, book_flight, book_hotel
    )
    assert BOOKED == ["DY912"]
    assert any("nobody asked" in note for note in report_of(items[-1]).notes)  # type: ignore[arg-type]


async def test_a_call_of_a_tool_that_is_not_there_is_no_answer() -> None:
    disguised = '```json\n{"name": "fly", "arguments": {"to": "Lisbon"}}\n```'
    engine = ScriptedEngine(disguised, "I cannot fly you.")
    items = await run(System.of(engine), words("Fly me to Lisbon."), flights)
    told = [item.text for item in items if isinstance(item, TextDelta)]
    assert "".join(told) == "I cannot fly you. "
    assert "no function 'fly'. There are: flights" in engine.requests[1].messages[-1].content


async def test_a_budget_of_tokens_bounds_a_turn_that_is_all_there_is() -> None:
    engine = ScriptedEngine("Hi.")
    request = within(replace(ASK, n=2, max_tokens=9), budget=Budget(steps=3, tokens=5))
    async with aclosing(Orchestrator(System.of(engine)).generate(request)) as events:
        assert len(await gather(events, 2)) == 2
    assert engine.requests[0].max_tokens == 5


def test_what_waits_is_of_one_conversation_and_of_so_many_bytes() -> None:
    """Servers may number their calls: those of two conversations then have the same ids."""
    pending = Pending()
    mine, yours = Message("user", "Mine"), Message("user", "Yours")
    pending.keep("", (mine,), waiting(1))
    assert pending.resume("", [yours, *asked(1)])[1] is None
    assert pending.resume("", [mine, *asked(1)])[1] is not None
    pending.keep("other", (mine,), waiting(3))
    large = replace(
        waiting(2), messages=(Message("tool", "x" * (MAX_BYTES + 1), tool_call_id="a"),)
    )
    pending.keep("", (yours,), large)
    assert pending.resume("", [mine, *asked(1)])[1] is None
    assert pending.resume("other", [mine, *asked(3)])[1] is not None  # it was not at fault


async def test_json_with_a_name_is_an_answer() -> None:
    said = '{"name": "Alice", "age": 3}'
    request = replace(words("Who?"), response_format=ResponseFormat("json_object"))
    items = await run(System.of(ScriptedEngine(said)), request, flights)
    assert isinstance(items[-1], Reply)
    plain = await run(System.of(ScriptedEngine(said)), words("Who?"), flights)
    assert isinstance(plain[-1], Reply)


async def test_a_call_through_a_reference_is_not_made_again_with_its_value() -> None:
    plan = {
        "nodes": [
            {"id": "1", "tool": "flights", "arguments": {"to": "Lisbon"}},
            {
                "id": "2",
                "tool": "book_flight",
                "arguments": {"flight": {"ref": "1", "path": "[0]"}},
            },
        ]
    }
    engine = ScriptedEngine([call("book_flight", flight="DY912")], "Booked.")
    request = within(words("Book a flight to Lisbon."), plan=plan)
    await run(System.of(engine), request, flights, book_flight)
    assert BOOKED == ["DY912"]


async def test_an_error_that_repeats_a_guess_does_not_make_it_said() -> None:
    @tool(read_only=True)
    def find(flight: str) -> str:
        """Finds."""
        raise LookupError(f"no flight '{flight}'")

    again = [call("find", "2", flight="LH123")]
    engine = ScriptedEngine(
        [call("find", "1", flight="LH123")], again, [call("book_flight", "3", flight="LH123")],
        again, "Which flight?",
    )  # fmt: skip
    await run(System.of(engine), words("Book a flight."), find, book_flight)
    assert BOOKED == []


async def test_what_may_have_been_done_is_not_done_again() -> None:
    @tool(timeout=0.01)
    async def pay(amount: int) -> str:
        """Pays."""
        BOOKED.append(str(amount))
        await asyncio.Event().wait()
        return "paid"

    engine = ScriptedEngine([call("pay", "1", amount=5)], [call("pay", "2", amount=5)], "Perhaps.")
    await run(System.of(engine), words("Pay 5."), pay)
    assert BOOKED == ["5"]


async def test_the_callers_calls_are_streamed_eagerly_where_that_is_asked_for() -> None:
    engine = ScriptedEngine([call("open_door", "1")])
    request = replace(ASK, tools=(DOOR,), eager_arguments=True)
    async with aclosing(Orchestrator(System.of(engine), [add.spec]).generate(request)) as events:
        kinds = [type(event) async for event in events]
    assert kinds == [CallBegun, ArgumentsDelta, CallDelta, Finished]


async def test_people_speak_of_tools_in_their_own_words() -> None:
    engine = ScriptedEngine(
        [call("flights", "1", to="Lisbon")], [call("book_flight", "2", flight="DY912")], "Gebucht."
    )
    await run(System.of(engine), words("Buche einen Flug nach Lisbon."), flights, book_flight)
    assert BOOKED == ["DY912"]


async def test_a_plan_is_run_in_the_middle_of_a_conversation() -> None:
    plan = {"nodes": [{"id": "1", "tool": "add", "arguments": {"a": 1, "b": 2}}]}
    before = call("add", "call_1", a=5, b=5)
    history = (Message("assistant", "", (before,)), Message("tool", "10", tool_call_id="call_1"))
    request = within(replace(ASK, messages=(*ASK.messages, *history)), plan=plan)
    items = await run(System.of(ScriptedEngine("Done.")), request, add)
    assert [r.content for r in report_of(items[-1]).results] == ["3"]  # type: ignore[arg-type]
    planned = await run(System.of(ScriptedEngine([before])), within(ASK, plan_only=True), add)
    assert isinstance(planned[-1], Planned)
    assert planned[-1].completion.reason == "stop"
