"""What no model does on demand: loading, failing, being overrun, clients that leave. Everything
else about the endpoint is tested with a real model in test_server.py."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence

import httpx
import openai
import pytest
from scripted import ScriptedEngine
from serving import HELLO, Running, leave_after_sending, serving, wait_until_loaded

from f1.errors import ConstraintError, F1Error, InvalidSchema, Overloaded
from f1.serve.limits import Limits
from f1.serve.registrar import Registrar
from f1.tools.registry import OPERATOR, Registry
from f1.tools.spec import ToolSpec
from f1.types import Event, GenerateRequest, TextDelta, Tool


class Faulty(ScriptedEngine):
    """Says a word, then fails."""

    def __init__(self, error: Exception):
        super().__init__("…")
        self.error = error

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        if "now" not in request.messages[0].content:
            yield TextDelta(0, "Well")
        raise self.error


class Watched(ScriptedEngine):
    """Tells when a request begins and when it is stopped."""

    def __init__(self, *turns: str):
        super().__init__(*turns)
        self.begun = threading.Event()
        self.over = threading.Event()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        self.begun.set()
        try:
            async for event in super().generate(request):
                yield event
        finally:
            self.over.set()


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=60) as client:
        yield client


def ask(http: httpx.Client, server: Running, **fields: object) -> httpx.Response:
    return http.post(f"{server.url}/v1/chat/completions", json=HELLO | fields)


def test_until_the_model_is_loaded_it_is_alive_and_not_ready(http: httpx.Client) -> None:
    may_load = threading.Event()

    def load() -> ScriptedEngine:
        may_load.wait(60)
        return ScriptedEngine("Hello.")

    with serving(load) as server:
        try:
            assert http.get(f"{server.url}/health").json() == {"status": "ok"}
            assert http.get(f"{server.url}/ready").status_code == 503
            refused = ask(http, server)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert refused.json()["error"]["code"] == "engine_stopped"
        finally:
            may_load.set()
        wait_until_loaded(http, server)
        assert ask(http, server).json()["choices"][0]["message"]["content"] == "Hello. "


def test_an_engine_that_is_stuck_is_not_ready(http: httpx.Client) -> None:
    engine = ScriptedEngine("Hello.")
    with serving(lambda: engine) as server:
        wait_until_loaded(http, server)
        engine.healthy = lambda: False  # type: ignore[method-assign]
        assert http.get(f"{server.url}/ready").status_code == 503
        assert http.get(f"{server.url}/health").status_code == 200
    assert engine.closed


@pytest.mark.parametrize("model", ["f1", "scripted"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_its_work(http: httpx.Client, model: str, stream: bool) -> None:
    for turn in ("Words …", "…"):  # in the middle of an answer, and before its first event
        engine = Watched(turn)
        with serving(lambda engine=engine: engine) as server:
            wait_until_loaded(http, server)
            body = json.dumps(HELLO | {"model": model, "stream": stream}).encode()
            leave_after_sending(server, body, lambda engine=engine: engine.begun.wait(60))
            assert engine.over.wait(60)
            assert engine.stopped_early == 1
        assert server.state.admission.in_flight == 0


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (ConstraintError("no token is legal"), 500, "no token is legal"),
        (RuntimeError("at /secret/path 0x7f00deadbeef"), 500, "internal error"),
    ],
)
def test_a_failure_before_the_first_event_is_an_error_body(
    http: httpx.Client, error: Exception, status: int, told: str
) -> None:
    with serving(lambda: Faulty(error)) as server:
        wait_until_loaded(http, server)
        for stream in (False, True):
            now = [{"role": "user", "content": "now"}]
            answer = ask(http, server, messages=now, stream=stream)
            assert answer.status_code == status
            assert told in answer.json()["error"]["message"]
            assert "secret" not in answer.text
            assert "0x" not in answer.text


def test_a_failure_in_the_middle_ends_the_stream_with_an_error(http: httpx.Client) -> None:
    with serving(lambda: Faulty(ConstraintError("no token is legal"))) as server:
        wait_until_loaded(http, server)
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        with client, client.chat.completions.create(**HELLO, stream=True) as chunks:
            contents = [next(chunks).choices[0].delta.content for _ in range(2)]
            assert contents == ["", "Well"]
            with pytest.raises(openai.APIError, match="no token is legal"):
                next(chunks)
        assert server.state.admission.in_flight == 0


def test_more_than_there_is_room_for_is_refused_at_once(http: httpx.Client) -> None:
    with serving(lambda: ScriptedEngine("Hi …"), Limits(max_running=1, max_queued=0)) as server:
        wait_until_loaded(http, server)
        body = HELLO | {"stream": True}
        url = f"{server.url}/v1/chat/completions"
        with http.stream("POST", url, json=body) as first:
            assert first.status_code == 200
            refused = ask(http, server)
            assert refused.status_code == 429
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            assert refused.json()["error"]["type"] == "rate_limit_error"


def test_a_body_too_large_is_refused(http: httpx.Client) -> None:
    with serving(lambda: ScriptedEngine("Hi."), Limits(max_body_bytes=1000)) as server:
        wait_until_loaded(http, server)
        refused = ask(http, server, messages=[{"role": "user", "content": "x" * 2000}])
        assert refused.status_code == 413
        assert ask(http, server).status_code == 200


@pytest.mark.parametrize("error", [Overloaded("busy"), InvalidSchema("parameters: wrong")])
def test_only_tools_that_are_wrong_end_the_process(
    error: F1Error, caplog: pytest.LogCaptureFixture
) -> None:
    tried = threading.Event()

    class Refusing(ScriptedEngine):
        async def register_tools(self, tools: Sequence[Tool]) -> int:
            tried.set()
            raise error

    failures: list[BaseException] = []
    registrar = Registrar(Registry(max_bytes=1 << 20))
    registrar.registry.put_toolset(OPERATOR, "all", [ToolSpec(Tool("ping"))])
    engine = Refusing("Hello.")
    with serving(lambda: engine, on_load_error=failures.append, registrar=registrar):
        assert tried.wait(60)
    wrong = isinstance(error, InvalidSchema)
    assert failures == ([error] if wrong else [])
    (told,) = [record for record in caplog.records if "operator's tools" in record.message]
    assert told.levelname == ("ERROR" if wrong else "WARNING")


def test_a_model_that_cannot_be_loaded_is_reported() -> None:
    failures: list[BaseException] = []
    told = threading.Event()

    def on_load_error(error: BaseException) -> None:
        failures.append(error)
        told.set()

    def load() -> ScriptedEngine:
        raise ValueError("broken file")

    with serving(load, on_load_error=on_load_error):
        assert told.wait(60)
    assert str(failures[0]) == "broken file"
