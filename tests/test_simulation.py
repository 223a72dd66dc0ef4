"""Thousands of made-up runs, each of which replays from its seed; see simulation.py."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from simulation import simulate

from f1.planning import executor, flights, tries
from f1.planning.executor import Executor
from f1.planning.flights import Flights
from f1.planning.gates import Gate
from f1.types import Node, ToolResult

EVERYTHING = {
    *"done unknown_tool invalid_arguments bad_reference need_failed error timeout".split(),
    *"unavailable refused cancelled retried cut shared known left".split(),
}


@pytest.mark.parametrize("seed", range(400))
def test_the_promises_are_kept(seed: int) -> None:
    assert simulate(seed).broken == []


@pytest.mark.full
@pytest.mark.parametrize("first", range(400, 10_400, 100))
def test_they_always_are(first: int) -> None:
    broken = {seed: simulate(seed).broken for seed in range(first, first + 100)}
    assert {seed: what for seed, what in broken.items() if what} == {}


@pytest.mark.parametrize("seed", range(0, 400, 20))
def test_a_seed_replays(seed: int) -> None:
    once, again = simulate(seed), simulate(seed)
    assert once.log == again.log
    assert once.log != simulate(seed + 1).log


def test_everything_happens() -> None:
    """A promise that is never put to the test is none."""
    happened: Counter[str] = Counter()
    for seed in range(120):
        happened += simulate(seed).happened
    assert happened.keys() == EVERYTHING


# --- it would notice ---------------------------------------------------------------------------


async def no_room_needed(gate: Gate) -> None:
    gate._taken += 1


async def room_lost_by_who_leaves(gate: Gate) -> None:
    if gate._taken < gate._max:
        gate._taken += 1
        return
    turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    gate._queue.append(turn)
    await turn


async def not_waited_for(task: asyncio.Future[Any], timeout: float | None = None) -> None:
    return


async def wait_that_a_cancel_ends(task: asyncio.Future[Any], timeout: float | None = None) -> None:
    await asyncio.wait({task}, timeout=timeout)


async def shared_with_who_began(self: Flights, key: Any, work: Any, begun: Any) -> Any:
    if (flight := self._flights.get(key)) is not None:
        return await flight.task, True
    flight = self._flights[key] = flights._Flight(work)
    flight.waiting.append(begun)
    flight.task.add_done_callback(lambda task: self._remove(key, task))
    return await flight.task, False


def put_in_as_text(node: Node, values: Any, parameters: Any = None) -> Any:
    text = executor._unbound(node).arguments
    for need, value in values.items():
        text = text.replace(f"${need}", json.dumps(value)[1:-1].replace('"', "'"))
    return replace(executor._unbound(node), arguments=text)


def lost_exception(ran: Callable[..., None]) -> Callable[..., None]:
    def wrong(self: Executor, running: Any, task: asyncio.Task[ToolResult]) -> None:
        if task.cancelled() or task.exception() is None:
            ran(self, running, task)
        else:
            del self._running[running.node.id]

    return wrong


def told_twice(settle: Callable[..., None]) -> Callable[..., None]:
    def wrong(self: Executor, result: ToolResult) -> None:
        settle(self, result)
        if result.failed == "error":
            self._news.put_nowait(result)
            self._untold += 1

    return wrong


def starts_late(run: Callable[..., Any]) -> Callable[..., Any]:
    async def wrong(self: Executor, running: Any) -> ToolResult:
        await asyncio.sleep(0.01)  # polls
        result: ToolResult = await run(self, running)
        return result

    return wrong


def crash(*_: object) -> str:
    raise OverflowError


BREAKAGES: dict[str, tuple[Any, str, Any]] = {
    "caps are not held": (Gate, "enter", no_room_needed),
    "room gets lost": (Gate, "enter", room_lost_by_who_leaves),
    "room is not given back": (Gate, "leave", lambda gate: None),
    "needs are not waited for": (executor, "needs", lambda node: ()),
    "everything is repeated": (tries, "_may_repeat", lambda s, g, o, n: o.passing and n < 4),
    "leaving does not wait for calls": (tries, "ended", not_waited_for),
    "leaving does not wait for nodes": (executor, "ended", not_waited_for),
    "a second cancel ends the wait": (tries, "ended", wait_that_a_cancel_ends),
    "who began takes a shared call with him": (Flights, "join", shared_with_who_began),
    "all calls are shared": (executor, "_same", lambda arguments: "same"),
    "values go in as text": (executor, "bind", put_in_as_text),
    "nothing is checked": (executor, "_problem", lambda spec, call: None),
    "exceptions get lost": (Executor, "_ran", lost_exception(Executor._ran)),
    "results are told of twice": (Executor, "_settle", told_twice(Executor._settle)),
    "ready nodes wait": (Executor, "_run", starts_late(Executor._run)),
    "a failed need is no matter": (Executor, "_need_failed", lambda self, node_id, need: None),
    "the breaker opens at once": (
        tries,
        "_unavailable",
        lambda s, g: tries.Outcome(failed="unavailable"),
    ),
}


@pytest.mark.filterwarnings("ignore")  # of what broken code leaves behind
@pytest.mark.parametrize("name", BREAKAGES)
def test_it_would_notice(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, wrong = BREAKAGES[name]
    monkeypatch.setattr(owner, attribute, wrong)
    assert any(simulate(seed).broken for seed in range(200))
