"""An engine in a process of its own: what crosses, and what becomes of requests when it dies."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from f1.apart import watch
from f1.apart.engine import ApartEngine
from f1.apart.suspects import SECONDS, Suspects
from f1.apart.watch import Watch
from f1.errors import (
    EngineCrashed,
    EngineStopped,
    F1Error,
    InvalidRequest,
    InvalidSchema,
    ModelFileError,
    Quarantined,
)
from f1.settings import Settings
from f1.types import GenerateRequest, Message, TextDelta, Tool

COMMAND = [sys.executable, "-P", str(Path(__file__).parent / "scripted_child.py")]


def says(text: str, **fields: Any) -> GenerateRequest:
    return GenerateRequest((Message("user", text),), **fields)


async def all_of(engine: ApartEngine, text: str) -> str:
    events = [event async for event in engine.generate(says(text))]
    return "".join(event.text for event in events if isinstance(event, TextDelta))


@asynccontextmanager
async def started(model: str = "obedient") -> AsyncIterator[ApartEngine]:
    engine = await asyncio.to_thread(ApartEngine.start, model, Settings(), COMMAND)
    try:
        yield engine
    finally:
        await asyncio.to_thread(engine.close)


async def until(what: Any) -> None:
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(what):
            await asyncio.sleep(0)


async def test_all_of_an_engine_crosses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    async with started() as engine:
        assert (engine.model_id, engine.context_length) == ("obedient", 1000)
        assert await all_of(engine, "Oslo is cold") == "Oslo is cold "
        assert await engine.tokenize(says("four")) == [4]
        assert await engine.register_tools([Tool("a"), Tool("b")]) == 2
        with pytest.raises(InvalidSchema, match="it is wrong") as raised:
            await engine.judge_tools([Tool("a")])
        error = raised.value
        assert (error.status, error.code) == (400, "invalid_schema")
        assert (error.param, error.retry_after) == ("tools.a", 1.5)
        stats = await asyncio.to_thread(engine.stats)
        pid = stats["pid"]
        assert pid == engine.pid != os.getpid()
        assert stats["session"] == pid
        assert stats["num_secrets"] == 0
        os.kill(pid, signal.SIGTERM)  # as service managers do with all there is
        assert await all_of(engine, "Oslo is cold") == "Oslo is cold "
        assert engine.pid == pid
        assert engine.healthy()
        assert not engine.failed()
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(EngineStopped, match="closed"):
        await all_of(engine, "Oslo")


async def test_what_cannot_be_written_harms_nobody() -> None:
    async with started() as engine:
        mate = engine.generate(says("one work"))
        assert await anext(mate) == TextDelta(0, "one ")
        with pytest.raises(InvalidRequest, match="cannot be written"):
            await all_of(engine, "\ud800")
        with pytest.raises(F1Error) as raised:  # what it says is no UTF-8
            await all_of(engine, "a surrogate is")
        assert raised.value.code == "internal_error"
        assert await all_of(engine, "Oslo is cold") == "Oslo is cold "
        await mate.aclose()
        assert engine.num_crashes == 0


async def test_what_is_closed_early_stops_there() -> None:
    async with started() as engine:
        async with aclosing(engine.generate(says("one work"))) as events:
            assert await anext(events) == TextDelta(0, "one ")
            assert engine.stats()["num_running"] == 1
        await until(lambda: engine.stats()["num_running"] == 0)


@pytest.mark.parametrize("way", ["SIGSEGV", "SIGABRT", "SIGKILL", "exit", "crash"])
async def test_what_kills_it_twice_is_refused_and_nothing_else(way: str, tmp_path: Path) -> None:
    """A mate that had begun ends with an error; those that had not are answered by the next."""
    file = tmp_path / "go"
    async with started() as engine:
        pid, mates = engine.pid, [f"wait:{file} {mate}" for mate in ("a", "b", "c")]
        begun = engine.generate(says("one work"))
        assert await anext(begun) == TextDelta(0, "one ")
        waiting = [asyncio.create_task(all_of(engine, mate)) for mate in mates]
        await until(lambda: engine.stats()["num_running"] == 4)
        poison = asyncio.create_task(all_of(engine, f"{way} two"))
        with pytest.raises(EngineCrashed) as raised:
            await anext(begun)
        assert (raised.value.status, raised.value.code) == (503, "engine_crashed")
        await until(engine.healthy)
        assert engine.pid != pid
        assert engine.num_crashes == 1  # the mates are tried first, one at a time
        file.touch()
        assert await asyncio.gather(*waiting) == [mate + " " for mate in mates]
        with pytest.raises(Quarantined) as refused:
            await poison
        assert (refused.value.status, refused.value.code) == (422, "quarantined")
        with pytest.raises(Quarantined):
            await all_of(engine, f"{way} two")
        assert await all_of(engine, "Oslo is cold") == "Oslo is cold "
        stats = await asyncio.to_thread(engine.stats)
        assert (stats["num_crashes"], stats["num_retried"], stats["num_quarantined"]) == (2, 4, 1)


@pytest.mark.parametrize("way", ["hang", "stuck", "SIGSTOP"])
async def test_what_does_not_get_on_is_ended(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "STALLED_SECONDS", 1.5)
    monkeypatch.setattr(watch, "HUNG_SECONDS", 3.0)
    async with started() as engine:
        pid = engine.pid
        begun = engine.generate(says(f"one {way}"))
        assert await anext(begun) == TextDelta(0, "one ")
        await until(lambda: not engine.healthy())
        assert engine.num_crashes == 0
        assert engine.pid == pid  # which is there, and was seen to hang
        with pytest.raises(EngineCrashed, match="did not get on for 3 s"):
            await anext(begun)
        monkeypatch.undo()  # a busy machine is slow
        await until(engine.healthy)
        assert engine.pid != pid
        assert await all_of(engine, "Oslo") == "Oslo "


async def test_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="it is no model") as raised:
        await asyncio.to_thread(ApartEngine.start, "broken", Settings(), COMMAND)
    assert raised.value.code == "no_model"
    with pytest.raises(EngineStopped, match="ended by SIGABRT before it was ready, 3 times"):
        await asyncio.to_thread(ApartEngine.start, "SIGABRT", Settings(), COMMAND)
    file = tmp_path / "now"
    async with started(f"fragile:{file}") as engine:
        assert await all_of(engine, "Oslo") == "Oslo "
        file.touch()
        with pytest.raises(EngineStopped, match="3 times"):
            await all_of(engine, "SIGSEGV")
        assert engine.failed()
        assert engine.num_crashes == 4
        assert not engine.healthy()


def test_it_dies_with_its_parent() -> None:
    """Also while it hangs."""
    program = (
        "import sys, time; from f1.apart.engine import ApartEngine; from f1.settings import *\n"
        "print(ApartEngine.start('m', Settings(), sys.argv[1:]).pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-P", "-c", program, *COMMAND], stdout=-1, text=True)
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, signal.SIGSTOP)
        assert Path(f"/proc/{pid}").exists()
        parent.kill()
    while _is_running(pid):
        pass


def _is_running(pid: int) -> bool:
    """A zombie waits for whoever has inherited it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_suspicion_ends() -> None:
    now = 0.0
    suspects = Suspects(lambda: now)
    assert not suspects
    suspects.died_with([("poison", 3), ("mate", 50), ("mate", 60)])
    assert suspects.suspects("mate")
    assert not suspects.condemned("mate")
    assert not suspects.is_past("mate", 76)
    assert suspects.is_past("mate", 77)
    suspects.clear("mate")
    suspects.died_with([("poison", 3), ("mate", 80)])
    assert (suspects.condemned("poison"), suspects.condemned("mate")) == (True, False)
    now = SECONDS - 1
    assert suspects.num_condemned == 1
    now = SECONDS
    assert not suspects.condemned("poison")
    assert not suspects.suspects("mate")


def test_a_watch_tells_work_from_hanging() -> None:
    def watched(*turns: tuple[float, bool, bool, dict[str, int] | None]) -> Watch:
        seen = Watch()
        seen.is_loading = False
        for seconds, heard, busy, stats in turns:
            seen.turn(seconds, heard, moved=False, busy=busy, stats=stats)
        return seen

    silent, idle, stuck = (1.0, False, False, None), (1.0, True, False, {}), (1.0, True, True, {})
    steps = [(1.0, True, True, {"num_steps": step}) for step in range(100)]
    assert not watched(*[silent] * 9).is_stalled
    assert watched(*[silent] * 10).is_stalled
    assert not watched(*[silent] * 12).is_hung
    assert watched(*[silent] * 13).is_hung
    assert watched(*[stuck] * 13).is_hung
    for well in ([idle] * 100, steps, [silent] * 12 + [idle], [(1000.0, False, True, None)]):
        assert not watched(*well).is_stalled
