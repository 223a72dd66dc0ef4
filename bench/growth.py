"""What thousands of tools, and long sessions, cost.

    pip install --no-deps bfcl-eval==2026.3.23     # questions and tools, without dependencies
    python bench/growth.py tools [--model NAME]    # 10 tools against 4,000, the same questions
    python bench/growth.py session [--turns 100]   # one conversation, tool calls answered

`tools`: questions with their tools, ten of them, and the same among 4,000, in turns; each is asked
twice, and before that the ten tools are registered. What is timed is the whole answer. `session`:
one conversation about 80 tools of our own (tests/data/selection.json), half of it about things that
came up before. Each request carries the whole of it. Processor time is told beside wall time: it
says more where the machine is shared.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from selection import WIDE, embedded, enlarged, pool, questions

from f1.bench.machine import describe_run
from f1.engine import AsyncEngine
from f1.planning.collect import Collector
from f1.planning.orchestrator import Orchestrator, System
from f1.settings import Settings
from f1.tools.embedder import Embedder
from f1.tools.ranking import Ranker
from f1.tools.selection import Selector
from f1.tools.spec import ToolSpec
from f1.tools.vectors import ToolVectors
from f1.types import Completion, GenerateRequest, Message, RunOptions, Tool

MAX_TOKENS = 48
LABELLED = json.loads(
    (Path(__file__).parent.parent / "tests/data/selection.json").read_text("utf-8")
)
RESULT = '{"ok": true, "value": 42}'
MOST_STEPS = 2  # requests of one turn of the session


@dataclass(frozen=True, slots=True)
class Answer:
    """Seconds until its first token and until its last, by the wall and of the processor."""

    completion: Completion
    first: float
    first_busy: float
    seconds: float
    busy: float

    @property
    def new_tokens(self) -> int:
        usage = self.completion.usage
        return usage.prompt_tokens - usage.cached_tokens


async def ask(system: System, request: GenerateRequest) -> Answer:
    """Timed to its first token by a request that ends with it."""
    begun, busy = time.perf_counter(), time.process_time()
    probe = await decode(system, replace(request, max_tokens=1))
    first, first_busy = time.perf_counter() - begun, time.process_time() - busy
    completion = await decode(system, request)
    usage = replace(completion.usage, cached_tokens=probe.usage.cached_tokens)
    seconds, busy = time.perf_counter() - begun, time.process_time() - busy
    return Answer(replace(completion, usage=usage), first, first_busy, seconds, busy)


async def decode(system: System, request: GenerateRequest) -> Completion:
    collector = Collector()
    async with aclosing(Orchestrator(system).generate(request)) as events:
        async for event in events:
            collector.add(event)
    return collector.completion()


def request_of(messages: Sequence[Message], k: int) -> GenerateRequest:
    return GenerateRequest(tuple(messages), max_tokens=MAX_TOKENS, run=RunOptions(max_tools=k))


# --- ten tools and four thousand -----------------------------------------------------------------


async def compare(engine: AsyncEngine, selector: Selector, k: int, count: int) -> dict[str, Any]:
    many = tuple(enlarged(pool(WIDE), 4000))
    by_name = {spec.name: spec for spec in many}
    asked = questions("simple_python", "test")[::20][:10]
    few = tuple(by_name[name] for question in asked for name in question.gold)[:10]
    asked = asked[:count]
    await engine.register_tools([spec.tool for spec in few])
    systems = {}
    for specs in (few, many):
        roles = System.of(engine).engines
        systems[len(specs)] = System(roles, lambda tenant, request, s=specs: s, selector)
    rows: list[dict[str, Any]] = []
    for number, question in enumerate(asked):
        order = list(systems) if number % 2 else list(systems)[::-1]
        for again in (False, True):
            for count in order:
                request = request_of([Message("user", question.text)], k)
                answer = await ask(systems[count], request)
                calls = answer.completion.message.tool_calls
                rows.append(
                    {
                        "tools": count,
                        "again": again,
                        "seconds": answer.seconds,
                        "busy": answer.busy,
                        "first": answer.first,
                        "prompt": answer.completion.usage.prompt_tokens,
                        "new": answer.new_tokens,
                        "right": {call.name for call in calls} == question.gold,
                    }
                )
    for again in (False, True):
        print("asked again" if again else "asked first")
        for count in systems:
            of = [row for row in rows if row["tools"] == count and row["again"] == again]
            mean = {key: float(np.mean([row[key] for row in of])) for key in of[0]}
            print(
                f"| {count:5d} tools | {mean['seconds']:.2f} s ({mean['busy']:.2f} s busy) "
                f"| first {mean['first']:.2f} s "
                f"| {mean['prompt']:.0f} tokens, {mean['new']:.0f} new "
                f"| right {mean['right']:.0%} |"
            )
        for clock in ("seconds", "busy"):
            few_s, many_s = (
                np.array([r[clock] for r in rows if r["tools"] == n and r["again"] == again])
                for n in systems
            )
            ratios = many_s / few_s
            total = many_s.sum() / few_s.sum()
            print(f"ratio ({clock}): of sums {total:.2f}, median {np.median(ratios):.2f}")
    return {"rows": rows}


# --- a hundred turns -----------------------------------------------------------------------------


def session_tools() -> tuple[ToolSpec, ...]:
    return tuple(ToolSpec(Tool(**tool)) for tool in LABELLED["tools"])


async def session(engine: AsyncEngine, selector: Selector, k: int, turns: int) -> dict[str, Any]:
    specs = session_tools()
    roles = System.of(engine).engines
    system = System(roles, lambda tenant, request: specs, selector)
    asked = [entry["question"] for entry in LABELLED["questions"]]
    asked += random.Random(3).choices(asked, k=turns)  # people come back to things
    messages: list[Message] = []
    rows: list[dict[str, Any]] = []
    for turn, text in enumerate(asked[:turns], 1):
        messages.append(Message("user", text))
        for _ in range(MOST_STEPS):
            answer = await ask(system, request_of(messages, k))
            usage, message = answer.completion.usage, answer.completion.message
            report = answer.completion.report.run
            rows.append(
                {
                    "turn": turn,
                    "prompt": usage.prompt_tokens,
                    "cached": usage.cached_tokens,
                    "new": answer.new_tokens,
                    "said": usage.completion_tokens,
                    "first": answer.first,
                    "busy": answer.first_busy,
                    "dropped": report.dropped if report else 0,
                }
            )
            messages.append(message)
            if not message.tool_calls:
                break
            messages += [Message("tool", RESULT, tool_call_id=c.id) for c in message.tool_calls]
        if turn in (1, 2) or turn % 10 == 0:
            print_row(rows[-1])
    print_fit(rows)
    return {"rows": rows}


def print_row(row: dict[str, Any]) -> None:
    print(
        f"| {row['turn']:3d} | {row['prompt']:6d} | {row['cached']:6d} | {row['new']:5d} "
        f"| {1e3 * row['first']:6.0f} ms | {1e3 * row['busy']:6.0f} ms "
        f"| {1e3 * row['busy'] / row['new']:5.2f} ms |",
        flush=True,
    )


def print_fit(rows: Sequence[dict[str, Any]]) -> None:
    """Least squares of the processor's time to the first token: a + b * new + c * new * context."""
    new = np.array([row["new"] for row in rows], float)
    context = np.array([row["prompt"] for row in rows], float)
    busy = np.array([row["busy"] for row in rows])
    terms = np.stack([np.ones_like(new), new, new * context / 1000], 1)
    (base, each, attention), *_ = np.linalg.lstsq(terms, busy, rcond=None)
    print(
        f"{len(rows)} requests; processor's time to the first token = {1e3 * base:.0f} ms "
        f"+ new tokens x ({1e3 * each:.2f} ms + {1e3 * attention:.3f} ms per 1000 of context)"
    )
    third = len(rows) // 3
    for name, part in (("first", rows[:third]), ("last", rows[-third:])):
        spent = sum(row["busy"] for row in part) / sum(row["new"] for row in part)
        context_now = np.mean([row["prompt"] for row in part])
        print(f"{name} third: {1e3 * spent:.2f} ms a new token at {context_now:.0f} of context")
    reused = [
        b["cached"] / (a["prompt"] + a["said"]) for a, b in pairwise(rows) if not b["dropped"]
    ]
    print(
        f"of the request before and its answer {np.mean(reused):.1%} is used again "
        f"(lowest {min(reused):.1%})"
    )


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    settings = Settings.from_env()
    embedder = Embedder(settings)
    vectors = ToolVectors(embedder, settings.vectors_file)
    ranker = Ranker(vectors)
    engine = await asyncio.to_thread(AsyncEngine.start, options.model, settings)
    try:
        selector = Selector(ranker)
        if options.what == "tools":
            await embedded(ranker, tuple(enlarged(pool(WIDE), 4000)))
            return await compare(engine, selector, options.max_tools, options.questions)
        await embedded(ranker, session_tools())
        return await session(engine, selector, options.max_tools, options.turns)
    finally:
        engine.close()
        vectors.close()
        embedder.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=("tools", "session"))
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--max-tools", type=int, default=8)
    parser.add_argument("--questions", type=int, default=10)
    parser.add_argument("--turns", type=int, default=100)
    parser.add_argument("--json", type=Path, help="also write everything here")
    options = parser.parse_args()
    found = asyncio.run(measure(options))
    if options.json:
        run = describe_run(model=options.model, max_tools=options.max_tools)
        options.json.write_text(json.dumps(run | found, indent=1))


if __name__ == "__main__":
    main()
