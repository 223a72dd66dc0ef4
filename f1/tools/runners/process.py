"""The operator's functions, importable by path, in worker processes that can be ended."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from f1.errors import InvalidRequest
from f1.tools.runners.sandbox import Sandbox
from f1.tools.runners.worker import MAX_FAILURE
from f1.tools.runners.workers import Worker, WorkerSettings
from f1.tools.spec import INVOCATION, Annotations, CallLimits, Output, ToolFailure, ToolSpec
from f1.types import Tool

_PATH = re.compile(r"(.+\.py|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\Z")


Place = tuple[str, Sandbox | None]  # a module, and where it is imported


class Workers:
    """The processes of an operator's modules: started when needed, kept for the next calls,
    replaced where they have died. Of no event loop; ends them all when closed, or forgotten."""

    def __init__(self, settings: WorkerSettings | None = None):
        self.settings = settings or WorkerSettings()
        self._idle: dict[Place, list[Worker]] = {}
        self._closed = False

    def tool(self, path: str, sandbox: Sandbox | None = None) -> ToolSpec:
        """The function at "package.module:function" or "folder/file.py:function", with what it says
        of itself, as `@tool` reads it. It is imported in a worker, never here, and this waits for
        it. Raises InvalidRequest for what is not there, or cannot be a tool, or where there is no
        such sandbox to be had."""
        match = _PATH.match(path)
        if match is None:
            raise InvalidRequest(
                f"'{path}' is neither 'package.module:function' nor 'folder/file.py:function'",
                param="python",
            )
        runner = ProcessRunner(self, self._module(match[1]), match[2], sandbox)
        with ThreadPoolExecutor(1) as elsewhere:  # there may be a loop here
            try:
                said = elsewhere.submit(asyncio.run, runner.describe()).result()
            except ToolFailure as failure:
                raise InvalidRequest(f"'{path}': {failure}", param="python") from failure
        return ToolSpec(
            Tool(said["name"], said["description"], said["parameters"]),
            runner,
            said["output"],
            tuple(said["examples"]),
            Annotations(**said["annotations"]),
            CallLimits(**said["limits"]),
        )

    def take(self, place: Place) -> Worker:
        """One that is free, or a new one."""
        idle = self._idle.setdefault(place, [])
        with suppress(IndexError):  # there are none left
            while not (worker := idle.pop()).is_fresh:
                worker.close()
            return worker
        return self._start(place)

    def keep(self, place: Place, worker: Worker) -> bool:
        """False where it is not fit for another call, or not needed."""
        idle = self._idle.setdefault(place, [])
        is_kept = len(idle) < self.settings.idle and worker.is_fresh and not self._closed
        if is_kept:
            idle.append(worker)
        return is_kept

    def start_ahead(self, place: Place) -> None:
        """For the next call, if none waits for it."""
        idle = self._idle.setdefault(place, [])
        if not idle and not self._closed:
            with suppress(ToolFailure):  # the call can be told as well
                idle.append(self._start(place))

    def close(self) -> None:
        """Ends them all, within milliseconds; a second or two where one does not want to go."""
        self._closed = True
        while self._idle:
            for worker in self._idle.popitem()[1]:
                worker.close()

    def _start(self, place: Place) -> Worker:
        module, sandbox = place
        return Worker(module, self.settings, sandbox)

    def _module(self, name: str) -> str:
        return str(self.settings.folder / name) if name.endswith(".py") else name


@dataclass(frozen=True, slots=True)
class ProcessRunner:
    """A call has a worker to itself. One that runs out of time, or is cancelled, is ended with all
    that it has started, within milliseconds; the next has another worker."""

    workers: Workers = field(repr=False)
    module: str
    function: str
    sandbox: Sandbox | None = None

    async def call(self, arguments: Mapping[str, Any], limits: CallLimits) -> Output:
        call = INVOCATION.get()
        question = {
            "function": self.function,
            "arguments": arguments,
            "invocation": call and asdict(call),
        }
        return await self._ask(question, limits.timeout, limits.max_bytes)

    async def describe(self) -> dict[str, Any]:
        said = await self._ask({"function": self.function}, 5.0, MAX_FAILURE)
        if not isinstance(said.value, dict):
            raise ToolFailure("its description is too long")
        return said.value

    async def _ask(self, question: Mapping[str, Any], timeout: float, max_bytes: int) -> Output:
        place = (self.module, self.sandbox)
        worker, is_fit = self.workers.take(place), False
        try:
            while not await worker.start():
                await to_its_end(worker.end())
                worker = self.workers.take(place)
            async with asyncio.timeout(timeout):
                output = await worker.ask(question, max_bytes)
            is_fit = True
            return output
        except ToolFailure:
            is_fit = True  # or has ended, which is seen
            raise
        finally:
            if not (is_fit and self.workers.keep(place, worker)):
                await to_its_end(worker.end())
                if worker.is_ready:
                    self.workers.start_ahead(place)


async def to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Also where whoever waits for it is cancelled."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
