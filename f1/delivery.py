"""Brings events from the stepping thread to their callers' loops.

To wake a loop is a system call that takes longer than all else that Python does in a step: it is
made once a step and loop, by a thread of its own, while the core computes.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from contextlib import suppress

from f1.errors import F1Error
from f1.types import Event

Stream = asyncio.Queue[Event | F1Error]
Mail = list[tuple[Stream, Event | F1Error]]
Outbox = dict[asyncio.AbstractEventLoop, Mail]


class Delivery:
    """For one sending thread; each stream gets its events in the order in which they were sent."""

    def __init__(self) -> None:
        self._outbox: Outbox = {}
        self._flushed: queue.SimpleQueue[Outbox | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="f1-delivery", daemon=True)
        self._thread.start()

    def send(self, loop: asyncio.AbstractEventLoop, stream: Stream, event: Event | F1Error) -> None:
        """Keeps it for the next flush."""
        self._outbox.setdefault(loop, []).append((stream, event))

    def flush(self) -> None:
        if self._outbox:
            self._flushed.put(self._outbox)
            self._outbox = {}

    def close(self) -> None:
        """Delivers what was sent and ends the thread."""
        self.flush()
        self._flushed.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (outbox := self._flushed.get()) is not None:
            for loop, mail in outbox.items():
                with suppress(RuntimeError):  # the caller's loop is closed: nobody listens any more
                    loop.call_soon_threadsafe(_deliver, mail)


def _deliver(mail: Mail) -> None:
    for stream, event in mail:
        stream.put_nowait(event)
