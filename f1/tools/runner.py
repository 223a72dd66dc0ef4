"""Running the calls of one step: all at once, and every failure is a result."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from f1.errors import InvalidRequest
from f1.tools.function import FunctionTool
from f1.types import FailureKind, Tool, ToolCall, ToolResult


class ToolRunner:
    """The tools that are ours to run.

    Functions run in threads of their own, coroutine functions on the event loop. `timeout` is in
    seconds per call; a thread cannot be stopped, so a call that ran out of time may still finish,
    unseen. Results longer than `max_chars` are cut, and say so.
    """

    def __init__(
        self,
        functions: Iterable[FunctionTool] = (),
        *,
        timeout: float = 60.0,
        max_parallel: int = 16,
        max_chars: int = 20_000,
    ):
        self.functions: dict[str, FunctionTool] = {}
        for function in functions:
            if function.tool.name in self.functions:
                raise InvalidRequest(f"tool '{function.tool.name}' is given twice", param="tools")
            self.functions[function.tool.name] = function
        self.timeout = timeout
        self.max_parallel = max_parallel
        self.max_chars = max_chars

    @property
    def tools(self) -> tuple[Tool, ...]:
        return tuple(function.tool for function in self.functions.values())

    def owns(self, name: str) -> bool:
        return name in self.functions

    async def run(self, calls: Sequence[ToolCall]) -> AsyncGenerator[ToolResult]:
        """Results as they come in. Closing the iterator early cancels what still runs."""
        room = asyncio.Semaphore(self.max_parallel)
        tasks = [asyncio.create_task(self._run_one(call, room)) for call in calls]
        try:
            for next_done in asyncio.as_completed(tasks):
                yield await next_done
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run_one(self, call: ToolCall, room: asyncio.Semaphore) -> ToolResult:
        async with room:
            started = time.perf_counter()
            content, failed = await self._outcome(call)
            if len(content) > self.max_chars:
                content = f"{content[: self.max_chars]}… (cut: {len(content)} characters)"
            return ToolResult(call, content, failed, started, time.perf_counter() - started)

    async def _outcome(self, call: ToolCall) -> tuple[str, FailureKind | None]:
        """The content, and how it failed. The model reads either and goes on."""
        from f1.calling.schema import validate_arguments  # slow to import, not needed before

        function = self.functions.get(call.name)
        if function is None:
            return write_failure(f"there is no tool '{call.name}'"), "unknown_tool"
        # A grammar is not a validator: nothing runs before its arguments are checked in full.
        if (problem := validate_arguments(function.tool, call.arguments)) is not None:
            return write_failure(
                f"the arguments do not fit the schema: {problem}"
            ), "invalid_arguments"
        clock = asyncio.timeout(self.timeout)
        try:
            async with clock:
                result = await _call(function.function, function.bind(call.arguments))
            return write_result(result), None
        except Exception as error:  # the tool's own, of any kind: it is what the model is told
            late = f"no result within {self.timeout:g} s"
            told = late if clock.expired() else f"{type(error).__name__}: {error}"
            return write_failure(told), "timeout" if clock.expired() else "error"


def write_result(value: object) -> str:
    """What the model reads: text as it is, anything else as JSON."""
    from pydantic_core import to_json

    return value if isinstance(value, str) else to_json(value).decode()


def write_failure(message: str) -> str:
    return write_result({"error": message})


async def _call(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    if inspect.iscoroutinefunction(function):
        return await function(**arguments)
    result = await _in_thread(lambda: function(**arguments))
    return await result if inspect.isawaitable(result) else result


async def _in_thread(work: Callable[[], Any]) -> Any:
    """Like asyncio.to_thread, but in a daemon thread of its own: a hung tool neither takes a
    worker from the others nor keeps the process from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def settle(result: Any, error: BaseException | None) -> None:
        if future.done():  # timed out or cancelled meanwhile
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def body() -> None:
        result, error = None, None
        try:
            result = context.run(work)
        except BaseException as raised:
            # A future cannot carry StopIteration; SystemExit must not end the loop.
            ordinary = isinstance(raised, Exception) and not isinstance(raised, StopIteration)
            error = raised if ordinary else RuntimeError(f"{type(raised).__name__}: {raised}")
        with suppress(RuntimeError):  # the loop is closed: nobody waits for the result
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=body, name="f1-tool", daemon=True).start()
    return await future
