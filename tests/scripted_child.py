"""An engine's process for tests: the real one, around an engine that does as the prompt says.

"Oslo is SIGSEGV cold"     says "Oslo is ", and dies by that signal
exit crash                 ends with status 0, fails as AsyncEngine does
hang stuck work            stops its loop; waits for ever; waits, and gets on
wait:FILE                  works until that is there
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from f1.apart import child
from f1.errors import EngineStopped, InvalidSchema, ModelFileError
from f1.settings import Settings
from f1.types import Event, Finished, GenerateRequest, TextDelta, Tool, Usage


class Obedient:
    model_id = "obedient"
    context_length = 1000

    def __init__(self) -> None:
        self.num_steps = 0
        self.num_running = 0
        self.has_failed = False

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        self.num_running += 1
        try:
            words = request.messages[-1].content.split()
            for word in words:
                await self._obey(word)
                yield TextDelta(0, "\ud800" if word == "surrogate" else word + " ")
            yield Finished(0, "stop", Usage(1, len(words)))
        finally:
            self.num_running -= 1

    async def _obey(self, word: str) -> None:
        self.num_steps += 1
        what, _, path = word.partition(":")
        if word == "hang" or word.startswith("SIG"):
            for _ in range(5):  # what was said before is sent
                await asyncio.sleep(0)
        if word.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, word))
        match what:
            case "exit":
                os._exit(0)
            case "crash":
                self.has_failed = True
                raise EngineStopped("the engine failed")
            case "hang":
                time.sleep(600)
            case "stuck":
                await asyncio.Event().wait()
            case "work" | "wait":
                while not Path(path or "/nowhere").exists():
                    self.num_steps += 1
                    await asyncio.sleep(0.01)
            case _:
                await asyncio.sleep(0)

    async def tokenize(self, request: GenerateRequest) -> list[int]:
        return [len(message.content) for message in request.messages]

    async def register_tools(self, tools: Sequence[Tool]) -> int:
        return len(tools)

    async def judge_tools(self, tools: Sequence[Tool]) -> None:
        raise InvalidSchema("it is wrong", param=f"tools.{tools[0].name}", retry_after=1.5)

    def failed(self) -> bool:
        return self.has_failed

    def stats(self) -> dict[str, float]:
        secrets = [name for name in os.environ if "KEY" in name or "TOKEN" in name]
        there = {"num_secrets": len(secrets), "session": os.getsid(0), "pid": os.getpid()}
        return there | {"num_steps": self.num_steps, "num_running": self.num_running}

    def close(self) -> None:
        pass


def load(model: str, settings: Settings) -> Any:
    if model == "broken":
        raise ModelFileError("it is no model", code="no_model")
    what, _, path = model.partition(":")
    if what.startswith("SIG") or Path(path or "/nowhere").exists():
        os.kill(os.getpid(), signal.SIGABRT)
    return Obedient()


if __name__ == "__main__":
    child.load_engine = load
    child.main()
