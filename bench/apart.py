"""What a process of its own costs an engine: time and processor time a token, memory, a restart.

    python bench/apart.py [--model smollm2-135m] [--tokens 64] [--rounds 5]

Both engines are there all the time and take turns, round by round; what is printed are medians of
rounds. Processor time is that of this process and of the engine's, waiting not counted. Memory is
what a process has to itself ("private") and all that is mapped into it ("resident"), weights too.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from f1.apart.engine import ApartEngine
from f1.engine import AsyncEngine
from f1.settings import Settings
from f1.types import GenerateRequest, Message, SamplingParams

STREAMS = (1, 8, 32)
TICKS = os.sysconf("SC_CLK_TCK")
ALONE = """
import sys
from f1.config import Config
from f1.settings import Settings
import f1.serve.process
if sys.argv[2] == "apart":
    from f1.apart.engine import ApartEngine as Engine
else:
    from f1.engine import AsyncEngine as Engine
engine = Engine.start(sys.argv[1], Settings.from_env())
print(getattr(engine, "pid", None) or 0, flush=True)
sys.stdin.read()
engine.close()
"""


@dataclass(frozen=True, slots=True)
class Round:
    tokens_per_second: float
    first: float  # seconds, the median of its requests
    processor: float  # seconds a token, of all processes
    here: float  # and of this one


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def run(
    engine: AsyncEngine | ApartEngine, streams: int, tokens: int, name: str, never: dict[int, float]
) -> Round:
    firsts: list[float] = []

    async def one(index: int) -> None:
        text = f"Tell me the story number {index} of {name}."
        request = GenerateRequest(
            (Message("user", text),), max_tokens=tokens, sampling=SamplingParams(logit_bias=never)
        )
        begin = time.perf_counter()
        count = 0
        async for _ in engine.generate(request):
            if not count:
                firsts.append(time.perf_counter() - begin)
            count += 1

    pid = engine.pid if isinstance(engine, ApartEngine) else None
    begin, here = time.perf_counter(), time.process_time()
    there = processor_seconds(pid) if pid else 0.0
    await asyncio.gather(*(one(index) for index in range(streams)))
    took, here = time.perf_counter() - begin, time.process_time() - here
    there = (processor_seconds(pid) if pid else 0.0) - there
    total = streams * tokens
    return Round(total / took, statistics.median(firsts), (here + there) / total, here / total)


def restarts(engine: ApartEngine, times: int) -> list[float]:
    """Seconds from a death to a token."""

    async def one() -> float:
        if (pid := engine.pid) is None:
            raise RuntimeError("the engine has no process")
        os.kill(pid, signal.SIGKILL)
        begin = time.perf_counter()
        while engine.pid in (pid, None):
            await asyncio.sleep(0.005)
        request = GenerateRequest((Message("user", f"Hello {pid}"),), max_tokens=1)
        async for _ in engine.generate(request):
            pass
        return time.perf_counter() - begin

    return [asyncio.run(one()) for _ in range(times)]


def loads(model: str, times: int) -> list[float]:
    took = []
    for _ in range(times):
        begin = time.perf_counter()
        ApartEngine.start(model).close()
        took.append(time.perf_counter() - begin)
    return took


def memory(model: str, how: str) -> list[tuple[str, float, float]]:
    """MiB of a fresh server's process and of its engine's: private, resident."""
    with subprocess.Popen(
        [sys.executable, "-c", ALONE, model, how], stdin=-1, stdout=-1, text=True
    ) as process:
        if process.stdout is None or process.stdin is None:
            raise RuntimeError("no pipes")
        child = int(process.stdout.readline())
        found = [(f"{how}, server", *_memory(process.pid))]
        if child:
            found.append((f"{how}, engine", *_memory(child)))
        process.stdin.close()
    return found


def _memory(pid: int) -> tuple[float, float]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    private = sizes["Private_Clean"] + sizes["Private_Dirty"]
    return private / 1024, sizes["Rss"] / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    settings = Settings.from_env()
    engines = {
        "here": AsyncEngine.start(options.model, settings),
        "apart": ApartEngine.start(options.model, settings),
    }
    never = dict.fromkeys(engines["here"].tokenizer.stop_token_ids, -100.0)
    console = Console()
    table = Table(
        "streams", "engine", "tokens/s", "first token ms", "CPU µs a token", "of it in the server"
    )
    for streams in STREAMS:
        rounds: dict[str, list[Round]] = {name: [] for name in engines}
        for number in range(options.rounds):
            for name, engine in engines.items():
                told = f"{name} {streams} {number}"
                done = asyncio.run(run(engine, streams, options.tokens, told, never))
                rounds[name].append(done)
        for name, some in rounds.items():
            middle = [
                statistics.median(getattr(each, field) for each in some)
                for field in ("tokens_per_second", "first", "processor", "here")
            ]
            shown = (middle[0], middle[1] * 1e3, middle[2] * 1e6, middle[3] * 1e6)
            table.add_row(str(streams), name, *(f"{value:.1f}" for value in shown))
    console.print(table)
    apart = engines["apart"]
    if isinstance(apart, ApartEngine):
        load, again = loads(options.model, 3), restarts(apart, 5)
        console.print(
            f"load and close {statistics.median(load):.2f} s; from a death to a token "
            f"{statistics.median(again):.2f} s (at most {max(again):.2f})"
        )
    for engine in engines.values():
        engine.close()
    for how in ("here", "apart"):
        for what, private, resident in memory(options.model, how):
            console.print(f"{what}: {private:.0f} MiB private, {resident:.0f} MiB resident")


if __name__ == "__main__":
    main()
