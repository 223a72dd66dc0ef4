"""Whole requests made up from a seed: a model that calls anything, the tools and times of
simulation.py, callers that leave, and their own calls coming back; through the orchestrator.

    python tests/simulated_requests.py 4711     what happened in that one, line by line
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

import virtual
from simulation import GRACE, World, check_world, make_plan, make_tools

from f1.planning.gates import Gates
from f1.planning.orchestrator import Orchestrator, System
from f1.planning.outcome import CallTools, GiveUp, Planned, Progress, Reply, report_of
from f1.planning.plan import needs
from f1.tools.spec import ToolSpec
from f1.types import (
    Budget,
    CallDelta,
    Event,
    Finished,
    GenerateRequest,
    Message,
    Node,
    Plan,
    RunOptions,
    Started,
    TextDelta,
    ToolCall,
    ToolResult,
    Usage,
)

OUTCOMES = (Reply, CallTools, Planned, GiveUp)


@dataclass
class Talk:
    """A caller, and the model that it talks to: an Engine that makes calls up."""

    world: World
    name: str
    tools: Mapping[str, ToolSpec]
    calls: list[ToolCall] = field(default_factory=list)
    items: list[Progress] = field(default_factory=list)
    answered: dict[str, str] = field(default_factory=dict)  # by the caller: what to, and what
    has_left: bool = False

    def may_run(self, node: Node) -> bool:
        return True

    # --- the model -------------------------------------------------------------------------------

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        world, rng = self.world, self.world.rng
        self._check_conversation(request.messages)
        reason, num_calls = "stop", 0
        if request.tools and request.tool_choice.mode != "none" and rng.random() < 0.7:
            reason, num_calls = "tool_calls", rng.randint(1, 4)
        for index in range(num_calls):
            await asyncio.sleep(rng.choice(world.times))
            again = [call for call in self.calls if rng.random() < 0.1]
            call = again[0] if again else self._make_up_call(request)
            call = replace(call, id=f"{self.name}-{len(self.calls)}")
            self.calls.append(call)
            tag = str(json.loads(call.arguments)["tag"])
            self.world.owners.setdefault(tag, []).append((self, Node("", call.name, {"tag": tag})))
            yield CallDelta(0, index, call)
        if not num_calls and rng.random() < 0.9:
            await asyncio.sleep(rng.choice(world.times))
            yield TextDelta(0, "that is it")
        yield Finished(0, reason, Usage(1, 1))  # type: ignore[arg-type]

    def _make_up_call(self, request: GenerateRequest) -> ToolCall:
        rng = self.world.rng
        name = rng.choice([tool.name for tool in request.tools] + ["none"] * (rng.random() < 0.1))
        tag = f"{self.name}:{chr(97 + len(self.calls) % 26)}{'z' * (len(self.calls) // 26)}"
        wrong = {"y": 1} if rng.random() < 0.1 else {}
        return ToolCall("", name, json.dumps({"tag": tag} | wrong))

    def _check_conversation(self, messages: Sequence[Message]) -> None:
        """Each call is followed by its one result, and what the caller said is there."""
        open_ids: set[str] = set()
        for message in messages:
            if message.role == "tool":
                known = message.tool_call_id in open_ids
                self.world.demand(known, f"a result of no call: {message.tool_call_id}")
                open_ids.discard(message.tool_call_id or "")
                if message.tool_call_id in self.answered:
                    same = self.answered[message.tool_call_id] == message.content
                    self.world.demand(same, f"{message.tool_call_id} was answered otherwise")
                continue
            self.world.demand(not open_ids, f"calls without results: {open_ids}")
            open_ids = {call.id for call in message.tool_calls}
            self.world.demand(len(open_ids) == len(message.tool_calls), "two calls of one id")
        self.world.demand(not open_ids, f"calls without results at the end: {open_ids}")

    # --- the caller ------------------------------------------------------------------------------

    async def live(self, system: System, patience: float | None) -> None:
        own = [spec for spec in self.tools.values() if spec.runner is not None]
        orchestrator = Orchestrator(system, own, tenant=self.name)
        try:
            async with asyncio.timeout(patience):
                await self._talk(orchestrator)
        except TimeoutError:
            pass
        finally:
            self.has_left = True
            self.world.note(f"{self.name} has left")
            self.world.happened["left"] += not self.items or not isinstance(
                self.items[-1], OUTCOMES
            )
            for tag, owners in self.world.owners.items():
                if all(owner.has_left for owner, _ in owners):
                    self.world.demand(
                        not self.world.running[tag], f"{tag} runs after all have left"
                    )

    async def _talk(self, orchestrator: Orchestrator) -> None:
        rng = self.world.rng
        messages: tuple[Message, ...] = (Message("user", "Do it."),)
        budget = Budget(
            rng.randint(1, 5), rng.choice((2, 8, 32)), None, rng.choice((None, None, 4.0))
        )
        options = RunOptions(strategy=rng.choice(("direct", "react")), budget=budget)
        theirs = tuple(spec.tool for spec in self.tools.values() if spec.runner is None)
        if rng.random() < 0.5:
            plan = [node for _, node in make_plan(self.world, self.name, self.tools)]
            for node in plan:
                self.world.owners.setdefault(str(node.arguments["tag"]), []).append((self, node))
            options = replace(options, plan=Plan(tuple(plan)))
        for _ in range(4):
            request = GenerateRequest(messages, theirs, run=options)
            outcome = await self._ask(orchestrator, request)
            if not isinstance(outcome, CallTools):
                return
            options = replace(options, plan=None)
            messages += (outcome.completion.message, *await self._run_theirs(outcome.calls))

    async def _run_theirs(self, calls: Sequence[ToolCall]) -> list[Message]:
        rng, results = self.world.rng, []
        await asyncio.sleep(rng.choice(self.world.times))
        for call in calls:
            self.world.happened["theirs"] += 1
            self.world.demand(call.name == "theirs", f"the caller is to run {call.name}")
            self.world.demand(call.id not in self.answered, f"the caller is asked twice: {call.id}")
            self.answered[call.id] = json.dumps(
                {"tag": "theirs", "items": [{"n": len(self.answered)}]}
            )
            results.append(Message("tool", self.answered[call.id], tool_call_id=call.id))
        return results

    async def _ask(self, orchestrator: Orchestrator, request: GenerateRequest) -> Progress:
        rng, items, first = self.world.rng, self.items, len(self.items)
        leave_after = rng.choice((None, None, None, rng.randint(1, 12)))
        async with aclosing(orchestrator.run(request)) as progress:
            async for item in progress:
                items.append(item)
                self.world.note(f"{self.name} hears {_brief(item)}")
                if leave_after is not None and len(items) - first >= leave_after:
                    raise TimeoutError
        self._check_items(items[first:], request.run.budget)
        return items[-1]

    def _check_items(self, items: Sequence[Progress], budget: Budget) -> None:
        demand, outcome = self.world.demand, items[-1]
        if not isinstance(outcome, OUTCOMES):
            return demand(False, f"the last that is told is {_brief(outcome)}")
        report = report_of(outcome)
        self.world.happened[report.ending] += 1
        told, begun, done = set(), set(), dict[str, ToolResult]()
        carried = {node.id for node in report.plan.nodes} - {
            item.id for item in items if isinstance(item, Node)
        }
        for item in items[:-1]:
            match item:
                case Node():
                    demand(item.id not in told | carried, f"{item.id} is told of twice")
                    told.add(item.id)
                case Started():
                    demand(item.node.id in told | carried, f"{item.node.id} began untold")
                    demand(item.node.id not in begun, f"{item.node.id} began twice")
                    begun.add(item.node.id)
                case ToolResult():
                    demand(item.node_id in told | carried, f"{item.node_id} is done untold")
                    demand(item.node_id not in done, f"{item.node_id} is done twice")
                    done[item.node_id] = item
                case _:
                    demand(not isinstance(item, OUTCOMES), "an outcome is not the last")
        demand(len(report.plan.nodes) <= budget.calls, f"{len(report.plan.nodes)} calls")
        demand(len({r.node_id for r in report.results}) == len(report.results), "a result twice")
        if isinstance(outcome, Reply | CallTools) and report.ending != "seconds":
            open_ids = told - done.keys()
            ids = {call.id for call in outcome.calls} if isinstance(outcome, CallTools) else set()
            for node in report.plan.nodes:  # in order: what waits for theirs stands behind it
                if node.id in open_ids:
                    waits = node.call_id in ids or bool(open_ids & set(needs(node)))
                    demand(waits, f"{node.id} has no result at the end ({report.ending})")


def _brief(item: Progress) -> str:
    match item:
        case Node():
            return f"of {item.id}: {item.tool} {dict(item.arguments)}"
        case Started():
            return f"{item.node.id} begins"
        case ToolResult():
            return f"{item.node_id} is done: {item.failed or item.content[:40]}"
        case Reply() | CallTools() | Planned() | GiveUp():
            return f"the end: {type(item).__name__}, {report_of(item).ending}"
    return type(item).__name__


async def play(world: World) -> None:
    rng = world.rng
    gates = Gates(clock=asyncio.get_running_loop().time, rng=rng)
    tools = make_tools(world)
    lives = []
    for index in range(rng.randint(1, 3)):
        talk = Talk(world, f"t{index}", tools)
        system = replace(System.of(talk), gates=gates)
        patience = None if world.tame or rng.random() < 0.7 else sum(rng.choices(world.times, k=8))
        lives.append(asyncio.create_task(talk.live(system, patience)))
        if not world.tame and rng.random() < 0.3:
            at = sum(rng.choices(world.times, k=8))
            asyncio.get_running_loop().call_later(at, lives[-1].cancel)
    for outcome in await asyncio.gather(*lives, return_exceptions=True):
        called_off = isinstance(outcome, asyncio.CancelledError)
        world.demand(outcome is None or called_off, f"a request ended with {outcome!r}")
    await asyncio.sleep(10 * GRACE)
    world.tame = False  # when each call may begin is not known here
    check_world(world, tools, gates)


def simulate_requests(seed: int) -> World:
    world = World(seed)
    world.rng = random.Random(-seed - 1)
    try:
        virtual.run(play(world))
    except Exception as error:
        world.broken.append(f"{type(error).__name__}: {error}")
    return world


if __name__ == "__main__":
    found = simulate_requests(int(sys.argv[1]))
    print("\n".join([*found.log, *found.broken]))
