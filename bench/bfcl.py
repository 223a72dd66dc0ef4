"""Single-turn accuracy on the Berkeley Function-Calling Leaderboard (BFCL v4), tool_choice "auto".

    pip install --no-deps bfcl-eval==2026.3.23     # data and checker, without its dependencies
    python bench/bfcl.py [--model NAME] [--start 0] [--step 10] [--json FILE]

Requests go through the Python client, all at once and greedily, and the returned calls through
BFCL's own AST checker. Indices 0, 10, 20, … are the published figure; use another --start to try
things out. Names of functions follow OpenAI's rules, as BFCL does for OpenAI models: "." → "_".
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import types
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from f1 import F1
from f1.bench.machine import describe_run
from f1.errors import F1Error
from f1.types import ToolCall

CATEGORIES = ("simple_python", "multiple", "parallel", "parallel_multiple")
_TYPES = {"dict": "object", "float": "number", "tuple": "array"}


@dataclass(frozen=True, slots=True)
class Case:
    id: str
    category: str
    messages: list[dict[str, str]]
    functions: list[dict[str, Any]]  # as BFCL writes them
    gold: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`why` is "" when correct, else what kind of mistake it was."""

    case: Case
    calls: tuple[ToolCall, ...]
    text: str
    why: str


def load_cases(category: str, start: int, step: int) -> list[Case]:
    folder = files("bfcl_eval") / "data"
    name = f"BFCL_v4_{category}.json"
    asked = (folder / name).read_text("utf-8").splitlines()
    answers = (folder / "possible_answer" / name).read_text("utf-8").splitlines()
    cases = []
    for line, answer in list(zip(asked, answers, strict=True))[start::step]:
        case, gold = json.loads(line), json.loads(answer)
        assert case["id"] == gold["id"]
        cases.append(
            Case(case["id"], category, case["question"][0], case["function"], gold["ground_truth"])
        )
    return cases


def as_tool(function: Mapping[str, Any]) -> dict[str, Any]:
    """A BFCL function as an OpenAI tool."""
    return {
        "type": "function",
        "function": {
            "name": function["name"].replace(".", "_"),
            "description": function["description"],
            "parameters": as_schema(function["parameters"]),
        },
    }


def as_schema(node: Mapping[str, Any]) -> dict[str, Any]:
    """BFCL's Python-flavoured types as JSON Schema's; "any" is no constraint."""
    schema: dict[str, Any] = {}
    for key, value in node.items():
        match key:
            case "type":
                if value != "any":
                    schema[key] = _TYPES.get(value, value)
            case "properties":
                schema[key] = {name: as_schema(child) for name, child in value.items()}
            case "items" | "additionalProperties" if isinstance(value, Mapping):
                schema[key] = as_schema(value)
            case "required" if not isinstance(value, list):
                pass  # some functions have a stray boolean inside a property
            case "optional":
                pass
            case _:
                schema[key] = value
    return schema


@cache
def checker() -> Any:
    """BFCL's AST checker. Its table of models imports every vendor's SDK, only to learn whether
    names were written with "_" for ".", so a table that always says yes takes its place."""
    stub = types.ModuleType("bfcl_eval.constants.model_config")
    rules = SimpleNamespace(underscore_to_dot=True)
    stub.MODEL_CONFIG_MAPPING = {"f1": rules}  # type: ignore[attr-defined]
    sys.modules.setdefault("bfcl_eval.constants.model_config", stub)
    from bfcl_eval.constants.enums import Language
    from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker

    def check(case: Case, calls: Sequence[Mapping[str, Any]]) -> bool:
        verdict = ast_checker(
            case.functions, list(calls), case.gold, Language.PYTHON, case.category, "f1"
        )
        return bool(verdict["valid"])

    return check


def judge(case: Case, calls: tuple[ToolCall, ...], text: str) -> Verdict:
    """Right, or the first of: no call, wrong number, wrong names, wrong arguments."""
    if not calls:
        return Verdict(case, calls, text, "no call")
    if checker()(case, [{call.name: json.loads(call.arguments)} for call in calls]):
        return Verdict(case, calls, text, "")
    made = sorted(call.name for call in calls)
    due = sorted(name.replace(".", "_") for gold in case.gold for name in gold)
    why = "number" if len(made) != len(due) else "names" if made != due else "arguments"
    return Verdict(case, calls, text, why)


async def ask(f1: F1, case: Case, slots: asyncio.Semaphore, max_tokens: int) -> Verdict:
    async with slots:
        try:
            result = await f1.achat(
                case.messages,
                tools=[as_tool(function) for function in case.functions],
                tool_choice="auto",
                temperature=0.0,
                max_tokens=max_tokens,
            )
        except F1Error as error:
            return Verdict(case, (), str(error), "error")
    return judge(case, result.calls, result.text)


async def ask_all(f1: F1, cases: Sequence[Case], at_once: int, max_tokens: int) -> list[Verdict]:
    slots = asyncio.Semaphore(at_once)
    return await asyncio.gather(*(ask(f1, case, slots, max_tokens) for case in cases))


def report(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Accuracy in percent for each category, their plain mean, and the mistakes counted."""
    rows: dict[str, Any] = {}
    for category in dict.fromkeys(v.case.category for v in verdicts):
        of_it = [v for v in verdicts if v.case.category == category]
        mistakes = Counter(v.why for v in of_it if v.why)
        right = sum(not v.why for v in of_it)
        rows[category] = {
            "accuracy": 100 * right / len(of_it),
            "cases": len(of_it),
            "mistakes": dict(mistakes),
        }
    mean = sum(row["accuracy"] for row in rows.values()) / len(rows)
    return {"mean": mean, "categories": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--base-url", help="a running `f1 serve` instead of an embedded engine")
    parser.add_argument("--categories", nargs="+", default=CATEGORIES, metavar="NAME")
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--step", type=int, default=10)
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--json", type=Path, help="also write everything here")
    options = parser.parse_args()
    cases = [
        c for name in options.categories for c in load_cases(name, options.start, options.step)
    ]
    with F1(options.model, base_url=options.base_url) as f1:
        verdicts = asyncio.run(ask_all(f1, cases, options.at_once, options.max_tokens))
    found = report(verdicts)
    for name, row in found["categories"].items():
        print(f"{name:20s} {row['accuracy']:5.1f} %  of {row['cases']:3d}   {row['mistakes']}")
    print(f"{'mean':20s} {found['mean']:5.1f} %")
    if options.json:
        answers = [
            {
                "id": v.case.id,
                "why": v.why,
                "text": v.text,
                "calls": [{"name": c.name, "arguments": json.loads(c.arguments)} for c in v.calls],
            }
            for v in verdicts
        ]
        run = describe_run(model=options.model, start=options.start, step=options.step)
        options.json.write_text(json.dumps(run | found | {"answers": answers}, indent=1))


if __name__ == "__main__":
    main()
