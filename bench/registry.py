"""Registering: how fast the first request is after it, and what thousands of tools take.

    python bench/registry.py [--model qwen2.5-coder-0.5b] [--rounds 10] [--many 4000] [--json FILE]

A real server in this process, asked over HTTP one request at a time. Each round has tools of its
own, which no request before had: sent along to a server that does not know them ("sent"), and
registered, then named by a first request ("first") and by others ("warm"). All ask for other
cities, so that no two have more in common than the tools.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from rich.console import Console
from rich.table import Table

from f1.bench.machine import describe_run
from f1.engine import AsyncEngine
from f1.serve.app import create_app
from f1.serve.registrar import Registrar
from f1.settings import Settings
from f1.store.tools import ToolStore

CITIES = (
    "Rome", "Paris", "London", "Berlin", "Madrid", "Tokyo", "Boston", "Dallas", "Chicago", "Miami"
)  # fmt: skip
EAGER = {"strategy": "direct", "eager_arguments": True}
KINDS = ("forecast", "history", "pollen", "waves", "alerts", "sunrise", "air", "rain")


def tool(kind: str, source: str) -> dict[str, Any]:
    properties = {
        "city": {"type": "string", "description": "Name of the city."},
        "days": {"type": "integer", "minimum": 1, "maximum": 14, "description": "How many."},
        "unit": {"type": "string", "enum": ["C", "F"]},
    }
    return {
        "name": f"{kind}_{source}",
        "description": f"The {kind} for a city, from source {source}, for some days from today.",
        "parameters": {"type": "object", "properties": properties, "required": ["city"]},
    }


def unlike(number: int) -> dict[str, Any]:
    """A tool whose schema no other one has: two to seven parameters, one of them an object."""
    made = tool(KINDS[number % len(KINDS)], f"m{number}")
    properties = {
        f"field_{number}_{at}": {"type": kind, "description": f"Field {at} of tool {number}."}
        for at, kind in enumerate(("string", "integer", "boolean", "number")[: number % 5])
    }
    place = {"type": "object", "properties": properties | {"street": {"type": "string"}}}
    made["parameters"]["properties"] |= {f"place_{number}": place, **properties}
    return made


@contextmanager
def serving(model: str, cache: Path) -> Iterator[httpx.Client]:
    settings = Settings.from_env()
    files = Settings(cache=cache)
    engine = AsyncEngine.start(model, settings)
    engine.warm()
    registrar = Registrar(store=ToolStore(files.tools_file))
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(create_app(lambda: engine, registrar=registrar), log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with httpx.Client(base_url=url, timeout=600) as http:
            while http.get("/ready").status_code != 200:
                pass
            yield http
    finally:
        server.should_exit = True
        thread.join()


def ask(http: httpx.Client, city: str, **fields: Any) -> tuple[float, float]:
    """Seconds to the first token, and to the end of a call."""
    text = f"{city} is where I go: what is the forecast for the next three days there?"
    body = {
        "model": "f1",
        "messages": [{"role": "user", "content": text}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "f1": EAGER,
        "stream": True,
        **fields,
    }
    begun, first = time.perf_counter(), 0.0
    with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        for line in answer.iter_lines():
            if not first and '"tool_calls"' in line:
                first = time.perf_counter() - begun
        answer.raise_for_status()
    return first, time.perf_counter() - begun


def measure(http: httpx.Client, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """By kind of request, its times in each round; of the warm ones the median of three."""
    found: dict[str, list[tuple[float, float]]] = {"sent": [], "first": [], "warm": []}
    registering: list[tuple[float, float]] = []
    for number in range(-1, rounds):
        cities = [CITIES[(number + shift) % len(CITIES)] for shift in range(5)]
        sets = [[tool(kind, f"{mark}{number % 100:02}") for kind in KINDS] for mark in "ab"]
        sent = [{"type": "function", "function": each} for each in sets[0]]
        times = {"sent": ask(http, cities[0], tools=sent)}
        begun = time.perf_counter()
        name = f"set_{number % 100}"
        http.put(f"/v1/toolsets/{name}", json={"tools": sets[1]}).raise_for_status()
        took = time.perf_counter() - begun
        named = {"f1": EAGER | {"toolsets": [name]}}
        times["first"] = ask(http, cities[1], **named)
        warm = [ask(http, city, **named) for city in cities[2:]]
        times["warm"] = (
            statistics.median(first for first, _ in warm),
            statistics.median(whole for _, whole in warm),
        )
        if number >= 0:
            registering.append((took, took))
            for kind, seconds in times.items():
                found[kind].append(seconds)
    return found | {"registering": registering}


def measure_many(http: httpx.Client, count: int) -> dict[str, float]:
    """Seconds and megabytes of registering so many at once, again, and naming them."""
    tools = [unlike(number) for number in range(count)]
    gc.collect()
    before = _resident()
    begun = time.perf_counter()
    http.put("/v1/toolsets/many", json={"tools": tools}).raise_for_status()
    first = time.perf_counter() - begun
    gc.collect()
    grown = _resident() - before
    begun = time.perf_counter()
    http.put("/v1/toolsets/many", json={"tools": tools}).raise_for_status()
    again = time.perf_counter() - begun
    begun = time.perf_counter()
    http.get("/v1/toolsets?limit=100").raise_for_status()
    listed = time.perf_counter() - begun
    return {"first": first, "again": again, "listed": listed, "megabytes": grown / 2**20}


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--many", type=int, default=4000)
    parser.add_argument("--json", type=Path, help="also write everything here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache, serving(options.model, Path(cache)) as http:
        found = measure(http, options.rounds)
        many = measure_many(http, options.many)
    table = Table("request", "first token ms", "whole call ms")
    for kind, times in found.items():
        figures = [statistics.median(each) * 1e3 for each in zip(*times, strict=True)]
        table.add_row(kind, *(f"{value:.1f}" for value in figures))
    pairs = list(zip(found["first"], found["warm"], strict=True))
    ratios = [statistics.median(f[at] / w[at] for f, w in pairs) for at in (0, 1)]
    table.add_row("first / warm, median of rounds", *(f"{ratio:.3f}" for ratio in ratios))
    console = Console()
    console.print(table)
    console.print(f"{options.many} tools: " + ", ".join(f"{k} {v:.2f}" for k, v in many.items()))
    if options.json:
        run = describe_run(model=options.model, rounds=options.rounds)
        options.json.write_text(json.dumps(run | {"times": found, "many": many}, indent=1))


if __name__ == "__main__":
    main()
