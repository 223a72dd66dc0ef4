"""A real model in a process of its own, which dies and hangs under load."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Running, serving

from f1.apart import watch
from f1.apart.engine import ApartEngine
from f1.engine import AsyncEngine
from f1.errors import F1Error
from f1.pool import LocalEngine
from f1.settings import Settings
from f1.types import (
    CallDelta,
    GenerateRequest,
    Message,
    ResponseFormat,
    SamplingParams,
    Tool,
    ToolChoice,
)

COMMAND = [sys.executable, "-P", str(Path(__file__).parent / "poisoned_child.py")]
SLOTS = 3  # requests that are decoded side by side; more wait, and have sent nothing
SETTINGS = Settings(kv_memory=2**27, max_sequences=SLOTS, snapshot_disk=0)
WEATHER = Tool(
    "weather",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"enum": [1, 2.5, None]}},
        "required": ["city", "days"],
    },
)
ASK = (Message("system", "Be brief."), Message("user", "What is the weather in Oslo?"))
REQUESTS = {
    "text": GenerateRequest(ASK, max_tokens=20),
    "choices": GenerateRequest(
        ASK, max_tokens=8, n=3, sampling=SamplingParams(temperature=1.0, seed=3)
    ),
    "logprobs": GenerateRequest(
        ASK, max_tokens=6, sampling=SamplingParams(num_logprobs=3, masked_mass=True)
    ),
    "bias": GenerateRequest(ASK, max_tokens=6, sampling=SamplingParams(logit_bias={28: 5.0})),
    "call": GenerateRequest(
        ASK, (WEATHER,), tool_choice=ToolChoice("required"), max_tokens=80, eager_arguments=True
    ),
    "shown later": GenerateRequest(ASK, (WEATHER,), {1: ("weather",)}, max_tokens=6),
    "schema": GenerateRequest(
        ASK, response_format=ResponseFormat("json_schema", WEATHER.parameters), max_tokens=60
    ),
    "pattern": GenerateRequest(ASK, response_format=ResponseFormat("regex", "[0-9]{5}")),
    "stop": GenerateRequest(ASK, stop=("e",), max_tokens=20),
    "ids": GenerateRequest((), prompt=(1, 2, 3), max_tokens=4),
    "too long": GenerateRequest(ASK, max_tokens=10**6),
    "no schema": GenerateRequest(ASK, (replace(WEATHER, parameters={"type": 7}),)),
    "no tool": GenerateRequest(ASK, tool_choice=ToolChoice("named", "nobody")),
}


async def said(engine: LocalEngine, request: GenerateRequest) -> list[Any]:
    """The events, their random ids aside, or the error."""
    found: list[Any] = []
    try:
        async with aclosing(engine.generate(request)) as events:
            async for event in events:
                if isinstance(event, CallDelta):
                    event = replace(event, call=replace(event.call, id=""))
                found.append(event if not hasattr(event, "id") else replace(event, id=""))
    except F1Error as error:
        told = (error.message, error.status, error.code, error.param, error.retry_after)
        found.append((type(error), *told))
    return found


async def test_it_says_what_an_engine_of_this_process_says(smollm_path: Path) -> None:
    here, there = await asyncio.gather(
        *(
            asyncio.to_thread(kind.start, str(smollm_path), SETTINGS)
            for kind in (AsyncEngine, ApartEngine)
        )
    )
    try:
        assert (there.model_id, there.context_length) == (here.model_id, here.context_length)
        assert there.tokenizer.encode("Oslo") == here.tokenizer.encode("Oslo")
        for name, request in REQUESTS.items():
            expected = await said(here, request)
            assert len(expected) > 0
            assert await said(there, request) == expected, name
        asked = REQUESTS["call"]
        assert await there.tokenize(asked) == await here.tokenize(asked)
        assert await there.register_tools([WEATHER]) == await here.register_tools([WEATHER])
        await there.judge_tools([WEATHER])
    finally:
        await asyncio.to_thread(here.close)
        await asyncio.to_thread(there.close)


@pytest.fixture(scope="module")
def server(smollm_path: Path) -> Iterator[Running]:
    with serving(lambda: ApartEngine.start(str(smollm_path), SETTINGS, COMMAND)) as running:
        while httpx.get(f"{running.url}/ready").status_code != 200:
            pass
        yield running


def body(text: str, max_tokens: int, stream: bool = True) -> dict[str, Any]:
    never = {"0": -100, "2": -100}  # ends
    messages = [{"role": "user", "content": text}]
    rest = {"max_tokens": max_tokens, "stream": stream, "logit_bias": never}
    return {"model": "smollm2-135m", "messages": messages, **rest}


@dataclass
class Client:
    """One request, streamed, and what came of it."""

    http: httpx.AsyncClient
    asked: dict[str, Any]
    status: int = 0
    lines: list[Any] = field(default_factory=list)
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> Client:
        async with self.http.stream("POST", "/v1/chat/completions", json=self.asked) as answer:
            self.status = answer.status_code
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    self.lines.append(json.loads(line.removeprefix("data: ")))
                    if self.text:
                        self.begun.set()
                elif line.startswith("{"):
                    self.lines.append(json.loads(line))
        return self

    @property
    def text(self) -> str:
        chunks = [line["choices"] for line in self.lines if line.get("choices")]
        return "".join(choices[0]["delta"].get("content") or "" for choices in chunks)

    @property
    def error(self) -> str | None:
        return self.lines[-1].get("error", {}).get("code")


@pytest.fixture
async def http(server: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
        yield client


async def until(http: httpx.AsyncClient, status: int) -> None:
    async with asyncio.timeout(120):
        while (await http.get("/ready")).status_code != status:
            assert (await http.get("/health")).status_code == 200


def engine_of(server: Running) -> ApartEngine:
    engine = server.engine
    assert isinstance(engine, ApartEngine)
    return engine


async def figure(http: httpx.AsyncClient, name: str) -> float:
    found = re.search(
        rf"^f1_engine_{name}(?:_total)?{{.*}} (.*)$", (await http.get("/metrics")).text, re.M
    )
    assert found, name
    return float(found[1])


SIGNALS = [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL, signal.SIGBUS]


@pytest.mark.parametrize("count", [2, pytest.param(100, marks=pytest.mark.full)])
async def test_deaths_under_load(server: Running, http: httpx.AsyncClient, count: int) -> None:
    """What has begun ends with an error; what waits is answered by the next process."""
    engine = engine_of(server)
    for number in range(count):
        pid, crashes, name = engine.pid, engine.num_crashes, SIGNALS[number % len(SIGNALS)].name
        clients = [Client(http, body(f"Story {name} {number} {i}", 2000)) for i in range(SLOTS)]
        running = [asyncio.create_task(client.run()) for client in clients]
        for client in clients:
            await client.begun.wait()
        waiting = [
            asyncio.create_task(Client(http, body(f"Word {name} {number} {i}", 3)).run())
            for i in range(2)
        ]
        while await figure(http, "waiting") < len(waiting):
            pass
        assert pid is not None
        os.kill(pid, SIGNALS[number % len(SIGNALS)])
        for client in await asyncio.gather(*running):
            assert (client.status, client.error) == (200, "engine_crashed")
            assert name in client.lines[-1]["error"]["message"]
        for client in await asyncio.gather(*waiting):
            assert (client.status, client.error) == (200, None)
            assert client.text
        await until(http, 200)
        assert engine.num_crashes == crashes + 1
        assert engine.pid != pid


FAULTS = ("device", "segfault", "abort", "killed", "exit")


@pytest.mark.parametrize(
    "fault", ["bad_alloc", *(pytest.param(fault, marks=pytest.mark.full) for fault in FAULTS)]
)
async def test_a_request_that_kills_is_refused_and_its_mates_are_not(
    server: Running, http: httpx.AsyncClient, fault: str
) -> None:
    crashes = engine_of(server).num_crashes
    mates = [Client(http, body(f"Story {i} beside {fault.upper()}", 40)) for i in range(SLOTS - 1)]
    running = [asyncio.create_task(mate.run()) for mate in mates]
    for mate in mates:
        await mate.begun.wait()
    poison = body(f"{fault} it", 5, stream=False)
    answer = await http.post("/v1/chat/completions", json=poison)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "quarantined")
    assert engine_of(server).num_crashes == crashes + 2
    assert (await http.post("/v1/chat/completions", json=poison)).status_code == 422
    assert engine_of(server).num_crashes == crashes + 2
    for mate in await asyncio.gather(*running):
        assert mate.error in (None, "engine_crashed")
        again = await Client(http, mate.asked).run()
        assert (again.status, again.error) == (200, None)
    await until(http, 200)


@pytest.mark.parametrize(
    "way", ["stopped", *(pytest.param(way, marks=pytest.mark.full) for way in ("hang", "lost"))]
)
async def test_a_hang_is_seen_and_ended(
    server: Running, http: httpx.AsyncClient, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a step, of all of the process, and where a request is forgotten. /health says it lives."""
    if way == "stopped":  # the others at their real times
        monkeypatch.setattr(watch, "STALLED_SECONDS", 1.0)
        monkeypatch.setattr(watch, "HUNG_SECONDS", 3.0)
    pid = engine_of(server).pid
    assert pid is not None
    client = Client(http, body(f"Be {way}", 2000))
    running = asyncio.create_task(client.run())
    if way == "stopped":
        await client.begun.wait()
        os.kill(pid, signal.SIGSTOP)
    await until(http, 503)
    assert engine_of(server).pid == pid
    assert (await running).error == ("engine_crashed" if way == "stopped" else "quarantined")
    monkeypatch.undo()  # a busy machine is slow
    await until(http, 200)
    assert engine_of(server).pid != pid
    assert (await Client(http, body("Hello", 3)).run()).text
