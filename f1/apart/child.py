"""An engine's process: `python -m f1.apart.child FD PARENT`, where FD is a socket to its parent.

    frames ─▶ one task a request ─▶ engine ─▶ events of one turn of the loop ─▶ one frame

It ends when the socket does, and not by SIGTERM; at once when the parent dies; and with a status
that is not 0 when the engine has failed. While the parent does not read, nothing more is taken from
the engine or asked of it: what is kept then are the events of requests that are under way.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from f1.apart.frames import (
    CODEC,
    HEAD,
    Item,
    Value,
    read_body,
    write_error,
    write_frame,
    write_item,
    write_items,
)
from f1.errors import F1Error
from f1.settings import Settings
from f1.types import GenerateRequest, Tool

if TYPE_CHECKING:
    from f1.engine import AsyncEngine

log = logging.getLogger("f1.apart")

BEAT_SECONDS = 0.5
ENGINE_FAILED = 70  # the status; EX_SOFTWARE
_FULL = 1 << 20  # bytes that wait for the parent
_DEATH_SIGNAL = 1  # of Linux's prctl
_M_ARENA_MAX = -8  # of glibc's malloc.h
_KILLED_FIRST = b"500"  # where memory runs out; of 1000


def main() -> None:
    channel, parent = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    channel.set_inheritable(False)
    _leave_with(parent)
    _settle_in()
    for number in (signal.SIGTERM, signal.SIGINT):  # who stops a service tells all its processes
        signal.signal(number, lambda *_: None)  # and what is under way is to end
    faulthandler.enable()
    asyncio.run(Child(channel).serve())


def _leave_with(parent: int) -> None:
    """What is computed here is for nobody else."""
    if (prctl := getattr(ctypes.CDLL(None), "prctl", None)) is not None:
        prctl(_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _settle_in() -> None:
    """Shares the memory of threads: by itself glibc gives each its own, and what one has freed no
    other gets. And offers this process, not the parent, where the machine has none left."""
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(_M_ARENA_MAX, 2)
    with suppress(OSError):  # not Linux
        Path("/proc/self/oom_score_adj").write_bytes(_KILLED_FIRST)


def load_engine(model: str, settings: Settings) -> AsyncEngine:
    """Blocks. What is imported stays, and is not looked through again by the garbage collector."""
    from f1.engine import AsyncEngine

    engine = AsyncEngine.start(model, settings)
    try:
        engine.warm()
    except BaseException:
        engine.close()
        raise
    gc.freeze()
    faulthandler.disable()  # what was imported has handlers of its own: they do not know Python
    faulthandler.enable()
    return engine


def read_settings(written: dict[str, Any]) -> Settings:
    paths = {name: Path(written[name]) for name in ("cache", "grammars") if written[name]}
    return Settings(**written | paths)


class Child:
    """Serves its parent until that lets go of the socket."""

    def __init__(self, channel: socket.socket):
        self._channel = channel
        self._engine: AsyncEngine | None = None
        self._working: dict[int, asyncio.Task[None]] = {}
        self._items: list[bytes] = []  # for the next frame
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def serve(self) -> None:
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._channel)
        beating = asyncio.create_task(self._beat())
        try:
            hello = await self._receive()
            settings = read_settings(hello["settings"])
            try:
                engine = await asyncio.to_thread(load_engine, hello["model"], settings)
            except F1Error as error:
                self._writer.write(write_frame({"failed": write_error(error)}))
                await self._writer.drain()
                return
            self._engine = engine
            told = {"model_id": engine.model_id, "context_length": engine.context_length}
            self._writer.write(write_frame({"ready": told}))
            while True:
                self._obey(engine, await self._receive())
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the parent has let go
        finally:
            beating.cancel()
            if self._engine is not None:
                await asyncio.to_thread(self._engine.close)
                os._exit(0)  # all that Python would do now is to tidy up

    async def _receive(self) -> Any:
        (size,) = HEAD.unpack(await self._reader.readexactly(HEAD.size))
        return read_body(await self._reader.readexactly(size))

    def _obey(self, engine: AsyncEngine, message: dict[str, Any]) -> None:
        number = message["id"]
        if "do" not in message:
            if (task := self._working.get(number)) is not None:
                task.cancel()
            return
        work = _WORK[message["do"]]
        task = asyncio.create_task(self._do(number, partial(work, engine, message["with"])))
        self._working[number] = task
        task.add_done_callback(lambda _: self._working.pop(number))

    async def _do(self, number: int, work: Callable[[], AsyncGenerator[Item]]) -> None:
        try:
            async with aclosing(work()) as items:
                async for item in items:
                    self._put(number, item)
                    if self._is_full:
                        await self._writer.drain()
        except F1Error as error:
            self._leave_if_failed()
            self._put(number, error)
        except Exception:
            self._leave_if_failed()
            log.exception("a request failed")
            told = "internal error; the server's log has more"
            self._put(number, F1Error(told, code="internal_error"))

    @property
    def _is_full(self) -> bool:
        return self._writer.transport.get_write_buffer_size() > _FULL

    def _put(self, number: int, item: Item) -> None:
        written = write_item(number, item)
        if not self._items:
            asyncio.get_running_loop().call_soon(self._flush)
        self._items.append(written)

    def _flush(self) -> None:
        self._writer.write(write_items(self._items))
        self._items = []

    async def _beat(self) -> None:
        """Says that this loop turns, and how the engine gets on: its figures are asked for aside,
        for an engine that hangs may not answer."""
        asking: asyncio.Task[dict[str, Any]] | None = None
        while True:
            self._leave_if_failed()
            stats = None
            if asking is not None and asking.done():
                stats, asking = asking.result(), None
            if asking is None and self._engine is not None:
                asking = asyncio.create_task(asyncio.to_thread(self._engine.stats))
            if not self._is_full:
                self._writer.write(write_frame({"beat": stats}))
            await asyncio.sleep(BEAT_SECONDS)

    def _leave_if_failed(self) -> None:
        """Nobody is told: the parent sees it, and has another try what was not begun."""
        if self._engine is not None and self._engine.failed():
            os._exit(ENGINE_FAILED)


# --- what can be asked for ---------------------------------------------------------------------


async def _generate(engine: AsyncEngine, written: Any) -> AsyncGenerator[Item]:
    async with aclosing(engine.generate(CODEC.decode(GenerateRequest, written))) as events:
        async for event in events:
            yield event
    yield Value()


def _once(work: Callable[[AsyncEngine, Any], Awaitable[Any]]) -> Work:
    async def do(engine: AsyncEngine, written: Any) -> AsyncGenerator[Item]:
        yield Value(await work(engine, written))

    return do


async def _tokenize(engine: AsyncEngine, written: Any) -> list[int]:
    return await engine.tokenize(CODEC.decode(GenerateRequest, written))


async def _register_tools(engine: AsyncEngine, written: Any) -> int:
    return await engine.register_tools(_tools(written))


async def _judge_tools(engine: AsyncEngine, written: Any) -> None:
    await engine.judge_tools(_tools(written))


async def _stats(engine: AsyncEngine, _: Any) -> dict[str, Any]:
    return await asyncio.to_thread(engine.stats)


def _tools(written: Any) -> list[Tool]:
    return [CODEC.decode(Tool, tool) for tool in written]


Work = Callable[["AsyncEngine", Any], AsyncGenerator[Item]]
_WORK: dict[str, Work] = {
    "generate": _generate,
    "tokenize": _once(_tokenize),
    "register_tools": _once(_register_tools),
    "judge_tools": _once(_judge_tools),
    "stats": _once(_stats),
}

if __name__ == "__main__":
    main()
