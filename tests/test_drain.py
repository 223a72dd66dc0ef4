"""A server that is told to stop, or has to: as a real process, and with an engine of a test's."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from scripted import ScriptedEngine
from serving import HELLO, leave_after_sending, serving, wait_until_loaded

from f1.serve.app import create_app
from f1.serve.connection import Connection
from f1.types import Event, GenerateRequest, TextDelta

LONG = HELLO | {"stream": True, "max_tokens": 2000, "logit_bias": {"0": -100, "2": -100}}


def start(smollm_path: Path, grace: int, port: int = 0, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "f1.cli", "serve", "--port", str(port)]
    command += more or ["-m", str(smollm_path)]
    env = {**os.environ, "NO_COLOR": "1", "F1_SHUTDOWN_GRACE": str(grace), "F1_KV_MEMORY": "64M"}
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


@contextmanager
def f1_serve(
    smollm_path: Path, grace: int, *more: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its address, loaded."""
    with start(smollm_path, grace, 0, *more) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            found = re.search(r"at (http://127.0.0.1:\d+)/v1", line)
            assert found, line
            yield process, found[1]
        finally:
            process.kill()


def children(pid: int) -> list[int]:
    """Processes that this one has started."""
    texts = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for text in texts for child in text.split()]


def has_torch(pid: int) -> bool:
    """And with it all that an engine needs."""
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


def stream(url: str, body: dict[str, object], lines: list[str], begun: threading.Event) -> None:
    with (
        httpx.Client(timeout=120) as http,
        http.stream("POST", f"{url}/v1/chat/completions", json=body) as answer,
    ):
        for line in answer.iter_lines():
            lines.append(line)
            begun.set()


@pytest.mark.parametrize(
    "_time", [0, *(pytest.param(time, marks=pytest.mark.full) for time in range(1, 40))]
)
def test_sigterm_lets_what_has_begun_end_and_nothing_in(smollm_path: Path, _time: int) -> None:
    with f1_serve(smollm_path, grace=60) as (process, url):
        lines: list[str] = []
        begun = threading.Event()
        body = LONG | {"max_tokens": 300}
        reader = threading.Thread(target=stream, args=(url, body, lines, begun))
        reader.start()
        assert begun.wait(60)
        (engine,) = children(process.pid)
        assert [has_torch(pid) for pid in (process.pid, engine)] == [False, True]
        process.send_signal(signal.SIGTERM)
        os.kill(engine, signal.SIGTERM)  # as service managers do with all there is
        with httpx.Client(timeout=60) as http:
            while (ready := http.get(f"{url}/ready")).status_code == 200:
                pass
            assert ready.json() == {"status": "draining"}
            assert http.get(f"{url}/health").status_code == 200
            refused = http.post(f"{url}/v1/chat/completions", json=HELLO)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        reader.join(60)
        assert lines[-2:] == ["data: [DONE]", ""]
        assert '"finish_reason":"length"' in "".join(lines)
        assert process.wait(60) == 0
        assert process.stderr is not None
        records = [json.loads(line) for line in process.stderr if line.startswith("{")]
        assert {record.get("error") for record in records} == {None, "shutting_down"}
        assert not Path(f"/proc/{engine}").exists()


@pytest.mark.parametrize(
    "_time", [0, *(pytest.param(time, marks=pytest.mark.full) for time in range(1, 10))]
)
def test_sigterm_while_the_model_is_loading(smollm_path: Path, _time: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with start(smollm_path, 60, port) as process, httpx.Client(timeout=60) as http:
        try:
            ready = 0
            while not ready:
                with suppress(httpx.TransportError):
                    ready = http.get(f"http://127.0.0.1:{port}/ready").status_code
            while not (engines := children(process.pid)):
                pass
            process.send_signal(signal.SIGTERM)
            code, said = process.wait(120), "".join(process.stderr or ())
            assert code == 0, said
            assert not any(Path(f"/proc/{engine}").exists() for engine in engines)
        finally:
            process.kill()


async def test_who_was_told_to_stop_while_loading_is_not_ready_any_more() -> None:
    """By the time it has loaded nobody listens: where it did is closed."""
    told: list[object] = []
    stopped = threading.Event()

    def load() -> ScriptedEngine:
        stopped.wait(60)
        return engine

    engine = ScriptedEngine("Hello.")
    app = create_app(load, on_ready=lambda: told.append("ready"), on_load_error=told.append)
    async with app.router.lifespan_context(app):
        app.state.server.admission.closed = True
        stopped.set()
    assert engine.closed
    assert told == []


TOOL = """
from pathlib import Path

def look(folder: str) -> str:
    \"\"\"Looks into a folder.\"\"\"
    Path(folder, "begun").touch()
    while not Path(folder, "go").exists():
        pass
    return "a cat"
"""
RULES = "annotations = {read_only = true}\nlimits = {timeout = 60}\n"


@pytest.mark.parametrize(
    "_time", [0, *(pytest.param(time, marks=pytest.mark.full) for time in range(1, 10))]
)
def test_sigterm_lets_a_tool_end(smollm_path: Path, tmp_path: Path, _time: int) -> None:
    (tmp_path / "things.py").write_text(TOOL)
    config = tmp_path / "f1.toml"
    model = f'[models.small]\npath = "{smollm_path}"\n'
    config.write_text(f'{model}[tools.look]\npython = "things.py:look"\n{RULES}')
    with f1_serve(smollm_path, 60, "--config", str(config)) as (process, url):
        node = {"id": "1", "tool": "look", "arguments": {"folder": str(tmp_path)}}
        run = {"tools": ["look"], "plan": {"nodes": [node]}}
        answers: list[httpx.Response] = []

        def ask() -> None:
            body = HELLO | {"f1": run, "max_tokens": 5}
            answers.append(httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120))

        asking = threading.Thread(target=ask)
        asking.start()
        while not (tmp_path / "begun").exists():
            assert asking.is_alive(), answers[0].text
        started = children(process.pid)
        process.send_signal(signal.SIGTERM)
        while httpx.get(f"{url}/ready").status_code == 200:
            pass
        (tmp_path / "go").touch()
        asking.join(120)
        (result,) = answers[0].json()["choices"][0]["f1"]["results"]
        assert (answers[0].status_code, result["content"]) == (200, "a cat")
        assert process.wait(60) == 0
        assert len(started) == 2  # the tool's and the engine's
        assert not any(Path(f"/proc/{pid}").exists() for pid in started)


@pytest.mark.parametrize("signals", [1, 2])
def test_what_does_not_end_is_cut_and_says_so(smollm_path: Path, signals: int) -> None:
    """When the grace is over, or at the second signal."""
    with f1_serve(smollm_path, grace=1 if signals == 1 else 300) as (process, url):
        lines: list[str] = []
        begun = threading.Event()
        reader = threading.Thread(target=stream, args=(url, LONG, lines, begun))
        reader.start()
        assert begun.wait(60)
        told = time.monotonic()
        process.send_signal(signal.SIGTERM)
        if signals == 2:
            while httpx.get(f"{url}/ready").status_code == 200:
                pass
            process.send_signal(signal.SIGTERM)
        code = process.wait(60)
        reader.join(60)
        assert "shutting_down" in "".join(lines)
        assert code == 0
        assert time.monotonic() - told < 60  # of a grace of 300


def test_a_server_whose_engine_has_failed_ends_and_is_not_ready() -> None:
    engine = ScriptedEngine("Hello.")
    with serving(lambda: engine) as server, httpx.Client(timeout=60) as http:
        wait_until_loaded(http, server)
        engine.healthy = lambda: False  # type: ignore[method-assign]
        assert http.get(f"{server.url}/ready").status_code == 503
        engine.failed = lambda: True  # type: ignore[method-assign]
        while not server.process.should_exit:
            pass
        assert server.process.engine_failed
    assert engine.closed


class Talkative(ScriptedEngine):
    """Says more than any buffer holds."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        try:
            for _ in range(10_000):
                yield TextDelta(0, "x" * 4096)
        finally:
            self.stopped_early += 1


class Impatient(Connection):
    patience = 0.2


def test_a_client_that_does_not_read_is_dropped() -> None:
    engine = Talkative("")
    with (
        serving(lambda: engine, connection=Impatient) as server,
        httpx.Client(timeout=60) as http,
    ):
        wait_until_loaded(http, server)
        body = json.dumps(HELLO | {"stream": True}).encode()
        admission = server.state.admission
        leave_after_sending(
            server, body, lambda: engine.stopped_early == 1 and not admission.in_flight
        )
        assert http.get(f"{server.url}/health").status_code == 200
