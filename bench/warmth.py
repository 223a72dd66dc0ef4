"""Time to the first token of a conversation whose tools have answered, after others have passed.

    python bench/warmth.py [--model NAME] [--words 1200] [--rounds 3] [--kv-memory 48M]

A conversation calls a tool. While that runs, others that call nothing fill the cache twice over,
one after the other. Then the result comes back. With `warm_seconds` at its default and at 0, by
turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

from f1.bench.machine import describe_run
from f1.engine import AsyncEngine
from f1.planning.collect import Collector
from f1.settings import Settings, parse_bytes
from f1.types import Completion, GenerateRequest, Message, Tool, ToolChoice

LOOK_UP = Tool(
    "look_up",
    "Look up what is known of a case",
    {"type": "object", "properties": {"case": {"type": "integer"}}, "required": ["case"]},
)


def talk(number: int, num_words: int) -> GenerateRequest:
    story = " ".join(f"In case {number} part {i} is empty." for i in range(num_words // 7))
    asked = Message("user", f"{story} What is known of case {number}?")
    return GenerateRequest((asked,), (LOOK_UP,), tool_choice=ToolChoice("required"), max_tokens=60)


async def ask(engine: AsyncEngine, request: GenerateRequest) -> tuple[Completion, float]:
    """The completion, and seconds to its first event."""
    collector, begin, first = Collector(), time.perf_counter(), 0.0
    async with aclosing(engine.generate(request)) as events:
        async for event in events:
            first = first or time.perf_counter() - begin
            collector.add(event)
    return collector.completion(), first


async def come_back(engine: AsyncEngine, round: int, num_words: int) -> dict[str, Any]:
    asked = talk(1000 * round, num_words)
    first, cold = await ask(engine, asked)
    for number in range(1, 2 * engine.context_length // first.usage.prompt_tokens + 1):
        other = talk(1000 * round + number, num_words)
        await ask(engine, replace(other, tools=(), tool_choice=ToolChoice(), max_tokens=1))
    (call,) = first.message.tool_calls[:1]
    result = Message("tool", "Nothing is known.", tool_call_id=call.id)
    said = replace(first.message, tool_calls=(call,))
    messages = (*asked.messages, said, result)
    back = replace(asked, messages=messages, tool_choice=ToolChoice("none"), max_tokens=4)
    second, seconds = await ask(engine, back)
    return {
        "first_ms": 1e3 * cold,
        "back_ms": 1e3 * seconds,
        "prompt": second.usage.prompt_tokens,
        "cached": second.usage.cached_tokens,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--words", type=int, default=1200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kv-memory", default="48M", help="a small cache is soon filled")
    parser.add_argument("--json", type=Path, help="also write everything here")
    options = parser.parse_args()
    memory = parse_bytes(options.kv_memory)
    engines = {
        seconds: AsyncEngine.start(
            options.model, Settings(kv_memory=memory, warm_seconds=seconds, snapshot_disk=0)
        )
        for seconds in (Settings().warm_seconds, 0)
    }
    rows: dict[int, list[dict[str, Any]]] = {seconds: [] for seconds in engines}
    for round in range(1, options.rounds + 1):
        for seconds, engine in engines.items():
            row = asyncio.run(come_back(engine, round, options.words))
            rows[seconds].append(row)
            print(f"warm_seconds {seconds:2d}  {row}", flush=True)
    for seconds, found in rows.items():
        middle = statistics.median(row["back_ms"] for row in found)
        print(f"warm_seconds {seconds:2d}: {middle:.0f} ms to the first token of what comes back")
    for engine in engines.values():
        engine.close()
    if options.json:
        run = describe_run(model=options.model, words=options.words, kv_memory=memory)
        options.json.write_text(json.dumps(run | {"rounds": rows}, indent=1))


if __name__ == "__main__":
    main()
