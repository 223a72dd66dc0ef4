"""The operator's functions, importable by path, in worker processes that can be ended."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from f1.errors import InvalidRequest
from f1.tools.runners.worker import MAX_FAILURE
from f1.tools.runners.workers import Worker, WorkerSettings
from f1.tools.spec import Annotations, CallLimits, Output, ToolFailure, ToolSpec
from f1.types import Tool

_PATH = re.compile(r"(.+\.py|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\Z")


class Workers:
    """The processes of an operator's modules: started when needed, kept for the next calls,
    replaced where they have died. Of no event loop; ends them all when closed, or forgotten."""

    def __init__(self, settings: WorkerSettings | None = None):
        self.settings = settings or WorkerSettings()
        self._idle: dict[Source, list[Worker]] = {}
        self._closed = False

    def tool(self, path: str, environment: Sequence[str] = ()) -> ToolSpec:
        """The function at "package.module:function" or "folder/file.py:function", with what it says
        of itself, as `@tool` reads it. It is imported in a worker, never here, and this waits for
        it. `environment`: further variables that it sees. Raises InvalidRequest for what is not
        there, or cannot be a tool."""
        match = _PATH.match(path)
        if match is None:
            raise InvalidRequest(
                f"'{path}' is neither 'package.module:function' nor 'folder/file.py:function'",
                param="python",
            )
        source = Source(self._module(match[1]), tuple(sorted(environment)))
        runner = ProcessRunner(self, source, match[2])
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

    def take(self, source: Source) -> Worker:
        """One that is free, or a new one."""
        idle = self._idle.setdefault(source, [])
        while idle:
            worker = idle.pop()
            if worker.is_fresh:
                return worker
            worker.close()
        return self._start(source)

    def keep(self, source: Source, worker: Worker) -> None:
        """For the next call, if it is fit for one; there is one in any case."""
        idle = self._idle.setdefault(source, [])
        if len(idle) < self.settings.idle and worker.is_fresh and not self._closed:
            idle.append(worker)
            return
        worker.close()
        if not idle and worker.is_ready and not self._closed:  # the next call shall find one
            idle.append(self._start(source))

    def close(self) -> None:
        """Ends them all, within milliseconds; a second or two where one does not want to go."""
        self._closed = True
        while self._idle:
            for worker in self._idle.popitem()[1]:
                worker.close()

    def _start(self, source: Source) -> Worker:
        environment = (*self.settings.environment, *source.environment)
        return Worker(source.module, replace(self.settings, environment=environment))

    def _module(self, name: str) -> str:
        return str(self.settings.folder / name) if name.endswith(".py") else name


@dataclass(frozen=True, slots=True)
class Source:
    """What workers are alike in: a module's name, or a file's path, and variables that it sees."""

    module: str
    environment: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProcessRunner:
    """A call has a worker to itself. One that runs out of time, or is cancelled, is ended with all
    that it has started, within milliseconds; the next has another worker."""

    workers: Workers = field(repr=False)
    source: Source
    function: str

    async def call(self, arguments: Mapping[str, Any], limits: CallLimits) -> Output:
        question = {"function": self.function, "arguments": arguments}
        return await self._ask(question, limits.timeout, limits.max_bytes)

    async def describe(self) -> dict[str, Any]:
        said = await self._ask({"function": self.function}, 5.0, MAX_FAILURE)
        if not isinstance(said.value, dict):
            raise ToolFailure("its description is too long")
        return said.value

    async def _ask(self, question: Mapping[str, Any], timeout: float, max_bytes: int) -> Output:
        worker = self.workers.take(self.source)
        try:
            await worker.start()
            async with asyncio.timeout(timeout):
                output = await worker.ask(question, max_bytes)
            return output
        except ToolFailure:
            raise
        except BaseException:
            await _to_its_end(worker.end())
            raise
        finally:
            self.workers.keep(self.source, worker)


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Also where whoever waits for it is cancelled."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
