"""Models that share memory: who is loaded, who waits, who leaves; nothing is freed in use."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from scripted import ScriptedEngine

from f1.engine import AsyncEngine
from f1.errors import EngineStopped, ModelFileError, Overloaded
from f1.pool import EnginePool, Loadable, Pooled
from f1.settings import Settings
from f1.types import Finished, GenerateRequest, Message

HELLO = GenerateRequest((Message("user", "Hello"),), max_tokens=6)


@pytest.fixture(autouse=True, scope="module")
def _quick_collections() -> Iterator[None]:
    """Unloading looks for garbage: not among all that was imported."""
    gc.freeze()
    yield
    gc.unfreeze()


@dataclass
class Shelf:
    """Scripted models of 10 bytes each; it notes what is loaded and closed, in order."""

    told: list[str] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)  # loads wait for it
    broken: set[str] = field(default_factory=set)
    engines: dict[str, ScriptedEngine] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.hold.set()

    def model(self, name: str, num_bytes: int = 10) -> Loadable:
        def load() -> ScriptedEngine:
            self.told.append(f"load {name}")
            assert self.hold.wait(60)
            if name in self.broken:
                raise ModelFileError(f"{name} is broken")
            self.engines[name] = Named(name, self.told)
            return self.engines[name]

        return Loadable(name, num_bytes, load)


class Named(ScriptedEngine):
    def __init__(self, name: str, told: list[str]):
        super().__init__("Words …")
        self.model_id, self.told = name, told

    def close(self) -> None:
        assert not self.closed, "twice"
        super().close()
        self.told.append(f"close {self.model_id}")


@asynccontextmanager
async def pool_of(
    shelf: Shelf, names: str, cap: int | None = 20, **kwargs
) -> AsyncIterator[EnginePool]:
    pool = EnginePool([shelf.model(name) for name in names], cap, **kwargs)
    try:
        yield pool
    finally:
        shelf.hold.set()
        await pool.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


def hold(pool: EnginePool, name: str) -> tuple[asyncio.Task[None], asyncio.Event, asyncio.Event]:
    """A request that has the model until it is told to let go."""
    has, let_go = asyncio.Event(), asyncio.Event()

    async def use() -> None:
        async with pool.lease(name) as engine:
            has.set()
            await let_go.wait()
            assert not engine.closed

    return asyncio.create_task(use()), has, let_go


async def test_all_who_ask_wait_for_one_load() -> None:
    shelf = Shelf()
    shelf.hold.clear()
    async with pool_of(shelf, "ab") as pool:
        asked = [hold(pool, "a") for _ in range(5)]
        await until(lambda: shelf.told == ["load a"])
        assert pool.context_length("a") is None
        shelf.hold.set()
        for _, has, let_go in asked:
            await has.wait()
            let_go.set()
        await asyncio.gather(*(task for task, _, _ in asked))
        assert (shelf.told, pool.num_loads, pool.num_users("a")) == (["load a"], 1, 0)
        assert pool.context_length("a") == ScriptedEngine.context_length
    assert shelf.told == ["load a", "close a"]


async def test_the_one_that_was_used_longest_ago_leaves() -> None:
    shelf = Shelf()
    async with pool_of(shelf, "abcd") as pool:
        for name in "aba" + "c" + "abd":
            async with pool.lease(name):
                assert pool.num_bytes <= 20
    loads = [told for told in shelf.told if told.startswith("load")]
    assert " ".join(shelf.told[:5]) == "load a load b close b load c close c"
    assert loads == [f"load {name}" for name in "abcbd"]


async def test_a_model_in_use_is_waited_for_in_order_and_not_taken_meanwhile() -> None:
    """While b waits for a to leave, who asks for a waits behind b: nobody starves."""
    shelf = Shelf()
    async with pool_of(shelf, "ab", cap=10) as pool:
        first, first_has, first_lets_go = hold(pool, "a")
        await first_has.wait()
        other, other_has, other_lets_go = hold(pool, "b")
        late, late_has, late_lets_go = hold(pool, "a")
        for _ in range(20):
            await asyncio.sleep(0)
        assert not other_has.is_set()
        assert not late_has.is_set()
        assert shelf.told == ["load a"]
        first_lets_go.set()
        await other_has.wait()
        assert not late_has.is_set()
        other_lets_go.set()
        await late_has.wait()
        late_lets_go.set()
        await asyncio.gather(first, other, late)
    told = "load a close a load b close b load a close a"
    assert " ".join(shelf.told) == told
    assert pool.num_evictions == 2


@pytest.mark.parametrize("ends", ["impatient", "gone"])
async def test_who_no_longer_waits_gives_back_what_was_to_leave(ends: str) -> None:
    shelf = Shelf()
    patience = 0.01 if ends == "impatient" else 60
    async with pool_of(shelf, "ab", cap=10, patience=patience) as pool:
        first, first_has, first_lets_go = hold(pool, "a")
        await first_has.wait()
        other, _, _ = hold(pool, "b")
        late, late_has, late_lets_go = hold(pool, "a")
        if ends == "gone":
            await asyncio.sleep(0)
            other.cancel()
            with pytest.raises(asyncio.CancelledError):
                await other
        else:
            with pytest.raises(Overloaded, match="no room for 'b'") as refused:
                await other
            assert refused.value.retry_after
        async with asyncio.timeout(60):
            await late_has.wait()  # a need not leave
        for event in (first_lets_go, late_lets_go):
            event.set()
        await asyncio.gather(first, late)
        assert shelf.told == ["load a"]


async def test_a_failed_load_is_told_to_all_and_tried_again_later() -> None:
    shelf, now = Shelf(broken={"a"}), [100.0]
    async with pool_of(shelf, "ab", clock=lambda: now[0]) as pool:
        shelf.hold.clear()
        asked = [hold(pool, "a")[0] for _ in range(3)]
        await until(lambda: shelf.told == ["load a"])
        shelf.hold.set()
        failures = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(failure) for failure in failures] == [EngineStopped] * 3
        assert len(set(map(id, failures))) == 3
        assert "is broken" not in str(failures[0])  # such messages hold paths
        shelf.broken.clear()
        with pytest.raises(EngineStopped) as early:
            await anext(Pooled(pool, "a").generate(HELLO))
        assert early.value.retry_after == 10
        assert shelf.told == ["load a"]
        now[0] += 10
        async with pool.lease("a"):
            assert pool.num_bytes == 10


async def test_what_never_fits_is_refused_and_the_cause_of_a_failure_told_ahead() -> None:
    shelf = Shelf(broken={"a"})
    async with pool_of(shelf, "ab", cap=9) as pool:
        with pytest.raises(EngineStopped, match="'a' takes"):
            async with pool.lease("a"):
                pass
        assert shelf.told == []
    async with pool_of(shelf, "ab") as pool:
        assert pool.fits("ab")
        with pytest.raises(ModelFileError, match="a is broken"):
            await pool.load("a")


@pytest.mark.parametrize(
    "seed", [*range(20), *(pytest.param(n, marks=pytest.mark.full) for n in range(20, 1000))]
)
async def test_whatever_is_asked_and_given_up_nothing_is_closed_in_use(seed: int) -> None:
    """Random sizes, requests, failures and cancels: the cap holds, all that stay are served, and in
    the end nobody holds or waits for anything."""
    dice = random.Random(seed)
    shelf = Shelf()
    sizes = {name: dice.randint(4, 12) for name in "abcde"}
    pool = EnginePool([shelf.model(*item) for item in sizes.items()], 16, clock=lambda: 0.0)
    served = 0

    async def ask(name: str, pause: int, length: int) -> None:
        nonlocal served
        for _ in range(pause):
            await asyncio.sleep(0)
        async with pool.lease(name) as engine:
            for _ in range(length):
                assert not engine.closed
                assert pool.num_bytes <= 16
                await asyncio.sleep(0)
        served += 1

    tasks = [
        asyncio.create_task(ask(dice.choice("abcde"), dice.randint(0, 90), dice.randint(0, 30)))
        for _ in range(60)
    ]
    doomed = dice.sample(tasks, 15)
    for task in doomed:
        for _ in range(dice.randint(0, 8)):
            await asyncio.sleep(0)
        task.cancel()
    async with asyncio.timeout(60):
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    cancelled = sum(isinstance(end, asyncio.CancelledError) for end in ends)
    assert [end for end in ends if isinstance(end, Exception)] == []
    assert served + cancelled == 60
    assert served >= 45
    assert [pool.num_users(name) for name in sizes] == [0] * 5
    await pool.close()
    assert all(engine.closed for engine in shelf.engines.values())
    assert shelf.told.count("load a") == shelf.told.count("close a")


async def test_real_models_are_loaded_and_freed_under_load(smollm_path: Path) -> None:
    """Two names of one file, and room for one: requests of both, some given up at any point."""
    settings = Settings(kv_memory=2**25, max_sequences=4)
    alive: list[weakref.ref[AsyncEngine]] = []

    def load() -> AsyncEngine:
        engine = AsyncEngine.start(str(smollm_path), settings)
        alive.append(weakref.ref(engine))
        return engine

    pool = EnginePool([Loadable(name, 10, load) for name in "ab"], 10)
    texts: set[str] = set()

    async def ask(number: int) -> str:
        text = ""
        async for event in Pooled(pool, "ab"[number % 2]).generate(HELLO):
            if isinstance(event, Finished):
                assert event.usage.completion_tokens == 6
                texts.add(text)
                return "done"
            text += event.text
            if number % 3 == 0 and len(text) > 3:
                return "left"
        raise AssertionError("no end")

    for round_number in range(3):
        tasks = [asyncio.create_task(ask(number)) for number in range(12)]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        tasks[5 + round_number].cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert [end for end in ends if isinstance(end, Exception)] == []
    assert pool.num_evictions >= 3
    assert len(texts) == 1  # the same, whoever was loaded, however often
    assert sum(ref() is not None for ref in alive) == 1  # the others' memory is free
    await pool.close()
