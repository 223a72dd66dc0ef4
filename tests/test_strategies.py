"""Strategies that go on step by step, but come to a step in another way."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

import pytest
from scripted import ScriptedEngine, Turn, call
from scripted import _events as events_of_turn

from f1.planning.orchestrator import Orchestrator, System
from f1.planning.outcome import Progress, Reply, report_of
from f1.planning.strategies.vote import canonical, elect
from f1.tools.function import FunctionTool, tool
from f1.types import (
    Completion,
    Event,
    GenerateRequest,
    Message,
    RunOptions,
    RunReport,
    StrategyName,
    ToolCall,
    Usage,
)

BOOKED: list[str] = []


@tool(read_only=True)
def find(name: str) -> str:
    """Looks somebody up."""
    if name not in ("Sofia", "Ida"):
        raise LookupError(f"nobody called {name}")
    return f"{name}: 555-0192"


@tool
def book(seat: str) -> str:
    """Books a seat."""
    BOOKED.append(seat)
    return f"booked {seat}"


class Sampling(ScriptedEngine):
    """Plays a list of turns where several choices are asked for: one a choice."""

    def __init__(self, *turns: Turn | Callable[[GenerateRequest], Turn], drawn: Sequence[Turn]):
        super().__init__(*turns)
        self.drawn = drawn

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        if request.sampling.temperature == 0:
            async with aclosing(super().generate(request)) as events:
                async for event in events:
                    yield event
            return
        for choice in range(request.n):
            for event in events_of_turn(choice, self.drawn[choice % len(self.drawn)]):
                yield event


async def play(
    engine: ScriptedEngine, strategy: StrategyName, *tools: FunctionTool, samples: int = 3
) -> tuple[Progress, RunReport]:
    BOOKED.clear()
    request = GenerateRequest(
        (Message("user", "Find Ida, Bo, Cy, Sofia or Sophia; book 4A or 9Z."),),
        run=RunOptions(strategy=strategy, samples=samples),
    )
    orchestrator = Orchestrator(System.of(engine), [function.spec for function in tools])
    async with aclosing(orchestrator.run(request)) as progress:
        items = [item async for item in progress]
    assert isinstance(items[-1], Reply), items[-1]
    return items[-1], report_of(items[-1])


def names(report: RunReport) -> list[str]:
    return [
        f"{r.call.name} {'/'.join(json.loads(r.call.arguments).values())}" for r in report.results
    ]


# --- vote --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('{"a": 1, "b": "x"}', '{"b": " x ", "a": 1.0}', True),
        ('{"a": [1.0, {"c": 2}]}', '{"a": [1, {"c": 2.0}]}', True),
        ('{"a": "1"}', '{"a": 1}', False),
        ('{"a": true}', '{"a": 1}', False),
        ('{"a": "X"}', '{"a": "x"}', False),
    ],
)
def test_calls_that_say_the_same_are_equal(one: str, other: str, same: bool) -> None:
    found = [canonical(ToolCall("id", "f", arguments)) for arguments in (one, other)]
    assert (found[0] == found[1]) == same


def sample(*calls: ToolCall, text: str = "") -> Completion:
    return Completion(Message("assistant", text, calls), "stop", Usage(1, 1))


A, B, C = (call("find", f"call_{name}", name=name) for name in ("Sofia", "Ida", "Bo"))


@pytest.mark.parametrize(
    ("samples", "elected", "agreed"),
    [
        ([(A,), (B,), (B,)], (B,), 2),  # the greedy one is outvoted
        ([(A,), (A, B), (A, C)], (A,), 3),  # what most call, not all that any does
        ([(A, B), (B, A), ()], (A, B), 2),
        ([(A,), (), ()], (), 2),
        ([(A,), ()], (A,), 1),  # as many call as answer: the first decides
        ([(), (A,)], (), 1),
        ([(A,), (B,), (C,)], (A,), 1),  # no two agree
    ],
)
def test_what_most_samples_call(samples: list[tuple[ToolCall, ...]], elected: tuple[ToolCall, ...],
                                agreed: int) -> None:  # fmt: skip
    found = elect([sample(*calls, text="" if calls else "words") for calls in samples])
    assert found[1:] == (elected, agreed)
    assert bool(found[0].message.content) == (not elected)


async def test_vote_runs_what_most_samples_call() -> None:
    engine = Sampling([call("find", name="Bo")], drawn=[[call("find", name="Ida")]] * 2)

    def answer(request: GenerateRequest) -> Turn:
        engine.drawn = ["done", "done"]
        return "done"

    engine.turns.append(answer)
    reply, report = await play(engine, "vote", find)
    assert names(report) == ["find Ida"]
    assert report.notes[0].startswith("2 of 3 samples agree on find")
    assert isinstance(reply, Reply)
    assert reply.completion.message.content.strip() == "done"
    assert [request.n for request in engine.requests] == [1, 1]  # the drawn ones come beside it


# --- reflect -----------------------------------------------------------------------------------


def judging(verdict: str, *turns: Turn) -> ScriptedEngine:
    """The turns, and that verdict whenever the verifier is asked."""
    left = list(turns)

    def turn(request: GenerateRequest) -> Turn:
        if request.response_format.kind == "json_schema":
            return json.dumps({"reason": "nobody said 9Z", "verdict": verdict})
        return left.pop(0)

    return ScriptedEngine(turn)


async def test_a_call_that_only_reads_is_not_looked_at_twice() -> None:
    engine = judging("no", [call("find", name="Ida")], "done")
    _, report = await play(engine, "reflect", find, book)
    assert names(report) == ["find Ida"]
    assert len(engine.requests) == 2


async def test_a_call_that_is_found_good_is_made() -> None:
    engine = judging("yes", [call("book", seat="4A")], "done")
    _, report = await play(engine, "reflect", find, book)
    assert (BOOKED, report.notes) == (["4A"], ())
    asked = engine.requests[1].messages[0].content
    assert "book 4A or 9Z" in asked
    assert 'book {"seat": "4A"}' in asked


async def test_after_a_no_there_is_one_more_try_and_no_loop() -> None:
    calls = [call("find", name="Ida"), call("book", seat="9Z")]
    engine = judging("no", calls, [call("book", "call_2", seat="4A")], "done")
    _, report = await play(engine, "reflect", find, book)
    assert BOOKED == ["4A"]
    assert names(report) == ["find Ida", "book 4A"]
    assert "nobody said 9Z" in report.notes[0]
    told = engine.requests[2].messages
    assert told[-1].role == "tool"
    assert "nobody said 9Z" in told[-1].content


# --- backtrack -----------------------------------------------------------------------------------


async def test_a_look_up_that_fails_twice_is_left_for_the_likeliest_other() -> None:
    ways: list[Turn] = [[call("find", name="Ida")], [call("find", name="Sofia")]]
    again = [call("find", name="Sofia")]
    failing = [[call("find", name="Sophia")], [call("find", name="Bo")]]
    engine = Sampling(*failing, again, "done", drawn=ways)
    _, report = await play(engine, "backtrack", find, book, samples=4)
    assert names(report) == [
        "find Sophia",
        "find Bo",
        "find Sofia",
    ]  # both 2 of 4; the greedy one first
    assert "nobody called Bo" in report.notes[-1]
    last = engine.requests[-1].messages
    called = [call.arguments for m in last for call in m.tool_calls]
    assert called == ['{"name": "Sophia"}', '{"name": "Sofia"}']  # Bo's way is gone
    assert "Bo" in last[3].content  # but for a word


async def test_the_model_gives_a_way_up() -> None:
    give_up = call("give_up", reason="not her")
    engine = Sampling(
        [call("find", name="Ida")], [give_up], [call("find", name="Sofia")], "done",
        drawn=[[call("find", name="Sofia")]],
    )  # fmt: skip
    _, report = await play(engine, "backtrack", find, book)
    assert names(report) == ["find Ida", "find Sofia"]
    assert "not her" in report.notes[0]
    shown = [[tool.name for tool in request.tools] for request in engine.requests]
    assert "give_up" not in shown[0]
    assert "give_up" in shown[1]


async def test_nothing_goes_back_behind_a_call_that_changes_something() -> None:
    engine = Sampling(
        [call("find", name="Ida")], [call("book", seat="4A")], [call("find", name="Bo")],
        [call("find", name="Cy")], "done", drawn=[[call("find", name="Sofia")]],
    )  # fmt: skip
    _, report = await play(engine, "backtrack", find, book)
    assert BOOKED == ["4A"]
    assert names(report) == ["find Ida", "book 4A", "find Bo", "find Cy", "find Sofia"]
    shown = [[tool.name for tool in request.tools] for request in engine.requests]
    assert "give_up" not in shown[2]
    told = [message.content for message in engine.requests[-1].messages]
    assert "booked 4A" in told  # the way that was left begins behind it


async def test_the_search_ends() -> None:
    """Whatever is tried fails, and what is drawn is tried once each."""
    ways: list[Turn] = [[call("find", name=name)] for name in ("Cy", "Di", "Ed")]
    cy = [call("find", name="Cy")]
    engine = Sampling([call("find", name="Bo")], cy, cy, "no", drawn=ways)
    _, report = await play(engine, "backtrack", find, samples=4)
    assert names(report) == ["find Bo", "find Cy", "find Di", "find Ed"]
    assert all(result.failed for result in report.results)


async def test_samples_are_bounded_by_the_request() -> None:
    engine = Sampling("done", drawn=["done"])
    request = GenerateRequest((Message("user", "x"),), run=RunOptions(strategy="vote", samples=1))
    orchestrator = Orchestrator(System.of(engine), [find.spec])
    async with aclosing(orchestrator.run(replace(request))) as progress:
        items = [item async for item in progress]
    assert isinstance(items[-1], Reply)
    assert len(engine.requests) == 1


# --- soft --------------------------------------------------------------------------------------


async def test_soft_steps_come_before_the_first_calls_alone() -> None:
    engine = ScriptedEngine([call("find", name="Ida")], [call("find", name="Sofia")], "done")
    _, report = await play(engine, "soft", find)
    assert names(report) == ["find Ida", "find Sofia"]
    assert report.strategy == "soft"
    first, *later = [request.soft for request in engine.requests]
    assert first is not None
    assert later == [None, None]
    engine = ScriptedEngine("done")
    await play(engine, "soft")
    assert engine.requests[0].soft is None  # there is nothing to choose
