"""Models on other servers, several for one role, and who does what: over real HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from foreign import Foreign, Reply, called, delta, foreign, said, sse
from scripted import ScriptedEngine

from f1.config import Config, LocalModel, RemoteModel
from f1.errors import (
    ConstraintError,
    ContextLengthExceeded,
    EngineStopped,
    F1Error,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
)
from f1.fallback import Fallback, Outages
from f1.offload import Offloaded, connect
from f1.offloaded_embedder import OffloadedEmbedder
from f1.planning.collect import gather
from f1.pool import EnginePool, Loadable, Pooled
from f1.roles import Models, open_models
from f1.settings import Settings
from f1.tools.vectors import ToolVectors
from f1.types import (
    ArgumentsDelta,
    CallBegun,
    CallDelta,
    Completion,
    Event,
    GenerateRequest,
    Message,
    ResponseFormat,
    TextDelta,
    Tool,
    ToolCall,
    ToolChoice,
)

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = Tool("weather", "The weather.", CITY)
ASK = GenerateRequest((Message("user", "Weather in Oslo and Rome?"),), (WEATHER,), max_tokens=50)
OSLO, ROME = {"city": "Oslo"}, {"city": "Rome"}


async def ask(server: Foreign, request: GenerateRequest = ASK, **options: Any) -> Completion:
    model = RemoteModel(server.url, "their-model", **{"timeout": 10.0, **options})
    engine = Offloaded("big", model, "secret")
    try:
        (completion,) = await gather(engine.generate(request), 1)
        return completion
    finally:
        await engine.aclose()


def calls_of(completion: Completion) -> list[tuple[str, Any]]:
    return [(c.name, json.loads(c.arguments)) for c in completion.message.tool_calls]


def piece(arguments: object, **more: Any) -> dict[str, Any]:
    return {"function": {"name": "weather", "arguments": arguments}, **more}


def rest(text: str, index: int) -> dict[str, Any]:
    return delta(tool_calls=[{"index": index, "function": {"arguments": text}}])


BOTH = [piece(json.dumps(OSLO), id="a", index=0), piece(json.dumps(ROME), id="b", index=1)]
MESSAGE = {"message": {"role": "assistant", "content": None, "tool_calls": BOTH}}
ANSWERS = {
    "openai": sse(
        delta(role="assistant", content=""),
        delta(tool_calls=[piece("", id="a", index=0, type="function")]),
        rest('{"city": ', 0),
        rest('"Oslo"}', 0),
        delta(tool_calls=[piece("", id="b", index=1, type="function")]),
        rest('{"city": "Rome"}', 1),
        delta("tool_calls"),
        {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 9}},
    ),
    "all numbered 0": sse(
        delta(tool_calls=[piece(json.dumps(OSLO), id="a", index=0)]),
        delta(tool_calls=[piece(json.dumps(ROME), id="b", index=0)]),
        delta("stop"),
    ),
    "objects, no ids, no numbers": sse(
        {"choices": [{"delta": {"tool_calls": [piece(OSLO), piece(ROME)]}, "logprobs": None}]},
        {"choices": [{"delta": {}, "finish_reason": "eos"}], "usage": None},
    ),
    "one id twice": sse(
        delta(tool_calls=[piece(OSLO, index=0, id="x"), piece(ROME, index=1, id="x")]),
        delta("tool_calls"),
    ),
    "comments, CRLF, no end": b": wait\r\n\r\nevent: chunk\r\n"
    + sse(delta(tool_calls=BOTH), delta("function_call"), line="\r\n\r\n", done="").rstrip(),
    "not streamed": json.dumps({"choices": [{**MESSAGE, "finish_reason": "tool_calls"}]}).encode(),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_calls_of_any_servers_make_are_read(name: str) -> None:
    kind = "application/json" if name == "not streamed" else "text/event-stream"
    with foreign(Reply(ANSWERS[name], headers={"content-type": kind})) as server:
        found = await ask(server)
    assert calls_of(found) == [("weather", OSLO), ("weather", ROME)]
    assert len({call.id for call in found.message.tool_calls} - {""}) == 2
    assert found.reason == "tool_calls"
    assert found.usage.completion_tokens == (9 if name == "openai" else 0)


async def test_nothing_is_sent_that_only_f1_knows() -> None:
    request = GenerateRequest(
        (
            Message("user", "Hi"),
            Message("assistant", "", (ToolCall("c", "weather", "{}"),), reasoning="Hm."),
            Message("tool", "rain", tool_call_id="c"),
        ),
        (WEATHER,),
        max_tokens=9,
        eager_arguments=True,
    )
    options = {"omit": ("temperature",), "body": {"reasoning_effort": "low"}}
    with foreign(said("Rain.")) as server:
        assert (await ask(server, request, **options)).message.content == "Rain."
        await ask(server, request, dialect="f1")
    (path, headers, body), (_, _, own) = server.asked
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == "Bearer secret"
    expected = "model messages stream stream_options tools max_tokens reasoning_effort"
    assert body.keys() == set(expected.split())
    assert (body["model"], body["max_tokens"]) == ("their-model", 9)
    assert "Hm." not in json.dumps(body)
    assert own["max_completion_tokens"] == 9
    assert own["messages"][1]["reasoning_content"] == "Hm."


BAD = {"city": 5}


@pytest.mark.parametrize(
    ("first", "told"),
    [
        (called("weather", BAD), "is not of type 'string'"),
        (called("weather", '{"city": "Os'), "not JSON"),
        (called("weather", {}), "'city' is a required property"),
        (called("whether", OSLO), "there is no tool 'whether'; there is weather"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_call_that_does_not_fit_is_asked_for_again_once(first: Reply, told: str) -> None:
    with foreign(first, called("weather", OSLO)) as server:
        found = await ask(server)
        assert calls_of(found) == [("weather", OSLO)]
        assert found.report.asked_again == 1
        *_, broken, answer = server.bodies[1]["messages"]
        assert told in answer["content"]
        assert answer["tool_call_id"] == broken["tool_calls"][0]["id"]
        assert isinstance(json.loads(broken["tool_calls"][0]["function"]["arguments"]), dict)
    with foreign(first) as server:
        with pytest.raises(ConstraintError) as refused:
            await ask(server)
        assert refused.value.code == "invalid_tool_call"
        assert len(server.asked) == 2


async def test_what_was_asked_for_is_held_to() -> None:
    required = GenerateRequest(ASK.messages, (WEATHER,), tool_choice=ToolChoice("required"))
    none = GenerateRequest(ASK.messages, (WEATHER,), tool_choice=ToolChoice("none"))
    one = GenerateRequest(ASK.messages, (WEATHER,), parallel_tool_calls=False)
    shape = GenerateRequest(ASK.messages, response_format=ResponseFormat("json_schema", CITY))
    regex = GenerateRequest(ASK.messages, response_format=ResponseFormat("regex", "a+"))
    schema = GenerateRequest(ASK.messages, (Tool("t", "", {"type": "array"}),))
    with foreign(said("Rain.")) as server:
        for request, told in (
            (required, "one is required"),
            (shape, "does not satisfy response_format"),
            (regex, "response_format"),
            (schema, "type must be 'object'"),
        ):
            with pytest.raises(F1Error, match=told):
                await ask(server, request)
        assert len(server.asked) == 2  # the others were not sent
        with pytest.raises(InvalidRequest, match="prompt"):
            await ask(server, GenerateRequest((), prompt="Once"))
    with foreign(called("weather", OSLO)) as server, pytest.raises(ConstraintError):
        await ask(server, none)
    with foreign(Reply(ANSWERS["openai"])) as server:
        assert calls_of(await ask(server, one)) == [("weather", OSLO)]
    with foreign(said('{"city": "Oslo"}')) as server:
        assert (await ask(server, shape)).reason == "stop"


async def test_eager_arguments_are_told_of_when_they_are_valid() -> None:
    eager = GenerateRequest(ASK.messages, (WEATHER,), eager_arguments=True)
    with foreign(called("weather", BAD), called("weather", OSLO)) as server:
        engine = Offloaded("big", RemoteModel(server.url, "m"))
        events = [event async for event in engine.generate(eager)][:-1]
        await engine.aclose()
    assert [type(event) for event in events] == [CallBegun, ArgumentsDelta, CallDelta]
    assert isinstance(events[1], ArgumentsDelta)
    assert json.loads(events[1].text) == OSLO


KEY = "sk-very-secret"
LONG = b'{"error": {"message": "too long, sk-very-secret", "code": %s}}'


@pytest.mark.parametrize(
    ("reply", "kind", "told"),
    [
        (Reply(f'{{"error": {{"message": "bad key {KEY}"}}}}'.encode(), 401), EngineStopped, "big"),
        (Reply(b'{"error": "no such model"}', 404), EngineStopped, "does not answer"),
        (Reply(b"<html>oh", 502), EngineStopped, "does not answer"),
        (Reply(b"", 302, {"location": "http://127.0.0.1:1/"}), EngineStopped, "does not answer"),
        (Reply(LONG % b"null", 400), InvalidRequest, "'big' does not take this"),
        (Reply(LONG % b'"x"', 413), InvalidRequest, "'big' does not take this"),
        (Reply(b"{}", 429, {"retry-after": "7"}), Overloaded, "no more now"),
        (Reply(sse(delta(content="Ra"), done="")), EngineStopped, "does not answer"),
        (Reply(sse({"error": {"message": f"oops {KEY}"}})), EngineStopped, "does not answer"),
        (Reply(b"data: {nonsense}\n\n"), EngineStopped, "does not answer"),
        (Reply(b"", wait=threading.Event()), EngineStopped, "does not answer"),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Reply) else "",
)
async def test_what_goes_wrong_there_is_told_without_its_secrets(
    reply: Reply, kind: type[F1Error], told: str
) -> None:
    with foreign(reply) as server:
        with pytest.raises(kind, match=told) as failed:
            await ask(server, timeout=0.3 if reply.wait else 10.0)
        if reply.wait:
            reply.wait.set()
    assert KEY not in failed.value.message
    assert server.url not in failed.value.message
    assert failed.value.retry_after == (7 if reply.status == 429 else None)


async def test_what_went_wrong_there_is_logged_and_what_is_too_long_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    long = b'{"error": {"message": "5 tokens", "code": "context_length_exceeded"}}'
    with foreign(Reply(LONG % b"null", 400), Reply(long, 400)) as server:
        with pytest.raises(InvalidRequest):
            await ask(server)
        assert "big: it answered 400: too long" in caplog.text
        with pytest.raises(ContextLengthExceeded, match="5 tokens"):
            await ask(server)


# --- several for one role ------------------------------------------------------------------------


def nobody() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def answer(engine: Any, request: GenerateRequest = ASK) -> Completion:
    async with aclosing(engine.generate(request)) as events:
        (completion,) = await gather(events, 1)
        return completion


async def test_the_first_that_can_be_had_answers_and_failures_rest() -> None:
    clock = Clock()
    outages = Outages(clock)
    with (
        foreign(Reply(b"", 500), Reply(b"", 503), said("Well.")) as first,
        foreign(said("Mine.")) as second,
    ):
        engines = {
            "gone": Offloaded("gone", RemoteModel(nobody(), "m")),
            "first": Offloaded("first", RemoteModel(first.url, "m")),
            "second": Offloaded("second", RemoteModel(second.url, "m")),
        }
        some = Fallback(engines, outages)

        async def told() -> tuple[str, str | None, int]:
            found = await answer(some)
            return found.message.content, found.report.model, len(first.asked)

        assert await told() == ("Mine.", "second", 1)
        assert await told() == ("Mine.", "second", 1)  # not asked: it rests
        clock.now = 5.0
        assert await told() == ("Mine.", "second", 2)
        clock.now = 14.9  # twice as long
        assert await told() == ("Mine.", "second", 2)
        clock.now = 15.0
        assert await told() == ("Well.", "first", 3)
        assert not outages.rests("first")
        for engine in engines.values():
            await engine.aclose()


async def test_nothing_is_asked_twice_that_has_begun_or_is_the_requests_fault() -> None:
    broken = Reply(sse(delta(content="Ra"), done=""))
    wrong = Reply(b'{"error": {"message": "too long"}}', 400)
    for reply, kind in ((broken, EngineStopped), (wrong, InvalidRequest)):
        with foreign(reply) as first, foreign(said("Mine.")) as second:
            engines = [Offloaded("a", RemoteModel(s.url, "m")) for s in (first, second)]
            outages = Outages()
            seen: list[Event] = []
            some = Fallback({"a": engines[0], "b": engines[1]}, outages)
            with pytest.raises(kind):
                await _see(some, seen)
            assert seen == ([TextDelta(0, "Ra")] if reply is broken else [])
            assert second.asked == []
            assert outages.rests("a") == (reply is broken)
            for engine in engines:
                await engine.aclose()


async def _see(engine: Fallback, seen: list[Event]) -> None:
    async for event in engine.generate(ASK):
        seen.append(event)


async def test_where_all_rest_they_are_tried_all_the_same() -> None:
    with foreign(Reply(b"", 500), said("Back.")) as server:
        engine = Offloaded("a", RemoteModel(server.url, "m"))
        gone = Offloaded("b", RemoteModel(nobody(), "m"))
        some = Fallback({"a": engine, "b": gone}, Outages())
        with pytest.raises(EngineStopped, match="'b'"):
            await answer(some)
        assert (await answer(some)).report.model == "a"
        for each in (engine, gone):
            await each.aclose()


# --- who does what -------------------------------------------------------------------------------


SIZES = {"huge": 11, "small": 10}


def models(**roles: tuple[str, ...]) -> Models:
    pool = EnginePool([Loadable(name, 10, lambda: ScriptedEngine("Hi.")) for name in "ab"], 10)
    engines = {name: Pooled(pool, name) for name in "ab"}
    return Models(engines, pool, roles)  # type: ignore[arg-type]


async def test_a_role_without_a_model_has_the_callers() -> None:
    def names(roles: Mapping[Any, Any]) -> str:
        return "".join(getattr(roles[r], "name", "?") for r in "caller router writer".split())

    assert names(models().roles()) == "aaa"
    assert names(models(caller=("b",)).roles()) == "bbb"
    assert names(models(router=("b",)).roles()) == "aba"
    assert names(models(router=("b",)).roles({"caller": "b", "writer": "a"})) == "bba"
    some = models(caller=("a", "b")).roles()
    assert isinstance(some["caller"], Fallback)
    assert some["caller"] == some["writer"]
    for asked, param in (({"boss": "a"}, "f1.roles"), ({"caller": "c"}, "f1.roles.caller")):
        with pytest.raises((InvalidRequest, ModelNotFound)) as refused:
            models().roles(asked)
        assert refused.value.param == param
    with pytest.raises(ModelNotFound):
        models(writer=("c",))


async def test_what_the_roles_need_first_is_loaded_ahead_as_far_as_it_fits() -> None:
    found = models(caller=("b", "a"), router=("a",))
    await found.start()
    assert list(found.loaded()) == ["b"]
    assert (await answer(found.engine("a"))).message.content == "Hi. "
    assert list(found.loaded()) == ["a"]
    assert found.healthy()
    await found.close()


async def test_a_busy_pool_falls_back_to_a_server() -> None:
    with foreign(said("Elsewhere.")) as server:
        pool = EnginePool(
            [Loadable(n, 10, lambda: ScriptedEngine("Hi …")) for n in "ab"], 10, patience=0.01
        )
        there = connect("there", RemoteModel(server.url, "m"))
        engines: dict[str, Any] = {n: Pooled(pool, n) for n in "ab"} | {"there": there}
        found = Models(engines, pool, {"caller": ("b", "there")})
        busy = found.engine("a").generate(ASK)
        await anext(busy)
        done = await answer(found.roles()["caller"])
        assert (done.message.content, done.report.model) == ("Elsewhere.", "there")
        await busy.aclose()
        await found.close()


async def test_who_never_fits_is_refused_at_the_start_or_stood_in_for(tmp_path: Path) -> None:
    """Told from the sizes of files: what is in them is not looked at."""
    found = {name: LocalModel(str(tmp_path / f"{name}.gguf")) for name in SIZES}
    for name, num_bytes in ("huge", 10 << 20), ("small", 1 << 20):
        (tmp_path / f"{name}.gguf").write_bytes(bytes(num_bytes))
    settings = Settings(kv_memory=1 << 20)
    config = Config(found, {"caller": ("small",), "writer": ("huge",)}, memory=100 << 20)
    with pytest.raises(InvalidRequest, match=r"'huge' takes 107 MiB.* may take 100") as refused:
        open_models(config, settings, connect)
    assert "roles.writer" in refused.value.message
    open_models(replace(config, roles={"caller": ("huge", "small")}), settings, connect)

    loadables = [Loadable(n, size, lambda: ScriptedEngine("Hi.")) for n, size in SIZES.items()]
    pool = EnginePool(loadables, 10)
    some = Models({n: Pooled(pool, n) for n in SIZES}, pool, {"caller": ("huge", "small")})
    some.check_room()
    await some.start()
    assert list(some.loaded()) == ["small"]
    async with some.lease("f1") as engine:
        assert engine is some.loaded()["small"]
    assert (await answer(some.roles()["caller"])).report.model == "small"
    await some.close()


async def test_an_engine_that_cannot_be_warmed_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cold(ScriptedEngine):
        def warm(self) -> None:
            raise RuntimeError("cold")

    engine = Cold("Hi.")
    monkeypatch.setattr("f1.engine.AsyncEngine.start", lambda *_: engine)
    (tmp_path / "m.gguf").write_bytes(b"")
    found = open_models(Config.of(str(tmp_path / "m.gguf")), Settings(), connect)
    with pytest.raises(RuntimeError, match="cold"):
        await found.start()
    assert engine.closed


def test_a_key_that_is_not_set_is_named() -> None:
    model = RemoteModel("http://h", "m", "BIG_KEY")
    with pytest.raises(InvalidRequest, match="BIG_KEY is not set") as refused:
        connect("big", model, {})
    assert refused.value.param == "models.big.api_key_env"
    asyncio.run(connect("big", model, {"BIG_KEY": "x"}).aclose())


def vectors(body: dict[str, Any]) -> Reply:
    data = [
        {"index": i, "embedding": [3.0, 4.0 * len(text)]} for i, text in enumerate(body["input"])
    ]
    told = {"data": data[::-1], "usage": {"prompt_tokens": len(data)}}  # in any order
    return Reply(json.dumps(told).encode())


async def test_an_embedder_may_be_elsewhere() -> None:
    broken = Reply(b'{"data": [{"embedding": [1, null]}]}')
    with foreign(vectors, vectors, broken, Reply(b"", 500)) as server:
        model = RemoteModel(server.url, "their-model")
        embedder = OffloadedEmbedder("vectors", model, Settings(), {})
        found = await embedder.embed(["a"] * 300, max_tokens=1000, dimensions=2)
        assert (found.vectors.shape, found.num_tokens) == ((300, 2), 300)
        assert found.vectors[299].tolist() == pytest.approx([0.6, 0.8])
        assert [len(body["input"]) for body in server.bodies] == [256, 44]
        assert (server.bodies[0]["model"], server.bodies[0]["dimensions"]) == ("their-model", 2)
        for _ in range(2):
            with pytest.raises(EngineStopped, match="'vectors' gives no vectors"):
                await embedder.sense("x")
        with pytest.raises(InvalidRequest, match="tokens in all"):
            await embedder.embed(["abc" * 9], max_tokens=5)
        assert len(server.asked) == 4
        embedder.close()


async def test_nobody_waits_for_an_embedder_that_does_not_answer(tmp_path: Path) -> None:
    asked, held = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await held.wait()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    model = RemoteModel(f"http://127.0.0.1:{port}", "m", timeout=600)
    embedder = OffloadedEmbedder("vectors", model, Settings(), {})
    vectors = ToolVectors(embedder, tmp_path / "vectors.sqlite")
    assert vectors.matrix(["a tool"]) is None
    async with asyncio.timeout(60):
        await asked.wait()
        vectors.close_soon()
        await asyncio.to_thread(embedder.close)
        await asyncio.to_thread(vectors.close)
    held.set()
    server.close()
    await server.wait_closed()


# --- all of it -----------------------------------------------------------------------------------

CONFIG = """
[models.one]
path = "{model}"
kv_memory = "32MiB"
[models.two]
path = "{model}"
kv_memory = "32MiB"
[models.theirs]
base_url = "{url}"
model = "m"
[roles]
caller = ["theirs", "one"]
[memory]
models = "260MiB"
[defaults]
toolsets = ["all"]
[tools.double]
python = "tools.py:double"
[toolsets.all]
tools = ["double"]
[serve]
port = 0
[settings]
max_sequences = 2
log_requests = false
"""


def turn(body: dict[str, Any]) -> Reply:
    last = body["messages"][-1]
    if last["role"] == "tool":
        return said(f"It is {last['content']}.")
    return called("double", {"x": 21})


def test_a_file_is_served(tmp_path: Path, smollm_path: Path) -> None:
    """Two models here that do not fit together, a third elsewhere that makes the calls, and a
    function that runs them: all declared."""
    (tmp_path / "tools.py").write_text(
        'def double(x: int) -> int:\n    """Twice."""\n    return 2 * x\n'
    )
    with foreign(turn) as server:
        (tmp_path / "f1.toml").write_text(CONFIG.format(model=smollm_path, url=server.url))
        command = [sys.executable, "-P", "-m", "f1.cli", "serve"]
        env = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200", "F1_CACHE": str(tmp_path)}
        env["F1_CONFIG"] = str(tmp_path / "f1.toml")
        with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stderr is not None
                line = process.stderr.readline()
                ready = re.search(r"ready one, two, theirs at (http://127.0.0.1:\d+)/v1", line)
                assert ready, line + process.stderr.read()
                with httpx.Client(base_url=ready[1], timeout=120) as http:
                    _look_at(http)
            finally:
                process.terminate()
                process.wait(60)
    assert process.returncode in (0, -15)


def _look_at(http: httpx.Client) -> None:
    def chat(model: str, **more: Any) -> Any:
        body = {"model": model, "messages": [{"role": "user", "content": "Twice 21?"}], **more}
        return http.post("/v1/chat/completions", json=body).json()

    def loaded() -> set[str]:
        lines = http.get("/metrics").text.splitlines()
        return {m[1] for line in lines if (m := re.match(r'f1_engine_steps.*model="(\w+)"', line))}

    def figure(name: str) -> float:
        lines = http.get("/metrics").text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"f1_model_{name}"))

    assert http.get("/ready").status_code == 200
    listed = [model["id"] for model in http.get("/v1/models").json()["data"]]
    assert listed[:4] == ["f1", "one", "two", "theirs"]
    assert http.get("/v1/tools/double").json()["name"] == "double"
    (choice,) = chat("f1")["choices"]
    assert choice["message"]["content"] == "It is 42."
    assert choice["f1"]["model"] == "theirs"
    assert choice["f1"]["results"][0]["tool"] == "double"
    for name, other in ("two", "one"), ("one", "two"):
        answer = chat(name, max_tokens=3)
        assert answer["usage"]["completion_tokens"] == 3, answer
        assert loaded() == {name}, other
    assert (figure("loads_total"), figure("evictions_total")) == (2, 1)
    wrong = chat("f1", f1={"roles": {"caller": "three"}})["error"]
    assert wrong["param"] == "f1.roles.caller"
    tokens = http.post("/tokenize", json={"model": "one", "prompt": "Hello"}).json()
    assert tokens["count"] == 1
    elsewhere = http.post("/tokenize", json={"model": "theirs", "prompt": "Hello"})
    assert (elsewhere.status_code, loaded()) == (400, {"one"})
