"""Clients that go away at any moment: what they held is free again; others see nothing of it."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Running, leave_after_sending, serving, wait_until_loaded

from f1.engine import AsyncEngine
from f1.serve.limits import Limits
from f1.settings import Settings

NEVER_ENDS = {"0": -100, "2": -100}  # forbids the tokens that would end it
TEXT = {"type": "object", "properties": {"text": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "note", "parameters": TEXT}}
GOOD: dict[str, Any] = {
    "model": "f1",
    "messages": [{"role": "user", "content": "Name a street in Oslo."}],
    "max_tokens": 8,
}


@pytest.fixture(scope="module")
def server(smollm_path: Path) -> Iterator[Running]:
    settings = Settings(kv_memory=2**27, max_sequences=4)
    with serving(
        lambda: AsyncEngine.start(str(smollm_path), settings), Limits(max_running=4)
    ) as running:
        with httpx.Client(timeout=60) as http:
            wait_until_loaded(http, running)
        yield running


def engine_of(server: Running) -> AsyncEngine:
    engine = server.engine
    assert isinstance(engine, AsyncEngine)
    return engine


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def tasks_of(server: Running) -> int:
    return len(asyncio.all_tasks(server.process.servers[0].get_loop()))


def used_pages(engine: AsyncEngine) -> int:
    """Pages that nothing but a running sequence can hold."""
    stats = engine.stats()
    return -stats["num_free_pages"] - stats["num_reclaimable_pages"]


async def leave(server: Running, choose: random.Random, left: Counter[str]) -> None:
    """Asks for an answer that would take minutes, and hangs up somewhere on the way."""
    host, port = server.url.removeprefix("http://").split(":")
    body: dict[str, Any] = {
        "model": choose.choice(["f1", "smollm2-135m"]),
        "messages": [{"role": "user", "content": "word " * choose.choice([1, 1, 300, 900])}],
        "max_tokens": 1000,
        "logit_bias": NEVER_ENDS,
        "stream": choose.random() < 0.5,
        "n": choose.choice([1, 1, 1, 3]),
    }
    if choose.random() < 0.3:
        body |= {"tools": [TOOL], "tool_choice": "required"}
    sent = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(sent)}"
    reader, writer = await asyncio.open_connection(host, int(port))
    when = choose.choice(["half sent", "sent", "steps", "steps", "lines"])
    if when == "lines" and not body["stream"]:
        when = "steps"
    writer.write(
        f"{head}\r\n\r\n".encode() + sent[: len(sent) // 2 if when == "half sent" else None]
    )
    await writer.drain()
    if when == "steps":  # anywhere between its queue and the middle of its answer
        until = engine_of(server).stats()["num_steps"] + choose.randrange(30)
        while engine_of(server).stats()["num_steps"] < until:
            await asyncio.sleep(0)
    for _ in range(choose.randrange(1, 20) if when == "lines" else 0):
        await reader.readline()
    left[when] += 1
    left["while some wait"] += server.state.admission.queued.requests > 0
    if choose.random() < 0.5:
        writer.transport.abort()
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def run_crowd(server: Running, count: int, seed: int) -> tuple[Counter[str], set[str]]:
    """How clients left, and what one that stayed was told meanwhile."""
    choose = random.Random(seed)
    left: Counter[str] = Counter()
    answers: set[str] = set()
    remaining = iter(range(count))

    async def come_and_go() -> None:
        for _ in remaining:
            await leave(server, choose, left)

    async with httpx.AsyncClient(timeout=120) as http:
        crowd = [asyncio.create_task(come_and_go()) for _ in range(8)]
        while not all(task.done() for task in crowd):
            answer = await http.post(f"{server.url}/v1/chat/completions", json=GOOD)
            answers.add(answer.json()["choices"][0]["message"]["content"])
        await asyncio.gather(*crowd)
    return left, answers


@pytest.mark.parametrize(
    ("count", "seed"), [(40, 1), pytest.param(1000, 2, marks=pytest.mark.full)]
)
def test_all_is_free_again_when_clients_have_gone(server: Running, count: int, seed: int) -> None:
    engine, admission = engine_of(server), server.state.admission
    with httpx.Client(timeout=60) as http:
        alone = http.post(f"{server.url}/v1/chat/completions", json=GOOD).json()
        url = f"{server.url}/health"
        before = (used_pages(engine), open_files(), tasks_of(server))
        left, answers = asyncio.run(run_crowd(server, count, seed))
        assert left.total() - left["while some wait"] == count
        assert len(left) == 5  # every way of leaving was taken
        assert left["while some wait"] > 0
        assert answers == {alone["choices"][0]["message"]["content"]}
        while admission.in_flight or engine.stats()["num_running"]:
            http.get(url)
        # What the kernel tells of closed connections comes a little later.
        while (used_pages(engine), open_files(), tasks_of(server)) != before:
            http.get(url)
        assert not server.state.deadlines
        assert (admission.running, admission.queued.requests, admission.queued.tokens) == (0, 0, 0)
        assert engine.stats()["num_waiting"] == 0
        engine._stepper.core.check()  # the books of its pages
        assert http.post(f"{server.url}/v1/chat/completions", json=GOOD).status_code == 200


@pytest.mark.full
@pytest.mark.parametrize("stream", [False, True])
def test_its_slot_is_free_two_steps_later(server: Running, stream: bool) -> None:
    """On a machine with time for both: the server hears of it while a step is computed."""
    engine = engine_of(server)
    body = {"model": "f1", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3000}
    sent = json.dumps(body | {"logit_bias": NEVER_ENDS, "stream": stream}).encode()
    taken = []
    for number in range(100):
        begin = engine.stats()["num_steps"] + 3 + number % 7
        steps = [0]

        def computed(begin: int = begin, steps: list[int] = steps) -> bool:
            steps[0] = engine.stats()["num_steps"]
            return steps[0] >= begin

        leave_after_sending(server, sent, computed)
        while engine.stats()["num_running"]:
            pass
        taken.append(engine.stats()["num_steps"] - steps[0])
    assert sorted(taken)[97] <= 2, Counter(taken)
