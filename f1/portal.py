"""An event loop in a thread of its own, for callers that have none or another one."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from f1.errors import EngineStopped

T = TypeVar("T")
Source = Callable[[], AsyncGenerator[T]]


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class _Item(Generic[T]):
    value: T


class Portal:
    """Runs coroutines and async generators on its loop and brings the results back.

    All of it raises EngineStopped once the portal is closed.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop
        started = threading.Event()

        def body() -> None:
            with asyncio.Runner() as runner:  # in the end it cancels tasks and closes generators
                self._loop = runner.get_loop()
                started.set()
                self._loop.run_forever()

        self._thread = threading.Thread(target=body, name="f1-loop", daemon=True)
        self._thread.start()
        started.wait()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Waits for the result. An interrupted wait cancels the work."""
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:  # the loop is closed
            work.close()
            raise _closed() from None
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, source: Source[T]) -> Generator[T]:
        """The generator's items. Closed early, it stops the source and waits until it has."""
        items: queue.SimpleQueue[_Item[T] | _End] = queue.SimpleQueue()
        cancel = self._pump(source, items.put)
        item: _Item[T] | _End | None = None
        try:
            while isinstance(item := items.get(), _Item):
                yield item.value
        finally:
            cancel()
            while not isinstance(item, _End):
                item = items.get()
        if item.error is not None:
            raise item.error

    async def aiterate(self, source: Source[T]) -> AsyncGenerator[T]:
        """The same for a caller on another loop."""
        loop = asyncio.get_running_loop()
        items: asyncio.Queue[_Item[T] | _End] = asyncio.Queue()

        def put(item: _Item[T] | _End) -> None:
            loop.call_soon_threadsafe(items.put_nowait, item)

        cancel = self._pump(source, put)
        item: _Item[T] | _End | None = None
        try:
            while isinstance(item := await items.get(), _Item):
                yield item.value
        finally:
            cancel()
            while not isinstance(item, _End):
                item = await items.get()
        if item.error is not None:
            raise item.error

    def _pump(
        self, source: Source[T], put: Callable[[_Item[T] | _End], None]
    ) -> Callable[[], None]:
        """Puts the source's items and, however it ends, an _End. Returns what cancels it."""
        tasks: list[asyncio.Task[None]] = []

        async def pump() -> None:
            async with aclosing(source()) as items:
                async for item in items:
                    put(_Item(item))

        def end(task: asyncio.Task[None]) -> None:
            put(_End(_closed() if task.cancelled() else task.exception()))

        def start() -> None:
            tasks.append(self._loop.create_task(pump()))
            tasks[0].add_done_callback(end)  # also called if the task is cancelled before it began

        def cancel() -> None:
            with suppress(RuntimeError):  # the loop is closed, and the task with it
                self._loop.call_soon_threadsafe(lambda: tasks[0].cancel())

        try:
            self._loop.call_soon_threadsafe(start)
        except RuntimeError:
            raise _closed() from None
        return cancel

    def close(self) -> None:
        """Stops the loop and cancels what still runs on it. Closing twice does no harm."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()


def _closed() -> EngineStopped:
    return EngineStopped("this client is closed")
