"""One call: its tries, each within its time, until one is good enough or no other is allowed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from f1.tools.spec import Output, ToolFailure, ToolSpec
from f1.types import FailureKind

if TYPE_CHECKING:
    from f1.planning.gates import Gate

BACKOFF = 0.5  # seconds before the second try, at most; twice as many before each further one
MAX_BACKOFF = 10.0
GRACE = 1.0  # seconds that a cancelled call has to end; then it is no longer waited for


@dataclass(frozen=True, slots=True)
class Outcome:
    """`passing`: another try may well succeed; it says that the tool is not well."""

    output: Output | None = None
    failed: FailureKind | None = None
    message: str = ""
    passing: bool = False
    tries: int = 1


async def run_call(
    spec: ToolSpec, arguments: str, gate: Gate, begun: Callable[[], Awaitable[None]]
) -> Outcome:
    """What came of the call; `begun` is awaited right before its first try: where it raises, there
    is none. Cancelled, it returns when the tool has ended."""
    outcome, tries = _unavailable(spec, gate), 0
    while outcome is None or _may_repeat(spec, gate, outcome, tries):
        if tries:
            longest = min(MAX_BACKOFF, BACKOFF * 2 ** (tries - 1))
            await asyncio.sleep(gate.rng.uniform(0, longest))
        await gate.enter()
        if (turned_away := _unavailable(spec, gate)) is not None:
            gate.leave()
            outcome = outcome or turned_away
            break
        tries += 1
        if tries == 1:
            gate.budget.count()
            await _begin(begun, gate)
        outcome = await _try(spec, arguments, gate)
    return replace(outcome, tries=tries)


async def _begin(begun: Callable[[], Awaitable[None]], gate: Gate) -> None:
    try:
        await begun()
    except BaseException:
        gate.leave()
        raise


def _may_repeat(spec: ToolSpec, gate: Gate, outcome: Outcome, tries: int) -> bool:
    return (
        outcome.passing
        and spec.annotations.repeatable
        and tries <= spec.limits.retries
        and gate.breaker.wait() is None
        and gate.budget.spend()
    )


def _unavailable(spec: ToolSpec, gate: Gate) -> Outcome | None:
    wait = gate.breaker.wait()
    if wait is None:
        return None
    when = f"it may be tried again in {wait:.0f} s" if wait else "it is being tried"
    message = f"the tool '{spec.name}' is unavailable, it failed too often lately; {when}"
    return Outcome(failed="unavailable", message=message)


async def _try(spec: ToolSpec, arguments: str, gate: Gate) -> Outcome:
    """Inside the gate; it is left when the tool has ended, be that after this returns."""
    is_probe = gate.breaker.begin()
    healthy: bool | None = None
    running = asyncio.create_task(_guarded(spec, arguments))
    running.add_done_callback(partial(_left, gate))
    try:
        await asyncio.wait({running}, timeout=spec.limits.timeout)
        outcome = _outcome(running, spec)
        healthy = not outcome.passing
    finally:
        gate.breaker.end(is_probe, healthy)
        if not running.done():
            running.cancel()
            await ended(running, GRACE)
    return outcome


async def _guarded(spec: ToolSpec, arguments: str) -> Output:
    if spec.runner is None:
        raise ToolFailure("nobody runs this tool")
    try:
        # Read anew for each try: tools may change what they are given.
        return await spec.runner.call(json.loads(arguments), spec.limits)
    except SystemExit as error:  # would end the event loop
        raise ToolFailure(f"SystemExit: {error}") from error


def _left(gate: Gate, running: asyncio.Task[Output]) -> None:
    gate.leave()
    if not running.cancelled():
        running.exception()  # seen: those that nobody waited for any more are told nobody


def _outcome(running: asyncio.Task[Output], spec: ToolSpec) -> Outcome:
    if not running.done():
        return _late(spec)
    if running.cancelled():
        return Outcome(failed="error", message="the tool called itself off")
    match running.exception():
        case None:
            return Outcome(running.result())
        case ToolFailure() as error:
            return Outcome(failed="error", message=str(error), passing=error.passing)
        case TimeoutError():
            return _late(spec)
        case error:
            return Outcome(failed="error", message=f"{type(error).__name__}: {error}")


def _late(spec: ToolSpec) -> Outcome:
    may = "" if spec.annotations.read_only else "; what it does may be done"
    late = f"no result within {spec.limits.timeout:g} s{may}"
    return Outcome(failed="timeout", message=late, passing=True)


async def ended(task: asyncio.Future[Any], timeout: float | None = None) -> None:
    """Returns when the task has ended, or after `timeout` seconds. Who is cancelled meanwhile
    learns it then: giving up the wait would leave the task to nobody."""
    waiting = asyncio.ensure_future(asyncio.wait({task}, timeout=timeout))
    cancelled: asyncio.CancelledError | None = None
    while not waiting.done():
        try:
            await asyncio.shield(waiting)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
