"""Runs and conversations that are kept: one suite over SQLite and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import math
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from f1.errors import InvalidRequest
from f1.settings import Settings
from f1.store import migrations
from f1.store.database import NotStored
from f1.store.runs import (
    ApprovalRow,
    Conflict,
    EntryRow,
    Json,
    RunRow,
    RunStore,
    SessionTaken,
    Write,
    open_runs,
)
from f1.store.tables import tables

NASTY = "quotes '\"; DROP TABLE runs; --, \U0001f600, \ufffe \u2028 \0"


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    if request.param == "sqlite":
        return Settings(cache=tmp_path)
    return Settings(cache=tmp_path, runs_url=request.getfixturevalue("postgresql").new())


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[RunStore]:
    store = opened(settings)
    yield store
    await store.close()


def opened(settings: Settings) -> RunStore:
    store = open_runs(settings)
    assert store is not None
    return store


def entry(seq: int, body: Json | None = None) -> EntryRow:
    return EntryRow(seq, 1000.5 + seq, "Noted", {"text": f"entry {seq}"} if body is None else body)


def changed(settings: Settings, statement: str, *values: object) -> None:
    """As somebody else would change it."""
    if settings.runs_url:
        with psycopg.connect(settings.runs_url) as db:
            db.execute(statement.replace("?", "%s").encode(), values)
    else:
        with closing(sqlite3.connect(settings.runs_file)) as file, file:
            file.execute(statement, values)


async def test_what_is_written_is_read_by_its_owner_and_by_a_later_process(
    settings: Settings,
) -> None:
    store = opened(settings)
    odd = {"inf": math.inf, "big": 10**40, "half": "\ud800", "text": NASTY, "null": None}
    run = RunRow("a", "me", session_id="s", began=5.0, about={"asked": NASTY})
    assert await store.begin(run, [entry(0)])
    assert not await store.begin(run, [entry(0)])
    assert await store.begin(replace(run, tenant="you"), [])
    await store.write(
        Write(
            "a", "me", [entry(1, odd), entry(2, {"long": "long " * 9999})], "ended", {"is": "it"}
        ),
        Write("a", "you", messages=[{"role": "user"}]),
    )
    await store.close()
    if not settings.runs_url:
        files = [path for path in settings.cache.rglob("*") if path.is_file()]
        assert all(path.stat().st_mode & 0o077 == 0 for path in files)

    store = opened(settings)
    found = await store.run("me", "a")
    assert found == RunRow("a", "me", "ended", "s", 5.0, found.changed, 3, {"is": "it"})
    assert abs(found.changed - time.time()) < 3600
    rows = [entry(0), entry(1, odd), entry(2, {"long": "long " * 9999})]
    assert await store.entries("me", "a") == rows
    assert await store.entries("you", "a") == []
    assert await store.messages("me", "s") is None
    assert await store.messages("you", "s") == [{"role": "user"}]
    assert not await store.delete("them", "a")
    assert await store.delete("me", "a")
    assert (await store.run("me", "a"), await store.entries("me", "a")) == (None, [])
    assert [row.tenant for row in await store.runs(None)] == ["you"]
    await store.close()


async def test_lists_are_in_order_and_narrowed(store: RunStore) -> None:
    for number in range(5):
        session = "odd" if number % 2 else ""
        await store.begin(RunRow(f"r{number}", "me", session_id=session, began=1.0 + number), [])
        await store.write(Write(f"r{number}", "me", status="ended" if number == 3 else "waiting"))
    await store.begin(RunRow("x", "you", began=0.5), [])

    async def ids(**asked: object) -> list[str]:
        return [row.id for row in await store.runs(asked.pop("tenant", "me"), **asked)]  # type: ignore[arg-type]

    assert await ids() == ["r4", "r3", "r2", "r1", "r0"]
    assert await ids(tenant=None, limit=2, before=2.0) == ["r0", "x"]
    assert await ids(session_id="odd") == ["r3", "r1"]
    assert await ids(status="ended") == ["r3"]
    assert await ids(tenant="them") == []


async def test_writes_are_whole_and_may_be_repeated(store: RunStore) -> None:
    await store.begin(RunRow("a", "me", session_id="s"), [entry(0)])
    await store.begin(RunRow("b", "me"), [entry(0)])
    ask = ApprovalRow("ask", "me", "a", 9.0, {"call": 1})
    first = Write("a", "me", [entry(1)], asked=[ask], messages=[{"n": 0}], known=0)
    with pytest.raises(Conflict):  # the second is wrong, so the first is not kept, either
        await store.write(first, Write("b", "me", [entry(7)]))
    assert len(await store.entries("me", "a")) == 1
    await store.write(first)
    await store.write(first)
    await store.write(replace(first, entries=[entry(1), entry(2)]))  # it was cut off, and goes on
    assert await store.entries("me", "a") == [entry(0), entry(1), entry(2)]
    assert await store.messages("me", "s") == [{"n": 0}]
    assert [row.id for row in await store.approvals("me")] == ["ask"]
    for wrong in (
        Write("a", "me", [entry(2, {"other": 1})]),
        Write("a", "me", [entry(1, {"other": 1}), entry(2)]),
        Write("a", "me", [entry(4)]),
        Write("a", "me", messages=[{"n": 1}], known=0),
        Write("a", "me", messages=[{"n": 1}], known=2),
        Write("none", "me", [entry(0)]),
        Write("a", "you", [entry(3)]),
    ):
        with pytest.raises(Conflict):
            await store.write(wrong)
    assert len(await store.entries("me", "a")) == 3


async def test_many_at_a_time_hinder_nobody(settings: Settings) -> None:
    """In two processes' stores; one that conflicts is alone with it."""
    stores = [opened(settings), opened(settings)]
    began = await asyncio.gather(
        *(stores[n % 2].begin(RunRow(f"r{n // 2}", "me"), [entry(0)]) for n in range(40))
    )
    assert sum(began) == 20  # of two that begin the same one does
    mine = [n // 2 for n in range(0, 40, 2) if began[n]]
    writes = [Write(f"r{n}", "me", [entry(1)]) for n in range(20)]
    done = await asyncio.gather(*map(stores[0].write, writes), return_exceptions=True)
    assert [n for n, each in enumerate(done) if each is None] == mine
    assert all(isinstance(each, Conflict) for n, each in enumerate(done) if n not in mine)
    for store in stores:
        await store.close()


async def test_a_run_is_taken_by_one(settings: Settings) -> None:
    one, other = opened(settings), opened(settings)
    for name in ("running", "waits", "ended"):
        await one.begin(RunRow(name, "me"), [entry(0)])
    keys = [b"\0key", b"none"]
    await one.write(
        Write("waits", "me", status="waiting", waits=[(b"\0key", {"of": "me"})]),
        Write("ended", "me", status="ended"),
    )
    assert await other.waiting("me", keys) == {b"\0key": ("waits", {"of": "me"})}
    assert await other.waiting("you", keys) == {}
    took = await asyncio.gather(*(s.take("me", "waits") for s in (one, other, one, other)))
    assert sorted(took) == [False, False, False, True]
    assert await other.waiting("me", keys) == {}
    assert [await other.take("me", name) for name in ("running", "ended", "none")] == [False] * 3
    assert await other.orphans() == []
    for store in (one, other):  # its calls go on
        with pytest.raises(Conflict):
            await store.delete("me", "running")
    assert len(await other.entries("me", "running")) == 1

    await one.close()  # as far as others can tell, its process is gone
    gone = {"running"} | ({"waits"} if took[0] or took[2] else set())
    assert {row.id for row in await other.orphans()} == gone
    took_all = await asyncio.gather(*(other.take("me", "running") for _ in range(3)))
    assert sorted(took_all) == [False, False, True]
    await other.write(Write("running", "me", [entry(1)]))
    assert "running" not in {row.id for row in await other.orphans()}
    await other.close()
    third = opened(settings)
    assert await third.delete("me", "running")
    await third.close()


async def test_of_runs_of_one_session_one_is_running(settings: Settings) -> None:
    """In two processes at once; what a process that is gone has left counts no more."""
    stores = [opened(settings), opened(settings)]
    for session in ("a", "b"):
        new = [RunRow(f"{session}{n}", "me", session_id=session) for n in range(8)]
        begun = await asyncio.gather(
            *(stores[n % 2].begin(run, [entry(0)]) for n, run in enumerate(new)),
            return_exceptions=True,
        )
        assert begun.count(True) == 1
        assert [type(each) for each in begun if each is not True] == [SessionTaken] * 7
    (run,) = await stores[0].runs("me", session_id="b")
    assert not await stores[0].begin(run, [entry(0)])  # the same once more
    assert await stores[0].begin(replace(run, tenant="you"), [])
    mine = begun.index(True) % 2
    await stores[mine].close()
    assert await stores[1 - mine].begin(replace(run, id="next"), [])
    await stores[1 - mine].write(Write("next", "me", status="waiting"))
    assert await stores[1 - mine].begin(replace(run, id="last"), [])
    await stores[1 - mine].close()


async def test_what_waited_for_its_caller_does_until_something_happens(settings: Settings) -> None:
    store = opened(settings)
    await store.begin(RunRow("a", "me"), [entry(0)])
    await store.write(Write("a", "me", [entry(1)], "waiting", waits=[(b"k", {})]))
    assert await store.take("me", "a")
    await store.close()
    store = opened(settings)  # killed before the caller's results were written
    assert (await store.waiting("me", [b"k"])).keys() == {b"k"}
    assert await store.take("me", "a")
    await store.write(Write("a", "me", [entry(2)], "waiting"))
    assert await store.waiting("me", [b"k"]) == {}
    await store.close()


async def test_a_call_is_decided_once(store: RunStore) -> None:
    await store.begin(RunRow("a", "me"), [])
    asked = [ApprovalRow(name, "me", "a", 2.0, {"call": name}) for name in "xy"]
    await store.write(Write("a", "me", asked=asked))
    assert await store.approvals(None) == await store.approvals("me") == asked
    assert await store.approvals("you") == []
    assert not await store.decide("you", "x", {"approve": True})
    verdicts = [{"approve": n} for n in range(4)]
    won = await asyncio.gather(*(store.decide("me", "x", each) for each in verdicts))
    assert sum(won) == 1
    found = await store.approval("me", "x")
    assert found == replace(asked[0], decided=verdicts[won.index(True)])
    assert await store.approvals("me") == asked[1:]
    await store.write(Write("a", "me", status="waiting"))
    await store.delete("me", "a")
    assert await store.approval("me", "x") is None


async def test_conversations_and_pins(store: RunStore) -> None:
    await store.begin(RunRow("a", "me", session_id="s"), [])
    await store.begin(RunRow("b", "me", session_id="t"), [])
    await store.write(Write("a", "me", messages=[{"n": 0}, {"n": 1}]))
    await store.write(Write("b", "me", messages=[{"n": 0}]))
    await store.write(Write("a", "me", messages=[{"n": 2}], known=2))
    listed = await store.sessions("me")
    assert [(each["id"], each["messages"]) for each in listed] == [("s", 3), ("t", 1)]
    assert await store.sessions("you") == []
    assert not await store.delete_session("you", "s")
    assert await store.delete_session("me", "s")
    assert await store.messages("me", "s") is None

    for digest in ("1", "2"):
        await store.pin("mcp/files", digest)
    await store.pin("mcp/web", "3")
    assert await store.pins() == {"mcp/files": "2", "mcp/web": "3"}
    await store.pin("mcp/files", None)
    assert await store.pins() == {"mcp/web": "3"}


# --- rows that F1 has not written ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "values", "gap"),
    [
        ("UPDATE entries SET body = ? WHERE seq = 1", (b'{"is": "os.system"}',), 1),
        ("UPDATE entries SET kind = 'Launched' WHERE seq = 1", (), 1),
        ("UPDATE entries SET body = ?, crc = 0 WHERE seq = 1", (b"x\x9c" + b"\0" * 99,), 1),
        ("DELETE FROM entries WHERE seq = 1", (), 1),
        ("UPDATE entries SET seq = 99 WHERE seq = 2", (), 2),
        ("DELETE FROM entries WHERE seq = 2", (), 2),
        ("UPDATE runs SET num_entries = 1000000000000", (), 3),
    ],
)
async def test_a_broken_entry_leaves_a_gap(
    settings: Settings, store: RunStore, statement: str, values: tuple[object, ...], gap: int
) -> None:
    await store.begin(RunRow("a", "me"), [entry(0), entry(1), entry(2)])
    changed(settings, statement, *values)
    found = await store.entries("me", "a")
    assert found[:gap] == [entry(number) for number in range(gap)]
    assert found[gap] == EntryRow(gap, 0.0, "", {})
    assert len(found) <= 5


async def test_other_broken_rows_are_not_used(
    settings: Settings, store: RunStore, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b", "c"):
        ask = ApprovalRow(f"ask {name}", "me", name, 3.0, {})
        await store.begin(RunRow(name, "me", session_id=f"s{name}"), [])
        await store.write(Write(name, "me", asked=[ask], messages=[{"n": 1}], waits=[(b"k", {})]))
        await store.write(Write(name, "me", status="waiting"))
    changed(settings, "UPDATE runs SET about = ? WHERE id = 'a'", b"{}x")
    changed(settings, "UPDATE runs SET status = 'root' WHERE id = 'b'")
    changed(settings, "UPDATE approvals SET run_id = 'c' WHERE run_id = 'a'")
    changed(settings, "UPDATE approvals SET decided = ? WHERE run_id = 'b'", b'{"approve": true}')
    changed(settings, "UPDATE messages SET body = ? WHERE body = ?", b'{"n":2}', b'{"n":1}')
    changed(settings, "UPDATE waits SET body = ?", b"[")
    assert [row.id for row in await store.runs(None)] == ["c"]
    assert [row.id for row in await store.approvals(None)] == ["ask c"]
    assert await store.approval("me", "ask b") is None
    assert await store.waiting("me", [b"k"]) == {}
    with pytest.raises(NotStored, match="broken"):
        await store.messages("me", "sa")
    assert await store.delete_session("me", "sa")
    assert len({record.message for record in caplog.records}) >= 5


async def test_words_where_numbers_are_hurt_nobody_else(tmp_path: Path) -> None:
    """SQLite takes them in any column."""
    settings = Settings(cache=tmp_path)
    store = opened(settings)
    for name in ("a", "b"):
        await store.begin(RunRow(name, "me", session_id=name), [entry(0)])
        await store.write(
            Write(name, "me", messages=[{"n": 0}], waits=[(b"k" + name.encode(), {})])
        )
    changed(settings, "UPDATE entries SET seq = 'one', at = 'now' WHERE run = 1")
    changed(settings, "UPDATE sessions SET began = 'then', num_messages = 'all' WHERE id = 'a'")
    changed(settings, "UPDATE runs SET owner = '../../else', changed = x'ff' WHERE id = 'a'")
    assert await store.entries("me", "a") == [EntryRow(0, 0.0, "", {})]
    assert [each["id"] for each in await store.sessions("me")] == ["b"]
    assert await store.session("me", "a") is None
    assert [row.id for row in await store.runs("me")] == ["b"]
    assert await store.waiting("me", [b"ka", b"kb"]) == {b"ka": ("a", {})}
    assert await store.orphans() == []
    assert await store.take("me", "a")
    assert await store.entries("me", "b") == [entry(0)]
    await store.close()


# --- how much, how long --------------------------------------------------------------------------


async def test_who_holds_most_makes_room_and_what_waits_stays(settings: Settings) -> None:
    store = opened(replace(settings, runs_disk=100_000))
    body = {"text": "".join(chr(33 + n * n % 89) for n in range(3000))}
    await store.begin(RunRow("theirs", "you"), [entry(0, body)])
    await store.write(Write("theirs", "you", status="ended"))
    await store.begin(RunRow("waits", "me"), [entry(0, body)])
    await store.write(Write("waits", "me", status="waiting"))
    for number in range(50):
        await store.begin(RunRow(f"r{number}", "me", session_id="s"), [entry(0, body)])
        said = Write(f"r{number}", "me", status="ended", messages=[body], known=number % 5)
        if number % 5 == 0:
            await store.delete_session("me", "s")
        await store.write(said)
    ids = {row.id for row in await store.runs(None, limit=100)}
    assert {"theirs", "waits", "r49"} < ids
    assert "r0" not in ids
    assert 10 < len(ids) < 30
    with pytest.raises(NotStored, match="in all"):
        await store.begin(RunRow("large", "me"), [entry(n, body) for n in range(40)])
    assert await store.run("me", "large") is None

    for number in range(40):  # nothing of these ever ends
        run = RunRow(f"w{number}", "me", "waiting")
        try:
            await store.begin(run, [entry(0, body)])
        except NotStored:
            break
    assert 15 < number < 39
    with pytest.raises(NotStored, match="no room"):
        await store.begin(run, [])
    assert await store.begin(RunRow("more", "you"), [])
    await store.delete("me", "w0")
    await store.delete("me", "w1")
    assert await store.begin(RunRow("again", "me"), [])
    await store.close()


async def test_what_is_too_old_goes(settings: Settings) -> None:
    store = opened(settings)
    for name in ("old", "waits", "runs", "new"):
        await store.begin(RunRow(name, "me", session_id=name), [entry(0)])
        await store.write(Write(name, "me", messages=[{}]))
    await store.write(Write("old", "me", status="ended"), Write("waits", "me", status="waiting"))
    old = time.time() - 31 * 86_400
    changed(settings, "UPDATE runs SET changed = ? WHERE id <> 'new'", old)
    changed(settings, "UPDATE sessions SET used = ? WHERE id <> 'new'", old)
    other = opened(settings)
    await other.begin(RunRow("next", "me"), [])
    assert {row.id for row in await other.runs(None)} == {"next", "new", "runs"}
    assert [each["id"] for each in await other.sessions("me")] == ["new"]
    await store.close()
    await other.close()


def test_nothing_is_kept_where_none_may_be(tmp_path: Path) -> None:
    assert open_runs(Settings(cache=tmp_path, runs_disk=0)) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("url", ["nonsense", "mysql://me@host/db", "sqlite:///x"])
def test_another_database_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidRequest, match="runs_url"):
        open_runs(Settings(cache=tmp_path, runs_url=url))


async def test_the_files_of_changes_make_the_tables(settings: Settings) -> None:
    script = ScriptDirectory(str(Path(migrations.__file__).parent))
    assert script.get_heads() == [migrations.LATEST]
    store = opened(settings)
    await store.runs(None)
    url = sa.make_url(settings.runs_url or f"sqlite:///{settings.runs_file}")
    driver = "postgresql+psycopg" if settings.runs_url else "sqlite"
    engine = sa.create_engine(url.set(drivername=driver), poolclass=sa.NullPool)
    with engine.connect() as db:
        assert compare_metadata(MigrationContext.configure(db), tables) == []
    await store.close()


# --- processes -----------------------------------------------------------------------------------

BEGINS = """
import asyncio, os, signal, sys
from pathlib import Path
from f1.settings import Settings
from f1.store.runs import EntryRow, RunRow, open_runs

async def main():
    store = open_runs(Settings(cache=Path(sys.argv[1]), runs_url=sys.argv[2]))
    print(await store.begin(RunRow(sys.argv[3], "me"), [EntryRow(0, 0.0, "Noted", {})]), flush=True)
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_processes_start_at_once_and_one_that_is_killed_is_missed_at_once(
    settings: Settings,
) -> None:
    """The first of them makes the tables."""
    started = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", BEGINS, settings.cache, settings.runs_url, f"r{number}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for number in range(3)
    ]  # fmt: skip
    assert [process.stdout.readline() for process in started if process.stdout] == ["True\n"] * 3
    store = opened(settings)
    assert await store.orphans() == []
    assert not await store.take("me", "r0")
    for process in started[:2]:
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 10  # a server has to read that its client is gone
    while len(orphans := await store.orphans()) < 2 and settings.runs_url:
        assert time.monotonic() < deadline
    assert {row.id for row in orphans} == {"r0", "r1"}
    assert await store.take("me", "r0")
    assert not await store.take("me", "r2")
    started[2].communicate()
    await store.close()
