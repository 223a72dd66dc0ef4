"""An engine's process for tests: the real one, but some words make its next step go wrong."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing

from f1.apart import child
from f1.engine import AsyncEngine
from f1.settings import Settings
from f1.types import Event, GenerateRequest

real = child.load_engine


def raises(error: Exception) -> None:
    raise error


FAULTS = {
    "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "abort": os.abort,
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: os._exit(0),
    "bad_alloc": lambda: raises(MemoryError("std::bad_alloc")),
    "device": lambda: raises(RuntimeError("CUDA error: an illegal memory access")),
    "hang": lambda: threading.Event().wait(),  # in a step
}


def load(model: str, settings: Settings) -> AsyncEngine:
    engine = real(model, settings)
    generate = engine.generate

    async def poisoned(request: GenerateRequest) -> AsyncGenerator[Event]:
        words = request.messages[-1].content.split() if request.messages else []
        for word in words:
            if word in FAULTS:
                engine._stepper.step = FAULTS[word]  # type: ignore[assignment]
            if word == "lost":  # nobody is told
                engine._post = lambda _: None  # type: ignore[method-assign]
        async with aclosing(generate(request)) as events:
            async for event in events:
                yield event

    engine.generate = poisoned  # type: ignore[method-assign]
    return engine


if __name__ == "__main__":
    child.load_engine = load
    child.main()
