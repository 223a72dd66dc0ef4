"""Tells a collector of OpenTelemetry's, over OTLP, of each run that has ended.

    Recorder.tell ──▶ a short queue ──▶ one thread: redact, make spans, send

Nobody waits for the collector: while it is gone or slow, runs are not told of, and that is counted.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from f1 import __version__
from f1.store.runs import EntryRow, RunRow
from f1.trace.entries import CODEC, Written
from f1.trace.recorder import TRACEPARENT, Redacts
from f1.trace.spans import Parent, Span, read_traceparent, spans

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan

log = logging.getLogger("f1.trace")
_QUEUED = 64  # runs; their entries are held
_SECONDS = 5.0  # that one sending may take, with its retries
_GRACE = 2.0  # seconds that what is queued has at the end
_SCHEMA = "https://opentelemetry.io/schemas/1.44.0"


class Exporter(Protocol):
    """OpenTelemetry's SpanExporter."""

    def export(self, spans: Sequence[ReadableSpan]) -> Any: ...
    def shutdown(self) -> None: ...


@dataclass(slots=True)
class Told:
    sent: int = 0  # runs
    lost: int = 0


@dataclass(slots=True)
class OtlpTeller:
    """A Recorder's `tell`. `content`: also of what was said and done."""

    exporter: Exporter
    resource: Resource
    redaction: Redacts
    content: bool = False
    told: Told = field(default_factory=Told)
    _queue: queue.Queue[tuple[RunRow, list[Written]] | None] = field(
        default_factory=lambda: queue.Queue(_QUEUED)
    )
    _thread: threading.Thread | None = None

    def __call__(self, run: RunRow, past: Sequence[Written]) -> None:
        """Returns at once."""
        parent = _parent(run)
        if parent is not None and not parent.sampled:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="f1-otlp", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait((run, list(past)))
        except queue.Full:
            self._lose(run, "the collector is too slow")

    def close(self) -> None:
        """Waits a little for what is queued."""
        if self._thread is None:
            return
        try:
            self._queue.put(None, timeout=_GRACE)
            self._thread.join(_GRACE)
        except queue.Full:
            log.warning("spans of %d runs were not told", self._queue.qsize())
        self.exporter.shutdown()  # ends what it still tries

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            run, past = item
            try:
                made = [_readable(span, self.resource) for span in self._spans(run, past)]
                sent = self.exporter.export(made)
            except Exception as error:  # of the exporter, or of a run that is not as we know them
                self._lose(run, f"{type(error).__name__}: {error}")
                continue
            if getattr(sent, "name", "") == "SUCCESS":
                self.told.sent += 1
            else:
                self._lose(run, "the collector did not take it")

    def _spans(self, run: RunRow, past: Sequence[Written]) -> list[Span]:
        redaction = self.redaction.for_run()
        rows = [
            EntryRow(
                written.seq,
                written.at,
                type(written.entry).__name__,
                redaction.redact(CODEC.encode(written.entry)),
            )
            for written in past
        ]
        return spans(run, rows, parent=_parent(run), content=self.content)

    def _lose(self, run: RunRow, why: str) -> None:
        self.told.lost += 1
        level = logging.WARNING if self.told.lost == 1 else logging.DEBUG
        log.log(level, "the spans of run %s are not told: %s", run.id, why)


def open_otlp(
    endpoint: str | None, redaction: Redacts, env: Mapping[str, str], content: bool = False
) -> OtlpTeller | None:
    """`endpoint`: of the collector, such as "http://127.0.0.1:4318"; otherwise the environment says
    where it is, in OpenTelemetry's variables. None: nowhere."""
    said = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    off = env.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if off or env.get("OTEL_TRACES_EXPORTER", "otlp") == "none":
        return None
    if endpoint is None and not any(env.get(name) for name in said):
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    url = (
        None if endpoint is None else f"{endpoint.rstrip('/').removesuffix('/v1/traces')}/v1/traces"
    )
    exporter = OTLPSpanExporter(endpoint=url, timeout=_SECONDS)
    return OtlpTeller(exporter, _resource(), redaction, content)


def _parent(run: RunRow) -> Parent | None:
    given = run.about.get(TRACEPARENT)
    return read_traceparent(given) if isinstance(given, str) else None


def _resource() -> Resource:
    """OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go before our own."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    ours = Resource({"service.name": "f1", "service.version": __version__})
    return ours.merge(OTELResourceDetector().detect())


def _readable(span: Span, resource: Resource) -> ReadableSpan:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
    from opentelemetry.trace.status import Status, StatusCode

    def context(span_id: int, *, remote: bool = False) -> SpanContext:
        return SpanContext(span.trace_id, span_id, remote, TraceFlags(TraceFlags.SAMPLED))

    status = Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET)
    return ReadableSpan(
        span.name,
        context(span.span_id),
        context(span.parent_id, remote=True) if span.parent_id else None,
        resource,
        span.attributes,
        kind=SpanKind.CLIENT if span.kind == "client" else SpanKind.INTERNAL,
        status=status,
        start_time=int(span.start * 1e9),
        end_time=int(span.end * 1e9),
        instrumentation_scope=InstrumentationScope("f1", __version__, _SCHEMA),
    )
