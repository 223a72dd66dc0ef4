"""What the calls of a whole process share: room for each tool, and what is known of its health.

       5 failures in a row         1, 2, 4 … 60 s later
closed ───────────────────▶ open ───────────────────────▶ half-open
(calls pass)       (calls are turned away)      (one passes, the probe)
  ▲                           ▲                             │
  └── it found the tool well ─┼─────────────────────────────┤
                              └───────── it failed ─────────┘
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from f1.planning.flights import Flights
from f1.tools.spec import ToolSpec

Clock = Callable[[], float]  # seconds, never going back

MAX_FAILURES = 5
COOL_DOWN = 1.0  # seconds; a flaky tool fails five times in a row too, now and then
MAX_COOL_DOWN = 60.0  # of a tool that no probe finds well: each time twice as long
MAX_EXTRA = 0.1  # retries, of the calls of a window
FEW_EXTRA = 3  # that a window may have where it has few calls
WINDOW = 60.0  # seconds
_PARTS = 10  # of a window that are told apart
MAX_GATES = 4096  # with more, those that nobody uses are forgotten


class Breaker:
    """Spares a tool that does not work its calls, and the calls the wait.

    Only failures that say something of the tool's health count: a call that was answered with an
    error of its own ("no such city") found the tool working.
    """

    def __init__(self, clock: Clock):
        self._clock = clock
        self._failures = 0  # in a row
        self._closed_at: float | None = None  # when a probe may pass, where it is open
        self._cool_down = 0.0
        self._probing = False

    def wait(self) -> float | None:
        """None where a try may begin now; else the seconds until one may (0: a probe is at it)."""
        if self._closed_at is None:
            return None
        left = max(0.0, self._closed_at - self._clock())
        return left if left or self._probing else None

    def begin(self) -> bool:
        """Of a try that may begin: whether it is the probe."""
        self._probing = self._closed_at is not None
        return self._probing

    def end(self, is_probe: bool, healthy: bool | None) -> None:
        """`healthy` None: the try was called off, and nothing was learnt."""
        if is_probe:
            self._probing = False
        elif self._closed_at is not None:
            return  # it began before the breaker opened; what comes now the probe finds out
        if healthy is None:
            return
        self._failures = 0 if healthy else self._failures + 1
        if healthy:
            self._closed_at = None
        elif self._failures >= MAX_FAILURES:
            longer = min(2 * self._cool_down, MAX_COOL_DOWN)
            self._cool_down = longer if is_probe else COOL_DOWN
            self._closed_at = self._clock() + self._cool_down

    @property
    def is_new(self) -> bool:
        return not self._failures


class RetryBudget:
    """Keeps retries from doubling the load of a tool that is in trouble: within any window they
    are at most a tenth of its calls, or three."""

    def __init__(self, clock: Clock):
        self._clock = clock
        self._parts: deque[list[int]] = deque()  # [index of the part, calls, retries]

    def count(self) -> None:
        """One more call."""
        self._now()[1] += 1

    def spend(self) -> bool:
        """Whether there is a retry left; it is used up then."""
        now = self._now()
        # Retries of a little more than the window, calls of a little less.
        retries = sum(part[2] for part in self._parts)
        calls = sum(part[1] for part in self._parts if part[0] > now[0] - _PARTS)
        if retries >= max(FEW_EXTRA, int(MAX_EXTRA * calls)):
            return False
        now[2] += 1
        return True

    @property
    def is_new(self) -> bool:
        """No retries: calls alone only make room for more."""
        self._now()
        return not any(part[2] for part in self._parts)

    def _now(self) -> list[int]:
        index = int(self._clock() * _PARTS / WINDOW)
        while self._parts and self._parts[0][0] < index - _PARTS:
            self._parts.popleft()
        if not self._parts or self._parts[-1][0] != index:
            self._parts.append([index, 0, 0])
        return self._parts[-1]


class Gate:
    """Of one tool."""

    def __init__(self, spec: ToolSpec, clock: Clock, rng: random.Random):
        self.runner = spec.runner
        self.rng = rng
        self.breaker = Breaker(clock)
        self.budget = RetryBudget(clock)
        self.flights = Flights()
        self.users = 0  # calls that are under way, or wait
        self._taken = 0
        self._max = spec.limits.max_parallel
        self._queue: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Returns when there is room for one more try; first come, first served."""
        if self._taken < self._max:
            self._taken += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.leave()  # the room came, and nobody to take it
            raise

    def leave(self) -> None:
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():  # nobody waits for those
                turn.set_result(None)
                return
        self._taken -= 1

    @property
    def is_idle(self) -> bool:
        return not self.users and not self._taken

    @property
    def is_new(self) -> bool:
        """It knows nothing that a new one would not."""
        return self.is_idle and self.breaker.is_new and self.budget.is_new


class Gates:
    """Tools with the same name and an equal runner share a gate, whoever's run they are in.

    One event loop may use it. `clock` and `rng` are for tests that have a time of their own.
    """

    def __init__(self, clock: Clock = time.perf_counter, rng: random.Random | None = None):
        self.clock = clock
        self._rng = rng or random.Random()
        self._gates: dict[str, list[Gate]] = {}
        self._num_gates = 0

    @contextmanager
    def gate(self, spec: ToolSpec) -> Iterator[Gate]:
        """For the time of a call."""
        gates = self._gates.get(spec.name, ())
        gate = next((gate for gate in gates if gate.runner == spec.runner), None)
        if gate is None:
            gate = self._add(spec)
        gate.users += 1
        try:
            yield gate
        finally:
            gate.users -= 1
            if gate.is_new:
                self._remove(spec.name, gate)

    def _add(self, spec: ToolSpec) -> Gate:
        if self._num_gates >= MAX_GATES:
            everyone = [(name, gate) for name, gates in self._gates.items() for gate in gates]
            for name, gate in everyone:
                if gate.is_idle:
                    self._remove(name, gate)
        gate = Gate(spec, self.clock, self._rng)
        self._gates.setdefault(spec.name, []).append(gate)
        self._num_gates += 1
        return gate

    def _remove(self, name: str, gate: Gate) -> None:
        self._gates[name].remove(gate)
        self._num_gates -= 1
        if not self._gates[name]:
            del self._gates[name]
