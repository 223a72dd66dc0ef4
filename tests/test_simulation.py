"""Thousands of made-up runs, each of which replays from its seed; see simulation.py."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from simulated_requests import simulate_requests
from simulation import World, simulate

from f1.planning import executor, flights, orchestrator, tries
from f1.planning.executor import Executor
from f1.planning.flights import Flights
from f1.planning.gates import Gate
from f1.planning.run import Run
from f1.types import Budget, Node, ToolResult

EVERYTHING = {
    *"done unknown_tool invalid_arguments bad_reference need_failed error timeout".split(),
    *"unavailable refused cancelled retried cut shared known left".split(),
}
ENDINGS = {*"answered client_calls steps calls seconds repeated silent theirs left".split()}


@pytest.mark.parametrize("seed", range(400))
def test_the_promises_are_kept(seed: int) -> None:
    assert simulate(seed).broken == []


@pytest.mark.parametrize("seed", range(150))
def test_they_are_kept_through_whole_requests(seed: int) -> None:
    assert simulate_requests(seed).broken == []


@pytest.mark.full
@pytest.mark.parametrize("simulated", [simulate, simulate_requests])
@pytest.mark.parametrize("first", range(400, 10_400, 100))
def test_they_always_are(first: int, simulated: Callable[[int], World]) -> None:
    broken = {seed: simulated(seed).broken for seed in range(first, first + 100)}
    assert {seed: what for seed, what in broken.items() if what} == {}


@pytest.mark.parametrize("simulated", [simulate, simulate_requests])
@pytest.mark.parametrize("seed", range(0, 400, 40))
def test_a_seed_replays(seed: int, simulated: Callable[[int], World]) -> None:
    once, again = simulated(seed), simulated(seed)
    assert once.log == again.log
    assert once.log != simulated(seed + 1).log


def test_everything_happens() -> None:
    """A promise that is never put to the test is none."""
    happened: Counter[str] = Counter()
    for seed in range(200):
        happened += simulate(seed).happened
    assert happened.keys() == EVERYTHING
    endings: Counter[str] = Counter()
    for seed in range(100):
        endings += simulate_requests(seed).happened
    assert endings.keys() == ENDINGS


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


def with_one_result_less(remember: Callable[..., None]) -> Callable[..., None]:
    def wrong(self: Run, theirs: Any = ()) -> None:
        remember(self, theirs)
        *before, _ = self.request.messages
        self.request = replace(self.request, messages=tuple(before))

    return wrong


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


IN_REQUESTS: dict[str, tuple[Any, str, Any]] = {
    "calls beyond the budget": (Run, "budget", Budget(9, 99)),
    "a result is missing": (Run, "remember", with_one_result_less(Run.remember)),
    "what the caller brought is forgotten": (orchestrator, "results_of", lambda waiting, said: []),
    "leaving does not wait": (executor, "ended", not_waited_for),
    "exceptions get lost": BREAKAGES["exceptions get lost"],
}


@pytest.mark.filterwarnings("ignore")  # of what broken code leaves behind
@pytest.mark.parametrize("name", BREAKAGES)
def test_it_would_notice(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, wrong = BREAKAGES[name]
    monkeypatch.setattr(owner, attribute, wrong)
    assert any(simulate(seed).broken for seed in range(200))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", IN_REQUESTS)
def test_it_would_notice_in_requests(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, wrong = IN_REQUESTS[name]
    monkeypatch.setattr(owner, attribute, wrong)
    assert any(simulate_requests(seed).broken for seed in range(200))
