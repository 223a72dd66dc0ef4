"""Functions of this process as tools: each call in a thread of its own, coroutines on the loop."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from f1.tools.function import FunctionTool
from f1.tools.runners.output import read_output, write_output
from f1.tools.spec import CallLimits, Output, ToolFailure


@dataclass(frozen=True, slots=True)
class FunctionRunner:
    """A thread cannot be stopped: a call that ran out of time may still finish, unseen."""

    function: FunctionTool

    async def call(self, arguments: Mapping[str, Any], limits: CallLimits) -> Output:
        from pydantic_core import to_json

        try:
            bound = self.function.bind(to_json(arguments).decode())
        except ValueError as error:
            raise ToolFailure(f"the arguments do not fit the function: {error}") from error
        clock = asyncio.timeout(limits.timeout)
        try:
            async with clock:
                written = await _call(self.function.function, bound, limits.max_bytes)
        except Exception as error:  # the tool's own, of any kind: it is what the model is told
            if clock.expired():
                raise
            raise ToolFailure(f"{type(error).__name__}: {error}") from error
        return read_output(*written)


async def _call(
    function: Callable[..., Any], arguments: dict[str, Any], max_bytes: int
) -> tuple[bool, bytes, int]:
    """What `write_output` makes of the result."""

    def work() -> Any:
        result = function(**arguments)
        return result if inspect.isawaitable(result) else write_output(result, max_bytes)

    called = work() if inspect.iscoroutinefunction(function) else await _in_thread(work)
    return write_output(await called, max_bytes) if inspect.isawaitable(called) else called


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
