"""A process that keeps runs and is made to fail: told on stdin how, by a line of JSON each.

Each is done in a fork, so that Python starts once. What the fork says on its stdout, and how it
ended, comes back as a line of JSON.

    {"settings": …, "how": "before", "at": 17}  ─▶  {"said": ["0", "1"], "status": -9, …}
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import alembic.runtime.environment  # noqa: F401  (before the forks)
import psycopg  # noqa: F401
import sqlalchemy as sa

from f1.settings import Settings
from f1.store import places, sql_runs  # noqa: F401
from f1.store.database import NotStored
from f1.store.runs import ApprovalRow, EntryRow, RunRow, RunStore, Write, open_runs

HOW = {"off": 0, "before": 1, "midst": 2, "after": 3, "once": 4, "from": 5, "read-only": 6}


def entry(number: int) -> EntryRow:
    return EntryRow(number, float(number), "Noted", {"text": f"{number} " * 50})


async def step(store: RunStore, number: int, run: str = "a") -> None:
    """What belongs together: an entry, an approval and a message."""
    if number == 0 and not await store.run("me", run):
        await store.begin(RunRow(run, "me", session_id=run), [])
    asked = [ApprovalRow(f"{run}{number}", "me", run, 1.0, {"number": number})]
    said = [{"text": "x" * 5000, "number": number}]
    await store.write(Write(run, "me", [entry(number)], asked=asked, messages=said, known=number))


async def steps(store: RunStore, job: dict[str, Any], say: Callable[[str], None]) -> None:
    """Each until it is done; a fault that stays ends once it was told of a few times."""
    refused = 0
    for number in range(job["steps"]):
        while True:
            try:
                await step(store, number)
                say(str(number))
                break
            except NotStored as error:
                refused += 1
                say(f"{error.code}: {error.message}")
                if refused == 3:
                    CORE.faults_disarm()
    await store.close()


async def crowd(store: RunStore, job: dict[str, Any], say: Callable[[str], None]) -> None:
    """Eight runs that go on for ever."""

    async def one(run: str) -> None:
        number = 0
        while True:
            await step(store, number, run)
            say(f"{run} {number}")
            number += 1

    await asyncio.gather(*(one(f"r{n}") for n in range(8)))


class Core:
    """What counts: of files in faults.c, of a server the statements sent to it."""

    def __init__(self) -> None:
        preloaded = os.environ.get("LD_PRELOAD")
        self._c = ctypes.CDLL(preloaded) if preloaded else None
        self.statements = 0

    def arm(self, job: dict[str, Any]) -> None:
        if not job["settings"]["runs_url"]:
            self._c.faults_arm(HOW[job["how"]], job["at"], job.get("error", 0))
            return

        def count(*_: object) -> None:
            self.statements += 1
            if self.statements == job["at"]:
                os.kill(os.getpid(), signal.SIGKILL)

        sa.event.listen(sa.Engine, "before_cursor_execute", count)
        sa.event.listen(sa.Engine, "commit", count)

    def faults_disarm(self) -> None:
        self._c.faults_disarm()

    def told(self) -> tuple[int, int]:
        if self._c is None or self.statements:
            return self.statements, 0
        return self._c.faults_count(), self._c.faults_made()


CORE = Core()


async def child(job: dict[str, Any], out: int) -> None:
    def say(text: str) -> None:
        os.write(out, text.encode() + b"\n")

    given = job["settings"]
    store = open_runs(Settings(cache=Path(given["cache"]), runs_url=given["runs_url"]))
    assert store is not None
    CORE.arm(job)
    work = {"steps": steps, "crowd": crowd}[job.get("work", "steps")]
    try:
        await work(store, job, say)
    finally:
        say("points {} faults {}".format(*CORE.told()))


def main() -> None:
    for line in sys.stdin:
        job = json.loads(line)
        read, write = os.pipe()
        if (pid := os.fork()) == 0:
            os.close(read)
            code = 1
            try:
                asyncio.run(child(job, write))
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        os.close(write)
        said: list[str] = []
        with os.fdopen(read) as pipe:
            for text in pipe:
                said.append(text.rstrip("\n"))
                if len(said) == job.get("kill_after"):
                    os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        done = {"said": said, "status": os.waitstatus_to_exitcode(status)}
        print(json.dumps(done), flush=True)


main()
