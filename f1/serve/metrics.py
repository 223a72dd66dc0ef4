"""What /metrics tells, in Prometheus' words. No label holds what a client wrote."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from f1.serve.record import Record
from f1.serve.server import Server

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56)
_Family = GaugeMetricFamily | CounterMetricFamily
_NOW = frozenset({"num_running", "num_waiting"})  # of the engine's figures; others only grow


class Metrics:
    """Of one app, in a registry of its own."""

    def __init__(self, server: Server):
        self._registry = registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"f1_{name}", what, labels, registry=registry)

        def seconds(name: str, what: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
            return Histogram(f"f1_{name}_seconds", what, registry=registry, buckets=buckets)

        self._requests = counter("requests", "HTTP requests by their answer.", "route", "status")
        self._errors = counter("errors", "Requests that ended with an error.", "code")
        self._started = counter("started", "Requests whose turn came.")
        self._finished = counter("choices", "Choices that came to their end.", "reason")
        self._tokens = counter("tokens", "Tokens by what they were.", "kind")
        self._calls = counter("tool_calls", "Tool calls by what became of them.", "outcome")
        self._queue = seconds("queue", "From a request's arrival until its turn.")
        self._first = seconds("time_to_first_token", "From a request's arrival to its first event.")
        self._each = seconds(
            "time_per_output_token", "Of a request, behind its first event.", _TOKEN_SECONDS
        )
        self._whole = seconds("request", "Of requests that came to their end.")
        registry.register(_Now(server))
        ProcessCollector(registry=registry)  # memory, processor time, open files

    def __call__(self, record: Record) -> None:
        """Counts a request that has ended."""
        self._requests.labels(record.route, str(record.status)).inc()
        if record.error is not None:
            self._errors.labels(record.error).inc()
        if record.started is not None:
            self._started.inc()
            self._queue.observe(record.started - record.began)
        for outcome, count in record.calls.items():
            self._calls.labels(outcome).inc(count)
        if record.first_event is not None:
            self._first.observe(record.first_event - record.began)
        for reason in record.reasons:
            self._finished.labels(reason).inc()
        if record.reasons:
            self._count_tokens(record)

    def _count_tokens(self, record: Record) -> None:
        self._tokens.labels("prompt").inc(record.prompt_tokens)
        self._tokens.labels("prompt_cached").inc(record.cached_tokens)
        self._tokens.labels("completion").inc(record.completion_tokens)
        if record.last_event is None or record.first_event is None:
            return
        self._whole.observe(record.last_event - record.began)
        if record.completion_tokens > 1:
            spent = record.last_event - record.first_event
            self._each.observe(spent / (record.completion_tokens - 1))

    def text(self) -> bytes:
        """Asks the engine, which may answer only when its step is done: not for an event loop."""
        return generate_latest(self._registry)


class _Now(Collector):
    """What is known when it is asked for: the queue, and all figures of the engine."""

    def __init__(self, server: Server):
        self._server = server

    def collect(self) -> Iterator[Metric]:
        admission, models = self._server.admission, self._server.models
        queued = admission.queued
        for name, what, value in (
            ("queue_requests", "Requests that wait for their turn.", queued.requests),
            ("queue_tokens", "Tokens that those may take, as estimated.", queued.tokens),
            ("running_choices", "Choices that have started and not ended.", admission.running),
            ("ready", "Whether /ready answers 200.", self._server.state() == "ready"),
        ):
            yield GaugeMetricFamily(f"f1_{name}", what, value)
        if models is not None:
            for name, what, value in (
                ("model_loads", "Models that were loaded.", models.pool.num_loads),
                ("model_evictions", "Models that left for others.", models.pool.num_evictions),
            ):
                yield CounterMetricFamily(f"f1_{name}", what, value)
        engines = models.loaded() if models is not None else {}
        families: dict[str, _Family] = {}
        for model, engine in engines.items():
            for name, figure in engine.stats().items():
                families.setdefault(name, _family(name)).add_metric([model], figure)
        yield from families.values()


def _family(name: str) -> _Family:
    """Of one of the figures that engines tell; those of all models."""
    what = f"The engine's {name.removeprefix('num_').replace('_', ' ')}."
    now = name in _NOW or name.endswith("_pages")
    family = GaugeMetricFamily if now else CounterMetricFamily
    return family(f"f1_engine_{name.removeprefix('num_')}", what, labels=["model"])
