"""What a process of its own costs a tool, and what a sandbox adds.

    python bench/isolation.py [--rounds 20] [--calls 200] [--json FILE]

The operator's function `add(1, 2)`: in a thread of this process, in a worker, in a sandboxed one.
Each round starts a worker of both kinds in turn (from nothing to the first result), then calls it
once it is warm; and calls it where every call has a worker of its own, started ahead (`idle = 0`),
with as much time between calls as a start takes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from f1.bench.machine import describe_run
from f1.tools.function import make_tool
from f1.tools.runners.process import ProcessRunner, Workers
from f1.tools.runners.sandbox import Sandbox
from f1.tools.runners.workers import WorkerSettings
from f1.tools.spec import CallLimits, Runner

KINDS = {"worker": None, "sandboxed": Sandbox()}
LIMITS = CallLimits()


def add(a: int, b: int) -> int:
    return a + b


async def timed(runner: Runner, calls: int = 1) -> float:
    """Milliseconds, the median."""
    taken = []
    for _ in range(calls):
        began = time.perf_counter()
        await runner.call({"a": 1, "b": 2}, LIMITS)
        taken.append((time.perf_counter() - began) * 1e3)
    return statistics.median(taken)


async def measure(folder: Path, rounds: int, calls: int) -> dict[str, list[float]]:
    (folder / "adding.py").write_text("def add(a: int, b: int) -> int:\n    return a + b\n")
    in_thread = make_tool(add).spec.runner
    if in_thread is None:
        raise RuntimeError("a function has a runner")
    found: dict[str, list[float]] = {"thread, call": []}
    for _ in range(rounds):
        found["thread, call"].append(await timed(in_thread, calls))
        for name, sandbox in KINDS.items():
            with closing(Workers(WorkerSettings(folder))) as workers:
                runner = ProcessRunner(workers, "adding", "add", sandbox)
                found.setdefault(f"{name}, start and call", []).append(await timed(runner))
                found.setdefault(f"{name}, call", []).append(await timed(runner, calls))
        for name, sandbox in KINDS.items():
            with closing(Workers(WorkerSettings(folder, idle=0))) as workers:
                runner = ProcessRunner(workers, "adding", "add", sandbox)
                await runner.call({"a": 1, "b": 2}, LIMITS)
                await asyncio.sleep(4 * found[f"{name}, start and call"][-1] / 1e3)
                found.setdefault(f"{name}, each its own, call", []).append(await timed(runner))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measure(Path(folder), options.rounds, options.calls))
    table = Table("of a tool that adds", "ms, median", "lowest", "highest")
    rows: dict[str, Any] = {}
    for name, values in sorted(found.items()):
        low, middle, high = min(values), statistics.median(values), max(values)
        rows[name] = {"median": middle, "lowest": low, "highest": high}
        table.add_row(name, *(f"{value:.3g}" for value in (middle, low, high)))
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps({"run": describe_run(), "ms": rows}, indent=1))


if __name__ == "__main__":
    main()
