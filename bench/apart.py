"""What a process of its own costs an engine: time and processor time a token, memory, a restart.

    python bench/apart.py [--model smollm2-135m] [--tokens 64] [--rounds 5]

Two servers (`f1 serve`, with F1_ENGINE_PROCESS off and on) are there all the time and are asked in
turns over HTTP; what is printed are medians of rounds, and of the ratios of a round's two turns.
Processor time is that of the server and of its engine. Memory is what a process has to itself
("private") and all that is mapped into it ("resident"), weights too.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

STREAMS = (1, 8, 32)
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Server:
    url: str
    pid: int
    seconds: float  # from its start until it was ready

    @property
    def engines(self) -> list[int]:
        """Processes that it has started."""
        texts = [file.read_text() for file in Path(f"/proc/{self.pid}/task").glob("*/children")]
        return [int(child) for text in texts for child in text.split()]

    def processor_seconds(self) -> float:
        total = 0
        for pid in (self.pid, *self.engines):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICKS


@dataclass(frozen=True, slots=True)
class Turn:
    rate: float  # tokens a second
    first: float  # seconds until a request's first token, the median
    processor: float  # seconds a token


@contextmanager
def serving(model: str, apart: bool) -> Iterator[Server]:
    command = [sys.executable, "-m", "f1.cli", "serve", "--port", "0", "-m", model]
    env = {**os.environ, "NO_COLOR": "1", "F1_ENGINE_PROCESS": "on" if apart else "off"}
    env["F1_LOG_REQUESTS"] = "off"
    begin = time.perf_counter()
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        if process.stderr is None:
            raise RuntimeError("no pipe")
        line = process.stderr.readline()
        if (found := re.search(r"at (http://\S+)/v1", line)) is None:
            raise RuntimeError(line)
        try:
            yield Server(found[1], process.pid, time.perf_counter() - begin)
        finally:
            process.terminate()
            process.stderr.read()


async def turn(server: Server, streams: int, tokens: int, name: str, model: str) -> Turn:
    firsts: list[float] = []
    counts: list[int] = []

    async def one(http: httpx.AsyncClient, index: int) -> None:
        asked = {
            "model": model,
            "messages": [{"role": "user", "content": f"Tell me the story {index} of {name}."}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": tokens,
        }
        begin, first = time.perf_counter(), 0.0
        async with http.stream("POST", "/v1/chat/completions", json=asked) as answer:
            async for line in answer.aiter_lines():
                first = first or ('"content":"' in line and time.perf_counter() - begin) or 0.0
                if found := re.search(r'"completion_tokens":(\d+)', line):
                    counts.append(int(found[1]))
        firsts.append(first)

    before, begin = server.processor_seconds(), time.perf_counter()
    async with httpx.AsyncClient(base_url=server.url, timeout=600) as http:
        await asyncio.gather(*(one(http, index) for index in range(streams)))
    took, spent = time.perf_counter() - begin, server.processor_seconds() - before
    return Turn(sum(counts) / took, statistics.median(firsts), spent / sum(counts))


def restart(server: Server, model: str) -> float:
    """Seconds from the engine's death to an answer of the next."""
    (engine,) = server.engines
    os.kill(engine, signal.SIGKILL)
    begin = time.perf_counter()
    asked = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    url = f"{server.url}/v1/chat/completions"
    while httpx.post(url, json=asked, timeout=600).status_code != 200:
        pass
    if engine in server.engines:
        raise RuntimeError("it lives")
    return time.perf_counter() - begin


def memory(pid: int) -> str:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    private = sizes["Private_Clean"] + sizes["Private_Dirty"]
    return f"{private >> 10} MiB private, {sizes['Rss'] >> 10} MiB resident"


def compare(here: Server, apart: Server, options: argparse.Namespace) -> Table:
    table = Table("streams", "engine", "tokens/s", "first token ms", "CPU ms a token")
    for streams in STREAMS:
        rounds: list[tuple[Turn, Turn]] = []
        for number in range(options.rounds):
            turns = [
                asyncio.run(
                    turn(server, streams, options.tokens, f"{name} {number}", options.model)
                )
                for name, server in (("the sea", here), ("the woods", apart))
            ]
            rounds.append((turns[0], turns[1]))
        for index, name in enumerate(("here", "apart")):
            some = [each[index] for each in rounds]
            table.add_row(
                str(streams),
                name,
                f"{statistics.median(each.rate for each in some):.1f}",
                f"{statistics.median(each.first for each in some) * 1e3:.0f}",
                f"{statistics.median(each.processor for each in some) * 1e3:.2f}",
            )
        ratios = [
            statistics.median(getattr(b, field) / getattr(a, field) for a, b in rounds)
            for field in ("rate", "first", "processor")
        ]
        table.add_row("", "ratio", *(f"{ratio:.3f}" for ratio in ratios), end_section=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--restarts", type=int, default=5)
    options = parser.parse_args()
    console = Console()
    with ExitStack() as stack:
        here, apart = (
            stack.enter_context(serving(options.model, apart)) for apart in (False, True)
        )
        console.print(f"here: {memory(here.pid)}")
        console.print(f"apart: {memory(apart.pid)}; its engine: {memory(apart.engines[0])}")
        console.print(compare(here, apart, options))
        again = [restart(apart, options.model) for _ in range(options.restarts)]
        console.print(
            f"ready after {here.seconds:.1f} s here, {apart.seconds:.1f} s apart; from a death to "
            f"an answer {statistics.median(again):.1f} s (at most {max(again):.1f})"
        )


if __name__ == "__main__":
    main()
