"""What is asked of an engine's process, from the asking until somebody has the answer.

asked ─▶ waiting ─▶ inside ─▶ answered
            ▲         │ the process dies
            └─────────┤ it had sent nothing, and it was the first time
                      ▼
                 EngineCrashed, or Quarantined
"""

from __future__ import annotations

import asyncio
import hashlib
import queue
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import orjson

from f1.apart.frames import CODEC, Item, Value, read_item, write_frame
from f1.apart.process import Process
from f1.apart.suspects import Suspects
from f1.codec import Malformed
from f1.errors import EngineCrashed, F1Error, InvalidRequest, Quarantined
from f1.types import GenerateRequest

_UNWRITTEN = (TypeError, ValueError, RecursionError)  # as text that is no UTF-8 raises
Stream = asyncio.Queue[Item] | queue.SimpleQueue[Item]
Mail = dict[asyncio.AbstractEventLoop | None, list[tuple[Stream, Item]]]


@dataclass(slots=True, eq=False)
class Asked:
    """Something that the process does, or is to do. Items go to `stream`, on its `loop`."""

    number: int
    do: str
    what: Any  # words of F1
    stream: Stream
    loop: asyncio.AbstractEventLoop | None
    inside: bool = False  # the process has been told of it
    again: bool = False  # one died with it inside
    sent: int = 0  # events
    _fingerprint: str = ""

    @property
    def fingerprint(self) -> str:
        """Of what it asks for, without the seed: that is another each time it is asked again."""
        if not self._fingerprint:
            what = self.what
            if isinstance(what, GenerateRequest):
                what = replace(what, sampling=replace(what.sampling, seed=0))
            try:
                written = orjson.dumps([self.do, CODEC.encode(what)])
            except _UNWRITTEN:  # it does not get far
                written = b""
            self._fingerprint = hashlib.sha256(written).hexdigest()
        return self._fingerprint

    def written(self) -> bytes:
        return write_frame({"id": self.number, "do": self.do, "with": CODEC.encode(self.what)})


class Book:
    """Of all processes of an engine, one after the other. Thread-safe."""

    def __init__(self) -> None:
        self.num_retried = 0
        self._lock = threading.RLock()
        self._process: Process | None = None  # the one that is ready
        self._asked: dict[int, Asked] = {}
        self._waiting: dict[int, Asked] = {}  # of them, in order
        self._last_number = 0
        self._suspects = Suspects()
        self._trial: Asked | None = None  # the suspect that is inside
        self._failure: F1Error | None = None

    @property
    def num_quarantined(self) -> int:
        return self._suspects.num_condemned

    @property
    def is_busy(self) -> bool:
        """The process has something to decode."""
        with self._lock:
            return any(asked.inside and asked.do == "generate" for asked in self._asked.values())

    def ask(
        self, do: str, what: Any, stream: Stream, loop: asyncio.AbstractEventLoop | None = None
    ) -> Asked:
        """Raises Quarantined, and what fail() was called with."""
        with self._lock:
            if self._failure is not None:
                raise _another(self._failure)
            self._last_number += 1
            asked = Asked(self._last_number, do, what, stream, loop)
            if self._suspects and self._suspects.condemned(asked.fingerprint):
                raise _quarantined()
            self._asked[asked.number] = self._waiting[asked.number] = asked
            self._hand_over()
        return asked

    def leave(self, asked: Asked) -> None:
        """Nobody waits for it any more."""
        with self._lock:
            if self._asked.pop(asked.number, None) is None:
                return
            self._waiting.pop(asked.number, None)
            if asked.inside and self._process is not None:
                self._process.send(lambda: write_frame({"id": asked.number}))
            self._end_trial(asked)

    def fail(self, error: F1Error) -> None:
        """Ends all, and what is yet to come, with that."""
        with self._lock:
            self._failure = self._failure or error
            _post([(asked, _another(error)) for asked in self._asked.values()])
            self._asked.clear()
            self._waiting.clear()

    def begin(self, process: Process) -> None:
        """It is ready: what waits is for it to do."""
        with self._lock:
            self._process = process
            self._hand_over()

    def take(self, items: Sequence[Any]) -> None:
        """What the process has sent. Raises Malformed."""
        posted: list[tuple[Asked, Item]] = []
        told = [(number, read_item(written)) for number, written in _pairs(items)]
        with self._lock:
            for number, item in told:
                if (asked := self._asked.get(number)) is None:
                    continue  # it was left
                posted.append((asked, item))
                if isinstance(item, Value | F1Error):
                    del self._asked[number]
                    self._end_trial(asked, innocent=True)
                else:
                    asked.sent += 1
                    if asked is self._trial:
                        past = self._suspects.is_past(asked.fingerprint, asked.sent)
                        self._end_trial(asked, innocent=past, goes_on=not past)
        _post(posted)

    def end(self, why: str) -> None:
        """The process has died."""
        with self._lock:
            self._process = self._trial = None
            inside = [asked for asked in self._asked.values() if asked.inside]
            asides = [asked for asked in inside if asked.do == "stats"]
            inside = [asked for asked in inside if asked.do != "stats"]
            self._suspects.died_with((asked.fingerprint, asked.sent) for asked in inside)
            for asked in asides:
                del self._asked[asked.number]
            for asked in inside:
                self._bury(asked, why)
            self._waiting = dict(sorted(self._waiting.items()))  # who came first is first again

    def _bury(self, asked: Asked, why: str) -> None:
        if self._suspects.condemned(asked.fingerprint):
            error: F1Error = _quarantined()
        elif asked.again or asked.sent:
            error = EngineCrashed(f"the engine's process {why}, and has been started again")
        else:
            asked.inside, asked.again = False, True
            self._waiting[asked.number] = asked
            self.num_retried += 1
            return
        del self._asked[asked.number]
        _post([(asked, error)])

    def _hand_over(self) -> None:
        """What waits, in order; of suspects one at a time."""
        if self._process is None:
            return
        for asked in list(self._waiting.values()):
            if self._suspects and self._suspects.suspects(asked.fingerprint):
                if self._trial is not None:
                    continue
                self._trial = asked
            del self._waiting[asked.number]
            asked.inside = True
            self._process.send(partial(self._written, asked))

    def _written(self, asked: Asked) -> bytes | None:
        """In the sending thread: of long ones it takes its time."""
        try:
            return asked.written()
        except _UNWRITTEN as error:
            with self._lock:
                if self._asked.pop(asked.number, None) is not None:
                    self._end_trial(asked)
                    _post([(asked, InvalidRequest(f"the request cannot be written: {error}"))])
            return None

    def _end_trial(self, asked: Asked, *, innocent: bool = False, goes_on: bool = False) -> None:
        if asked is not self._trial or goes_on:
            return
        if innocent:
            self._suspects.clear(asked.fingerprint)
        self._trial = None
        self._hand_over()


def _pairs(items: Sequence[Any]) -> Iterable[tuple[int, Any]]:
    for item in items:
        match item:
            case [int(number), written]:
                yield number, written
            case _:
                raise Malformed("no item")


def _post(items: Iterable[tuple[Asked, Item]]) -> None:
    """Wakes each loop once."""
    mail: Mail = {}
    for asked, item in items:
        mail.setdefault(asked.loop, []).append((asked.stream, item))
    for loop, some in mail.items():
        if loop is None:
            _deliver(some)
            continue
        with suppress(RuntimeError):  # the caller's loop is closed: nobody listens any more
            loop.call_soon_threadsafe(_deliver, some)


def _deliver(mail: list[tuple[Stream, Item]]) -> None:
    for stream, item in mail:
        stream.put_nowait(item)


def _another(error: F1Error) -> F1Error:
    """For each who is told: to raise one adds to its traceback."""
    said = {"param": error.param, "code": error.code, "retry_after": error.retry_after}
    copy = type(error)(error.message, **said)  # type: ignore[arg-type]
    copy.__cause__ = error.__cause__
    return copy


def _quarantined() -> Quarantined:
    return Quarantined("the engine has died of this request twice: it is not tried again")
