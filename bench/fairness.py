"""One tenant that asks for ten times its share, beside nine that ask for little.

    python bench/fairness.py [--model smollm2-135m] [--seconds 60] [--json FILE]

A real `f1 serve` process with ten API keys. First as many clients as it serves at once, of all
tenants (its peak; a tenth of that is a fair share); then the light ones alone, whose arrivals are
half a fair share each; then beside the greedy one, whose arrivals are ten; then alone again: the
machine may have changed meanwhile. Exit code 1 when a bound is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crowd import HUNG, SIDE_BY_SIDE, Server, ask, good_bodies
from rich.console import Console
from rich.table import Table
from soak import percentile, serving

from f1.bench.machine import describe_run

NUM_LIGHT = 9
ASKS = 0.5  # of a light tenant's fair share
GREED = 10.0
BOUNDS = {"light p99, over alone": (0.0, 2.0), "least share, %": (90.0, 1e9), "hung": (0.0, 0.0)}


@dataclass(slots=True)
class Tenant:
    key: str
    took: list[float] = field(default_factory=list)  # seconds of good answers
    asked: int = 0
    refused: int = 0
    hung: int = 0


class Town:
    def __init__(self, server: Server, model: str, keys: Sequence[str]):
        self.server = server
        self.keys = keys
        self.bodies = [json.dumps(body).encode() for body in good_bodies(model)]

    async def one(self, tenant: Tenant, choose: random.Random) -> None:
        began, body = time.monotonic(), choose.choice(self.bodies)
        tenant.asked += 1
        try:
            async with asyncio.timeout(HUNG):
                status, answer = await ask(self.server, body, key=tenant.key)
        except TimeoutError:
            tenant.hung += 1
            return
        if status == 200:
            tenant.took.append(time.monotonic() - began)
        elif status == 429:
            tenant.refused += 1
        else:
            raise SystemExit(f"a good request got {status}: {answer[:300]!r}")

    async def peak(self, seconds: float) -> float:
        """Good answers a second."""
        until = time.monotonic() + seconds
        tenants = [Tenant(key) for key in self.keys]

        async def client(index: int) -> None:
            choose = random.Random(index)
            while time.monotonic() < until:
                await self.one(tenants[index % len(tenants)], choose)

        begin = time.monotonic()
        await asyncio.gather(*map(client, range(SIDE_BY_SIDE)))
        return sum(len(tenant.took) for tenant in tenants) / (time.monotonic() - begin)

    async def arrivals(self, tenant: Tenant, rate: float, seconds: float, seed: int) -> None:
        choose, due = random.Random(seed), time.monotonic()
        until = due + seconds
        async with asyncio.TaskGroup() as tasks:
            while (due := due + choose.expovariate(rate)) < until:
                await asyncio.sleep(max(due - time.monotonic(), 0))
                tasks.create_task(self.one(tenant, choose))

    async def open(self, share: float, seconds: float, seed: int, *, greedy: bool) -> list[Tenant]:
        """The light ones, and the greedy one last if it is there."""
        tenants = [Tenant(key) for key in self.keys[: NUM_LIGHT + greedy]]
        rates = [ASKS * share] * NUM_LIGHT + [GREED * share]
        async with asyncio.TaskGroup() as tasks:
            for index, tenant in enumerate(tenants):
                work = self.arrivals(tenant, rates[index], seconds, seed * 100 + index)
                tasks.create_task(work)
        return tenants


async def run(town: Town, seconds: float) -> dict[str, float]:
    await town.peak(seconds / 6)  # caches are warm, grammars are made
    peak = await town.peak(seconds / 3)
    share = peak / (NUM_LIGHT + 1)
    alone = await town.open(share, seconds / 2, 1, greedy=False)
    *light, greedy = await town.open(share, seconds, 2, greedy=True)
    alone += await town.open(share, seconds / 2, 3, greedy=False)
    solo = percentile([took for tenant in alone for took in tenant.took], 0.99)
    beside = percentile([took for tenant in light for took in tenant.took], 0.99)
    # Who asks for less than a share is owed what it asks for.
    owed = [min(tenant.asked, share * seconds) for tenant in light]
    return {
        "peak, answers/s": peak,
        "light p50 alone, s": percentile([t for each in alone for t in each.took], 0.5),
        "light p50 beside, s": percentile([t for each in light for t in each.took], 0.5),
        "light p99 alone, s": solo,
        "light p99 beside, s": beside,
        "light p99, over alone": beside / solo,
        "least share, %": 100
        * min(len(each.took) / due for each, due in zip(light, owed, strict=True)),
        "light answers": sum(len(tenant.took) for tenant in light),
        "light refused": sum(tenant.refused for tenant in light),
        "greedy answers": len(greedy.took),
        "greedy refused": greedy.refused,
        "greedy p99, s": percentile(greedy.took, 0.99),
        "hung": sum(tenant.hung for tenant in (*alone, *light, greedy)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--seconds", type=float, default=60, help="beside the greedy one")
    parser.add_argument("--json", type=Path, help="also write everything here")
    options = parser.parse_args()
    keys = [f"key-of-{index}" for index in range(NUM_LIGHT + 1)]
    os.environ["F1_API_KEYS"] = ",".join(f"tenant{i}:{key}" for i, key in enumerate(keys))
    began = os.getloadavg()[0]
    with serving(options.model) as server:
        found = asyncio.run(run(Town(server, "f1", keys), options.seconds))
    broken = [name for name, (low, high) in BOUNDS.items() if not low <= found[name] <= high]
    table = Table("", "found", "bound", box=None)
    for name, value in found.items():
        low, high = BOUNDS.get(name, (None, None))
        bound = "" if high is None else (f"≥ {low:g}" if high >= 1e9 else f"≤ {high:g}")
        table.add_row(name, f"{value:,.2f}", bound, style="red" if name in broken else None)
    load = f"load before {began:.1f}, now {os.getloadavg()[0]:.1f}"
    Console(highlight=False).print(table, f"{load}; {'broken' if broken else 'all bounds hold'}")
    if options.json:
        run_of = describe_run(model=options.model, seconds=options.seconds)
        options.json.write_text(json.dumps(run_of | {"found": found, "broken": broken}, indent=1))
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
