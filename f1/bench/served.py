"""Ours as it is served: AsyncEngine, with grammars, events and everything that Python does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from f1.bench import work
from f1.bench.clock import Instant
from f1.engine import AsyncEngine
from f1.models.load import load_checkpoint
from f1.settings import Settings
from f1.types import CallDelta, Finished, GenerateRequest, Tool, Usage

if TYPE_CHECKING:
    from f1 import _core
    from f1.models.checkpoint import Checkpoint


@dataclass(slots=True)
class Step:
    """When one step went into the core and came out of it."""

    begin: float
    begun: float  # from here to `finish` the masks are filled
    finish: float
    finished: Instant
    num_outputs: int


@dataclass(slots=True)
class TimedCore:
    """The core with a clock on its two doors; all else goes straight through."""

    core: _core.Engine
    steps: list[Step] = field(default_factory=list)
    _begin: float = 0.0
    _begun: float = 0.0

    def begin_step(self) -> list[int]:
        self._begin = time.perf_counter()
        waiting = self.core.begin_step()
        self._begun = time.perf_counter()
        return waiting

    def finish_step(self, *arguments: Any, **named: Any) -> list[_core.StepOutput]:
        finish = time.perf_counter()
        outputs = self.core.finish_step(*arguments, **named)
        self.steps.append(Step(self._begin, self._begun, finish, Instant.now(), len(outputs)))
        return outputs

    def __getattr__(self, name: str) -> Any:
        return getattr(self.core, name)


class TimedEngine(AsyncEngine):
    def __init__(self, checkpoint: Checkpoint, core: Any, *rest: Any, **named: Any):
        self.timed = TimedCore(core)
        super().__init__(checkpoint, self.timed, *rest, **named)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Answer:
    usage: Usage
    arguments: str
    end: Instant


class EngineSubject:
    """Settings come from the environment that the worker was started with."""

    def __init__(self, model: str):
        self._resident_at_start = _import_everything()
        self._settings = Settings.from_env()
        self._checkpoint = load_checkpoint(model, self._settings)
        start = time.perf_counter()
        engine = TimedEngine.start(model, self._settings)
        assert isinstance(engine, TimedEngine)
        self._start_seconds = time.perf_counter() - start
        self._engine = engine
        self._loop = asyncio.new_event_loop()

    async def _answer(self, request: GenerateRequest) -> Answer:
        arguments = ""
        async with aclosing(self._engine.generate(request)) as events:
            async for event in events:
                if isinstance(event, CallDelta):
                    arguments = event.call.arguments
                elif isinstance(event, Finished):
                    return Answer(event.usage, arguments, Instant.now())
        raise AssertionError("a stream ends with Finished")

    async def _answers(self, requests: Sequence[GenerateRequest]) -> list[Answer]:
        return list(await asyncio.gather(*map(self._answer, requests)))

    # --- what can be asked ---------------------------------------------------------------------

    def call(self, index: int) -> dict[str, Any]:
        """One tool call under its grammar, from its first token on.

        The clock starts where the peers' does: when the prompt is computed and its first token
        chosen.
        """
        request = work.call(index)
        answer, first = self._decode(request)
        # The call's beginning counts as completion, but was settled with the prompt.
        lead = len(work.prompt_tokens(self._checkpoint, request)) - answer.usage.prompt_tokens
        timing = first.until(answer.end, answer.usage.completion_tokens - lead - 1)
        return timing | {"text": answer.arguments}

    def text(self, index: int, num_tokens: int) -> dict[str, Any]:
        """Free text, from its first token on."""
        answer, first = self._decode(work.story(index, num_tokens))
        return first.until(answer.end, answer.usage.completion_tokens - 1)

    def _decode(self, request: GenerateRequest) -> tuple[Answer, Instant]:
        """The answer, and when its prompt was computed and its first token chosen."""
        self._engine.timed.steps.clear()
        answer: Answer = self._loop.run_until_complete(self._answer(request))
        return answer, next(s.finished for s in self._engine.timed.steps if s.num_outputs)

    def first_token(self, num_tokens: int, text: str) -> dict[str, Any]:
        """From a request under a toolset to its first token, here loaded before."""
        tools = work.toolset(self._checkpoint, num_tokens)
        start = Instant.now()
        answer = self._loop.run_until_complete(self._answer(work.question(tools, text)))
        timing = start.until(answer.end, 1)
        return timing | {
            "prompt_tokens": answer.usage.prompt_tokens,
            "cached_tokens": answer.usage.cached_tokens,
            "start": self._start_seconds,
        }

    def register(self, num_tokens: int) -> int:
        """Keeps the toolset for other processes; how many tokens of it."""
        tools = work.toolset(self._checkpoint, num_tokens)
        return self._loop.run_until_complete(self._engine.register_tools(tools))

    def overhead(self, kind: str, size: int, num_tokens: int) -> dict[str, float]:
        """Median seconds per step outside the core, with `size` requests decoding together."""
        make = {"text": lambda i: work.chatter(i, num_tokens), "call": work.call}[kind]
        self._engine.timed.steps.clear()
        self._loop.run_until_complete(self._answers([make(index) for index in range(size)]))
        steps = self._engine.timed.steps
        pairs = [
            (before, after)
            for before, after in pairwise(steps)
            if before.num_outputs == after.num_outputs == size
        ]
        return {
            "steps": len(pairs),
            "python": median(b.begin - a.finished.wall for a, b in pairs),
            "masks": median(b.finish - b.begun for _, b in pairs),
        }

    def memory(self, num_tokens: int) -> dict[str, int]:
        """Bytes resident now that a request has filled the pages it needs, and what they hold."""
        tools: tuple[Tool, ...] = work.toolset(self._checkpoint, num_tokens)
        self._loop.run_until_complete(self._answers([work.question(tools, "Hello."), work.call(0)]))
        return {"imports": self._resident_at_start, **_resident()}


def _import_everything() -> int:
    """Bytes resident with every library imported that a running engine imports."""
    import f1._core
    import f1.calling.grammar  # noqa: F401  # torch comes with it

    return _resident()["resident"]


def _resident() -> dict[str, int]:
    """Bytes of this process in memory, and of those what mirrors files."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    kilobytes = {name: int(fields[name].split()[0]) for name in ("VmRSS", "RssFile")}
    return {"resident": kilobytes["VmRSS"] * 1024, "file": kilobytes["RssFile"] * 1024}
