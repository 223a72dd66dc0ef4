"""AsyncEngine: one model, one thread that steps the core, any number of requests as async streams.

    request ──▶ choices ──▶ inbox ──▶ [ begin_step · masks · finish_step ] ──▶ events
            (worker thread)                  (stepping thread)             (caller's loop)

A fault belongs to one request: its stream raises, its batch-mates go on.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from f1.choices import Choice, Preparation, Send
from f1.delivery import Delivery, Stream
from f1.errors import EngineStopped, F1Error
from f1.models.checkpoint import Checkpoint
from f1.models.load import load_checkpoint, load_model, packed_file, snapshot_key
from f1.settings import Settings
from f1.stepping import Stepper
from f1.store.snapshot import PAGE_TOKENS
from f1.store.snapshots import Snapshots
from f1.types import Event, Finished, GenerateRequest, Message, ResponseFormat, Tool

if TYPE_CHECKING:
    from f1 import _core
    from f1.calling.grammar import Grammars

T = TypeVar("T")
log = logging.getLogger("f1.engine")

STALLED_SECONDS = 10.0
RECHECK_SECONDS = 0.1  # while all that runs waits for grammars
_JUDGED_AT_ONCE = 32  # schemas; a request that comes meanwhile waits for so many
_PRELOADED_SHARE = 8  # snapshots may fill one of so many parts of the cache before any request


class AsyncEngine:
    """Serves one model. Thread-safe; start() loads it, close() ends what still runs."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        core: _core.Engine,
        grammars: Grammars,
        settings: Settings,
        snapshots: Snapshots,
    ):
        self.model_id = checkpoint.name
        self.tokenizer = checkpoint.tokenizer
        trained = checkpoint.config.max_positions
        self.context_length = min(settings.context_length or trained, trained, core.capacity)
        self._snapshots = snapshots
        self._grammars = grammars
        self._preparation = Preparation(
            checkpoint, grammars, settings, snapshots, context_length=self.context_length
        )
        token_bytes = self._preparation.vocabulary.token_bytes
        self._delivery = Delivery()
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stepper = Stepper(
            core,
            snapshots,
            self._delivery,
            token_bytes,
            self._settle,
            self._inbox.put,
            settings.warm_seconds,
        )
        self._settling = ThreadPoolExecutor(1, thread_name_prefix="f1-settling")
        self._preparing = ThreadPoolExecutor(32, thread_name_prefix="f1-preparing")
        # Where schemas are judged, one request after another: nobody else waits for that.
        self._admitting = ThreadPoolExecutor(1, thread_name_prefix="f1-admitting")
        self._failure: F1Error | None = None
        self._busy = False  # the last step computed something
        self._idle = False  # it waits for somebody to ask for something
        self._progress = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="f1-engine", daemon=True)
        self._thread.start()
        # A thread that comes back from the core into an interpreter that is gone ends the process.
        atexit.register(self.close)

    @classmethod
    def start(cls, model: str, settings: Settings | None = None) -> AsyncEngine:
        """Loads a model by catalogue name, path or hub id. Blocks until it can serve."""
        settings = settings or Settings.from_env()
        with ThreadPoolExecutor(1) as background:
            loading = background.submit(_load, model, settings)
            # Takes seconds (it brings torch and transformers): imported while the weights load.
            from f1.calling.grammar import Grammars

            checkpoint, core, snapshots = loading.result()
        tokenizer = checkpoint.tokenizer
        grammars = Grammars(
            tokenizer.vocabulary(),
            tokenizer.vocab_size,
            sorted(tokenizer.stop_token_ids),
            freely=not settings.forced_text,
        )
        return cls(checkpoint, core, grammars, settings, snapshots)

    def warm(self) -> None:
        """Begins, aside, what the first tools and the first odd schema would wait for."""
        self._admitting.submit(self._grammars.warm)

    # --- requests ------------------------------------------------------------------------------

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        """The request's events as they happen; closing the iterator early stops the work.

        Raises InvalidRequest and its kin before the first event, ConstraintError or EngineStopped
        at any point.
        """
        events: Stream = asyncio.Queue()
        send = partial(self._delivery.send, asyncio.get_running_loop(), events)
        choices = await self._prepare(request, send)
        self._post(lambda: self._submit(choices))
        try:
            open_choices = len(choices)
            while open_choices:
                event = await events.get()
                if isinstance(event, F1Error):
                    raise event
                open_choices -= isinstance(event, Finished)
                yield event
        finally:
            self._inbox.put(lambda: self._stepper.abort(choices))

    async def tokenize(self, request: GenerateRequest) -> list[int]:
        """The tokens of the request's prompt. Raises InvalidRequest and its kin."""
        return await asyncio.to_thread(self._preparation.prompt, request)

    async def _prepare(self, request: GenerateRequest, send: Send) -> list[Choice]:
        def run(threads: Executor, work: Callable[..., T], *args: Any) -> asyncio.Future[T]:
            return asyncio.get_running_loop().run_in_executor(threads, work, *args)

        if self._failure is not None:
            raise self._failure
        preparation, left = self._preparation, threading.Event()
        try:
            if not await run(self._preparing, preparation.admits_at_once, request):
                await run(self._admitting, preparation.admit, request)
            return await run(self._preparing, preparation.choices, request, send, left)
        except (asyncio.CancelledError, RuntimeError) as error:
            # Its threads were shut down, and nobody cancelled it.
            task = asyncio.current_task()
            if self._failure is not None and (task is None or not task.cancelling()):
                raise self._failure from error
            raise
        finally:
            left.set()

    async def register_tools(
        self, tools: Sequence[Tool], *, system: str = "", parallel_tool_calls: bool = True
    ) -> int:
        """Computes what the prompts of requests with these tools and this system message begin
        with, and keeps it: warm in memory, and on disk, so that the first request after a restart
        has it, too. Of the order of a request's time the first time, of milliseconds later.

        Returns how many tokens are kept. Raises what generate() raises.
        """
        lead = (Message("system", system),) if system else ()
        request = GenerateRequest(
            (*lead, Message("user", "Hello")),
            tools=tuple(tools),
            parallel_tool_calls=parallel_tool_calls,
            max_tokens=1,
        )
        async for _ in self.generate(request):
            pass
        prefix = await asyncio.to_thread(
            self._preparation.shared_prefix, tools, system, parallel=parallel_tool_calls
        )
        token_ids = np.array(prefix[: len(prefix) // PAGE_TOKENS * PAGE_TOKENS], np.int32)
        core = self._stepper.core
        if not await asyncio.to_thread(self._snapshots.holds, token_ids):
            pages, checksums = await self._between_steps(lambda: core.save_prefix(token_ids))
            await asyncio.to_thread(self._snapshots.save, token_ids, pages, checksums)
        return len(token_ids)

    async def judge_tools(self, tools: Sequence[Tool]) -> None:
        """Decides ahead whether grammars can be made of their schemas, so that requests that bring
        some of them need not wait for that. Raises InvalidSchema, Overloaded."""
        from f1.calling.schema import held_to  # what it imports is here by now

        loop = asyncio.get_running_loop()
        for first in range(0, len(tools), _JUDGED_AT_ONCE):
            some = [held_to(tool) for tool in tools[first : first + _JUDGED_AT_ONCE]]
            admit = self._grammars.admit
            await loop.run_in_executor(self._admitting, admit, some, ResponseFormat())

    def healthy(self) -> bool:
        """The stepping thread lives and, when it has work, has got on with it lately."""
        recent = time.monotonic() - self._progress < STALLED_SECONDS
        return not self.failed() and (self._idle or recent)

    def failed(self) -> bool:
        """It will answer no more."""
        return self._failure is not None or not self._thread.is_alive()

    def stats(self) -> dict[str, Any]:
        """Of the core, and of grammars: processor time, by the threads that are not the core's."""
        masks = {"mask_seconds": self._stepper.mask_seconds}
        return {**self._stepper.core.stats(), **self._grammars.stats(), **masks}

    def close(self) -> None:
        """Ends what still runs with EngineStopped and stops the thread."""
        self._inbox.put(lambda: self._fail_all(EngineStopped("the engine was closed")))
        self._thread.join()
        for threads in (self._settling, self._preparing, self._admitting):
            threads.shutdown(wait=False, cancel_futures=True)
        self._grammars.close()
        atexit.unregister(self.close)

    # --- stepping thread -------------------------------------------------------------------------

    def _post(self, command: Callable[[], None]) -> None:
        self._inbox.put(command)
        if self._failure is not None:  # looked at after the put: a failing engine empties the inbox
            raise self._failure

    async def _between_steps(self, work: Callable[[], T]) -> T:
        """What `work` returns, or raises, on the stepping thread."""
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(work())
            except Exception as error:
                done.set_exception(error)

        self._post(run)
        return await asyncio.wrap_future(done)

    def _run(self) -> None:
        try:
            while self._failure is None:
                self._obey()
                self._busy = bool(self._stepper.running) and self._stepper.step()
                self._progress = time.monotonic()
        except Exception as error:
            log.exception("the engine failed")
            stopped = EngineStopped("the engine failed; its log has more")
            stopped.__cause__ = error
            self._fail_all(stopped)
        finally:
            self._delivery.close()

    def _obey(self) -> None:
        """Does what callers ask for; waits for that where there is nothing to compute."""
        if self._busy and self._inbox.empty():
            return
        self._delivery.flush()  # what they ask may take its time
        if not self._busy:
            self._idle = not self._stepper.running
            with suppress(queue.Empty):
                command = self._inbox.get(timeout=None if self._idle else RECHECK_SECONDS)
                self._progress = time.monotonic()  # to have waited for work is not to be stuck
                self._idle = False
                command()
        while not self._inbox.empty():
            self._inbox.get()()

    def _submit(self, choices: Sequence[Choice]) -> None:
        if self._failure is not None:
            choices[0].send(self._failure)
        else:
            self._stepper.submit(choices)

    def _settle(self, choice: Choice) -> None:
        """Has the turn settled in a thread of its own, for no step may wait for that."""

        def settle() -> None:
            outcome: Choice | Exception | None
            try:
                outcome = self._preparation.settle(choice)
            except Exception as error:
                outcome = error
            self._inbox.put(lambda: self._stepper.settled(choice, outcome))

        self._settling.submit(settle)

    def _fail_all(self, error: F1Error) -> None:
        self._failure = error  # from here on nothing is submitted
        self._stepper.fail(error)
        while not self._inbox.empty():
            self._inbox.get()()


def _load(model: str, settings: Settings) -> tuple[Checkpoint, _core.Engine, Snapshots]:
    from f1 import _core

    checkpoint = load_checkpoint(model, settings)
    loaded = load_model(
        checkpoint,
        num_threads=settings.num_threads,
        isa=settings.isa,
        packed=packed_file(checkpoint, settings),
    )
    core = _core.Engine(
        loaded,
        num_pages=max(settings.kv_memory // loaded.kv_page_bytes, 1),
        max_batch_tokens=settings.max_batch_tokens,
        max_sequences=settings.max_sequences,
    )
    key = snapshot_key(checkpoint, loaded) if settings.snapshot_disk else {}
    snapshots = Snapshots(settings.snapshots_dir, key, settings.snapshot_disk)
    _preload(core, snapshots)
    return checkpoint, core, snapshots


def _preload(core: _core.Engine, snapshots: Snapshots) -> None:
    """The prefixes used last, while there is time: the first request may begin with one."""
    room = core.capacity // _PRELOADED_SHARE
    for snapshot in snapshots.latest():
        room -= len(snapshot.token_ids)
        if room < 0:
            return
        snapshots.restore(core, snapshot)
