"""Runs whose process dies, whose store fails, and whose tools are slow, wrong or hang, in virtual
time: one seed is one world, and the same seed the same world.

    python tests/simulated_deaths.py SEED        tells what happened in it
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import virtual
from killed import KINDS, NUMBER, TURNS
from memory_runs import Disk, MemoryRuns
from scripted import call

from f1.errors import F1Error
from f1.planning.gates import Gates
from f1.planning.orchestrator import Orchestrator, System
from f1.planning.outcome import GiveUp, NeedsApproval, Reply
from f1.planning.replay import replay
from f1.store.database import NotStored
from f1.tools.policy import Rule, Rules
from f1.tools.spec import INVOCATION, CallLimits, Output, ToolFailure, ToolSpec
from f1.trace.entries import Done, Launched
from f1.trace.recorder import Recorder
from f1.types import (
    CallDelta,
    Event,
    Finished,
    GenerateRequest,
    Message,
    RunOptions,
    TextDelta,
    Tool,
    ToolResult,
    Usage,
    Verdict,
)

MAX_LIVES = 60
RULES = Rules((Rule("ask", "policy[0]", tools=("put",)),))


@dataclass
class World:
    seed: int
    rng: random.Random = field(init=False)
    log: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    happened: Counter[str] = field(default_factory=Counter)
    begun: Counter[tuple[str, str]] = field(default_factory=Counter)  # by tool and key
    ended: set[tuple[str, str]] = field(default_factory=set)
    told: dict[str, ToolResult] = field(default_factory=dict)
    allowed: set[str] = field(default_factory=set)  # arguments that a person has said yes to

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)

    def demand(self, holds: bool, what: str) -> None:
        if not holds:
            self.broken.append(what)


@dataclass
class Model:
    world: World
    model_id = "scripted"

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        turn = sum(message.role == "assistant" for message in request.messages)
        rng = random.Random(f"{self.world.seed} {turn}")
        if turn >= TURNS or request.tool_choice.mode == "none":
            yield TextDelta(0, "all is done")
            yield Finished(0, "stop", Usage(10, 5))
            return
        for index in range(rng.randint(1, 3)):
            await asyncio.sleep(rng.choice((0.0, 0.1, 1.0)))
            name = rng.choice(list(KINDS))
            call_id = f"call_{self.world.rng.getrandbits(40):x}"
            yield CallDelta(0, index, call(name, call_id, n=10 * turn + index))
        yield Finished(0, "tool_calls", Usage(10, 5))


@dataclass
class Does:
    world: World
    name: str

    async def call(self, arguments: Any, limits: CallLimits) -> Output:
        invocation, world = INVOCATION.get(), self.world
        assert invocation is not None
        what = (self.name, invocation.key)
        world.begun[what] += 1
        if self.name == "put":
            world.demand(str(arguments["n"]) in world.allowed, f"put {arguments} ran unallowed")
        await asyncio.sleep(world.rng.choice((0.0, 0.2, 1.0, 1.0, 90.0)))
        if world.rng.random() < 0.1:
            raise ToolFailure("it did not work")
        world.ended.add(what)
        size = world.rng.choice((1, 1, 1, 50_000))
        return Output({"did": arguments["n"], "more": "x" * size})


async def play(world: World) -> None:
    disk = Disk()
    numbers = ", ".join(map(str, range(10 * TURNS)))
    request = GenerateRequest(
        (Message("user", f"pay, put and look at {numbers}"),),
        run=RunOptions(run_id="r", strategy="react"),
    )
    for _ in range(MAX_LIVES):
        if await life(world, disk, request):
            break
    else:
        world.broken.append(f"not at its end after {MAX_LIVES} lives")
        return
    await asyncio.sleep(100)  # calls that went on without their run
    await check(world, disk)


async def life(world: World, disk: Disk, request: GenerateRequest) -> bool:
    """Of one process. Whether the run has come to its end in it."""
    rng, dies_at = world.rng, world.rng.choice((None, world.rng.randint(1, 25)))
    dying = asyncio.Event()

    def before(number: int) -> None:
        if number == dies_at:
            store.dead = True
            dying.set()
            world.happened["died in a write"] += 1
            raise NotStored("dead")
        if rng.random() < 0.03:
            world.happened["write failed"] += 1
            raise NotStored("the disk is full")

    store = MemoryRuns(disk, before)
    recorder = Recorder(store)
    tools = [
        ToolSpec(Tool(name, f"{name}s.", NUMBER), Does(world, name), annotations=says,
                 limits=CallLimits(timeout=30))
        for name, says in KINDS.items()
    ]  # fmt: skip
    gates = Gates(clock=asyncio.get_running_loop().time, rng=rng)
    system = replace(System.of(Model(world)), recorder=recorder, policy=RULES, gates=gates)
    living = asyncio.create_task(until_its_end(world, system, tools, request))
    ends = [living, asyncio.create_task(dying.wait())]
    patience = rng.choice((None, rng.uniform(0, 20)))
    await asyncio.wait(ends, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
    done = living.done()
    if not done:
        world.happened["died"] += 1
        store.dead = True
    recorder.closed = True  # the dead do not try again
    for task in ends:
        task.cancel()
    with suppress(asyncio.CancelledError, F1Error):
        return done and await living
    return False


async def until_its_end(
    world: World, system: System, tools: list[ToolSpec], request: GenerateRequest
) -> bool:
    while True:
        try:
            outcome = await go(world, system, tools, request)
        except F1Error as error:
            world.log.append(f"a request ended with {error}")
            world.demand(error.status in (503, 409), f"{error.status}: {error}")
            await asyncio.sleep(1)
            continue
        if not isinstance(outcome, NeedsApproval):
            world.demand(isinstance(outcome, Reply | GiveUp), f"ended with {outcome}")
            return True
        verdicts = {}
        for approval in outcome.approvals:
            if world.rng.random() < 0.3:
                verdicts[approval.id] = Verdict("reject", reason="no")
            else:
                verdicts[approval.id] = Verdict("approve")
                world.allowed.add(str(approval.call.arguments)[6:-1])
        request = replace(request, run=replace(request.run, verdicts=verdicts))


async def go(world: World, system: System, tools: list[ToolSpec], request: GenerateRequest) -> Any:
    async with aclosing(Orchestrator(system, tools).run(request)) as items:
        async for item in items:
            if isinstance(item, ToolResult) and item.failed != "cancelled":
                before = world.told.setdefault(item.node_id, item)
                same = before.content == item.content and before.call == item.call
                sure = before.tries > 0 and before.call.name != "look"
                world.demand(same or not sure, f"told {before}, then {item}")
    return item


async def check(world: World, disk: Disk) -> None:
    for (name, key), times in world.begun.items():
        world.demand(name != "pay" or times == 1, f"paid {times} times: {key}")
    record = await Recorder(MemoryRuns(disk)).read("", "r")
    assert record is not None
    results = {e.result.node_id: e.result for e in record.entries if isinstance(e, Done)}
    for entry in record.entries:
        if isinstance(entry, Launched) and not entry.read_only:
            result = results.get(entry.node_id)
            world.demand(result is not None, f"nothing came of {entry}")
            if result is not None and result.failed == "unknown":
                world.happened["unknown"] += 1
            elif result is not None and result.failed is None:
                done = (entry.call.name, entry.key) in world.ended
                world.demand(done, f"{entry} is told as done, and is not")
    told = [item async for item in replay("r", record.entries)]
    world.demand(isinstance(told[-1], Reply | GiveUp), f"replayed to {told[-1]}")


def simulate_deaths(seed: int) -> World:
    world = World(seed)
    try:
        virtual.run(play(world))
    except Exception as error:
        world.broken.append(f"{type(error).__name__}: {error}")
    return world


if __name__ == "__main__":
    found = simulate_deaths(int(sys.argv[1]))
    print("\n".join([*found.log, str(dict(found.happened)), *found.broken]))
