"""Runs as OpenTelemetry's spans: the tree, its times and attributes, as a collector gets them."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from memory_runs import Disk, MemoryRuns
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from scripted import ScriptedEngine, call

from f1.planning.orchestrator import Orchestrator, System
from f1.tools.spec import Annotations, CallLimits, Output, ToolFailure, ToolSpec
from f1.trace.otel import OtlpTeller, open_otlp
from f1.trace.recorder import ASKED_BY, Recorder
from f1.trace.redaction import Redaction
from f1.trace.spans import Parent, read_traceparent
from f1.types import GenerateRequest, Message, RunOptions, SamplingParams, Tool

SECRET = "sk-proj-abcDEF1234567890abcdEF"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass
class Collector:
    """Takes what OTLP brings; `hold`: until when it does not answer."""

    url: str
    spans: list[Span] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    came: threading.Event = field(default_factory=threading.Event)
    hold: threading.Event | None = None

    def take(self, path: str, body: bytes) -> None:
        assert path == "/v1/traces"
        self.came.set()
        if self.hold is not None:
            self.hold.wait()
        self.bodies.append(body)
        for each in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(attributes(each.resource.attributes))
            for scope in each.scope_spans:
                self.spans.extend(scope.spans)


@contextmanager
def collector() -> Iterator[Collector]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.take(self.path, self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    found = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield found
    finally:
        if found.hold is not None:
            found.hold.set()
        server.shutdown()
        thread.join()
        server.server_close()


def attributes(given: Any) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        which = value.WhichOneof("value")
        if which == "array_value":
            return [plain(each) for each in value.array_value.values]
        return getattr(value, which)

    return {each.key: plain(each.value) for each in given}


class Weather:
    async def call(self, arguments: Any, limits: CallLimits) -> Output:
        if arguments["city"] == "Atlantis":
            raise ToolFailure(f"no such city, said {SECRET}")
        return Output({"celsius": 21, "seen": SECRET})


TEXT = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [ToolSpec(Tool("weather", "Weather.", TEXT), Weather(), annotations=Annotations(True))]
TURNS = ([call("weather", "c1", city="Nairobi"), call("weather", "c2", city="Atlantis")], "21 °C.")


async def run_once(tell: OtlpTeller, parent: str = "") -> None:
    """A run of two turns and two calls, of which one fails."""
    ASKED_BY.set(parent)
    recorder = Recorder(MemoryRuns(Disk()), Redaction(bytes(32)), tell)
    system = replace(System.of(ScriptedEngine(*TURNS)), recorder=recorder)
    asked = Message("user", f"How warm is it? My key is {SECRET}")
    request = GenerateRequest(
        (asked,), sampling=SamplingParams(seed=7), run=RunOptions(run_id="r1", session_id="s1")
    )
    async for _ in Orchestrator(system, TOOLS).run(request):
        pass


@pytest.mark.parametrize("content", [False, True])
async def test_a_collector_gets_the_tree(content: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    before = time.time_ns()
    with collector() as found:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": found.url}
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        teller = open_otlp(None, Redaction(bytes(32)), env, content=content)
        assert teller is not None
        with closing(teller):
            await run_once(teller, TRACEPARENT)
    assert (teller.told.sent, teller.told.lost) == (1, 0)
    root, *rest = found.spans
    names = ["chat scripted", "execute_tool weather", "execute_tool weather", "chat scripted"]
    assert (root.name, [span.name for span in rest]) == ("invoke_agent f1", names)
    # One trace, of who asked; times lie in each other.
    assert {span.trace_id.hex() for span in found.spans} == {TRACEPARENT.split("-")[1]}
    assert root.parent_span_id.hex() == TRACEPARENT.split("-")[2]
    assert len({span.span_id for span in found.spans}) == 5
    for span in rest:
        assert span.parent_span_id == root.span_id
        assert before <= root.start_time_unix_nano <= span.start_time_unix_nano
        assert span.start_time_unix_nano <= span.end_time_unix_nano <= root.end_time_unix_nano
    said = [attributes(span.attributes) for span in (root, *rest)]
    assert said[0]["gen_ai.operation.name"] == "invoke_agent"
    assert said[0]["gen_ai.conversation.id"] == "s1"
    assert (said[0]["f1.run.id"], said[0]["f1.run.ending"]) == ("r1", "answered")
    assert said[0]["gen_ai.usage.output_tokens"] == sum(
        each["gen_ai.usage.output_tokens"] for each in (said[1], said[4])
    )
    assert said[1]["gen_ai.response.finish_reasons"] == ["tool_calls"]
    assert (said[1]["gen_ai.request.model"], said[1]["gen_ai.request.seed"]) == ("scripted", 7)
    assert said[1]["gen_ai.response.time_to_first_chunk"] >= 0
    calls = {each["gen_ai.tool.call.id"]: each for each in said[2:4]}
    assert calls["c2"]["error.type"] == "error"
    assert "error.type" not in calls["c1"]
    status = {attributes(s.attributes)["gen_ai.tool.call.id"]: s.status.code for s in rest[1:3]}
    assert status == {"c1": Status.STATUS_CODE_UNSET, "c2": Status.STATUS_CODE_ERROR}
    assert [span.kind for span in found.spans] == [1, 3, 1, 1, 3]
    assert found.resources[0]["service.name"] == "f1"
    assert found.resources[0]["deployment.environment.name"] == "test"
    # What was said and done is there where that is asked for; secrets never are.
    assert SECRET.encode() not in b"".join(found.bodies)
    assert ("gen_ai.tool.call.arguments" in calls["c1"]) == content
    assert (b"How warm" in b"".join(found.bodies)) == content
    if content:
        assert json.loads(calls["c1"]["gen_ai.tool.call.arguments"]) == {"city": "Nairobi"}
        assert "[redacted:" in calls["c1"]["gen_ai.tool.call.result"]
        (message,) = json.loads(said[1]["gen_ai.output.messages"])
        assert [part["type"] for part in message["parts"]] == ["tool_call", "tool_call"]
        (asked,) = json.loads(said[0]["gen_ai.input.messages"])
        assert asked["parts"][0]["content"].startswith("How warm is it? My key is [redacted:")


async def test_a_collector_that_hangs_or_is_gone_costs_nobody_anything(
    caplog: pytest.LogCaptureFixture,
) -> None:
    redaction = Redaction(bytes(32))
    with collector() as found:
        found.hold = threading.Event()
        teller = open_otlp(found.url, redaction, {})
        assert teller is not None
        await run_once(teller)
        assert found.came.wait(10)  # it has the first, and says nothing
        for _ in range(80):
            await run_once(teller)
        assert teller.told.sent == 0
        assert teller.told.lost >= 10  # more than may wait
        assert caplog.text.count("are not told") == 1
        found.hold.set()
        teller.close()
    gone = open_otlp(found.url, redaction, {})
    assert gone is not None
    await run_once(gone)
    gone.close()
    assert gone.told.sent == 0


def test_where_spans_go_is_said_by_the_standards_variables() -> None:
    redaction = Redaction(bytes(32))
    there = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}
    assert open_otlp(None, redaction, {}) is None
    assert open_otlp("http://h", redaction, {"OTEL_SDK_DISABLED": "true"}) is None
    assert open_otlp(None, redaction, there | {"OTEL_TRACES_EXPORTER": "none"}) is None
    assert open_otlp(None, redaction, there) is not None


async def test_who_asked_may_not_want_it_told() -> None:
    with collector() as found:
        teller = open_otlp(found.url, Redaction(bytes(32)), {})
        assert teller is not None
        await run_once(teller, TRACEPARENT[:-1] + "0")
        teller.close()
    assert found.bodies == []


@pytest.mark.parametrize(
    ("header", "parent"),
    [
        (TRACEPARENT, Parent(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, True)),
        (TRACEPARENT + "-more", None),  # of version 00 there is no more
        ("01" + TRACEPARENT[2:] + "-more", Parent(0x0AF7651916CD43DD8448EB211C80319C,
                                                  0xB7AD6B7169203331, True)),
        ("ff" + TRACEPARENT[2:], None),
        (TRACEPARENT.upper(), None),
        ("00-" + "0" * 32 + "-b7ad6b7169203331-01", None),
        ("", None),
        ("x" * 100_000, None),
    ],
)  # fmt: skip
def test_a_traceparent_is_read_as_w3c_says(header: str, parent: Parent | None) -> None:
    assert read_traceparent(header) == parent
