"""An engine that says what a test tells it to: for logic that no model has to be right for."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Callable, Sequence

from f1.engine import AsyncEngine
from f1.types import CallDelta, Event, Finished, GenerateRequest, TextDelta, Tool, ToolCall, Usage

Turn = str | Sequence[ToolCall]


def call(name: str, _id: str = "", /, **arguments: object) -> ToolCall:
    return ToolCall(_id or f"call_{name}", name, json.dumps(arguments))


class ScriptedEngine:
    """Plays the turns one after the other (a function is given the request; words that end with
    "…" go on until somebody stops them), keeps the requests it saw, and counts those that were
    closed before their end."""

    model_id = "scripted"
    context_length = 8192

    def __init__(self, *turns: Turn | Callable[[GenerateRequest], Turn]):
        self.turns = list(turns)
        self.requests: list[GenerateRequest] = []
        self.registered: list[list[str]] = []
        self.hold: threading.Event | None = None  # what registering waits for
        self.judged: list[list[str]] = []
        self.stopped_early = 0
        self.closed = False

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        turn = self.turns[min(len(self.requests), len(self.turns) - 1)]
        self.requests.append(request)
        if callable(turn):
            turn = turn(request)
        done = False
        try:
            for choice in range(request.n):
                for event in _events(choice, turn):
                    if isinstance(event, Finished) and str(turn).endswith("…"):
                        await asyncio.Event().wait()
                    yield event
                    await asyncio.sleep(0)
            done = True
        finally:
            self.stopped_early += not done

    async def register_tools(self, tools: Sequence[Tool]) -> int:
        if self.hold is not None:
            await asyncio.to_thread(self.hold.wait)
        self.registered.append([tool.name for tool in tools])
        return 0

    async def judge_tools(self, tools: Sequence[Tool]) -> None:
        self.judged.append([tool.name for tool in tools])

    def healthy(self) -> bool:
        return True

    def failed(self) -> bool:
        return False

    def stats(self) -> dict[str, int]:
        return {"num_running": 0, "num_steps": 7, "num_free_pages": 3}

    def close(self) -> None:
        self.closed = True


class Spelling(ScriptedEngine):
    """Says what it is told to, and splits text as a real engine does."""

    def __init__(self, engine: AsyncEngine, *turns: Turn):
        super().__init__(*turns)
        self.engine = engine
        self.tokenizer = engine.tokenizer
        self.tokenize = engine.tokenize

    def close(self) -> None:
        super().close()
        self.engine.close()


def _events(choice: int, turn: Turn) -> list[Event]:
    usage = Usage(prompt_tokens=10, completion_tokens=len(turn), cached_tokens=4)
    if isinstance(turn, str):
        words: list[Event] = [TextDelta(choice, word + " ") for word in turn.split()]
        return [*words, Finished(choice, "stop", usage)]
    calls: list[Event] = [CallDelta(choice, index, item) for index, item in enumerate(turn)]
    return [*calls, Finished(choice, "tool_calls", usage)]
