"""What it takes to write runs down: one at a time and many, in SQLite or PostgreSQL.

    python bench/store.py [--writes 2000] [--folder .] [--url postgresql://…] [--json FILE]

A write is one entry of 600 bytes at the end of a run, kept when it is told. By turns with it, on
the same disk: a bare row in SQLite, which is what the disk takes. Between two rounds of that, where
it is installed, steps of the durable-execution library `dbos`. Then 10,000 conversations that
nobody goes on with.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from f1.bench.machine import describe_run
from f1.settings import Settings
from f1.store.runs import EntryRow, RunRow, RunStore, Write, open_runs

TEXT = "What a tool has returned, more or less. " * 15
Once = Callable[[], Awaitable[None]]


def entry(number: int) -> EntryRow:
    return EntryRow(number, time.time(), "Done", {"is": "Done", "text": TEXT, "number": number})


async def a_run(store: RunStore, name: str) -> Once:
    """Writes the next entry."""
    await store.begin(RunRow(name, "bench"), [])
    number = -1

    async def once() -> None:
        nonlocal number
        number += 1
        await store.write(Write(name, "bench", [entry(number)]))

    return once


def bare(folder: Path) -> Once:
    db = sqlite3.connect(folder / "bare.sqlite", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, body BLOB)")

    async def once() -> None:
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO rows (body) VALUES (?)", (TEXT.encode(),))
        db.execute("COMMIT")

    return once


def by_turns(kinds: dict[str, Once], writes: int) -> dict[str, Any]:
    async def all_of_them() -> dict[str, list[float]]:
        took: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(writes):
            for kind, once in kinds.items():
                begun = time.perf_counter()
                await once()
                took[kind].append(time.perf_counter() - begun)
        return took

    return {kind: _told(found) for kind, found in LOOP.run(all_of_them()).items()}


def together(store: RunStore, writers: int, writes: int) -> dict[str, float]:
    async def all_of_them() -> float:
        runs = [await a_run(store, f"{writers}/{number}") for number in range(writers)]

        async def one(once: Once) -> None:
            for _ in range(writes // writers):
                await once()

        begun = time.perf_counter()
        await asyncio.gather(*map(one, runs))
        return time.perf_counter() - begun

    return {"writers": writers, "writes_per_s": round(writes / LOOP.run(all_of_them()))}


def idle_sessions(store: RunStore, count: int, settings: Settings) -> dict[str, Any]:
    """Memory and disk that they take; and what one costs that is gone on with."""

    async def begin(first: int) -> None:
        for number in range(first, min(count, first + 250)):
            said = [{"role": "user", "content": TEXT}, {"role": "assistant", "content": TEXT}]
            await store.begin(RunRow(f"s{number}", "bench", session_id=f"s{number}"), [])
            await store.write(Write(f"s{number}", "bench", messages=said, status="ended"))

    async def half(first: int) -> None:
        starts = range(first, first + count // 2, 250)
        await asyncio.gather(*map(begin, starts))

    async def read(number: int) -> float:
        begun = time.perf_counter()
        assert len(await store.messages("bench", f"s{number}") or []) == 2
        return time.perf_counter() - begun

    LOOP.run(half(0))
    before = _resident()
    LOOP.run(half(count // 2))
    grown = _resident() - before
    reads = [LOOP.run(read(number)) for number in range(0, count, count // 200)]
    disk = sum(
        path.stat().st_size for path in settings.cache.glob("runs.sqlite*") if path.is_file()
    )
    return {"sessions": count, "memory_of_the_second_half": grown, "disk": disk} | {
        f"read_{name}": value for name, value in _told(reads).items()
    }


def starts(settings: Settings) -> dict[str, float]:
    """Seconds to the first answer of a process: of a store there is, and of none yet."""
    code = (
        "import asyncio, sys, time; from pathlib import Path; from f1.settings import Settings;"
        "from f1.store.runs import open_runs; begun = time.perf_counter();"
        "store = open_runs(Settings(cache=Path(sys.argv[1])));"
        "asyncio.run(store.runs(None, limit=1)); print(time.perf_counter() - begun)"
    )

    def one(cache: Path) -> float:
        command = [sys.executable, "-P", "-c", code, str(cache)]
        return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)

    there = statistics.median(one(settings.cache) for _ in range(7))
    none = statistics.median(one(settings.cache / f"none{n}") for n in range(7))
    return {"there_s": round(there, 3), "first_s": round(none, 3)}


def dbos_steps(folder: Path, count: int) -> dict[str, float]:
    from dbos import DBOS

    url = f"sqlite:///{folder}/dbos.sqlite"
    DBOS(config={"name": "bench", "system_database_url": url, "log_level": "ERROR"})

    @DBOS.step()
    def step() -> dict[str, str]:
        return {"text": TEXT}

    @DBOS.workflow()
    def steps() -> list[float]:
        took: list[float] = []
        for _ in range(count):
            begun = time.perf_counter()
            step()
            took.append(time.perf_counter() - begun)
        return took

    DBOS.launch()
    found = _told(steps())
    DBOS.destroy()
    return found


def _told(took: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(took, n=100)
    return {"p50_ms": round(cuts[49] * 1e3, 3), "p99_ms": round(cuts[98] * 1e3, 3)}


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


LOOP = asyncio.Runner()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--writes", type=int, default=2000)
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk that is measured")
    parser.add_argument("--url", default="")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder, prefix="bench-store-") as name:
        folder = Path(name).resolve()
        settings = Settings(cache=folder, runs_url=asked.url, runs_disk=2**34)
        store = open_runs(settings)
        assert store is not None
        kinds = {"bare row": bare(folder), "write": LOOP.run(a_run(store, "alone"))}
        found: dict[str, Any] = {
            "one at a time": by_turns(kinds, asked.writes),
            "together": [together(store, writers, asked.writes) for writers in (1, 8, 32)],
            "idle": idle_sessions(store, asked.sessions, settings),
        }
        if find_spec("dbos") is not None:
            found["dbos step"] = dbos_steps(folder, asked.writes // 4)
            found["one at a time, again"] = by_turns(kinds, asked.writes // 4)
        LOOP.run(store.close())
        if not asked.url:
            found["start"] = starts(settings)
    found |= describe_run("sqlalchemy", "alembic", "psycopg", "dbos", sqlite=sqlite3.sqlite_version)
    text = json.dumps(found, indent=1)
    print(text)
    if asked.json:
        asked.json.write_text(text)


if __name__ == "__main__":
    main()
