"""G37: secrets that go through runs, in every place where one may be, are in nothing that is kept
or told: no file, log, error, figure or span. Each of them first proves that it was there."""

from __future__ import annotations

import asyncio
import http.server
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from memory_runs import Disk, MemoryRuns
from planted import Planted, planted
from scripted import ScriptedEngine, call
from serving import Running, serving, wait_until_loaded
from test_otel import TRACEPARENT as PARENT
from test_otel import collector
from typer.testing import CliRunner

from f1.config import Config, read_config
from f1.keeping import hiding, open_recorder
from f1.planning.orchestrator import Orchestrator, System
from f1.planning.outcome import Reply
from f1.serve.logs import WithoutSecrets
from f1.serve.registrar import Registrar
from f1.settings import Settings
from f1.store.responses import ResponseStore
from f1.tools.configured import configured_tool
from f1.tools.registry import OPERATOR
from f1.tools.runners.process import Workers
from f1.tools.runners.workers import WorkerSettings
from f1.tools.spec import CallLimits, Output, ToolSpec
from f1.trace.recorder import Recorder
from f1.trace.redaction import Redaction
from f1.tracing import trace_app
from f1.types import (
    Event,
    Finished,
    GenerateRequest,
    Message,
    RunOptions,
    TextDelta,
    Tool,
    Usage,
)

HEADER_KEY, WORKER_PASSWORD = "hdr-5e1f-not-a-word", "wrk.pass/77?x=1"
PLACES = ("user", "system", "argument", "field", "result", "exception", "http", "said", "error")
CONFIG = """
[models.scripted]
model = "smollm2-135m"

[tools.fetch]
python = "mine.py:fetch"
[tools.fails]
python = "mine.py:fails"
[tools.acts]
python = "mine.py:acts"

[tools.asks]
parameters = {{type = "object", properties = {{n = {{type = "integer"}}}}, required = ["n"]}}
http = {{url = "{url}/ask", query = ["n"], headers = {{X-Custom = "${{HTTP_TOOL}}"}}, allow = ["127.0.0.0/8"]}}

[workers]
environment = ["WORKER_SECRET"]

[trace]
redact = ["card_number"]
otlp = "{otlp}"
otlp_content = true
"""  # noqa: E501 - TOML has these tables in one line
TOOLS = '''
import json, os, pathlib
TEXTS = json.loads(pathlib.Path("{texts}").read_text())
SEEN = pathlib.Path("{seen}")

def fetch(n: int) -> dict:
    """Fetches."""
    print("fetching", TEXTS[n])
    return {{"text": TEXTS[n], "env": os.environ["WORKER_SECRET"]}}

def fails(n: int) -> str:
    """Fails."""
    raise ValueError(TEXTS[n])

def acts(n: int, payload: str, card_number: str) -> str:
    """Acts."""
    (SEEN / str(n)).write_text(payload + card_number)
    return f"done with {{payload}} by {{card_number}}"
'''


class Actor(ScriptedEngine):
    """Does what the case of a conversation is about; says texts three characters at a time."""

    def __init__(self, cases: list[Case]):
        super().__init__(lambda request: self.decide(request))
        self.cases = cases

    def decide(self, request: GenerateRequest) -> Any:
        last = request.messages[-1]
        case = next(c for c in self.cases if f"case {c.number}." in _said(request.messages, "user"))
        if last.role == "tool":
            return f"It says: {last.content}"
        n, secret = case.number, case.planted
        match case.place:
            case "argument":
                return [call("acts", f"c{n}", n=n, payload=secret.text, card_number="0000-none")]
            case "field":
                return [call("acts", f"c{n}", n=n, payload="nothing", card_number=secret.secret)]
            case "result" | "exception" | "http":
                names = {"result": "fetch", "exception": "fails", "http": "asks"}
                return [call(names[case.place], f"c{n}", n=n)]
            case "said":
                return f"Here it is: {secret.text}"
        return "Good."

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        turn = self.decide(request)
        if not isinstance(turn, str):
            async for event in super().generate(request):
                yield event
            return
        self.requests.append(request)
        for at in range(0, len(turn), 3):
            yield TextDelta(0, turn[at : at + 3])
            await asyncio.sleep(0)
        yield Finished(0, "stop", Usage(10, len(turn)))


@dataclass(frozen=True)
class Case:
    number: int
    place: str
    planted: Planted

    def ask(self, http: httpx.Client) -> httpx.Response:
        text = self.planted.text
        user = f"case {self.number}. {text if self.place == 'user' else ''}"
        messages = [{"role": "user", "content": user}]
        if self.place == "system":
            messages.insert(0, {"role": "system", "content": text})
        options: dict[str, Any] = {"tools": ["fetch", "fails", "acts", "asks"]}
        if self.number % 3 == 0:
            options["session_id"] = f"s{self.number}"
        model = text if self.place == "error" else "f1"
        body = {"model": model, "messages": messages, "f1": options, "stream": self.number % 2 == 0}
        return http.post("/v1/chat/completions", json=body, headers={"traceparent": PARENT})

    def went_through(self, engine: ScriptedEngine, seen: Path, answer: str) -> bool:
        """The secret was where it was to be."""
        mine = [
            r.messages
            for r in engine.requests
            if f"case {self.number}." in _said(r.messages, "user")
        ]
        text = self.planted.text
        match self.place:
            case "user" | "system":
                return any(text in _said(messages, self.place) for messages in mine)
            case "argument" | "field":
                return self.planted.secret in (seen / str(self.number)).read_text() or (
                    text in (seen / str(self.number)).read_text()
                )
            case "result" | "http" | "exception":
                written = json.dumps(text, ensure_ascii=False)[1:-1]
                told = [_said(messages, "tool") for messages in mine]
                return any(text in each or written in each for each in told)
            case "said":
                return text in _content(answer)
        return "[redacted:" in answer  # an error is redacted where it is written


def _content(answer: str) -> str:
    """What the model said, whole or in a stream."""
    if not answer.startswith("data: "):
        return str(json.loads(answer)["choices"][0]["message"]["content"])
    chunks = [line.removeprefix("data: ") for line in answer.splitlines() if line]
    choices = [choice for c in chunks[:-1] for choice in json.loads(c).get("choices", ())]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def _said(messages: tuple[Message, ...], role: str) -> str:
    return "\n".join(message.content for message in messages if message.role == role)


@contextmanager
def api(texts: list[str]) -> Iterator[tuple[str, list[str]]]:
    """An API that says what it was sent."""
    keys: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.append(self.headers["x-custom"])
            number = int(self.path.partition("n=")[2])
            said = {"text": texts[number], "sent": self.headers["x-custom"]}
            body = json.dumps(said, ensure_ascii=False).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", keys
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def logged(config: Config, settings: Settings) -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """All that F1 logs: as the process writes it, and as it was."""
    told, raw = io.StringIO(), io.StringIO()
    handlers = [logging.StreamHandler(told), logging.StreamHandler(raw)]
    handlers[0].setFormatter(WithoutSecrets(None, hiding(config, settings, os.environ)))
    log = logging.getLogger("f1")
    before = log.level
    log.setLevel(logging.DEBUG)
    for handler in handlers:
        log.addHandler(handler)
    try:
        yield told, raw
    finally:
        for handler in handlers:
            log.removeHandler(handler)
        log.setLevel(before)


@contextmanager
def running(
    config: Config, settings: Settings, engine: ScriptedEngine, requests: io.StringIO
) -> Iterator[Running]:
    """As `f1 serve` puts it together."""
    env = dict(os.environ)
    redaction = hiding(config, settings, env)
    recorder = open_recorder(config, settings, env, redaction)
    registrar = Registrar()
    workers = Workers(WorkerSettings(config.file.parent, **config.workers))
    with closing(workers):
        for name, table in config.tools.items():
            registrar.registry.put_tool(OPERATOR, configured_tool(name, table, workers))
        with serving(
            lambda: engine, recorder=recorder, redaction=redaction, registrar=registrar,
            store=ResponseStore(settings.responses_file, settings.responses_disk),
            log_to=requests, log_prompts=True,
        ) as server:  # fmt: skip
            yield server


@pytest.mark.parametrize("count", [27, pytest.param(100, marks=pytest.mark.full)])
def test_no_secret_leaves(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [Case(n, PLACES[n % len(PLACES)], p) for n, p in enumerate(planted(count, seed=count))]
    texts = [case.planted.text for case in cases]
    seen, cache = tmp_path / "seen", tmp_path / "cache"
    seen.mkdir()
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    (tmp_path / "mine.py").write_text(TOOLS.format(texts=tmp_path / "texts.json", seen=seen))
    monkeypatch.setenv("HTTP_TOOL", HEADER_KEY)
    monkeypatch.setenv("WORKER_SECRET", WORKER_PASSWORD)
    settings, requests, engine = Settings(cache=cache), io.StringIO(), Actor(cases)
    with collector() as spans, api(texts) as (url, keys):
        (tmp_path / "f1.toml").write_text(CONFIG.format(url=url, otlp=spans.url))
        config = read_config(tmp_path / "f1.toml")
        with (
            logged(config, settings) as (told, raw),
            running(config, settings, engine, requests) as server,
            httpx.Client(base_url=server.url, timeout=60) as client,
        ):
            wait_until_loaded(client, server)
            answers = [case.ask(client) for case in cases]
            kept = client.post(
                "/v1/responses", json={"model": "f1", "input": f"case 0. {texts[0]}"}
            )
            figures = client.get("/metrics").text
            runs = [run["id"] for run in client.get("/v1/traces?limit=100").json()["data"]]
            traces = [client.get(f"/v1/traces/{run}").text for run in runs]
            while_open = _files(cache)
        closed = _files(cache)
    monkeypatch.setenv("F1_CACHE", str(cache))
    monkeypatch.delenv("F1_RUNS_DISK", raising=False)
    exports = [CliRunner().invoke(trace_app, ["export", run]).stdout for run in runs]
    assert kept.status_code == 200, kept.text
    errors = [a.text for a in answers if a.status_code != 200]
    assert len(errors) == sum(case.place == "error" for case in cases)
    for case, answer in zip(cases, answers, strict=True):
        assert case.went_through(engine, seen, answer.text), case
    assert keys == [HEADER_KEY] * sum(case.place == "http" for case in cases)
    assert any(WORKER_PASSWORD in _said(r.messages, "tool") for r in engine.requests)
    told_of = {
        "files": while_open + closed,
        "requests": requests.getvalue().encode(),
        "log": told.getvalue().encode(),
        "figures": figures.encode(),
        "errors": "".join(errors).encode(),
        "traces": "".join(traces).encode(),
        "exports": "".join(exports).encode(),
        "spans": b"".join(spans.bodies),
    }
    # The ways out were open: what is no secret came out of them.
    for way in told_of.keys() - {"figures"}:
        assert b"[redacted:" in told_of[way], way
    assert len(runs) >= min(count, 100) - len(errors)
    assert all(run in export for run, export in zip(runs, exports, strict=True))
    assert len(spans.spans) >= count
    found = {(way, c.number, c.place, c.planted.kind) for way, data in told_of.items()
             for c in cases if any(word in data for word in _words(c.planted))}  # fmt: skip
    found |= {(way, 0, "ours", key) for way, data in told_of.items()
              for key in (HEADER_KEY, WORKER_PASSWORD) if key.encode() in data}  # fmt: skip
    assert not found
    assert any(word in raw.getvalue().encode() for c in cases for word in _words(c.planted))


class Login:
    """Says what it was told."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def call(self, arguments: Any, limits: CallLimits) -> Output:
        self.calls.append(arguments["pin"])
        return Output(f"welcome, {arguments['pin']}")


async def test_a_run_with_secrets_is_found_again_by_what_is_kept_of_it() -> None:
    """Its turns are known by the digests of what they read: of text, of fields, of results."""
    pin = {"type": "string", "writeOnly": True}
    schema = {"type": "object", "properties": {"pin": pin}, "required": ["pin"]}
    disk, login, secret = Disk(), Login(), "12-ab-34-cd"
    tools = [ToolSpec(Tool("login", "Logs in.", schema), login)]
    turns = ([call("login", "c1", pin=secret)], f"You are in with {secret}; token=abc123def456")
    request = GenerateRequest(
        (Message("user", f"password=hunter22 or else {secret}"),), run=RunOptions(run_id="r1")
    )
    for engine in (ScriptedEngine(*turns), nobody := ScriptedEngine("nobody asked")):
        recorder = Recorder(MemoryRuns(disk), Redaction(bytes(32)))
        system = replace(System.of(engine), recorder=recorder)
        *_, end = [item async for item in Orchestrator(system, tools).run(request)]
        assert isinstance(end, Reply)
    assert nobody.requests == []
    assert login.calls == [secret]
    kept = b"".join(row for rows in disk.entries.values() for row in rows)
    assert not any(word in kept for word in (b"hunter22", b"abc123def456", b'"pin": "12-'))
    assert end.completion.message.content.startswith("You are in with [redacted:field#")


LOGS = """
import logging
from f1.serve.logs import hide_in_logs
from f1.trace.redaction import Redaction
hide_in_logs(Redaction(bytes(32), values={"known-77": "environment"}))
log = logging.getLogger("f1.any")
log.info("nobody asked for this")
log.warning("%s said known-77", "somebody")
try:
    raise ValueError("password=hunter-22")
except ValueError:
    log.exception("it failed")
"""


def test_a_process_logs_no_secret() -> None:
    command = [sys.executable, "-P", "-c", LOGS]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stderr
    assert "somebody said [redacted:environment#" in told
    assert "ValueError: password=[redacted:" in told
    assert not any(word in told for word in ("known-77", "hunter-22", "nobody asked"))


def _files(folder: Path) -> bytes:
    """All that is on disk: the databases, and what is not in them yet."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    assert any(file.name.startswith("runs.sqlite") for file in files)
    return b"".join(file.read_bytes() for file in files)


def _words(secret: Planted) -> list[bytes]:
    """What would give it away."""
    parts = re.findall(r"[A-Za-z0-9_-]{10,}", secret.secret)
    return [word.encode() for word in (*parts, secret.spelled)]
