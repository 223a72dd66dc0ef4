"""Events reach their streams in order, with one wake-up of a loop for all that a step has sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from f1.delivery import Delivery, Stream
from f1.types import TextDelta

EVENTS = [TextDelta(0, str(index)) for index in range(9)]


class Loop:
    """Counts how often it is woken; a closed one refuses."""

    def __init__(self, *, closed: bool = False):
        self.num_wakes = 0
        self._closed = closed

    def call_soon_threadsafe(self, call: Callable[..., object], *arguments: Any) -> None:
        if self._closed:
            raise RuntimeError("Event loop is closed")
        self.num_wakes += 1
        call(*arguments)


def received(stream: Stream) -> list[object]:
    return [stream.get_nowait() for _ in range(stream.qsize())]


def test_one_wake_a_flush_and_loop() -> None:
    delivery = Delivery()
    loops: list[Any] = [Loop(), Loop(closed=True), Loop()]
    streams: list[Stream] = [asyncio.Queue() for _ in loops]
    for begin in (0, 3, 6):
        for event in EVENTS[begin : begin + 3]:
            for loop, stream in zip(loops, streams, strict=True):
                delivery.send(loop, stream, event)
        delivery.flush()
    delivery.close()
    assert [received(stream) for stream in streams] == [EVENTS, [], EVENTS]
    assert [loop.num_wakes for loop in loops] == [3, 0, 3]


def test_nothing_is_lost_at_the_end() -> None:
    delivery = Delivery()
    loop: Any = Loop()
    stream: Stream = asyncio.Queue()
    delivery.send(loop, stream, EVENTS[0])
    delivery.close()
    assert received(stream) == EVENTS[:1]
