"""Whole runs made up from a seed: plans x tools that fail, hang, flood and will not end x callers
that leave at any moment x gates shared by several runs at once; in virtual time.

    python tests/simulation.py 4711     what happened in that one, line by line

The same seed is the same run, to the last line. `World.broken` says which of the promises were not
kept; most are checked while it runs, from inside the tools, which know what there is to know.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import virtual

from f1.planning.executor import Executor
from f1.planning.gates import Gates
from f1.planning.paths import NoSuchPart, part_at
from f1.planning.plan import needs, references
from f1.planning.tries import GRACE
from f1.tools.spec import Annotations, CallLimits, Output, ToolFailure, ToolSpec
from f1.types import Node, Ref, Started, Tool, ToolResult

TIMES = (0.0, 0.0, 0.1, 0.5, 0.5, 1.0, 2.0, 3.0)  # few, so that much happens at one moment
PATHS = ("", "", "tag", "items", "items[1].n", "items[7]", "nothing", "text")
BAD_WAYS = "fail fail odd hang flood endless opaque stubborn".split()
PARAMETERS = {
    "type": "object",
    "properties": {"tag": {"type": "string"}, "x": {}, "y": {"type": "array"}},
    "required": ["tag"],
    "additionalProperties": False,
}
ODD = (ValueError, SystemExit, asyncio.CancelledError, TimeoutError, StopIteration)


class Left(Exception):
    """A caller had enough."""


@dataclass
class World:
    seed: int
    log: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    owners: dict[str, list[tuple[Caller, Node]]] = field(default_factory=dict)  # of a call's tag
    starts: Counter[str] = field(default_factory=Counter)
    running: Counter[str] = field(default_factory=Counter)  # tries, by tag
    happened: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.tame = self.rng.random() < 0.3  # nothing fails, waits for room or is called off
        self.crowded = not self.tame and self.rng.random() < 0.4
        self.times = (0.5,) if self.crowded else TIMES

    @property
    def now(self) -> float:
        return round(asyncio.get_running_loop().time(), 6)

    def note(self, what: str) -> None:
        self.log.append(f"{self.now:10.6f} {what}")

    def demand(self, kept: bool, promise: str) -> None:
        if not kept:
            self.note(f"BROKEN {promise}")
            self.broken.append(f"at {self.now}: {promise}")


@dataclass
class Wild:
    """A tool that does anything."""

    world: World
    name: str
    cap: int
    ways: list[str]
    delays: dict[str, float] = field(default_factory=dict)  # of tame ones, by tag
    running: int = 0
    failures: int = 0

    async def call(self, arguments: Mapping[str, Any], limits: CallLimits) -> Output:
        world, tag = self.world, arguments["tag"]
        way = world.rng.choice(self.ways)
        delay = self.delays.get(tag, world.rng.choice(world.times))
        self.running += 1
        world.starts[tag] += 1
        world.running[tag] += way != "stubborn"  # those may run on for a while
        world.note(f"{self.name} {tag} starts, will {way} in {delay}")
        world.demand(self.running <= self.cap, f"{self.name} has {self.running} > {self.cap} calls")
        owners = [(c, n) for c, n in world.owners[tag] if not c.has_left]
        world.demand(any(c.may_run(n) for c, n in owners), f"{tag} runs before its needs are met")
        try:
            return await self._act(way, delay, tag, limits)
        except BaseException as error:
            self.failures += 1
            world.note(f"{self.name} {tag} ends: {error!r}")
            raise
        finally:
            self.running -= 1
            world.running[tag] -= way != "stubborn"

    async def _act(self, way: str, delay: float, tag: str, limits: CallLimits) -> Output:
        world = self.world
        try:
            await asyncio.sleep(delay)
            for _ in range(0 if world.tame else world.rng.choice((0, 0, *range(10)))):
                await asyncio.sleep(0)  # ends just before, or after, somebody leaves
            if way == "hang":
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            if way == "stubborn":  # is told to end, and does not for long
                await asyncio.sleep(4 * GRACE)
            elif world.rng.random() < 0.5:
                await asyncio.sleep(world.rng.choice((0.0, 0.5, 0.9)) * GRACE)
            raise
        match way:
            case "down":
                raise ToolFailure("down", passing=True)
            case "fail":
                raise ToolFailure("no", passing=world.rng.random() < 0.7)
            case "odd":
                raise world.rng.choice(ODD)()
            case "flood":
                return Output({"tag": tag, "items": ["x" * 50] * 10})
            case "opaque":
                return Output(object())
            case "endless":
                return Output('{"tag": ', num_bytes=10**9)
        items = [{"n": index} for index in range(3)]
        return Output({"tag": tag, "items": items, "text": '$1 ${2} {"ref": "1"}'})


@dataclass
class Caller:
    """One run: adds nodes over time, as a model that decodes, and takes the news."""

    world: World
    name: str
    tools: Mapping[str, ToolSpec]
    gates: Gates
    plan: list[tuple[float, Node]]  # and how long after the one before it is added
    added: dict[str, float] = field(default_factory=dict)
    told: list[Started | ToolResult] = field(default_factory=list)
    done_at: dict[str, float] = field(default_factory=dict)
    has_left: bool = False
    finished: bool = False

    def __post_init__(self) -> None:
        self.executor = Executor(self.tools, self.gates)
        self.more = asyncio.Event()

    def may_run(self, node: Node) -> bool:
        results = self.executor.results
        return all(need in results and not results[need].failed for need in needs(node))

    async def live(self, leave_at: float | None) -> None:
        """Until all is done, or `leave_at` (of this caller's own accord)."""
        world = self.world
        try:
            async with self.executor, asyncio.TaskGroup() as group:
                planner = group.create_task(self._decode())
                planner.add_done_callback(lambda _: self.more.set())
                watchers = [group.create_task(self._watch(n)) for _, n in self.plan[::2]]
                if leave_at is not None:
                    group.create_task(self._leave(leave_at))
                await self._take_news(planner)
                if world.rng.random() < 0.5:
                    await self._answer(planner)
                self.finished = True
                for watcher in watchers:
                    watcher.cancel()
                if leave_at is not None:
                    raise Left
        except* (Left, asyncio.CancelledError):
            pass
        finally:
            self.has_left = True
            world.happened["left"] += not self.finished
            world.note(f"{self.name} has left")
            self._check_quiet()

    async def _leave(self, at: float) -> None:
        await asyncio.sleep(at)
        for _ in range(self.world.rng.randrange(4)):
            await asyncio.sleep(0)
        raise Left

    async def _decode(self) -> None:
        for delay, node in self.plan:
            if delay:
                await asyncio.sleep(delay)
            self.added[node.id] = self.world.now
            self.executor.add(node)
            self.more.set()

    async def _take_news(self, planner: asyncio.Task[None]) -> None:
        while not planner.done() or self.executor.unfinished:
            if not self.executor.unfinished:
                self.more.clear()
                await self.more.wait()
                continue
            item = await self.executor.next()
            self.told.append(item)
            if isinstance(item, ToolResult):
                self.done_at[item.node_id] = self.world.now
            what = item.failed or "done" if isinstance(item, ToolResult) else "started"
            self.world.note(f"{self.name} hears of {item.call.id}: {what}")

    async def _answer(self, planner: asyncio.Task[None]) -> None:
        """The caller's own calls come back."""
        ids = {node.call_id: node.id for _, node in self.plan}
        while self.executor.theirs:
            call = self.executor.theirs[0]
            await asyncio.sleep(self.world.rng.choice(self.world.times))
            value = {"tag": "theirs", "items": [{"n": 0}, {"n": 1}]}
            self.world.happened["known"] += 1
            result = ToolResult(call, "", None, self.world.now, 0, value, ids[call.id])
            self.executor.know(result)
            await self._take_news(planner)

    async def _watch(self, node: Node) -> None:
        while node.id not in self.added:
            await asyncio.sleep(0.5)
        with suppress(LookupError):
            result = await self.executor.result(node.id)
            same = result is self.executor.results[node.id]
            self.world.demand(same, "a waiter is given another result")

    def _check_quiet(self) -> None:
        for _, node in self.plan:
            tag = str(node.arguments["tag"])
            users = [c for c, _ in self.world.owners[tag] if not c.has_left]
            if not users:
                self.world.demand(not self.world.running[tag], f"{tag} runs after all have left")


# --- making worlds up --------------------------------------------------------------------------


def make_tools(world: World) -> dict[str, ToolSpec]:
    rng, tools = world.rng, {}
    for index in range(rng.randint(1, 2 if world.crowded else 4)):
        name = f"tool{index}"
        cap = 100 if world.tame else rng.choice((1, 1, 2, 3) + (100,) * (not world.crowded))
        bad = rng.choices(BAD_WAYS, k=rng.randrange(4))
        ways = ["work"] if world.tame else ["work", "work", *bad]
        if not world.tame and rng.random() < 0.2:
            ways = ["down"]
        read_only = not world.tame and rng.random() < 0.5
        limits = CallLimits(
            timeout=10.0 if world.tame else rng.choice((0.5, 2.0, 5.0)),
            retries=rng.randrange(4),
            max_parallel=cap,
            max_chars=200,
        )
        tools[name] = ToolSpec(
            Tool(name, parameters=PARAMETERS),
            Wild(world, name, cap, ways),
            annotations=Annotations(read_only, idempotent=rng.random() < 0.5),
            limits=limits,
        )
    if not world.tame:
        tools["theirs"] = ToolSpec(Tool("theirs", parameters=PARAMETERS))
        lax = Tool("lax", parameters=PARAMETERS, strict=False)
        tools["lax"] = ToolSpec(lax, Wild(world, "lax", 0, ["work"]))
    return tools


def make_plan(world: World, caller: str, tools: Mapping[str, ToolSpec]) -> list[tuple[float, Node]]:
    rng, plan = world.rng, []
    names = [name for name in tools if name != "lax" or rng.random() < 0.2]
    for number in range(1, rng.randint(1, 12) + 1):
        earlier = [str(i) for i in range(1, number)]
        chosen = rng.sample(earlier, min(len(earlier), rng.choice((0, 0, 0, 1, 1, 2, 3))))
        cut = rng.randint(0, len(chosen))
        tag, tool = f"{caller}.{number}", rng.choice(names)
        if not world.tame and rng.random() < 0.3:
            tag, tool = "again", names[0]  # the very call that others make
            cut = len(chosen)
        arguments: dict[str, Any] = {"tag": tag}
        paths = PATHS[:4] if world.tame or rng.random() < 0.7 else PATHS
        refs = [Ref(need, rng.choice(paths)) for need in chosen[cut:]]
        if refs:
            arguments["x"] = refs[0]
            arguments["y"] = [*refs[1:], "$1"]
        after = tuple(chosen[:cut])
        if not world.tame and rng.random() < 0.1:
            wrong: list[Any] = [("none", arguments, after), (tool, arguments | {"y": 1}, after)]
            wrong += [(tool, arguments | {"x": Ref("99")}, after), (tool, arguments, ("99",))]
            tool, arguments, after = rng.choice(wrong)
        node = Node(str(number), tool, arguments, after, f"{caller}.{number}")
        if tool in tools and isinstance(wild := tools[tool].runner, Wild) and world.tame:
            wild.delays[tag] = rng.choice(world.times)
        plan.append((0.0 if world.crowded else rng.choice(world.times), node))
    return plan


async def play(world: World) -> None:
    rng = world.rng
    gates = Gates(clock=asyncio.get_running_loop().time, rng=rng)
    tools = make_tools(world)
    callers = []
    for index in range(1 if world.tame else rng.randint(1, 3)):
        plan = make_plan(world, f"c{index}", tools)
        callers.append(caller := Caller(world, f"c{index}", tools, gates, plan))
        for _, node in plan:
            world.owners.setdefault(str(node.arguments["tag"]), []).append((caller, node))
    lives, cancels = [], []
    for caller in callers:
        leave_at = cancel_at = None
        if not world.tame and rng.random() < 0.3:
            leave_at = sum(rng.choices(world.times, k=rng.randint(1, 6)))
        if not world.tame and rng.random() < 0.3:
            cancel_at = sum(rng.choices(world.times, k=rng.randint(1, 6)))
        lives.append(asyncio.create_task(caller.live(leave_at)))
        cancels += [(cancel_at, lives[-1])] * rng.randint(1, 2) if cancel_at is not None else []
    for at, life in cancels:
        asyncio.get_running_loop().call_later(at + rng.choice((0, 0, 0.5)), life.cancel)
    outcomes = await asyncio.gather(*lives, return_exceptions=True)
    for outcome in outcomes:
        called_off = isinstance(outcome, asyncio.CancelledError)
        world.demand(outcome is None or called_off, f"a run ended with {outcome!r}")
    await asyncio.sleep(10 * GRACE)  # those that would not end do
    for caller in callers:
        check_caller(world, caller)
    check_world(world, tools, gates)


# --- the promises ------------------------------------------------------------------------------


def check_caller(world: World, caller: Caller) -> None:
    executor, nodes = caller.executor, {node.id: node for _, node in caller.plan}
    theirs = {call.id for call in executor.theirs}
    told = Counter(item.node_id for item in caller.told if isinstance(item, ToolResult))
    started = Counter(item.node.id for item in caller.told if isinstance(item, Started))
    stuck: set[str] = set()
    for node_id in caller.added:
        node, name = nodes[node_id], f"{caller.name}.{node_id}"
        if node.call_id in theirs:
            world.demand(node_id not in executor.results, f"{name} is theirs and has a result")
            world.demand(caller.may_run(node), f"{name} is theirs before its needs are met")
            stuck.add(node_id)
            continue
        if node_id not in executor.results:
            world.demand(bool(stuck & set(needs(node))), f"{name} has no result")
            stuck.add(node_id)
            continue
        result = executor.results[node_id]
        known = node.tool == "theirs" and result.failed is None
        world.demand(told[node_id] <= 1 and started[node_id] <= 1, f"{name} is told of twice")
        if caller.finished and not known:
            world.demand(told[node_id] == 1, f"{name} is not told of")
        if not known:
            check_result(world, caller, node, result, f"{name} ({result.failed})")
    world.demand(executor.unfinished == sum((not caller.finished) * executor._untold for _ in "1"),
                 f"{caller.name} is not finished: {executor.unfinished}")  # fmt: skip


def check_result(world: World, caller: Caller, node: Node, result: ToolResult, name: str) -> None:
    demand, results = world.demand, caller.executor.results
    world.happened[result.failed or "done"] += 1
    world.happened["retried"] += result.tries > 1
    world.happened["cut"] += result.cut
    world.happened["shared"] += result.shared
    needs_failed = [n for n in needs(node) if n in results and results[n].failed]
    never_ran = ("unknown_tool", "invalid_arguments", "bad_reference", "need_failed", "refused")
    demand(result.failed != "need_failed" or bool(needs_failed), f"{name}: no need of it failed")
    demand((result.tries > 0) <= caller.may_run(node), f"{name} ran without its needs")
    demand(result.failed != "cancelled" or not caller.finished, f"{name}: nobody called it off")
    demand(len(result.content) < 300, f"{name}: {len(result.content)} characters")
    demand((result.failed in never_ran) <= (result.tries == 0), f"{name} ran")
    tool = caller.tools.get(node.tool)
    if tool is None:
        demand(result.failed == "unknown_tool", f"{name} has no tool")
        return
    most = 1 + tool.limits.retries * tool.annotations.repeatable
    demand(result.tries <= most, f"{name}: {result.tries} tries")
    demand(result.shared <= tool.annotations.read_only, f"{name} is shared")
    if node.tool == "lax":
        demand(result.failed is not None and result.failed != "error", f"{name} ran unchecked")
    if result.failed is None:
        check_arguments(world, node, result, results, name)
    if result.failed == "unavailable" and isinstance(tool.runner, Wild):
        demand(tool.runner.failures >= 5, f"{name}: {tool.runner.failures} failures")


def check_arguments(
    world: World, node: Node, result: ToolResult, results: Mapping[str, ToolResult], name: str
) -> None:
    """What it was run with is what its references point at, and nothing else was touched."""
    arguments = json.loads(result.call.arguments)
    for at, ref in references(node):
        found: Any = arguments
        for key in at:
            found = found[key]
        try:
            wanted = part_at(results[ref.id].value, ref.path)
        except NoSuchPart:
            wanted = NoSuchPart
        world.demand(found == wanted, f"{name}: {found!r} in place of {ref}")
    if isinstance(result.value, dict):
        same = result.value["tag"] in (arguments["tag"], "theirs")
        world.demand(same, f"{name} has the result of {result.value['tag']}")
    if "y" in node.arguments:
        world.demand(arguments["y"][-1] == "$1", f"{name}: a literal was changed")


def check_world(world: World, tools: Mapping[str, ToolSpec], gates: Gates) -> None:
    for tag, owners in world.owners.items():
        most = 0
        for _, node in owners:
            spec = tools.get(node.tool)
            if spec is not None and spec.runner is not None:
                most += 1 + spec.limits.retries * spec.annotations.repeatable
        started = world.starts[tag]
        world.demand(started <= most, f"{tag} was started {started} times, {most} are allowed")
    for spec in tools.values():
        if isinstance(spec.runner, Wild):
            world.demand(not spec.runner.running, "a tool runs at the end")
    for gate in (gate for of_name in gates._gates.values() for gate in of_name):
        world.demand(gate.is_idle, "room got lost")
        world.demand(not gate.flights._flights, "a shared call is left")
    if world.tame:
        check_times(world)


def check_times(world: World) -> None:
    """Each node is done as soon as it can be: what it needs is there, and it was added."""
    ((caller, _), *_) = next(iter(world.owners.values()))
    for _, node in caller.plan:
        runner = caller.tools[node.tool].runner
        begin = max([caller.added[node.id], *(caller.done_at[need] for need in needs(node))])
        wanted = begin
        if caller.executor.results[node.id].tries:
            wanted += runner.delays[str(node.arguments["tag"])] if isinstance(runner, Wild) else 0
        late = caller.done_at[node.id] - wanted
        world.demand(abs(late) < 1e-5, f"{node.id} is {late} s late")


def simulate(seed: int) -> World:
    world = World(seed)
    try:
        virtual.run(play(world))
    except Exception as error:  # Stuck, what was left behind, or a check that came too far
        world.broken.append(f"{type(error).__name__}: {error}")
    return world


if __name__ == "__main__":
    found = simulate(int(sys.argv[1]))
    print("\n".join([*found.log, *found.broken]))
