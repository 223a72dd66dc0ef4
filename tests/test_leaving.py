"""Requests that are left, or whose engine is closed, while they are prepared; a fork that fails."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from f1 import choices
from f1.choices import Left, Preparation
from f1.engine import AsyncEngine
from f1.errors import EngineStopped, F1Error
from f1.planning.collect import gather
from f1.settings import Settings
from f1.types import GenerateRequest


class Slow:
    """A segment that is never ready."""

    def __init__(self) -> None:
        self.compiled: Future[None] = Future()
        self.waited_for = threading.Event()

    def when_ready(self, call: Any) -> None:
        self.waited_for.set()
        self.compiled.add_done_callback(lambda _: call())

    def wait(self, seconds: float) -> None:
        raise AssertionError("it was left")


def test_who_has_left_is_not_waited_for() -> None:
    segment, left = Slow(), threading.Event()
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            choices._wait(cast(Any, segment), left)
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    segment.waited_for.wait()
    left.set()
    thread.join()
    assert [type(error) for error in caught] == [Left]


@pytest.fixture
def engine(smollm_path: Path) -> Any:
    started = AsyncEngine.start(str(smollm_path), Settings(max_sequences=4))
    yield started
    started.close()


ASKED = GenerateRequest((), prompt="Once upon a time", max_tokens=8)


async def test_choices_are_made_as_long_as_somebody_waits(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 64 choices none is made behind the one during which the caller left."""
    made, first, go_on = [], threading.Event(), threading.Event()
    make = Preparation._choice
    ended = threading.Event()

    def choice(self: Preparation, *args: Any, **named: Any) -> Any:
        made.append(args)
        first.set()
        go_on.wait()
        try:
            return make(self, *args, **named)
        except Left:
            ended.set()
            raise

    monkeypatch.setattr(Preparation, "_choice", choice)
    task = asyncio.ensure_future(
        gather(engine.generate(GenerateRequest((), prompt="Once", max_tokens=2, n=64)), 64)
    )
    await asyncio.to_thread(first.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    assert await asyncio.to_thread(ended.wait, 30)
    assert len(made) == 1


async def test_closing_is_no_cancelling(smollm_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that wait for a thread when the engine is closed are told so."""
    engine = await asyncio.to_thread(AsyncEngine.start, str(smollm_path), Settings())
    go_on, taken = threading.Event(), threading.Semaphore(0)

    def block(*_: Any) -> bool:
        taken.release()
        go_on.wait()
        return True

    monkeypatch.setattr(engine._preparation, "admits_at_once", block)
    tasks = [asyncio.ensure_future(gather(engine.generate(ASKED), 1)) for _ in range(40)]
    for _ in range(32):  # threads; the others' work waits for one
        await asyncio.to_thread(taken.acquire)
    await asyncio.to_thread(engine.close)
    go_on.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(error) for error in found] == [EngineStopped] * 40


async def test_a_fork_that_fails_is_that_requests_fault(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = engine._stepper.core

    def fork(*_: Any) -> None:
        raise RuntimeError("no")

    broken = SimpleNamespace(fork=fork)
    facade = _Facade(core, broken)
    monkeypatch.setattr(engine._stepper, "core", facade)
    one = asyncio.ensure_future(gather(engine.generate(ASKED), 1))
    with pytest.raises(F1Error, match="internal error"):
        await gather(engine.generate(GenerateRequest((), prompt="Once", max_tokens=8, n=2)), 2)
    (completion,) = await one
    assert completion.usage.completion_tokens == 8
    assert not engine.failed()
    assert core.stats()["num_running"] == 0


class _Facade:
    """An object, some of whose members are another's."""

    def __init__(self, of: object, changed: object):
        self._of, self._changed = of, changed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._changed, name, None) or getattr(self._of, name)
