"""How often the tools that a question needs are among those shown, and what finding them takes.

    pip install --no-deps bfcl-eval==2026.3.23     # data, without its dependencies
    python bench/selection.py [--half test] [--json FILE]

The tools are those of all questions of BFCL's non-live categories in one pool (by name: the first
of a name stays), and again with those of its live and irrelevance categories ("wide"). A question
counts as found where all tools that its answer calls are among the first k. Constants were chosen
on the questions with even numbers ("dev"); the published figures are of those with odd ones
("test"). Timings are of 4,000 tools: the wide pool and made-up ones.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import product
from pathlib import Path

import numpy as np
from bfcl import as_schema

from f1.bench.machine import describe_run
from f1.settings import Settings
from f1.tools.embedder import Embedder
from f1.tools.ranking import Index, Ranker, combined
from f1.tools.selection import Selector
from f1.tools.spec import ToolSpec
from f1.tools.vectors import ToolVectors
from f1.types import Message, Tool

CATEGORIES = ("simple_python", "multiple", "parallel", "parallel_multiple")
WIDE = (
    *CATEGORIES,
    *("irrelevance", "live_simple", "live_multiple", "live_parallel", "live_parallel_multiple"),
    "live_irrelevance",
)
KS = (5, 8, 10, 20)
SYSTEMS = ("crm", "erp", "helpdesk", "payroll", "warehouse", "webshop", "intranet")
THINGS = (
    "invoice ticket campaign customer supplier contract order shipment payment vacancy applicant "
    "employee asset warranty complaint quote subscription newsletter project milestone timesheet "
    "expense budget audit meeting"
).split()
VERBS = (
    "create list show update delete archive export import approve reject assign close reopen copy "
    "rename share print sign forward escalate"
).split()


@dataclass(frozen=True, slots=True)
class Question:
    text: str
    gold: frozenset[str]  # names of tools


def read(name: str) -> list[dict[str, object]]:
    text = (files("bfcl_eval") / "data" / name).read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def pool(categories: Sequence[str]) -> list[ToolSpec]:
    found: dict[str, ToolSpec] = {}
    for category in categories:
        for case in read(f"BFCL_v4_{category}.json"):
            for function in case["function"]:  # type: ignore[attr-defined]
                schema = as_schema(function["parameters"])
                tool = Tool(plain(function["name"]), function["description"], schema)
                found.setdefault(tool.name, ToolSpec(tool))
    return list(found.values())


def plain(name: str) -> str:
    """As OpenAI's rules have names."""
    return name.replace(".", "_")


def questions(category: str, half: str) -> list[Question]:
    name = f"BFCL_v4_{category}.json"
    rows = zip(read(name), read(f"possible_answer/{name}"), strict=True)
    found = []
    for case, answer in rows:
        turns = case["question"][0]  # type: ignore[index]
        text = "\n".join(turn["content"] for turn in turns if turn["role"] == "user")
        called = {plain(name) for call in answer["ground_truth"] for name in call}  # type: ignore[attr-defined]
        found.append(Question(text, frozenset(called)))
    return found[{"dev": slice(0, None, 2), "test": slice(1, None, 2)}.get(half, slice(None))]


def enlarged(specs: Sequence[ToolSpec], count: int) -> list[ToolSpec]:
    """With made-up tools of business systems, much alike, until there are `count`."""
    found = list(specs)
    for system, thing, verb in product(SYSTEMS, THINGS, VERBS):
        if len(found) == count:
            break
        properties = {
            "id": {"type": "string", "description": f"Which {thing}."},
            "note": {"type": "string", "description": f"Why it is to {verb} it."},
        }
        schema = {"type": "object", "properties": properties, "required": ["id"]}
        does = f"{verb.capitalize()} a {thing} in {system}, and tell who is concerned."
        found.append(ToolSpec(Tool(f"{system}_{verb}_{thing}", does, schema)))
    return found[:count]


async def embedded(ranker: Ranker, specs: Sequence[ToolSpec]) -> Index:
    """Their index, with all embeddings."""
    index = ranker.index(specs)
    while index.matrix is None:
        await asyncio.sleep(0.1)
        ranker.meanings(index)
    return index


# --- recall --------------------------------------------------------------------------------------

# A question's scores of all tools.
Leg = Callable[[str], np.ndarray]


def recall(leg: Leg, names: Sequence[str], asked: Sequence[Question]) -> dict[int, float]:
    """In percent, by k."""
    found = dict.fromkeys(KS, 0)
    for question in asked:
        order = np.argsort(-leg(question.text), kind="stable")[: max(KS)]
        best = [names[place] for place in order]
        for k in KS:
            found[k] += question.gold <= set(best[:k])
    return {k: 100 * count / len(asked) for k, count in found.items()}


async def print_recall(ranker: Ranker, embedder: Embedder, wide: str, half: str) -> object:
    specs = pool(WIDE if wide else CATEGORIES)
    index = await embedded(ranker, specs)
    names = [spec.name for spec in specs]
    asked = {category: questions(category, half) for category in CATEGORIES}
    texts = [question.text for category in CATEGORIES for question in asked[category]]
    alike = {text: index.matrix @ await embedder.sense(text) for text in texts}  # type: ignore[operator]
    legs: dict[str, Leg] = {
        "words, whole": lambda text: index.lexical.match(text).whole,
        "words": lambda text: combined(index.lexical.match(text), None),
        "embeddings": lambda text: alike[text],
        "both": lambda text: combined(index.lexical.match(text), alike[text]),
    }
    print(f"\n{len(specs)} tools, {half}: all of an answer's tools @{', @'.join(map(str, KS))}")
    print(f"| {'':12s} | " + " | ".join(f"{category:25s}" for category in CATEGORIES) + " |")
    rows = {}
    for leg_name, leg in legs.items():
        rows[leg_name] = {c: recall(leg, names, asked[c]) for c in CATEGORIES}
        cells = [" / ".join(f"{v:.1f}" for v in row.values()) for row in rows[leg_name].values()]
        print(f"| {leg_name:12s} | " + " | ".join(f"{cell:25s}" for cell in cells) + " |")
    return rows


# --- what is shown -------------------------------------------------------------------------------


async def print_shown(selector: Selector, specs: Sequence[ToolSpec], half: str) -> object:
    """Of single questions, and of sessions of ten: how many are shown, and whether the right ones
    are among them."""
    rows = {}
    for category in CATEGORIES:
        found, shown = [], []
        for question in questions(category, half):
            selection = await selector.select(specs, [Message("user", question.text)])
            names = {spec.name for spec in selection.tools}
            found.append(question.gold <= names)
            shown.append(len(names))
        rows[category] = {"found": 100 * np.mean(found), "shown": np.mean(shown)}
    everything = [q for category in CATEGORIES for q in questions(category, half)]
    random.Random(5).shuffle(everything)
    found, later = [], []
    for start in range(0, len(everything) - 9, 10):
        messages: list[Message] = []
        for number, question in enumerate(everything[start : start + 10]):
            messages.append(Message("user", question.text))
            selection = await selector.select(specs, messages)
            if number:
                found.append(question.gold <= {spec.name for spec in selection.tools})
                later.append(len(selection.shown_at.get(len(messages) - 1, ())))
            messages.append(Message("assistant", "Done."))
    rows["later turns"] = {"found": 100 * np.mean(found), "shown": np.mean(later)}
    print(f"\n{len(specs)} tools, {half}: right ones are among those shown; how many are shown")
    for name, row in rows.items():
        print(f"| {name:18s} | {row['found']:5.1f} % | {row['shown']:4.1f} |")
    return rows


# --- time ----------------------------------------------------------------------------------------


async def print_times(ranker: Ranker, wordy: Ranker, half: str) -> object:
    """Selections as requests have them, with the embedding of the question and without; "work" is
    the processor's time, which says more where the machine is shared."""
    specs = tuple(enlarged(pool(WIDE), 4000))
    begun = time.perf_counter()
    wordy.index(specs)
    print(f"\n4000 tools: index of tools never seen {1e3 * (time.perf_counter() - begun):.0f} ms")
    begun = time.perf_counter()
    wordy.index([*specs[:-1], enlarged(specs, 4001)[-1]])
    print(f"of the same but one {1e3 * (time.perf_counter() - begun):.0f} ms")
    await embedded(ranker, specs)
    rows = {}
    asked = [q.text for category in CATEGORIES for q in questions(category, half)]
    for name, selector in {"words": Selector(wordy), "both": Selector(ranker)}.items():
        taken, busy = [], []
        for text in asked:
            begun, worked = time.perf_counter(), time.process_time()
            await selector.select(specs, [Message("user", text)])
            taken.append(1e3 * (time.perf_counter() - begun))
            busy.append(1e3 * (time.process_time() - worked))
        p50, p90, p99 = np.quantile(taken, [0.5, 0.9, 0.99])
        work = np.median(busy)
        print(f"{name:6s} p50 {p50:.2f} ms   p90 {p90:.2f}   p99 {p99:.2f}   (work {work:.2f} ms)")
        rows[name] = {"p50": p50, "p90": p90, "p99": p99, "work": work}
    return rows


async def measure(options: argparse.Namespace) -> Mapping[str, object]:
    settings = Settings.from_env()
    embedder = Embedder(settings)
    vectors = ToolVectors(embedder, settings.vectors_file)
    ranker = Ranker(vectors)
    try:
        return {
            "recall": await print_recall(ranker, embedder, "", options.half),
            "recall, wide": await print_recall(ranker, embedder, "wide", options.half),
            "shown": await print_shown(Selector(ranker), pool(WIDE), options.half),
            "times": await print_times(ranker, Ranker(), options.half),
        }
    finally:
        vectors.close()
        embedder.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--half", choices=("dev", "test", "all"), default="test")
    parser.add_argument("--json", type=Path, help="also write everything here")
    options = parser.parse_args()
    found = asyncio.run(measure(options))
    if options.json:
        options.json.write_text(json.dumps(describe_run() | dict(found), indent=1))


if __name__ == "__main__":
    main()
