"""Success, calls, tokens and seconds of each strategy on multi-step tasks, beside the raw model.

    python bench/tasks/run.py [--model NAME] [--strategies raw,default] [--half dev] --out FILE

`raw` is the loop that everybody writes around a model with tools: ask, run what it calls, append,
until it calls nothing. `default` is `F1.run` without a word about strategies; other names are F1's
strategies. Tune on the dev half only; the published figure is of the test half.
Strategies take turns, task by task. Everything is greedy. FILE grows with each task, and what is in
it is not run again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from domains import TASKS
from grading import grade
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from task import CATEGORIES, Placed

from f1 import F1
from f1.bench.machine import describe_run
from f1.errors import F1Error
from f1.tools.function import FunctionTool
from f1.types import Message, ToolCall

MAX_TURNS = 8


@dataclass(frozen=True, slots=True)
class Played:
    """What a strategy made of a task. Tokens and seconds are of the whole run."""

    answer: str
    calls: list[str]
    decoded: int
    prompt: int
    cached: int


async def play_raw(f1: F1, ask: str, tools: Sequence[FunctionTool], max_tokens: int) -> Played:
    named = {tool.tool.name: tool for tool in tools}
    conversation = [Message("user", ask)]
    calls: list[str] = []
    decoded = prompt = cached = 0
    for _ in range(MAX_TURNS):
        turn = await f1.achat(
            conversation, [tool.tool for tool in tools], max_tokens=max_tokens, temperature=0.0
        )
        decoded += turn.usage.completion_tokens
        prompt += turn.usage.prompt_tokens
        cached += turn.usage.cached_tokens
        conversation.append(turn.message)
        if not turn.calls:
            break
        for call in turn.calls:
            calls.append(f"{call.name} {call.arguments}")
            conversation.append(Message("tool", run_call(named[call.name], call), (), call.id))
    return Played(turn.text, calls, decoded, prompt, cached)


def run_call(tool: FunctionTool, call: ToolCall) -> str:
    from pydantic_core import to_json

    try:
        return to_json(tool(**tool.bind(call.arguments))).decode()
    except Exception as error:  # the tool's own: the model is told
        return json.dumps({"error": f"{type(error).__name__}: {error}"})


async def play_f1(
    f1: F1, ask: str, tools: Sequence[FunctionTool], max_tokens: int, strategy: str
) -> Played:
    options: dict[str, Any] = {} if strategy == "default" else {"f1": {"strategy": strategy}}
    run = await f1.arun(
        ask, tools, max_steps=MAX_TURNS, max_tokens=max_tokens, temperature=0.0, **options
    )
    calls = [f"{result.call.name} {result.call.arguments}" for result in run.results]
    usage = run.usage
    return Played(
        run.text, calls, usage.completion_tokens, usage.prompt_tokens, usage.cached_tokens
    )


async def play(f1: F1, placed: Placed, strategy: str, max_tokens: int) -> dict[str, Any]:
    """A row of the output: the task in a fresh world, and how it ended."""
    world = placed.world()
    started = time.perf_counter()
    try:
        if strategy == "raw":
            played = await play_raw(f1, placed.task.ask, world.tools(), max_tokens)
        else:
            played = await play_f1(f1, placed.task.ask, world.tools(), max_tokens, strategy)
        why = grade(placed, world, played.answer).why
    except F1Error as error:
        played, why = Played("", [], 0, 0, 0), f"error: {error}"
    seconds = round(time.perf_counter() - started, 2)
    key = {"strategy": strategy, "id": placed.id, "category": placed.task.category}
    return key | {"half": placed.half, "why": why, "seconds": seconds} | asdict(played)


async def play_all(
    f1: F1, todo: Sequence[tuple[Placed, str]], options: argparse.Namespace, kept: Kept
) -> None:
    room = asyncio.Semaphore(options.at_once)
    with Progress(console=kept.console) as progress:
        bar = progress.add_task("tasks", total=len(todo))

        async def one(placed: Placed, strategy: str) -> None:
            async with room:
                progress.update(bar, description=f"{strategy} {placed.id}")
                kept.add(await play(f1, placed, strategy, options.max_tokens))
                progress.advance(bar)

        await asyncio.gather(*(one(placed, strategy) for placed, strategy in todo))


class Kept:
    """The rows so far, in a file that is whole after each."""

    def __init__(self, path: Path | None, model: str, console: Console):
        self.path = path
        self.console = console
        self.about = describe_run(model=model)
        self.rows: list[dict[str, Any]] = []
        if path is not None and path.exists():
            found = json.loads(path.read_text())
            if found["settings"]["model"] != model:
                raise SystemExit(f"{path} is of {found['settings']['model']}")
            self.about = {key: value for key, value in found.items() if key != "rows"}
            self.rows = found["rows"]

    def has(self, placed: Placed, strategy: str) -> bool:
        return any(row["id"] == placed.id and row["strategy"] == strategy for row in self.rows)

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        if self.path is not None:
            part = self.path.with_suffix(".part")
            part.write_text(json.dumps(self.about | {"rows": self.rows}, indent=1))
            part.replace(self.path)


def table(rows: Sequence[dict[str, Any]], strategies: Iterable[str]) -> Table:
    """Done of tried by category; then means over the tasks."""
    shown = Table("strategy", *CATEGORIES, "all", "calls", "decoded", "prompt", "s", box=None)
    for strategy in strategies:
        of_it = [row for row in rows if row["strategy"] == strategy]
        if not of_it:
            continue
        cells = [_share([r for r in of_it if r["category"] == name]) for name in CATEGORIES]
        means = [sum(r[key] for r in of_it) / len(of_it) for key in ("decoded", "prompt")]
        calls = sum(len(row["calls"]) for row in of_it) / len(of_it)
        seconds = sum(row["seconds"] for row in of_it) / len(of_it)
        shown.add_row(
            strategy, *cells, _share(of_it), f"{calls:.1f}", *(f"{mean:.0f}" for mean in means),
            f"{seconds:.1f}",
        )  # fmt: skip
    return shown


def _share(rows: Sequence[dict[str, Any]]) -> str:
    return f"{sum(not row['why'] for row in rows)}/{len(rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--base-url", help="a running `f1 serve` instead of an embedded engine")
    parser.add_argument("--strategies", default="raw,default", help="names with commas")
    parser.add_argument("--half", choices=["dev", "test", "all"], default="dev")
    parser.add_argument("--only", default="", help="tasks whose id has this in it")
    parser.add_argument("--at-once", type=int, default=1, help="seconds are true for 1 only")
    parser.add_argument("--max-tokens", type=int, default=384, help="of one turn")
    parser.add_argument("--out", type=Path, help="keep everything here")
    options = parser.parse_args()
    strategies = options.strategies.split(",")
    chosen = [p for p in TASKS if options.half in (p.half, "all") and options.only in p.id]
    kept = Kept(options.out, options.model, Console())
    todo = [(p, name) for p in chosen for name in strategies if not kept.has(p, name)]
    with F1(options.model, base_url=options.base_url) as f1:
        asyncio.run(play_all(f1, todo, options, kept))
    ids = {placed.id for placed in chosen}
    kept.console.print(table([row for row in kept.rows if row["id"] in ids], strategies))


if __name__ == "__main__":
    main()
