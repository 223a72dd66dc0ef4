"""Who may start now, who waits, and who is refused before any work is done for them.

    enter ──no room──▶ Overloaded (429, Retry-After)
      │
      ▼          by tag: tenants share by tokens
    waiting ─────────────────────────────────────▶ started ──leave──▶ the next may start
    (requests and tokens bounded)                  (at most `max_running` choices)

Tags are those of start-time fair queueing (Goyal, Vin, Cheng 1996): a request's is the later of
the clock, which is the tag that was started last, and of the end of its tenant's request before.
A request's end is its tag and its tokens. Nobody starves: the clock passes every tag.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections import deque
from dataclasses import dataclass, field

from f1.errors import Overloaded, ShuttingDown
from f1.serve.limits import Limits
from f1.types import GenerateRequest

_BYTES_PER_TOKEN = 3  # of a prompt; less than most tokenizers', so that few are underestimated
_UNSAID_TOKENS = 1024  # what a completion is taken to need that may be of any length
_LONGEST_RETRY = 60.0  # seconds; clients take more for a mistake


def estimate(request: GenerateRequest, num_bytes: int, context_length: int) -> int:
    """Tokens that a request of so many bytes may take: known before anything is tokenised. More of
    a prompt than the context holds counts, too: it is kept, and read before it is refused."""
    told = sum(len(message.content) for message in request.messages)  # some are kept here
    prompt = max(told, num_bytes) // _BYTES_PER_TOKEN
    wanted = _UNSAID_TOKENS if request.max_tokens is None else request.max_tokens
    return prompt + request.n * min(wanted, context_length)


@dataclass(slots=True, eq=False)
class Ticket:
    """A request's place. `started` is set when its turn has come."""

    tenant: str
    choices: int
    tokens: int
    started: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class Queued:
    """What waits of one tenant, or of all."""

    requests: int = 0
    tokens: int = 0

    def add(self, ticket: Ticket, sign: int = 1) -> None:
        self.requests += sign
        self.tokens += sign * ticket.tokens


class Admission:
    """For one event loop. Whoever enters must leave, started or not."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self.closed = False  # nobody is let in any more
        self.in_flight = 0  # requests that have entered and not left
        self.running = 0  # choices that have started
        self.queued = Queued()
        self._by_tenant: dict[str, Queued] = {}
        self._waiting: list[tuple[float, int, Ticket]] = []  # a heap: tag, arrival
        self._arrivals = 0
        self._clock = 0.0
        self._ends: dict[str, float] = {}  # of a tenant's last request, where after the clock
        self._gone: deque[tuple[float, int]] = deque(maxlen=64)  # when, tokens

    def enter(self, tenant: str, choices: int, tokens: int) -> Ticket:
        """Takes a place at once. Raises Overloaded or ShuttingDown."""
        if self.closed:
            raise ShuttingDown("the server is shutting down", retry_after=1.0)
        ticket = Ticket(tenant, min(choices, self.limits.max_running), tokens)
        if self._waiting or not self._fits(ticket):
            self._check_room(ticket)
        tag = max(self._clock, self._ends.get(tenant, 0.0))
        self._ends[tenant] = tag + tokens
        self._arrivals += 1
        heapq.heappush(self._waiting, (tag, self._arrivals, ticket))
        self._by_tenant.setdefault(tenant, Queued()).add(ticket)
        self.queued.add(ticket)
        self.in_flight += 1
        self._start_next()
        return ticket

    def leave(self, ticket: Ticket) -> None:
        self.in_flight -= 1
        if ticket.started.is_set():
            self.running -= ticket.choices
            self._gone.append((time.monotonic(), ticket.tokens))
        else:
            self._waiting = [entry for entry in self._waiting if entry[2] is not ticket]
            heapq.heapify(self._waiting)
            self._unqueue(ticket)
        self._start_next()

    def _fits(self, ticket: Ticket) -> bool:
        return self.running + ticket.choices <= self.limits.max_running

    def _check_room(self, ticket: Ticket) -> None:
        """A tenant may have as much waiting as it leaves free: the more tenants wait, the less of
        each, and there is always room for one more."""
        mine = self._by_tenant.get(ticket.tenant, Queued())
        free_requests = self.limits.max_queued - self.queued.requests
        free_tokens = self.limits.max_queued_tokens - self.queued.tokens
        # One request may be larger than any share; it waits alone.
        too_many = mine.tokens + ticket.tokens > free_tokens and mine.requests > 0
        if mine.requests + 1 > free_requests or too_many or free_tokens <= 0:
            raise Overloaded(
                f"{self.queued.requests} requests of about {self.queued.tokens} tokens wait, "
                f"{mine.requests} of them yours; try again later",
                retry_after=self.retry_after(),
            )

    def retry_after(self) -> float:
        """Seconds until what waits now will have started, going by what has left lately; spread,
        so that not all come back at once."""
        if not self._gone:
            return 1.0
        tokens = sum(tokens for _, tokens in self._gone)
        seconds = time.monotonic() - self._gone[0][0]
        estimated = self.queued.tokens * seconds / max(tokens, 1)
        return min(max(estimated, 1.0) * random.uniform(1.0, 1.5), _LONGEST_RETRY)

    def _start_next(self) -> None:
        while self._waiting and self._fits(self._waiting[0][2]):
            tag, _, ticket = heapq.heappop(self._waiting)
            self._clock = max(self._clock, tag)
            self._unqueue(ticket)
            self.running += ticket.choices
            ticket.started.set()
        if not self._waiting:
            self._forget()

    def _unqueue(self, ticket: Ticket) -> None:
        self.queued.add(ticket, -1)
        mine = self._by_tenant[ticket.tenant]
        mine.add(ticket, -1)
        if not mine.requests:
            del self._by_tenant[ticket.tenant]

    def _forget(self) -> None:
        """Tenants the clock has caught up with; all of them where nothing runs."""
        ends = self._ends.items() if self.running else ()
        self._ends = {tenant: end for tenant, end in ends if end > self._clock}
