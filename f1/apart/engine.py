"""ApartEngine: an engine in a process of its own, which is started again when it dies or hangs.

    callers ─▶ book ─▶ process ─▶ items ─▶ callers
                 ▲        │ dies, says nothing, does not get on
                 └────────┴─▶ ended, buried (f1.apart.book), the next one is started

One thread does that, and listens meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

from f1.apart.book import Asked, Book
from f1.apart.frames import Item, Value, read_error, write_frame
from f1.apart.process import Process, default_command
from f1.apart.watch import Watch
from f1.codec import Malformed
from f1.errors import EngineStopped, F1Error
from f1.models.tokenizer import Tokenizer
from f1.settings import Settings
from f1.types import Event, GenerateRequest, RunOptions, Tool

log = logging.getLogger("f1.apart")

TRIES = 3  # processes in a row that end before they are ready; then it is over
_RESTS = (0.0, 0.25, 1.0)  # seconds until the next, after so many in a row that answered nothing
_POLL_SECONDS = 0.25
_STATS_SECONDS = 1.0  # that the engine has to tell its figures; else they are those of before
_CLOSING_SECONDS = 1.0  # that it has to end by itself; there is nothing to lose
_DYING_SECONDS = 5.0  # that the kernel may take to write down a core


class ApartEngine:
    """Serves one model. Thread-safe; start() loads it, close() ends what still runs."""

    def __init__(self, model: str, settings: Settings, command: Sequence[str]):
        """Use start()."""
        self.model_id = ""
        self.context_length = 0
        self.num_crashes = 0
        self._model, self._settings, self._command = model, settings, command
        self._book = Book()
        self._watch = Watch()
        self._process: Process | None = None
        self._is_ready = False  # the process is
        self._was_of_use = False  # it has answered something
        self._stats: Mapping[str, float] = {}
        self._failure: F1Error | None = None
        self._closing = threading.Event()
        self._started = threading.Event()  # one was ready, or none ever will be
        self._thread = threading.Thread(target=self._run, name="f1-apart", daemon=True)
        self._thread.start()

    @classmethod
    def start(
        cls, model: str, settings: Settings | None = None, command: Sequence[str] = ()
    ) -> ApartEngine:
        """Loads a model by catalogue name, path or hub id. Blocks until it can serve. `command`
        starts the process, and is given two arguments more. Raises what loading raised, and
        EngineStopped where the process dies of it."""
        engine = cls(model, settings or Settings.from_env(), command or default_command())
        engine._started.wait()
        if engine._failure is not None:
            engine.close()
            raise engine._failure
        return engine

    @property
    def pid(self) -> int | None:
        """Of the process, while it is ready."""
        process = self._process
        return process.pid if process is not None and self._is_ready else None

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Read again, in this process, for who asks for it: takes some tenths of a second."""
        from f1.models.load import load_checkpoint

        return load_checkpoint(self._model, self._settings).tokenizer

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        """As f1.engine.AsyncEngine's. Also raises EngineCrashed where the process has died after
        the first event, or twice; and Quarantined."""
        stream: asyncio.Queue[Item] = asyncio.Queue()
        request = replace(request, run=RunOptions())  # not the engine's business
        asked = self._book.ask("generate", request, stream, asyncio.get_running_loop())
        try:
            while not isinstance(item := await stream.get(), Value):
                if isinstance(item, F1Error):
                    raise item
                yield item
        finally:
            self._book.leave(asked)

    async def tokenize(self, request: GenerateRequest) -> list[int]:
        """The tokens of the request's prompt. Raises InvalidRequest and its kin."""
        tokens: list[int] = await self._do("tokenize", replace(request, run=RunOptions()))
        return tokens

    async def register_tools(self, tools: Sequence[Tool]) -> int:
        """As AsyncEngine's. What is kept on disk, the next process has, too."""
        return int(await self._do("register_tools", tuple(tools)))

    async def judge_tools(self, tools: Sequence[Tool]) -> None:
        """As AsyncEngine's."""
        await self._do("judge_tools", tuple(tools))

    def healthy(self) -> bool:
        """The process is ready, and has got on with its work lately."""
        return self._is_ready and not self._watch.is_stalled

    def failed(self) -> bool:
        """It will answer no more."""
        return self._failure is not None

    def stats(self) -> Mapping[str, float]:
        """Of the process, since it began; and what became of processes. Blocks."""
        stream: queue.SimpleQueue[Item] = queue.SimpleQueue()
        if self._is_ready and self._failure is None:
            asked = self._book.ask("stats", None, stream)
            self._stats = self._told(asked, stream) or self._stats
        return {
            **self._stats,
            "num_crashes": self.num_crashes,
            "num_retried": self._book.num_retried,
            "num_quarantined": self._book.num_quarantined,
        }

    def close(self) -> None:
        """Ends what still runs with EngineStopped, and the process. Closing twice does no harm."""
        self._closing.set()
        self._book.fail(EngineStopped("the engine was closed"))
        if (process := self._process) is not None:
            process.let_go()
            if self._is_ready:
                self._thread.join(_CLOSING_SECONDS)
            if self._thread.is_alive():
                process.kill()
        self._thread.join()

    async def _do(self, do: str, what: Any) -> Any:
        stream: asyncio.Queue[Item] = asyncio.Queue()
        asked = self._book.ask(do, what, stream, asyncio.get_running_loop())
        try:
            item = await stream.get()
        finally:
            self._book.leave(asked)
        if isinstance(item, F1Error):
            raise item
        return item.value if isinstance(item, Value) else None

    def _told(self, asked: Asked, stream: queue.SimpleQueue[Item]) -> Mapping[str, float]:
        try:
            item = stream.get(timeout=_STATS_SECONDS)
        except queue.Empty:
            return {}
        finally:
            self._book.leave(asked)
        return item.value if isinstance(item, Value) else {}

    # --- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        unready = useless = 0  # processes in a row
        try:
            while not self._closing.wait(_RESTS[min(useless, len(_RESTS) - 1)]):
                was_ready, why = self._live()
                unready = 0 if was_ready else unready + 1
                useless = 0 if self._was_of_use else useless + 1
                if self._failure is not None:
                    return
                if unready == TRIES:
                    told = f"the engine's process {why} before it was ready, {TRIES} times"
                    self._give_up(EngineStopped(told))
                    return
        except Exception as error:
            log.exception("there is no process for the engine")
            stopped = EngineStopped("there is no process for the engine; the log has more")
            stopped.__cause__ = error
            self._give_up(stopped)
        finally:
            self._started.set()

    def _give_up(self, error: F1Error) -> None:
        self._failure = error
        self._book.fail(error)

    def _live(self) -> tuple[bool, str]:
        """A process from its start to its end: whether it was ready, and what became of it."""
        began = time.monotonic()
        process = Process(self._command)
        self._watch, self._was_of_use = Watch(), False
        self._process = process
        if self._closing.is_set():  # close() may not have seen it
            process.kill()
        hello = {"model": self._model, "settings": write_settings(self._settings)}
        process.send(lambda: write_frame(hello))
        hung = ""
        try:
            hung = self._listen(process)
            process.kill()
        except Malformed as error:
            hung = f" (it said what nobody understands: {error})"
            process.kill()
        except EOFError:
            pass
        was_ready, self._is_ready, self._process = self._is_ready, False, None
        why = process.end(_CLOSING_SECONDS if self._closing.is_set() else _DYING_SECONDS) + hung
        if not self._closing.is_set() and self._failure is None:
            self.num_crashes += 1
            lived = time.monotonic() - began
            log.error("the engine's process %d %s, after %.1f s", process.pid, why, lived)
            self._book.end(why)
        return was_ready, why

    def _listen(self, process: Process) -> str:
        """Returns why it has to be ended. Raises EOFError, Malformed."""
        then = time.monotonic()
        while not self._watch.is_hung:
            messages = process.receive(_POLL_SECONDS)
            moved, stats = False, None
            for message in messages:
                match message:
                    case {"items": list(items)}:
                        self._was_of_use = moved = True
                        self._book.take(items)
                    case {"beat": dict() | None as told}:
                        stats = told or stats
                    case {"ready": {"model_id": str(name), "context_length": int(length)}}:
                        self._begin(process, name, length)
                    case {"failed": error}:
                        self._give_up(read_error(error))
                    case _:
                        raise Malformed("no message")
            now = time.monotonic()
            busy = self._book.is_busy
            self._watch.turn(now - then, bool(messages), moved=moved, busy=busy, stats=stats)
            then = now
        return f" (it did not get on for {self._watch.seconds:.0f} s)"

    def _begin(self, process: Process, model_id: str, context_length: int) -> None:
        self.model_id, self.context_length = model_id, context_length
        self._watch.is_loading, self._is_ready = False, True
        self._book.begin(process)
        self._started.set()


def write_settings(settings: Settings) -> dict[str, Any]:
    """As f1.apart.child reads them."""
    paths = {"cache": settings.cache, "grammars": settings.grammars}
    return asdict(settings) | {name: path and str(path) for name, path in paths.items()}
