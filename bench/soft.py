"""Does soft thinking pay? Cases of BFCL with and without soft steps before the turn, in one engine.

    pip install --no-deps bfcl-eval==2026.3.23
    python bench/soft.py [--model NAME] [--cases 50] [--start 3] [--steps 0 8 16] [--noise 0 1]
                         [--leads "" "I need to call"] [--choice auto|required] [--json FILE]

Of each of `--categories` that many cases, every fourth from --start, which are none that
bench/bfcl.py publishes its figure on. All greedy; a noisy way is run with --seeds seeds. "hard"
ways feed back the likeliest token alone: what the lead and the time to think do without mixing.
`spent` is completion tokens a case, soft steps included; `s` is seconds for all cases, 16 at once;
`+` and `-` are cases gained and lost against the first way.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bfcl import Case, as_tool, judge, load_cases

from f1.bench.machine import describe_run
from f1.engine import AsyncEngine
from f1.errors import F1Error
from f1.planning.collect import gather
from f1.types import GenerateRequest, Message, SamplingParams, Soft, Tool, ToolChoice

AT_ONCE = 16
MAX_TOKENS = 256


def request_for(case: Case, choice: ToolChoice) -> GenerateRequest:
    def tool(function: dict[str, Any]) -> Tool:
        spoken = as_tool(function)["function"]
        return Tool(spoken["name"], spoken["description"], spoken["parameters"])

    messages = tuple(Message(m["role"], m["content"]) for m in case.messages)  # type: ignore[arg-type]
    tools = tuple(map(tool, case.functions))
    return GenerateRequest(messages, tools, tool_choice=choice, max_tokens=MAX_TOKENS)


async def run(
    engine: AsyncEngine, asked: Sequence[tuple[Case, GenerateRequest]], soft: Soft | None, seed: int
) -> dict[str, Any]:
    """What became of the cases, decoded this way."""
    slots = asyncio.Semaphore(AT_ONCE)
    spent = steps = 0

    async def one(case: Case, request: GenerateRequest) -> str:
        nonlocal spent, steps
        request = replace(request, soft=soft, sampling=SamplingParams(seed=seed))
        async with slots:
            try:
                (completion,) = await gather(engine.generate(request), 1)
            except F1Error as error:
                return type(error).__name__
        spent += completion.usage.completion_tokens
        steps += completion.usage.reasoning_tokens
        message = completion.message
        return judge(case, message.tool_calls, message.content).why

    begin = time.perf_counter()
    whys = await asyncio.gather(*(one(*pair) for pair in asked))
    return {
        "right": sum(not why for why in whys) / len(asked),
        "whys": dict(Counter(why for why in whys if why)),
        "spent": spent / len(asked),
        "thought": steps / len(asked),
        "seconds": time.perf_counter() - begin,
        "each": list(whys),
    }


def ways(options: argparse.Namespace) -> list[tuple[str, Soft | None, int]]:
    """Name, how to think, seed."""
    found: list[tuple[str, Soft | None, int]] = []
    for steps in options.steps:
        if steps == 0:
            found.append(("without", None, 0))
            continue
        for lead in options.leads:
            close = options.close if lead else ""
            soft = Soft(steps, lead=lead, close=close, cold_steps=options.cold_steps)
            found.append((f"{steps} hard steps, {lead!r}", replace(soft, top_k=1), 0))
            for noise in options.noise:
                for seed in range(options.seeds if noise else 1):
                    name = f"{steps} steps, noise {noise:g}, {lead!r}"
                    found.append((name, replace(soft, noise=noise), seed))
    return found


async def compare(engine: AsyncEngine, options: argparse.Namespace) -> list[dict[str, Any]]:
    cases = [
        case
        for category in options.categories
        for case in load_cases(category, options.start, 4)[: options.cases]
    ]
    choice = ToolChoice(options.choice)
    asked = [(case, request_for(case, choice)) for case in cases]
    rows: list[dict[str, Any]] = []
    for name, soft, seed in ways(options):
        row = await run(engine, asked, soft, seed) | {"way": name, "seed": seed}
        rows.append(row)
        before = rows[0]["each"]
        gained = sum(bool(a) and not b for a, b in zip(before, row["each"], strict=True))
        lost = sum(bool(b) and not a for a, b in zip(before, row["each"], strict=True))
        print(
            f"{name:36s} {100 * row['right']:5.1f} %  +{gained} -{lost}  spent {row['spent']:5.1f} "
            f"(thought {row['thought']:4.1f})  {row['seconds']:5.1f} s  {row['whys']}",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--categories", nargs="+", default=["simple_python", "multiple"])
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--start", type=int, default=3)
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 8, 16])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 1.0])
    parser.add_argument("--leads", nargs="+", default=["", "I need to call"])
    parser.add_argument("--close", default="\n", help="behind the steps, where there is a lead")
    parser.add_argument("--choice", choices=["auto", "required"], default="auto")
    parser.add_argument("--cold-steps", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write everything here")
    options = parser.parse_args()
    engine = AsyncEngine.start(options.model)
    try:
        rows = asyncio.run(compare(engine, options))
    finally:
        engine.close()
    if options.json:
        run_of = describe_run(model=options.model, cases=options.cases, start=options.start)
        options.json.write_text(json.dumps(run_of | {"ways": rows}, indent=1))


if __name__ == "__main__":
    main()
