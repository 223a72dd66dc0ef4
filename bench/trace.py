"""What writing a run down costs: the same runs with a record and without, taking turns.

    python bench/trace.py [--model smollm2-135m] [--rounds 40]

A run: a question, a call that the model has to make of one of 8 tools, its result of 2,000
characters, an answer of up to 64 tokens. The record is as `f1 serve` keeps it: redacted, in SQLite,
durable before a call runs. Each side has an engine of its own, and all questions are new to it: an
answer that was given before is drafted at once, up to where something is decided that a record has
to tell of. Greedy; both sides say the same. Seconds are told of the wall and of all threads'
processors; the latter do not know of who else uses the machine. Exits 1 from 3 % on.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from f1.bench.machine import describe_run
from f1.config import Config
from f1.engine import AsyncEngine
from f1.keeping import hiding, open_recorder
from f1.planning.orchestrator import Orchestrator, System
from f1.planning.outcome import report_of
from f1.settings import Settings
from f1.tools.spec import Annotations, CallLimits, Output, ToolSpec
from f1.trace.entries import CODEC
from f1.trace.recorder import Recorder
from f1.types import GenerateRequest, Message, RunOptions, SamplingParams, Tool, ToolChoice

CITIES = "Nairobi Mombasa Kisumu Nakuru Eldoret Thika Malindi Lamu Kitale Garissa".split()
QUESTIONS = (
    "What is the weather in {} going to be like today?",
    "I am off to {} in an hour. Shall I take a coat?",
    "How windy does it get in {} this afternoon?",
    "Tell me when it rains in {}.",
)
ASKED = 0.03


class Forecast:
    """Answers at once, at length."""

    async def call(self, arguments: Any, limits: CallLimits) -> Output:
        hours = [
            {
                "hour": hour,
                "celsius": 18 + hour % 9,
                "wind_kmh": 7.5 + hour % 5,
                "rain": hour % 7 == 0,
            }
            for hour in range(30)
        ]
        return Output(
            {"city": arguments["city"], "source": "https://example.com/f/v1", "hours": hours}
        )


def tools() -> list[ToolSpec]:
    properties = {
        "city": {"type": "string", "description": "Name of the city."},
        "unit": {"type": "string", "enum": ["C", "F"]},
    }
    schema = {"type": "object", "properties": properties, "required": ["city"]}
    # Not read-only, as most are that matter: what is launched is written down before it runs.
    says = Annotations(destructive=False)
    names = "forecast tide traffic flights hotels news rates history".split()
    return [
        ToolSpec(Tool(n, f"The {n} of a city.", schema), Forecast(), annotations=says)
        for n in names
    ]


@dataclass(frozen=True, slots=True)
class Took:
    wall: float
    processor: float
    told: tuple[Any, ...]  # what was said and called


async def take(orchestrator: Orchestrator, question: str) -> Took:
    request = GenerateRequest(
        (Message("user", question),),
        tool_choice=ToolChoice("required"),
        sampling=SamplingParams(),
        max_tokens=64,
        run=RunOptions(strategy="react"),
    )
    wall, processor = time.perf_counter(), time.process_time()
    *_, outcome = [item async for item in orchestrator.run(request)]
    took = time.perf_counter() - wall, time.process_time() - processor
    report = report_of(outcome)
    calls = [(result.call.name, result.call.arguments) for result in report.results]
    return Took(*took, (outcome.completion.message.content, *calls))


async def redacting(recorder: Recorder, runs: int) -> float:
    """Seconds a run that encoding and redacting its entries takes, alone."""
    rows = await recorder.store.runs("", limit=runs)
    entries = [(await recorder.read("", row.id)) for row in rows]
    began = time.process_time()
    for record in entries:
        redaction = recorder.redaction.for_run()
        for entry in record.entries if record is not None else ():
            redaction.redact(CODEC.encode(entry))
    return (time.process_time() - began) / len(entries)


async def measure(model: str, rounds: int, folder: Path) -> tuple[list[Took], list[Took], float]:
    settings = replace(Settings.from_env(), kv_memory=256 << 20)
    config, env = Config.of(model), dict(os.environ)
    kept = replace(settings, cache=folder)
    recorder = open_recorder(config, kept, env, hiding(config, kept, env))
    if recorder is None:
        raise SystemExit("F1_RUNS_DISK is 0: nothing would be written down")
    engines = [AsyncEngine.start(model, settings) for _ in range(2)]
    try:
        plain, watched = map(System.of, engines)
        sides = [
            Orchestrator(plain, tools()),
            Orchestrator(replace(watched, recorder=recorder), tools()),
        ]
        found: tuple[list[Took], list[Took]] = ([], [])
        for each in sides:
            await take(each, "Is it hot in Kampala?")
        for n in range(rounds):
            city, told = CITIES[n % len(CITIES)], QUESTIONS[n // len(CITIES) % len(QUESTIONS)]
            for side in (0, 1) if n % 2 else (1, 0):
                found[side].append(await take(sides[side], told.format(city)))
        seconds = await redacting(recorder, rounds)
        await recorder.close()
        return *found, seconds
    finally:
        for engine in engines:
            engine.close()


def overhead(without: Sequence[float], recorded: Sequence[float]) -> tuple[float, float]:
    """Of all together, and of the middle pair: parts of a run."""
    pairs = [r / w - 1 for w, r in zip(without, recorded, strict=True)]
    return sum(recorded) / sum(without) - 1, statistics.median(pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=len(CITIES) * len(QUESTIONS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        without, recorded, seconds = asyncio.run(
            measure(options.model, options.rounds, Path(folder))
        )
    if [each.told for each in without] != [each.told for each in recorded]:
        raise SystemExit("the runs differ: they cannot be compared")
    about = describe_run()
    title = (
        f"{options.model}, {options.rounds} pairs of runs, {about['commit']}, {about['machine']}"
    )
    table = Table(title=f"{title}, load {about['load']:.1f}")
    for name in ("seconds", "a run without, ms", "recorded, ms", "of all", "median of pairs"):
        table.add_column(name)
    middle = 0.0
    for name in ("wall", "processor"):
        a, b = ([getattr(each, name) for each in side] for side in (without, recorded))
        whole, middle = overhead(a, b)
        ms = [f"{statistics.median(side) * 1e3:.1f}" for side in (a, b)]
        table.add_row(name, *ms, f"{whole:+.2%}", f"{middle:+.2%}")
    console = Console()
    console.print(table)
    run = statistics.median(each.wall for each in without)
    console.print(
        f"encoding and redacting alone: {seconds * 1e3:.2f} ms a run, {seconds / run:.2%}"
    )
    sys.exit(middle >= ASKED)


if __name__ == "__main__":
    main()
