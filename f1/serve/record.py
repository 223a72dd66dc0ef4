"""What becomes of one HTTP request, written down as it happens and told once it has ended."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from f1.types import CallDelta, Event, Finished


@dataclass(slots=True)
class Record:
    """Moments are of time.monotonic(), in seconds; None: did not come to that."""

    began: float = field(default_factory=time.monotonic)
    request_id: str = ""
    tenant: str = ""
    route: str = ""  # as it is declared, not as it was asked
    status: int = 500
    error: str | None = None  # its code
    model: str | None = None
    prompt: list[str] | None = None  # only where that is asked for
    started: float | None = None  # its turn had come
    first_event: float | None = None
    last_event: float | None = None
    ended: float | None = None
    n: int = 1  # choices of each prompt
    prompts: set[int] = field(default_factory=set)  # whose tokens are counted
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasons: list[str] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)  # by what became of them

    def see(self, event: Event) -> None:
        """Called for every token that is sent: it does little."""
        if self.first_event is None:
            self.first_event = time.monotonic()
        if isinstance(event, CallDelta):
            self.calls["bounded" if event.bounded else "valid"] += 1
        elif isinstance(event, Finished):
            self._finish(event)

    def _finish(self, end: Finished) -> None:
        self.last_event = time.monotonic()
        self.reasons.append(end.reason)
        if (prompt := end.choice // self.n) not in self.prompts:  # its choices share it
            self.prompts.add(prompt)
            self.prompt_tokens += end.usage.prompt_tokens
            self.cached_tokens += end.usage.cached_tokens
        self.completion_tokens += end.usage.completion_tokens
        if end.report.needed_tokens is not None:
            self.calls["cut"] += 1
        if end.report.asked_again:
            self.calls["asked_again"] += end.report.asked_again


class Recorder:
    """Keeps a record of each request the app answers, and gives it to all who want to know."""

    def __init__(self, app: ASGIApp, tell: Sequence[Callable[[Record], None]]):
        self.app = app
        self.tell = tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope["f1.record"] = record = Record()

        async def send_seen(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_seen)
        finally:
            record.ended = time.monotonic()
            record.request_id = scope.get("f1.request_id", "")
            record.tenant = scope.get("f1.tenant", "")
            record.route = getattr(scope.get("route"), "path", "")
            for tell in self.tell:
                tell(record)
