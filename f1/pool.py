"""Local models that share the machine's memory under one cap.

    lease ──it is loaded──▶ engine, for as long as the lease is held
      │ no                     ▲
      ▼                        │ loaded: all who wait have it
    queue ──room for the first?──▶ loads, in a thread
                │ no
                ▼
    those used longest ago leave: idle ones at once, busy ones when their last lease ends

Nobody starves: a model that has to leave takes no new leases, who wants it waits behind the first.
What a model takes is estimated before it is loaded: its weights, its pages of K and V and SLACK.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from f1.errors import EngineStopped, F1Error, Overloaded
from f1.models.tokenizer import Tokenizer
from f1.types import Event, GenerateRequest, Tool

log = logging.getLogger("f1.pool")

SLACK = 96 << 20  # bytes of a loaded model beside weights and pages: tokenizer, grammars, batches
PATIENCE = 60.0  # seconds that a request waits for others to leave
RETRY_SECONDS = 10.0  # after a load that failed, until the next


class LocalEngine(Protocol):
    """What is served of f1.engine.AsyncEngine."""

    @property
    def model_id(self) -> str: ...
    @property
    def context_length(self) -> int: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        """Events of all choices. Raises F1Error; closing it early stops the work."""

    async def tokenize(self, request: GenerateRequest) -> list[int]:
        """The tokens of the request's prompt. Raises InvalidRequest and its kin."""

    async def register_tools(self, tools: Sequence[Tool]) -> int: ...
    async def judge_tools(self, tools: Sequence[Tool]) -> None: ...
    def healthy(self) -> bool: ...
    def failed(self) -> bool: ...
    def stats(self) -> Mapping[str, float]: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Loadable:
    """A model that can be had: what it takes once it is loaded, in bytes, and how it is loaded.
    `load` blocks, in a thread of its own."""

    name: str
    num_bytes: int
    load: Callable[[], LocalEngine]


@dataclass(slots=True, eq=False)
class _Place:
    """Where a model is, or is not."""

    model: Loadable
    engine: LocalEngine | None = None
    loading: bool = False
    closing: bool = False
    leaving: bool = False  # another needs its room: it takes no new leases
    users: int = 0  # leases that are held
    used: int = 0  # when a lease began or ended last, by the pool's count
    waiting: list[asyncio.Future[LocalEngine]] = field(default_factory=list)
    patience: asyncio.TimerHandle | None = None  # of those who wait for room
    retry_at: float = 0.0  # after a load that failed
    failure: Exception | None = None
    context_length: int | None = None  # as it was when it was loaded last

    @property
    def num_bytes(self) -> int:
        """What it takes of the cap now."""
        there = self.engine is not None or self.loading or self.closing
        return self.model.num_bytes if there else 0

    @property
    def open(self) -> bool:
        """Who asks has it at once."""
        return self.engine is not None and not self.leaving


class EnginePool:
    """At most `cap` bytes of models, or all there are. For one event loop; close() it."""

    def __init__(
        self,
        models: Iterable[Loadable],
        cap: int | None = None,
        *,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._places = {model.name: _Place(model) for model in models}
        self.cap = cap
        self.num_loads = 0
        self.num_evictions = 0
        self._patience = patience
        self._clock = clock
        self._queue: list[_Place] = []  # who wait for room, in order
        self._count = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @classmethod
    def of(cls, engine: LocalEngine) -> EnginePool:
        """One model that is loaded already, and stays."""
        pool = cls([Loadable(engine.model_id, 0, lambda: engine)])
        place = pool._places[engine.model_id]
        place.engine, place.context_length = engine, engine.context_length
        return pool

    @property
    def names(self) -> list[str]:
        return list(self._places)

    @property
    def num_bytes(self) -> int:
        """What is taken of the cap."""
        return sum(place.num_bytes for place in self._places.values())

    def loaded(self) -> dict[str, LocalEngine]:
        """By name. Thread-safe; they may be closed any moment."""
        engines = ((name, place.engine) for name, place in self._places.items())
        return {name: engine for name, engine in engines if engine is not None}

    def num_users(self, name: str) -> int:
        """Leases that are held."""
        return self._places[name].users

    def context_length(self, name: str) -> int | None:
        """None before it was first loaded."""
        return self._places[name].context_length

    def fits(self, names: Iterable[str]) -> bool:
        """Whether they can all be loaded at a time."""
        total = sum(self._places[name].model.num_bytes for name in set(names))
        return self.cap is None or total <= self.cap

    def never_fits(self, name: str) -> str | None:
        """Why it cannot be loaded even by itself, or None."""
        num_bytes = self._places[name].model.num_bytes
        if self.cap is None or num_bytes <= self.cap:
            return None
        told = f"'{name}' takes {num_bytes >> 20} MiB of memory, and all models"
        return f"{told} together may take {self.cap >> 20}"

    @asynccontextmanager
    async def lease(self, name: str) -> AsyncIterator[LocalEngine]:
        """The engine, which is not closed as long as this is held. Waits while it loads, and before
        that for room. Raises Overloaded where that takes too long; EngineStopped where it cannot be
        loaded, or never fits."""
        place = self._places[name]
        engine = await self._enter(place)
        try:
            yield engine
        finally:
            self._leave(place)

    async def load(self, name: str) -> None:
        """Ahead of the first request. Raises what loading raised."""
        try:
            async with self.lease(name):
                pass
        except EngineStopped as error:
            raise error.__cause__ or error from None

    async def close(self) -> None:
        """Ends what still runs. What is being loaded is waited for: it must be closed, too."""
        self._closed = True
        for place in list(self._queue):
            self._dequeue(place)
            self._refuse(place, lambda: EngineStopped("the models were closed"))
        while self._tasks:
            await asyncio.wait(self._tasks)
        for place in self._places.values():
            if place.engine is not None:
                await asyncio.to_thread(place.engine.close)

    # --- leases ----------------------------------------------------------------------------------

    async def _enter(self, place: _Place) -> LocalEngine:
        if place.engine is not None and place.open:
            self._use(place, 1)
            return place.engine
        self._check(place)
        waiter: asyncio.Future[LocalEngine] = asyncio.get_running_loop().create_future()
        place.waiting.append(waiter)
        if not place.loading and place not in self._queue:
            self._enqueue(place)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                self._forget(place, waiter)
            elif waiter.exception() is None:  # it was let in, and did not come to know of it
                self._leave(place)
            raise

    def _check(self, place: _Place) -> None:
        model = place.model
        if self._closed:
            raise EngineStopped("the models were closed")
        if place.failure is not None and (left := place.retry_at - self._clock()) > 0:
            raise _not_loaded(place, left)
        if (told := self.never_fits(model.name)) is not None:
            raise EngineStopped(told)  # an outage: another that does the same may fit

    def _leave(self, place: _Place) -> None:
        self._use(place, -1)
        if place.leaving and not place.users:
            self._advance()

    def _use(self, place: _Place, sign: int) -> None:
        self._count += 1
        place.used = self._count
        place.users += sign

    def _enqueue(self, place: _Place) -> None:
        self._queue.append(place)
        loop = asyncio.get_running_loop()
        place.patience = loop.call_later(self._patience, self._lose_patience, place)
        self._advance()

    def _dequeue(self, place: _Place) -> None:
        self._queue.remove(place)
        if place.patience is not None:
            place.patience.cancel()

    def _forget(self, place: _Place, waiter: asyncio.Future[LocalEngine]) -> None:
        """Who waited is gone. A load that has begun cannot be stopped; one that has not is not."""
        if waiter in place.waiting:
            place.waiting.remove(waiter)
        if place in self._queue and not place.waiting:
            self._dequeue(place)
            self._advance()

    def _lose_patience(self, place: _Place) -> None:
        told = f"the models in use leave no room for '{place.model.name}'; try again later"
        self._dequeue(place)
        self._refuse(place, lambda: Overloaded(told, retry_after=RETRY_SECONDS))
        self._advance()

    def _admit(self, place: _Place) -> None:
        """All who wait have it from now on, before they come to know of it."""
        waiting, place.waiting = place.waiting, []
        for waiter in waiting:
            if place.engine is not None and not waiter.done():
                self._use(place, 1)
                waiter.set_result(place.engine)

    def _refuse(self, place: _Place, error: Callable[[], Exception]) -> None:
        """An exception for each: what raises one adds to its traceback."""
        waiting, place.waiting = place.waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_exception(error())

    # --- room ------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Begins the loads that there is room for, in order; who has to leave is decided anew."""
        for place in self._places.values():
            place.leaving = False
        while self._queue and self._begin(self._queue[0]):
            self._dequeue(self._queue[0])
        for place in [place for place in self._queue if place.open]:
            self._dequeue(place)  # they were to leave, and need not
            self._admit(place)

    def _begin(self, place: _Place) -> bool:
        """Loads it, or lets in who waits where it is loaded. False: there is no room yet."""
        if place.engine is not None:
            self._admit(place)
            return True
        if place.closing or not self._make_room(place):
            return False
        place.loading = True
        self._do(self._load(place))
        return True

    def _make_room(self, wanted: _Place) -> bool:
        """Whether there is room. If not, those that are used least leave."""
        if self.cap is None:
            return True
        missing = self.num_bytes + wanted.model.num_bytes - self.cap
        if missing <= 0:
            return True
        missing -= sum(place.num_bytes for place in self._places.values() if place.closing)
        loaded = [place for place in self._places.values() if place.engine is not None]
        for place in sorted(loaded, key=lambda place: (place.users > 0, place.used)):
            if missing <= 0:
                break
            missing -= place.num_bytes
            place.leaving = True
            if not place.users:
                self._do(self._evict(place))
        return False

    def _do(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _load(self, place: _Place) -> None:
        name, began = place.model.name, time.perf_counter()
        try:
            engine = await asyncio.to_thread(place.model.load)
        except Exception as error:
            _tell(name, error)
            # Its frames may hold half a model.
            place.failure = error.with_traceback(None)
            place.retry_at = self._clock() + RETRY_SECONDS
            place.loading = False
            self._refuse(place, lambda: _not_loaded(place, RETRY_SECONDS))
        else:
            log.info("loaded %s in %.1f s", name, time.perf_counter() - began)
            self.num_loads += 1
            place.engine, place.context_length = engine, engine.context_length
            place.loading, place.failure = False, None
            self._admit(place)
        self._advance()

    def _evict(self, place: _Place) -> Coroutine[None, None, None]:
        """It is gone from here on; its room is free once this has run."""
        engines = [place.engine] if place.engine is not None else []
        place.engine, place.closing = None, True
        self.num_evictions += 1
        log.info("unloading %s: others need its room", place.model.name)

        async def free() -> None:
            try:
                await asyncio.to_thread(_free, engines)
            finally:
                place.closing = False
                self._advance()

        return free()


@dataclass(frozen=True, slots=True)
class Pooled:
    """A model of a pool as an engine: each request holds a lease while it is decoded."""

    pool: EnginePool
    name: str

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        async with (
            self.pool.lease(self.name) as engine,
            aclosing(engine.generate(request)) as events,
        ):
            async for event in events:
                yield event

    @property
    def context_length(self) -> int | None:
        """None: it is not loaded."""
        return self.pool.context_length(self.name)

    async def tokenize(self, request: GenerateRequest) -> list[int]:
        """The tokens of the request's prompt."""
        async with self.pool.lease(self.name) as engine:
            return await engine.tokenize(request)


def _free(engines: list[LocalEngine]) -> None:
    """Closes the one in the list, which nothing else may hold, and has the system get its memory
    back: an engine's parts hold each other, and glibc keeps what it may need again."""
    engines.pop().close()
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _not_loaded(place: _Place, retry_after: float) -> EngineStopped:
    told = f"the model '{place.model.name}' could not be loaded; the log has more"
    error = EngineStopped(told, retry_after=retry_after)
    error.__cause__ = place.failure
    return error


def _tell(name: str, error: Exception) -> None:
    if isinstance(error, F1Error):
        log.warning("%s could not be loaded: %s", name, error)
    else:
        log.error("%s could not be loaded", name, exc_info=error)
