"""Wall time of plans of 20 shapes against their critical paths, with tools of known delay.

    python bench/shapes.py [--unit 0.2] [--rounds 5] [--json FILE]

The critical path is the longest way through the plan, each call taking its delay: no executor can
be faster. One by one: the sum of all delays. Bare: the same with nothing but sleeps, taking turns.
Medians of the rounds; exits 1 where one is beyond the critical path by more than 5 % and 20 ms.

At the end, how running overlaps with decoding: a planner that says a node every 100 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from f1.planning.executor import Executor
from f1.planning.gates import Gates
from f1.planning.plan import finish_times, needs
from f1.tools.spec import CallLimits, Output, ToolSpec
from f1.types import Node, Plan, Ref, Started, Tool

MAX_SHARE, MAX_SECONDS = 0.05, 0.02
SECONDS = {"type": "number", "minimum": 0}
PARAMETERS = {
    "type": "object",
    "properties": {"seconds": SECONDS, "seen": {}},
    "required": ["seconds"],
    "additionalProperties": False,
}


class Wait:
    """A tool that takes as long as it is told to."""

    async def call(self, arguments: Mapping[str, Any], limits: CallLimits) -> Output:
        await asyncio.sleep(arguments["seconds"])
        return Output({"waited": arguments["seconds"]})


TOOLS = {
    "wait": ToolSpec(
        Tool("wait", parameters=PARAMETERS), Wait(), limits=CallLimits(max_parallel=256)
    )
}


# --- shapes: for each node its delay, in units, and the nodes before it that it needs ------------

Shape = list[tuple[float, Sequence[int]]]


def chain(length: int) -> Shape:
    return [(1, [i - 1] if i else []) for i in range(length)]


def fan(width: int, *, join: bool) -> Shape:
    nodes: Shape = [(1, []) for _ in range(width)]
    return [*nodes, (1, range(width))] if join else nodes


def fork_join(times: int, width: int) -> Shape:
    """One, then many, then one, and again."""
    nodes: Shape = [(1, [])]
    for _ in range(times):
        first = len(nodes)
        nodes += [(1, [first - 1])] * width
        nodes.append((1, range(first, first + width)))
    return nodes


def layers(depth: int, width: int, needs: int) -> Shape:
    """Each node needs that many neighbours of the layer before it."""
    return [
        (
            1,
            [(i // width - 1) * width + (i + k) % width for k in range(needs)]
            if i >= width
            else [],
        )
        for i in range(depth * width)
    ]


def tree(depth: int, *, upwards: bool) -> Shape:
    """Binary; from the root to the leaves, or the other way."""
    size = 2**depth - 1
    if not upwards:
        return [(1, [(i - 1) // 2] if i else []) for i in range(size)]
    leaves = 2 ** (depth - 1)
    return [
        (1, [2 * (i - leaves), 2 * (i - leaves) + 1] if i >= leaves else []) for i in range(size)
    ]


def grid(side: int) -> Shape:
    """Each node needs the one above it and the one to its left."""
    return [
        (1, [*([i - side] if i >= side else []), *([i - 1] if i % side else [])])
        for i in range(side * side)
    ]


def butterfly(width: int) -> Shape:
    """As a fast Fourier transform: log2(width) layers, each node with two needs."""
    nodes: Shape = [(1, []) for _ in range(width)]
    step = 1
    while step < width:
        base = len(nodes) - width
        nodes += [(1, [base + i, base + (i ^ step)]) for i in range(width)]
        step *= 2
    return nodes


def scattered(seed: int, size: int, density: float) -> Shape:
    rng = random.Random(seed)
    return [
        (rng.uniform(0.2, 2), [j for j in range(i) if rng.random() < density]) for i in range(size)
    ]


def side_by_side(*shapes: Shape) -> Shape:
    """Of any lengths, and one call that needs the end of each."""
    nodes: Shape = []
    ends = []
    for shape in shapes:
        first = len(nodes)
        nodes += [(delay, [first + need for need in needs]) for delay, needs in shape]
        ends.append(len(nodes) - 1)
    return [*nodes, (1, ends)]


def straggler(width: int) -> Shape:
    """One slow call, and a chain beside it that does not need it."""
    return [(4, []), *((0.5, [i] if i else []) for i in range(width)), (0.5, [0, width])]


SHAPES: dict[str, Shape] = {
    "one call": chain(1),
    "chain of 5": chain(5),
    "chain of 20": chain(20),
    "fan of 8": fan(8, join=False),
    "fan of 64": fan(64, join=False),
    "8 into one": fan(8, join=True),
    "64 into one": fan(64, join=True),
    "diamond": fork_join(1, 2),
    "4 diamonds": fork_join(4, 2),
    "3 forks of 10": fork_join(3, 10),
    "tree, root first": tree(5, upwards=False),
    "tree, leaves first": tree(5, upwards=True),
    "layers 4 x 4, all": layers(4, 4, 4),
    "layers 6 x 8, two": layers(6, 8, 2),
    "grid 5 x 5": grid(5),
    "butterfly of 8": butterfly(8),
    "chains of 2, 5, 9": side_by_side(chain(2), chain(5), chain(9)),
    "straggler": straggler(6),
    "random, sparse": scattered(1, 40, 0.05),
    "random, dense": scattered(2, 40, 0.3),
}


def plan_of(shape: Shape, unit: float) -> Plan:
    """Of calls of the tool `wait`; needs are references and `after`, by turns."""
    nodes = []
    for index, (delay, needed) in enumerate(shape):
        refs = [Ref(str(need + 1), "waited") for need in needed[::2]]
        arguments = {"seconds": delay * unit} | ({"seen": refs} if refs else {})
        after = tuple(str(need + 1) for need in needed[1::2])
        nodes.append(Node(str(index + 1), "wait", arguments, after))
    return Plan(tuple(nodes))


def seconds_of(node: Node) -> float:
    return float(node.arguments["seconds"])


async def run(plan: Plan, gates: Gates, *, pause: float = 0.0) -> tuple[float, float, float]:
    """When the first call began, the planner was done, and the run, in seconds from its start;
    the planner says a node every `pause`."""
    first = said = 0.0
    more = asyncio.Event()
    start = gates.clock()
    async with Executor(TOOLS, gates) as executor:

        async def decode() -> None:
            nonlocal said
            for node in plan.nodes:
                if pause:
                    await asyncio.sleep(pause)
                executor.add(node)
                more.set()
            said = gates.clock() - start

        deciding = asyncio.create_task(decode())
        deciding.add_done_callback(lambda _: more.set())
        while not deciding.done() or executor.unfinished:
            if not executor.unfinished:
                more.clear()
                await more.wait()
                continue
            item = await executor.next()
            if isinstance(item, Started) and not first:
                first = item.at - start
        failed = [result for result in executor.results.values() if result.failed]
    if failed:
        raise RuntimeError(f"calls failed: {failed[0]}")
    return first, said, gates.clock() - start


async def run_bare(plan: Plan) -> float:
    """The same with nothing but sleeps: what this machine makes of it at best."""
    done: dict[str, asyncio.Task[None]] = {}

    async def wait(node: Node) -> None:
        for need in needs(node):
            await done[need]
        await asyncio.sleep(seconds_of(node))

    start = time.perf_counter()
    for node in plan.nodes:
        done[node.id] = asyncio.create_task(wait(node))
    await asyncio.gather(*done.values())
    return time.perf_counter() - start


def measure(unit: float, rounds: int) -> list[dict[str, Any]]:
    rows = []
    for name, shape in SHAPES.items():
        plan = plan_of(shape, unit)
        critical = max(finish_times(plan, seconds_of).values())
        walls, bare = [], []
        for _ in range(rounds):
            walls.append(asyncio.run(run(plan, Gates()))[2])
            bare.append(asyncio.run(run_bare(plan)))
        rows.append(
            {
                "shape": name,
                "calls": len(shape),
                "one_by_one": sum(map(seconds_of, plan.nodes)),
                "critical_path": critical,
                "wall": walls,
                "bare": bare,
                "held": median(walls) <= critical * (1 + MAX_SHARE) + MAX_SECONDS,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--unit", type=float, default=0.2, help="seconds that a call takes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    console = Console(width=110)
    asyncio.run(run(plan_of(chain(1), 0.0), Gates()))  # what is loaded once is loaded
    rows = measure(options.unit, options.rounds)
    table = Table("shape", "calls", "one by one", "critical path", "wall", "over", "bare over", "")
    for row in rows:
        critical = row["critical_path"]
        over = [f"{(median(row[who]) - critical) * 1e3:.1f} ms" for who in ("wall", "bare")]
        seconds = [f"{s:.3f} s" for s in (row["one_by_one"], critical, median(row["wall"]))]
        table.add_row(
            row["shape"], str(row["calls"]), *seconds, *over, "" if row["held"] else "beyond"
        )
    console.print(table)
    plan = plan_of(fan(10, join=True), 1.0)
    first, said, wall = asyncio.run(run(plan, Gates(), pause=0.1))
    console.print(
        f"a node every 100 ms: first call after {first:.3f} s, plan said after {said:.3f} s, "
        f"all done after {wall:.3f} s (saying it first: {said + 2.0:.3f} s)"
    )
    if options.json:
        overlap = {"first_call": first, "plan_said": said, "wall": wall}
        options.json.write_text(
            json.dumps({"unit": options.unit, "rows": rows, "overlap": overlap})
        )
    sys.exit(not all(row["held"] for row in rows))


if __name__ == "__main__":
    main()
