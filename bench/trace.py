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
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
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
from f1.types import Event, GenerateRequest, Message, RunOptions, SamplingParams, Tool, ToolChoice

CITIES = "Nairobi Mombasa Kisumu Nakuru Eldoret Thika Malindi Lamu Kitale Garissa".split()
QUESTIONS = (
    "What is the weather in {} going to be like today?",
    "I am off to {} in an hour. Shall I take a coat?",
    "How windy does it get in {} this afternoon?",
    "Tell me when it rains in {}.",
)
ASKED = 0.03
SIDES = ("no record", "recorded, decisions not asked for", "recorded")


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


@dataclass(frozen=True, slots=True)
class Undecided:
    """An engine that is not asked what it decided, nor for its tokens."""

    engine: AsyncEngine

    @property
    def model_id(self) -> str:
        return self.engine.model_id

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        async with aclosing(self.engine.generate(replace(request, record=False))) as events:
            async for event in events:
                yield event


async def measure(model: str, rounds: int, folder: Path) -> tuple[list[list[Took]], float]:
    """What each of the SIDES took, and what redacting takes a run."""
    settings = replace(Settings.from_env(), kv_memory=256 << 20)
    config, env = Config.of(model), dict(os.environ)
    kept = replace(settings, cache=folder)
    recorder = open_recorder(config, kept, env, hiding(config, kept, env))
    if recorder is None:
        raise SystemExit("F1_RUNS_DISK is 0: nothing would be written down")
    engines = [AsyncEngine.start(model, settings) for _ in SIDES]
    try:
        systems = [
            System.of(engines[0]),
            replace(System.of(Undecided(engines[1])), recorder=recorder),
            replace(System.of(engines[2]), recorder=recorder),
        ]
        sides = [Orchestrator(system, tools()) for system in systems]
        found: list[list[Took]] = [[] for _ in SIDES]
        for each in sides:
            await take(each, "Is it hot in Kampala?")
        for n in range(rounds):
            city, told = CITIES[n % len(CITIES)], QUESTIONS[n // len(CITIES) % len(QUESTIONS)]
            for turn in range(len(SIDES)):
                side = (n + turn) % len(SIDES)
                found[side].append(await take(sides[side], told.format(city)))
        seconds = await redacting(recorder, rounds)
        await recorder.close()
        return found, seconds
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
        found, seconds = asyncio.run(measure(options.model, options.rounds, Path(folder)))
    without = found[0]
    if any([each.told for each in side] != [each.told for each in without] for side in found):
        raise SystemExit("the runs differ: they cannot be compared")
    about = describe_run()
    title = f"{options.model}, {options.rounds} rounds, {about['commit']}, {about['machine']}"
    table = Table(title=f"{title}, load {about['load']:.1f}")
    for name in ("side", "wall, ms", "of all", "median", "processor, ms", "of all", "median"):
        table.add_column(name)
    middle = 0.0
    for name, side in zip(SIDES, found, strict=True):
        cells = [name]
        for clock in ("wall", "processor"):
            a, b = ([getattr(each, clock) for each in took] for took in (without, side))
            whole, middle = overhead(a, b)
            cells += [f"{statistics.median(b) * 1e3:.0f}", f"{whole:+.2%}", f"{middle:+.2%}"]
        table.add_row(*cells)
    console = Console(width=120)
    console.print(table)
    run = statistics.median(each.wall for each in without)
    console.print(
        f"encoding and redacting alone: {seconds * 1e3:.2f} ms a run, {seconds / run:.2%}"
    )
    sys.exit(middle >= ASKED)


if __name__ == "__main__":
    main()
