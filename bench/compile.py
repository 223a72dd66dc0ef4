"""What many tools cost before the first token: judging their schemas, and making their grammars.

    python bench/compile.py [--model NAME] [--tools 300]

Wall time, with the processor time of this process beside it. The tools take some 25,000 tokens
together. "new" is the first request ever; then one of the tools is changed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from f1.bench.machine import describe_run
from f1.calling.family import family_for
from f1.calling.grammar import Grammars
from f1.models.load import load_checkpoint
from f1.types import ResponseFormat, Tool

_FIELDS: Sequence[tuple[str, dict[str, Any]]] = (
    ("query", {"type": "string", "description": "What to look for"}),
    ("limit", {"type": "integer", "minimum": 1, "maximum": 100}),
    ("tags", {"type": "array", "items": {"type": "string"}}),
    ("since", {"type": "string", "format": "date"}),
    ("order", {"enum": ["newest", "oldest", "relevance"]}),
    ("code", {"type": "string", "pattern": "^[A-Z]{2}[0-9]{2}$"}),
    ("owner", {"anyOf": [{"type": "string"}, {"type": "null"}]}),
    ("amount", {"type": "number", "minimum": 0}),
    ("note", {"type": "string", "maxLength": 60}),
    ("place", {"type": "object", "properties": {"city": {"type": "string"}}}),
)


def make_tool(index: int) -> Tool:
    fields = [_FIELDS[(index * 7 + i * 3) % len(_FIELDS)] for i in range(3)]
    schema = {
        "type": "object",
        "properties": {f"{name}_{index}": value for name, value in fields},
        "required": [f"{fields[0][0]}_{index}"],
        "additionalProperties": False,
    }
    return Tool(f"tool_{index}", f"Does the thing that is number {index} of many.", schema)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--tools", type=int, default=300)
    options = parser.parse_args()
    tokenizer = load_checkpoint(options.model).tokenizer
    stops = sorted(tokenizer.stop_token_ids)
    grammars = Grammars(tokenizer.vocabulary(), tokenizer.vocab_size, stops)
    forms = family_for(options.model, None).forms
    tools = [make_tool(index) for index in range(options.tools)]
    written = "\n".join(f"{tool.name} {tool.description} {tool.parameters}" for tool in tools)
    print(describe_run("xgrammar", model=options.model))
    print(f"{len(tools)} tools, {len(tokenizer.encode_prompt(written))} tokens")

    def admit(given: Sequence[Tool]) -> None:
        grammars.admit(given, ResponseFormat())
        grammars.prepare(forms, given, single=False)

    def compile_all(given: Sequence[Tool]) -> None:
        for segment in [grammars.arguments(forms[0], tool, last=False) for tool in given]:
            segment.wait(600)

    def measure(what: str, work: Callable[[Sequence[Tool]], None], given: Sequence[Tool]) -> None:
        wall, processor = time.perf_counter(), time.process_time()
        work(given)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        print(f"{what:48} {wall * 1e3:9.1f} ms {processor * 1e3:9.1f} ms of processor time")

    # What one request needs before its first step; then what its calls need, each when it is made.
    measure("admit, new", admit, tools)
    measure("admit, known", admit, tools)
    measure("all arguments compiled, new", compile_all, tools)
    measure("all arguments compiled, known", compile_all, tools)
    changed = [*tools[:-1], replace(make_tool(10_000), name=tools[-1].name)]
    measure("admit, one of them changed", admit, changed)
    measure("all arguments compiled, one of them changed", compile_all, changed)
    grammars.close()


if __name__ == "__main__":
    main()
