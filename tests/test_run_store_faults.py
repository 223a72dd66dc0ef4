"""What is kept when the process, the disk or the server fails: what was acknowledged, whole.

`faults.c` makes the faults of files, `faulty.py` is the process that has them.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import postgres
import pytest

from f1.settings import Settings
from f1.store.database import NotStored
from f1.store.runs import Conflict, EntryRow, RunRow, RunStore, Write, open_runs

HERE = Path(__file__).parent
STEPS = 3
KILLS = ("before", "midst", "after")
Json = dict[str, Any]


@dataclass(frozen=True)
class Faulty:
    process: subprocess.Popen[str]

    def do(self, settings: Settings, how: str, at: int = 0, **more: object) -> Json:
        given = {"cache": str(settings.cache), "runs_url": settings.runs_url}
        job = {"settings": given, "how": how, "at": at, "steps": STEPS, **more}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("faults of files are made with a C compiler, on Linux")
    source = str(HERE / "faults.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    env = {**os.environ, "LD_PRELOAD": str(library), "FAULTS_IN": "runs.sqlite"}
    env["PYTHONPATH"] = os.pathsep.join(sys.path)
    with subprocess.Popen(
        [sys.executable, "-P", HERE / "faulty.py"],
        env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        yield Faulty(process)
        process.communicate()
    assert process.returncode == 0


def opened(settings: Settings) -> RunStore:
    store = open_runs(settings)
    assert store is not None
    return store


def acknowledged(done: Json) -> int:
    return sum(text.isdigit() for text in done["said"])


def points(done: Json) -> int:
    (told,) = [text for text in done["said"] if text.startswith("points")]
    return int(told.split()[1])


def faults(done: Json) -> int:
    """That were made."""
    (told,) = [text for text in done["said"] if text.startswith("points")]
    return int(told.split()[3])


def check_file(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def check_kept(settings: Settings, acknowledged: dict[str, int]) -> None:
    """Of each run all of what was, and of one thing more all or nothing; and it goes on at once."""
    store = opened(settings)
    orphans = {row.id for row in await store.orphans()}
    for run, known in acknowledged.items():
        entries = await store.entries("me", run)
        count = len(entries)
        assert count in (known, known + 1)
        assert [row.body["text"] for row in entries] == [f"{n} " * 50 for n in range(count)]
        said = await store.messages("me", run) or []
        assert [each["number"] for each in said] == list(range(count))
        asked = {row.id for row in await store.approvals("me") if row.run_id == run}
        assert asked == {f"{run}{n}" for n in range(count)}
        if await store.run("me", run):
            assert run in orphans
            assert await store.take("me", run)
            more = [EntryRow(count, 0.0, "", {})]
            await store.write(Write(run, "me", more, messages=[{}], known=count))
    await store.close()


# --- killed --------------------------------------------------------------------------------------


async def check_killed_at(faulty: Faulty, settings: Settings, how: str, at: int) -> None:
    done = faulty.do(settings, how, at)
    assert done["status"] == -signal.SIGKILL, (at, done)
    if not settings.runs_url and settings.runs_file.exists():
        check_file(settings.runs_file)
    await check_kept(settings, {"a": acknowledged(done)})
    assert not list(settings.cache.glob("*.broken"))


def all_points(faulty: Faulty, settings: Settings) -> int:
    """Of a run that nothing happens to."""
    done = faulty.do(settings, "before", 1 << 30)
    assert (done["status"], acknowledged(done)) == (0, STEPS)
    return points(done)


@pytest.fixture
async def made(tmp_path: Path) -> Settings:
    """With tables, and nothing in them."""
    store = opened(Settings(cache=tmp_path / "made"))
    await store.runs(None)
    await store.close()
    return Settings(cache=tmp_path / "made")


def copied(made: Settings, path: Path) -> Settings:
    shutil.copytree(made.cache, path)
    return Settings(cache=path)


async def test_killed_at_every_write_and_flush(
    faulty: Faulty, made: Settings, tmp_path: Path
) -> None:
    """100 % of them, up to the end; in a third of them half of a write is done."""
    count = all_points(faulty, copied(made, tmp_path / "all"))
    assert count > 30
    for at in range(1, count + 1):
        await check_killed_at(faulty, copied(made, tmp_path / str(at)), KILLS[at % 3], at)
    print(f"{count} points")


@pytest.mark.parametrize(
    ("how", "some"),
    [("midst", 7), *(pytest.param(how, 1, marks=pytest.mark.full) for how in KILLS)],
)
async def test_killed_at_every_write_and_flush_of_a_first_start(
    faulty: Faulty, tmp_path: Path, how: str, some: int
) -> None:
    count = all_points(faulty, Settings(cache=tmp_path / "all"))
    for at in range(some, 1 + count, some):
        await check_killed_at(faulty, Settings(cache=tmp_path / str(at)), how, at)
    print(f"{count // some} of {count} points")


@pytest.mark.parametrize("some", [6, pytest.param(1, marks=pytest.mark.full)])
async def test_killed_at_every_statement_to_a_server(
    faulty: Faulty, postgresql: postgres.Postgres, tmp_path: Path, some: int
) -> None:
    count = all_points(faulty, Settings(cache=tmp_path, runs_url=postgresql.new()))
    for at in range(some, count + 1, some):
        await check_killed_at(
            faulty, Settings(cache=tmp_path, runs_url=postgresql.new()), "before", at
        )
    print(f"{count // some} of {count} statements")


async def check_killed_at_random(faulty: Faulty, each: Iterator[Settings], times: int) -> None:
    """A crowd writes; whoever's turn it is when it happens."""
    lots = random.Random(times)
    for own in itertools.islice(each, times):
        after = lots.randrange(1, 80)
        done = faulty.do(own, "off", work="crowd", kill_after=after)
        assert done["status"] == -signal.SIGKILL
        assert len(done["said"]) >= after
        if not own.runs_url:
            check_file(own.runs_file)
        await check_kept(own, Counter(text.split()[0] for text in done["said"]))


@pytest.mark.parametrize("times", [20, pytest.param(200, marks=pytest.mark.full)])
async def test_killed_at_any_moment(faulty: Faulty, tmp_path: Path, times: int) -> None:
    each = (Settings(cache=tmp_path / str(number)) for number in itertools.count())
    await check_killed_at_random(faulty, each, times)


@pytest.mark.parametrize("times", [5, pytest.param(200, marks=pytest.mark.full)])
async def test_killed_at_any_moment_beside_a_server(
    faulty: Faulty, postgresql: postgres.Postgres, tmp_path: Path, times: int
) -> None:
    each = (Settings(cache=tmp_path, runs_url=postgresql.new()) for _ in itertools.count())
    await check_killed_at_random(faulty, each, times)


# --- what the disk, or somebody else, does to the file -------------------------------------------


def check_told(done: Json) -> None:
    """The process lived, each fault that was told of was told of in the same way, and all was kept
    in the end."""
    assert (done["status"], acknowledged(done)) == (0, STEPS)
    told = [text for text in done["said"] if not text.isdigit()][:-1]
    assert all(text.startswith("not_stored: runs cannot be kept") for text in told), told
    assert not any("/" in text.replace("I/O", "") for text in told), told


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
@pytest.mark.parametrize("some", [17, pytest.param(1, marks=pytest.mark.full)])
async def test_a_disk_that_fails_is_told_of_and_used_again(
    faulty: Faulty, made: Settings, tmp_path: Path, error: int, some: int
) -> None:
    """At one write or flush, or from it on until it was told of three times."""
    told = 0
    for at in range(1, 1 + all_points(faulty, copied(made, tmp_path / "all")), some):
        for how in ("once", "from"):
            settings = copied(made, tmp_path / f"{how}{at}")
            done = faulty.do(settings, how, at, error=error)
            assert faults(done) > 0
            check_told(done)
            told += len(done["said"]) > STEPS + 1
            check_file(settings.runs_file)
            await check_kept(settings, {"a": STEPS})
            assert not list(settings.cache.glob("*.broken"))
    assert told > 2


async def test_a_file_that_may_only_be_read(faulty: Faulty, made: Settings) -> None:
    done = faulty.do(made, "read-only")
    assert faults(done) > 0
    check_told(done)
    assert len(done["said"]) == STEPS + 1 + 3
    await check_kept(made, {"a": STEPS})


async def test_a_file_that_another_process_holds(
    made: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("f1.store.places.BUSY_SECONDS", 0.05)
    store = opened(made)
    with closing(sqlite3.connect(made.runs_file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(NotStored, match="locked"):
            await store.begin(RunRow("a", "me"), [])
        other.execute("ROLLBACK")
        assert await store.begin(RunRow("a", "me"), [])
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(NotStored, match="locked"):
            await store.write(Write("a", "me", status="ended"))
        assert [row.status for row in await store.runs("me")] == ["running"]
    await store.close()


async def filled(settings: Settings, count: int = 40) -> None:
    store = opened(settings)
    for number in range(count):
        text = "".join(chr(40 + n * number % 50) for n in range(3000))
        await store.begin(RunRow(f"r{number}", "me"), [EntryRow(0, 0.0, "Noted", {"text": text})])
    await store.close()


def garbled(data: bytes) -> bytes:
    return data[:8192] + b"\xa5" * (len(data) - 16384) + data[-8192:]


@pytest.mark.parametrize(
    "broken",
    [
        lambda data: b"no database" * 1000,
        lambda data: b"SQLite format 3\0" + b"\xff" * 8000,
        lambda data: data[: len(data) // 2 + 100],
        garbled,
    ],
    ids=["nothing", "head", "cut", "middle"],
)
async def test_a_broken_file_is_set_aside_and_told_of(
    tmp_path: Path, broken: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """Also under the hands of a process that has it open."""
    settings = Settings(cache=tmp_path)
    await filled(settings)
    there = opened(settings)
    assert len(await there.runs("me")) == 40
    content = broken(settings.runs_file.read_bytes())
    settings.runs_file.write_bytes(content)
    store = opened(settings)
    told: list[str] = []
    for number in range(3):
        for each in (store, there):
            try:
                for run in await each.runs("me", limit=100):
                    await each.entries("me", run.id)
                await each.begin(RunRow(f"new{number}", "me"), [])
            except NotStored as error:
                told.append(error.message)
    assert await store.run("me", "new2")
    assert await there.run("me", "new2")
    assert not any(str(tmp_path) in text for text in told)
    (aside,) = tmp_path.glob("*.broken")
    assert aside.read_bytes()[: len(content) // 2] == content[: len(content) // 2]
    assert "set aside" in caplog.text
    check_file(settings.runs_file)
    await store.close()
    await there.close()


@pytest.mark.parametrize("how", ["cut", "garbled", "zero", "gone"])
async def test_a_broken_log_loses_at_most_what_was_in_it(
    faulty: Faulty, made: Settings, how: str
) -> None:
    assert faulty.do(made, "off", work="crowd", kill_after=40)["status"] == -signal.SIGKILL
    wal = made.runs_file.with_name("runs.sqlite-wal")
    data = wal.read_bytes()
    assert len(data) > 100_000
    middle = len(data) // 2
    changed = {"cut": data[: middle + 77], "zero": b"", "gone": None,
               "garbled": data[:middle] + b"\xa5" * 5000 + data[middle + 5000 :]}[how]  # fmt: skip
    wal.unlink()
    if changed is not None:
        wal.write_bytes(changed)
    store = opened(made)
    found = await store.runs("me")
    for run in found:
        entries = await store.entries("me", run.id)
        assert len(entries) == run.num_entries
        assert all(row.body for row in entries)
    assert bool(found) == (how in ("cut", "garbled"))
    assert await store.begin(RunRow("new", "me"), [])
    await store.close()
    check_file(made.runs_file)


async def test_what_is_taken_away_is_not_acknowledged(made: Settings) -> None:
    """Whoever removes the file begins anew, without restart."""
    store = opened(made)
    assert await store.begin(RunRow("a", "me"), [])
    for path in made.cache.glob("runs.sqlite*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(Conflict):
        await store.write(Write("a", "me", status="ended"))
    assert await store.begin(RunRow("b", "me"), [])
    assert [row.id for row in await store.runs(None)] == ["b"]
    await store.close()


async def test_a_file_of_a_newer_version_is_left_alone(made: Settings) -> None:
    with closing(sqlite3.connect(made.runs_file)) as db, db:
        db.execute("UPDATE alembic_version SET version_num = 'of-tomorrow'")
    store = opened(made)
    for _ in range(2):
        with pytest.raises(NotStored, match="newer version"):
            await store.begin(RunRow("a", "me"), [])
    await store.close()
    with closing(sqlite3.connect(made.runs_file)) as db:
        assert db.execute("SELECT version_num FROM alembic_version").fetchone() == ("of-tomorrow",)


async def test_a_server_that_goes_and_comes_back(
    postgresql: postgres.Postgres, tmp_path: Path
) -> None:
    """What it runs stays its own, though the lock was lost with the connection."""
    settings = Settings(cache=tmp_path, runs_url=postgresql.new())
    store = opened(settings)
    await store.begin(RunRow("a", "me"), [])
    postgresql.stop()
    for attempt in (store.write(Write("a", "me", status="waiting")), store.runs("me")):
        with pytest.raises(NotStored) as caught:
            await attempt
        assert str(settings.runs_url.split("=")[1][:10]) not in caught.value.message
    postgresql.start()
    await store.write(Write("a", "me", about={"is": "back"}))
    other = opened(settings)
    assert await other.orphans() == []
    assert not await other.take("me", "a")
    await store.close()
    assert await other.take("me", "a")
    with pytest.raises(NotStored, match="stopping"):
        await store.write(Write("a", "me"))
    await other.close()


async def test_what_a_server_refuses_costs_no_connection(
    postgresql: postgres.Postgres, tmp_path: Path
) -> None:
    """With the connection the lock would go, and others would take the runs for orphans."""
    store = opened(Settings(cache=tmp_path, runs_url=(url := postgresql.new())))
    held = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted"
    with postgresql.connect(url) as db:
        before = set(db.execute(held).fetchall())
        await store.begin(RunRow("a", "me"), [])
        lock = set(db.execute(held).fetchall()) - before
        assert len(lock) == 1
        outcomes = await asyncio.gather(
            store.delete_session("me", "x\0y"),
            store.write(Write("a", "me", [EntryRow(0, 1.0, "Noted", {})])),
            return_exceptions=True,
        )
        assert [type(each) for each in outcomes] == [NotStored, NoneType]
        db.execute("ALTER TABLE pins RENAME TO away")
        with pytest.raises(NotStored):
            await store.pin("a", "b")
        db.execute("ALTER TABLE away RENAME TO pins")
        await store.pin("a", "b")
        await store.write(Write("a", "me", status="ended"))
        assert lock <= set(db.execute(held).fetchall())
    await store.close()
