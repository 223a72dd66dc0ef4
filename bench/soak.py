"""A server at several times its capacity, with clients that crash, lie, leave and hurry.

    python bench/soak.py [--model smollm2-135m] [--minutes 10] [--times 4] [--json FILE]

A real `f1 serve` process; first each good request alone (what it must answer ever after), then as
many clients as it serves side by side (its peak), then open arrivals at so many times that rate,
then the peak again: the machine may have changed meanwhile. Bounds are in BOUNDS; exit code 1 when
one is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crowd import Crowd, Held, Server, figures
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from f1.bench.machine import describe_run


@contextmanager
def serving(model: str) -> Iterator[Server]:
    """`f1 serve`, loaded."""
    command = [sys.executable, "-P", "-m", "f1.cli", "serve", "--port", "0", "-m", model]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as errors:
            env = {"F1_KV_MEMORY": "512M", "NO_COLOR": "1"} | os.environ
            process = subprocess.Popen(command, stderr=errors, env=env)
        try:
            while not (found := re.search(r"ready .* at http://[^:]*:(\d+)", log.read_text())):
                if process.poll() is not None:
                    raise SystemExit(log.read_text())
                time.sleep(0.1)
            yield Server(process, int(found[1]), log)
        finally:
            process.kill()
            process.wait()


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))] if values else 0.0


async def run(
    server: Server, model: str, minutes: float, times: float
) -> tuple[dict[str, float], list[float]]:
    """What was found, and the memory in MB every ten seconds of the flood."""
    crowd = Crowd(server, model)
    found = crowd.found
    seconds = minutes * 60
    aside = max(seconds / 10, 10)  # of each measurement of the peak
    samples: list[Held] = []

    async def watch(progress: Progress, what: str, of: float, into: list[Held]) -> None:
        task, began = progress.add_task(what, total=of), time.monotonic()
        while True:
            progress.update(task, completed=min(time.monotonic() - began, of))
            into.append(Held.of(server.process))
            await asyncio.sleep(1)

    with Progress(console=Console(stderr=True)) as progress:

        async def phase(what: str, of: float, work: Any) -> Any:
            watching = asyncio.create_task(watch(progress, what, of, samples))
            try:
                return await work
            finally:
                watching.cancel()

        await phase("each alone", 10, crowd.learn())
        await phase("fill the cache", 30, crowd.fill())
        samples.clear()
        num_learnt = len(found.took)
        before, rate = await phase("peak", aside, crowd.closed_loop(aside))
        num_calm = len(found.took)
        calm, samples = samples, []
        begin = time.monotonic()
        arriving = crowd.open_loop(seconds, times * rate, random.Random(1))
        await phase(f"{times:g} times too much", seconds, arriving)
        flooded = found.goodput(begin + seconds / 10, begin + seconds)
        rss = [held.rss for held in samples]
        warm, window = len(rss) // 5, max(len(rss) // 10, 1)
        growth = statistics.median(rss[-window:]) / statistics.median(rss[warm : warm + window]) - 1
        warmed = samples[warm]  # its pools have all their threads now
        flood, samples = samples, []
        num_flooded = len(found.took)
        after, _ = await phase("peak again", aside, crowd.closed_loop(aside))
    at_peak = found.took[num_learnt:num_calm] + found.took[num_flooded:]
    admitted = found.took[num_calm:num_flooded]
    held = Held.of(server.process)
    now = figures(server)
    inside = now["f1_running_choices"] + now["f1_queue_requests"] + now["f1_engine_running"]
    for name, count in sorted(found.statuses.items()):
        Console(stderr=True).print(f"{count:7,d}  {name}", highlight=False)
    figures_found = {
        "arrivals a second": times * rate,
        "peak before, tokens/s": before,
        "peak after, tokens/s": after,
        "goodput, tokens/s": flooded,
        "goodput, % of peak": 100 * flooded / ((before + after) / 2),
        # What is left of the noise of a machine that does other things, too.
        "the same by processor time, %": 100
        * found.by_processor(flood)
        / found.by_processor(calm, samples),
        "good answers, p50 s": percentile(admitted, 0.5),
        "good answers, p99 s": percentile(admitted, 0.99),
        "p99 of admitted, over at peak": percentile(admitted, 0.99) / percentile(at_peak, 0.99),
        "refused": len(found.refused_in),
        "refusals, p99 ms": 1000 * percentile(found.refused_in, 0.99),
        "deadlines": len(found.late),
        "behind the deadline at most, ms": 1000 * max(found.late, default=0),
        "hung": found.hung,
        "answers 5xx": found.crashed,
        "unlike alone": found.wrong,
        "memory, MB": rss[-1] / 1e6,
        "memory growth, %": 100 * growth,
        "more files": held.files - warmed.files,
        "more threads": held.threads - warmed.threads,
        "more processes": held.children - warmed.children,
        "preemptions": now["f1_engine_preemptions_total"],
        "left inside": inside,
    }
    return figures_found, [round(sample.rss / 1e6, 1) for sample in flood[::10]]


BOUNDS: dict[str, tuple[float, float]] = {
    "goodput, % of peak": (90, float("inf")),  # 80 beyond four times too much
    "refusals, p99 ms": (0, 50),
    "behind the deadline at most, ms": (0, 250),
    "hung": (0, 0),
    "answers 5xx": (0, 0),
    "unlike alone": (0, 0),
    "memory growth, %": (-100, 2),
    "more files": (-1000, 2),
    "more threads": (-1000, 32),  # the pool that prepares requests grows to that
    "more processes": (-1000, 0),
    "p99 of admitted, over at peak": (0, 2),
    "left inside": (0, 0),
    "exit code": (0, 0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--times", type=float, default=4, help="arrivals, over the peak's rate")
    parser.add_argument("--json", type=Path, help="also write everything here")
    options = parser.parse_args()
    with serving(options.model) as server:
        found, memory = asyncio.run(run(server, "f1", options.minutes, options.times))
        server.process.send_signal(signal.SIGTERM)
        found["exit code"] = server.process.wait(60)
    bounds = BOUNDS | ({"goodput, % of peak": (80, float("inf"))} if options.times > 4 else {})
    broken = [name for name, (low, high) in bounds.items() if not low <= found[name] <= high]
    table = Table("", "found", "bound", box=None)
    for name, value in found.items():
        low, high = bounds.get(name, (None, None))
        bound = "" if high is None else (f"≥ {low:g}" if high == float("inf") else f"≤ {high:g}")
        style = "red" if name in broken else None
        table.add_row(name, f"{value:,.1f}".removesuffix(".0"), bound, style=style)
    Console(highlight=False).print(table, f"memory, MB: {' '.join(map(str, memory))}")
    if options.json:
        run_of = describe_run(model=options.model, minutes=options.minutes, times=options.times)
        options.json.write_text(
            json.dumps(run_of | {"found": found, "broken": broken, "memory": memory}, indent=1)
        )
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
