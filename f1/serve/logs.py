"""One line of JSON for each request that has ended."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any, TextIO

from f1.serve.record import Record

_QUIET = frozenset({"/health", "/ready", "/metrics"})  # asked every few seconds, for ever


class RequestLog:
    """Writes to `stream`. JSON in ASCII: no character of a request can move a terminal's cursor,
    or begin a line of its own."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def __call__(self, record: Record) -> None:
        if record.route in _QUIET:
            return
        line = {name: value for name, value in _line(record).items() if value not in (None, "")}
        self.stream.write(json.dumps(line) + "\n")
        self.stream.flush()


def _line(record: Record) -> dict[str, Any]:
    ended = record.ended or time.monotonic()

    def milliseconds(until: float | None) -> float | None:
        return None if until is None else round((until - record.began) * 1000, 1)

    return {
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request_id": record.request_id,
        "tenant": record.tenant,
        "route": record.route,
        "status": record.status,
        "error": record.error,
        "model": record.model,
        "queue_ms": milliseconds(record.started),
        "ttft_ms": milliseconds(record.first_event),
        "total_ms": milliseconds(ended),
        "prompt_tokens": record.prompt_tokens or None,
        "cached_tokens": record.cached_tokens or None,
        "completion_tokens": record.completion_tokens or None,
        "finish": record.reasons or None,
        "calls": dict(record.calls) or None,
        "prompt": record.prompt,
    }
