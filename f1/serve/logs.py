"""One line of JSON for each request that has ended; and all other lines, without secrets."""

from __future__ import annotations

import json
import logging
import time
from datetime import UTC, datetime
from typing import Any, TextIO

from f1.serve.record import Record
from f1.trace.recorder import Redacts

_QUIET = frozenset({"/health", "/ready", "/metrics"})  # asked every few seconds, for ever


class RequestLog:
    """Writes to `stream`. JSON in ASCII: no character of a request can move a terminal's cursor,
    or begin a line of its own."""

    def __init__(self, stream: TextIO, redaction: Redacts):
        self.stream = stream
        self.redaction = redaction

    def __call__(self, record: Record) -> None:
        if record.route in _QUIET:
            return
        line = {name: value for name, value in _line(record).items() if value not in (None, "")}
        self.stream.write(json.dumps(self.redaction.redact(line)) + "\n")
        self.stream.flush()


class WithoutSecrets(logging.Formatter):
    """As another formatter writes it, tracebacks and all."""

    def __init__(self, formatter: logging.Formatter | None, redaction: Redacts):
        super().__init__()
        self.formatter = formatter or logging.Formatter()
        self.redaction = redaction

    def format(self, record: logging.LogRecord) -> str:
        return str(self.redaction.redact(self.formatter.format(record)))


def hide_in_logs(redaction: Redacts) -> None:
    """From now on, in all that this process logs: ours, and the server's that it runs in."""
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.StreamHandler())
        root.handlers[0].setLevel(logging.WARNING)  # as where nobody has said anything
    for name in ("", "f1", "uvicorn", "uvicorn.error", "uvicorn.access"):
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(WithoutSecrets(handler.formatter, redaction))


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
