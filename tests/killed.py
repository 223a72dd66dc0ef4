"""Runs with parallel calls, in a process that is killed (SIGKILL) at random moments until all have
ended; then what the world has seen is held against what was written and told.

    python tests/killed.py FOLDER KILLS SEED        prints what it found as JSON

Calls leave lines in a file, written through to the disk: `begin` before they do what they do, `end`
behind it. What a caller was told leaves lines, too.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scripted import call

from f1.planning.orchestrator import Orchestrator, System
from f1.planning.outcome import Reply
from f1.settings import Settings
from f1.store.runs import open_runs
from f1.tools.spec import INVOCATION, Annotations, CallLimits, Output, ToolSpec
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
)

TURNS = 3
NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
KINDS = {  # what may be done twice, and what not
    "pay": Annotations(),
    "put": Annotations(idempotent=True),
    "look": Annotations(read_only=True),
}


class Model:
    """Calls some of the tools in each turn, side by side, and answers in the last. What it says
    depends on the conversation alone, as a model's words do; its calls get ids of their own each
    time, as a model's do."""

    model_id = "scripted"

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        seed = request.messages[0].content.partition(":")[0]
        turn = sum(message.role == "assistant" for message in request.messages)
        rng = random.Random(f"{seed} {turn}")
        if turn == TURNS or request.tool_choice.mode == "none":
            yield TextDelta(0, f"all of {seed} is done")
            yield Finished(0, "stop", Usage(10, 5))
            return
        names = [rng.choice(list(KINDS)) for _ in range(rng.randint(2, 4))]
        for index, name in enumerate(names):
            await asyncio.sleep(rng.random() / 200)
            number = 100 * int(seed[1:]) + 10 * turn + index  # identical look-ups are made once
            made = call(name, f"call_{os.urandom(6).hex()}", n=number)
            yield CallDelta(0, index, made)
        yield Finished(0, "tool_calls", Usage(10, 5))


@dataclass(frozen=True)
class Does:
    name: str
    log: Path

    async def call(self, arguments: Any, limits: CallLimits) -> Output:
        invocation = INVOCATION.get()
        assert invocation is not None
        what = [invocation.run_id, self.name, arguments["n"], invocation.key]
        write(self.log, ["begin", *what])
        await asyncio.sleep(random.random() / 10)
        write(self.log, ["end", *what])
        return Output({"did": arguments["n"]})


def write(log: Path, line: list[Any]) -> None:
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, json.dumps(line).encode() + b"\n")
    os.fsync(file)
    os.close(file)


def read(log: Path) -> list[list[Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def settings(folder: Path) -> Settings:
    return Settings(cache=folder)


async def live(folder: Path, num_runs: int) -> None:
    """One life: runs that broke off first, then those that nobody has begun; several at a time."""
    store = open_runs(settings(folder))
    assert store is not None
    recorder = Recorder(store)
    system = replace(System.of(Model()), recorder=recorder)
    tools = [
        ToolSpec(Tool(name, f"{name}s.", NUMBER), Does(name, folder / "world"), annotations=says)
        for name, says in KINDS.items()
    ]

    async def go(run_id: str) -> None:
        numbers = range(100 * int(run_id[1:]), 100 * int(run_id[1:]) + 10 * TURNS)
        # A value that nobody has said is a guess, and waits.
        said = (Message("user", f"{run_id}: pay, put and look at {', '.join(map(str, numbers))}"),)
        request = GenerateRequest(said, run=RunOptions(run_id=run_id, strategy="react"))
        async with aclosing(Orchestrator(system, tools).run(request)) as items:
            async for item in items:
                if isinstance(item, ToolResult):
                    write(folder / "told", ["result", run_id, item.node_id, item.failed])
        assert isinstance(item, Reply), item
        write(folder / "told", ["answer", run_id, item.completion.message.content])

    ended = {line[1] for line in read(folder / "told") if line[0] == "answer"}
    left = [f"r{number}" for number in range(num_runs) if f"r{number}" not in ended]
    for first in range(0, len(left), 3):
        await asyncio.gather(*map(go, left[first : first + 3]))
    await recorder.close()


def killed(folder: Path, num_runs: int, rng: random.Random) -> bool:
    """One life in a process of its own, killed at a random moment of it; False: it came first."""
    child = os.fork()
    if not child:
        code = 1
        try:
            random.seed()
            asyncio.run(live(folder, num_runs))
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    until, ended = time.monotonic() + rng.uniform(0.05, 0.5), (0, 0)
    while time.monotonic() < until and not ended[0]:
        time.sleep(0.001)
        ended = os.waitpid(child, os.WNOHANG)
    if not ended[0]:
        os.kill(child, signal.SIGKILL)
        ended = os.waitpid(child, 0)
    if os.WIFEXITED(ended[1]) and os.WEXITSTATUS(ended[1]):
        raise RuntimeError("a life ended with an error")
    return os.WIFSIGNALED(ended[1]) and os.WTERMSIG(ended[1]) == signal.SIGKILL


async def found(folder: Path, num_runs: int) -> dict[str, Any]:
    """What is wrong, and how often what happened."""
    store = open_runs(settings(folder))
    assert store is not None
    recorder, broken, counts = Recorder(store), list[str](), Counter[str]()
    world, told = read(folder / "world"), read(folder / "told")
    begun = Counter((run_id, name, key) for what, run_id, name, _, key in world if what == "begin")
    ended = {(run_id, name, key) for what, run_id, name, _, key in world if what == "end"}
    for (run_id, name, key), times in begun.items():
        counts["calls"] += 1
        counts[f"{name} began again"] += times - 1
        if name == "pay" and times > 1:
            broken.append(f"{run_id} paid {times} times: {key}")
    for number in range(num_runs):
        record = await recorder.read("", f"r{number}")
        assert record is not None
        results = {e.result.node_id: e.result for e in record.entries if isinstance(e, Done)}
        for _, run_id, node_id, failed in (t for t in told if t[0] == "result"):
            if run_id == record.row.id and results[node_id].failed != failed:
                broken.append(f"{run_id} told {failed} of {node_id}, kept {results[node_id]}")
        for entry in record.entries:
            if not isinstance(entry, Launched):
                continue
            result, what = results.get(entry.node_id), (record.row.id, entry.call.name, entry.key)
            if entry.read_only and (result is None or result.call.id != entry.call.id):
                continue  # of a turn that was interrupted, and came again otherwise
            if result is None:
                broken.append(f"{record.row.id}: nothing came of {entry}")
            elif result.failed == "unknown":
                counts["unknown"] += 1
                counts["unknown, and done"] += what in ended
            elif result.failed is None and what not in ended:
                broken.append(f"{record.row.id}: {entry} is told as done, and is not")
        if record.row.status != "ended":
            broken.append(f"{record.row.id} is {record.row.status}")
    answers = Counter(run_id for what, run_id, *_ in told if what == "answer")
    if len(answers) != num_runs:
        broken.append(f"{len(answers)} answers")
    await recorder.close()
    return {"broken": broken, **counts}


def main(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    rng, num_kills, num_runs = random.Random(seed), 0, max(kills, 3)
    while killed(folder, num_runs, rng) or num_kills < kills:
        num_kills += 1
        if num_kills > 20 * kills:
            return {"broken": ["it does not get on"], "kills": num_kills}
    return {"kills": num_kills, **asyncio.run(found(folder, num_runs))}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
