"""Compiled grammars of one vocabulary: made beside the steps, once for all who ask; some are kept.

Most of a grammar's cost is in what many have in common (which tokens may stand in a string): the
library keeps that, so that a schema like others takes less than a millisecond.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import Any

import xgrammar

from f1.calling.judging import CACHE_BYTES, NICE
from f1.calling.source import reason
from f1.errors import ConstraintError

MAX_COMPILED_BYTES = 256 << 20  # of grammars kept
MAX_PENDING = 64  # grammars that wait to be made before anyone needs them
_ENTRY_BYTES = 2048  # of what is kept with each

Make = Callable[[], Any]  # the grammar, not compiled


class Compiler:
    """Thread-safe. In the `background` one thread makes what is needed next, one what takes long or
    may be needed later; else the caller's does."""

    def __init__(
        self,
        vocabulary: Sequence[bytes],
        vocab_size: int,
        stop_token_ids: Sequence[int],
        *,
        background: bool,
    ):
        info = xgrammar.TokenizerInfo(
            list(vocabulary), vocab_size=vocab_size, stop_token_ids=list(stop_token_ids)
        )
        self._compiler = xgrammar.GrammarCompiler(
            info, max_threads=1, cache_limit_bytes=CACHE_BYTES
        )
        self._kept: OrderedDict[bytes, Future[Any]] = OrderedDict()
        self.num_bytes = 0
        self._lock = Lock()
        self.num_compiled = 0
        self.compile_seconds = 0.0  # of processor time
        self._quick = self._slow = None
        if background:
            self._quick = ThreadPoolExecutor(1, "f1-grammars")
            self._slow = ThreadPoolExecutor(1, "f1-slow-grammars", initializer=_be_nice)
        self._early: set[bytes] = set()  # that wait to be made, and nobody for them

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes, make: Make, *, slow: bool = False) -> Future[Any]:
        """The compiled grammar, perhaps later. `make` raises what the future then does."""
        lane = self._slow if slow else self._quick
        return self._get(key, make, lane) if lane is not None else self.now(key, make)

    def now(self, key: bytes, make: Make) -> Future[Any]:
        """The same, made by the calling thread: for small ones."""
        return self._get(key, make, None)

    def prepare(self, key: bytes, make: Make) -> None:
        """It may be asked for soon: makes it if there is time."""
        if self._slow is None:
            return
        with self._lock:
            known = key in self._kept or len(self._early) >= MAX_PENDING
        if not known:
            self._get(key, make, self._slow, early=True)

    def close(self) -> None:
        for lane in (self._quick, self._slow):
            if lane is not None:
                lane.shutdown(wait=False, cancel_futures=True)

    def _get(
        self, key: bytes, make: Make, lane: ThreadPoolExecutor | None, *, early: bool = False
    ) -> Future[Any]:
        with self._lock:
            found = self._kept.get(key)
            # What was to be made some time is taken out, to be made now.
            overtakes = not early and key in self._early and found is not None and found.cancel()
            if found is not None and not overtakes:
                self._kept.move_to_end(key)
                return found
            future: Future[Any] = Future()
            self._kept[key] = future
            (self._early.add if early else self._early.discard)(key)
        work = partial(self._make, key, future, make, early)
        if lane is None:
            work()
        else:
            lane.submit(work)
        return future

    def _make(self, key: bytes, future: Future[Any], make: Make, early: bool) -> None:
        with self._lock:
            if early:
                self._early.discard(key)
        if not future.set_running_or_notify_cancel():
            return  # somebody needed it earlier than its turn came
        try:
            compiled = self._compile(make)
        except Exception as error:
            with self._lock:
                if self._kept.get(key) is future:
                    del self._kept[key]
            if isinstance(error, RuntimeError):  # what was judged good is seldom bad in the end
                error = ConstraintError(f"a grammar could not be compiled: {reason(error)}")
            future.set_exception(error)
            return
        with self._lock:
            self.num_bytes += compiled.memory_size_bytes + _ENTRY_BYTES
            self._make_room()
        future.set_result(compiled)

    def _make_room(self) -> None:
        """By those that are made, the oldest first; the last one made is not yet among them."""
        made = (key for key, future in [*self._kept.items()] if future.done())
        while self.num_bytes > MAX_COMPILED_BYTES and (key := next(made, None)) is not None:
            future = self._kept.pop(key)
            self.num_bytes -= future.result().memory_size_bytes + _ENTRY_BYTES

    def _compile(self, make: Make) -> Any:
        begin = time.thread_time()
        try:
            return self._compiler.compile_grammar(make())
        finally:
            with self._lock:
                self.num_compiled += 1
                self.compile_seconds += time.thread_time() - begin


def _be_nice() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
