"""Clients of all kinds for soak.py: good ones, and those that crash, lie, leave and hurry."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import re
import subprocess
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

HUNG = 120.0  # seconds in which every request has to have some end
SCHEMAS = 64  # bad ones; what caches do under ever new ones is another test's
SIDE_BY_SIDE = 36  # clients that keep the server's batch full
# Of the arrivals, in percent; the rest are good requests.
MISCHIEF = {
    "leaves a stream": 3, "leaves": 2, "hurries": 1, "bad schema": 2, "too large": 1, "no JSON": 1,
}  # fmt: skip
Body = dict[str, Any]


def _tool(name: str, **properties: Body) -> Body:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TEXT = {"type": "string"}
TOOLS = [
    _tool("get_weather", city=TEXT, unit={"enum": ["C", "F"]}),
    _tool("book_table", place=TEXT, people={"type": "integer", "minimum": 1, "maximum": 20}),
    _tool("note", title=TEXT, lines={"type": "array", "items": TEXT, "maxItems": 4}),
]


def good_bodies(model: str) -> list[Body]:
    """Prose, calls, and content under a schema; with prompts of 30 to 500 tokens."""
    bodies: list[Body] = []
    for index, place in enumerate(["Oslo", "Rome", "Lima", "Bern", "Cairo", "Quito"]):
        told = " ".join(f"Visitor {k} liked {place}." for k in range(8 * index))
        for ask, fields in (
            ("Name three streets in", {}),
            ("What is the weather in", {"tools": TOOLS, "tool_choice": "required"}),
            ("Book a table in", {"tools": TOOLS[:2], "parallel_tool_calls": False}),
            ("Describe", {"response_format": {"type": "json_object"}}),
        ):
            messages = [{"role": "user", "content": f"{told} {ask} {place}."}]
            sampled = {"temperature": 0.8, "seed": index} if index % 2 else {}
            bodies.append(
                {"model": model, "messages": messages, "max_tokens": 48, **fields, **sampled}
            )
    return bodies


def bad_schemas(number: int) -> Body:
    """One of several kinds, with something in it that no other has."""
    name = f"f{number}"
    nested: Body = {"type": "string"}
    for _ in range(40):
        nested = {"type": "array", "items": nested}
    doubled: Body = {"type": "string"}
    for _ in range(4):
        doubled = {"oneOf": [doubled, {"type": "object", "properties": {name: doubled}}]}
    kinds: list[Body] = [
        {"tools": [_tool(name, deep=nested)], "tool_choice": "required"},
        {"tools": [_tool(name, doubled=doubled)], "tool_choice": "required"},
        {"tools": [_tool(name, a={"enum": [f"{number}-{k}" for k in range(4000)]})]},
        {"tools": [_tool(name, a={"type": "string", "pattern": f"((a+)+)+b{number}"})]},
        {"tools": [_tool(name, a={"$ref": "#/$defs/none"})]},
        {"tools": [_tool(name, a={"type": "strnig"})]},
        {"response_format": {"type": "regex", "pattern": f"(({number}|a)+)+b"}},
        {"response_format": {"type": "ebnf", "grammar": f"root ::= root | other{number}"}},
    ]
    messages = [{"role": "user", "content": "Call it."}]
    return {"model": "f1", "messages": messages, "max_tokens": 24} | kinds[number % len(kinds)]


# --- one request over a connection of its own ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Server:
    process: subprocess.Popen[bytes]
    port: int
    log: Path


async def ask(
    server: Server, body: bytes, *, leave_after: int | None = None, key: str = ""
) -> tuple[int, bytes]:
    """Status and body; (0, b"") where it left after so many bytes of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        head = f"Host: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
        head += f"Authorization: Bearer {key}\r\n\r\n" if key else "\r\n"
        writer.write(f"POST /v1/chat/completions HTTP/1.1\r\n{head}".encode() + body)
        if leave_after is not None:
            with suppress(asyncio.IncompleteReadError):
                await reader.readexactly(leave_after)
            return 0, b""
        answer = await reader.read()
        start, _, rest = answer.partition(b"\r\n\r\n")
        return int(start.split(b" ", 2)[1]), rest
    finally:
        writer.transport.abort()  # as a client that crashes does


def get(server: Server, path: str) -> str:
    return httpx.get(f"http://127.0.0.1:{server.port}{path}", timeout=60).text


def figures(server: Server) -> dict[str, float]:
    """Those of /metrics that have no labels."""
    found = re.findall(r"^(f1_\w+) (\S+)$", get(server, "/metrics"), re.MULTILINE)
    return {name: float(value) for name, value in found}


# --- what is found out ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Held:
    """What the process holds."""

    at: float  # of time.monotonic()
    rss: int  # bytes
    processor: float  # seconds spent
    files: int
    threads: int
    children: int

    @classmethod
    def of(cls, process: subprocess.Popen[bytes]) -> Held:
        root = Path("/proc") / str(process.pid)
        status = dict(line.split(":", 1) for line in (root / "status").read_text().splitlines())
        children = sum(
            len((task / "children").read_text().split()) for task in (root / "task").iterdir()
        )
        ticks = (root / "stat").read_text().rpartition(")")[2].split()[11:15]  # and of its children
        return cls(
            at=time.monotonic(),
            rss=int(status["VmRSS"].split()[0]) << 10,
            processor=sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"),
            files=len(list((root / "fd").iterdir())),
            threads=int(status["Threads"]),
            children=children,
        )


def meaning(answer: bytes) -> tuple[Any, ...]:
    """What has to be the same whoever else is served. Ids of calls are drawn anew each time."""
    (choice,) = json.loads(answer)["choices"]
    calls = choice["message"].get("tool_calls") or []
    functions = [call["function"] for call in calls]
    return choice["message"]["content"], json.dumps(functions), choice["finish_reason"]


@dataclass(slots=True)
class Found:
    statuses: Counter[str] = field(default_factory=Counter)
    tokens: list[tuple[float, int]] = field(default_factory=list)  # when, of a whole answer
    refused_in: list[float] = field(default_factory=list)  # seconds
    took: list[float] = field(default_factory=list)  # seconds of good answers
    late: list[float] = field(default_factory=list)  # seconds behind the deadline
    wrong: int = 0
    hung: int = 0
    crashed: int = 0  # answers 5xx

    def goodput(self, begin: float, end: float) -> float:
        """Tokens a second of answers that came whole."""
        return sum(count for when, count in self.tokens if begin <= when < end) / (end - begin)

    def by_processor(self, *phases: list[Held]) -> float:
        """The same a second of the server's processor time."""
        ends = [(samples[len(samples) // 10], samples[-1]) for samples in phases]
        tokens = sum(self.goodput(a.at, b.at) * (b.at - a.at) for a, b in ends)
        return tokens / sum(b.processor - a.processor for a, b in ends)


class Crowd:
    def __init__(self, server: Server, model: str):
        self.server = server
        self.bodies = good_bodies(model)
        self.encoded = [json.dumps(body).encode() for body in self.bodies]
        self.solo: list[tuple[Any, ...]] = []
        self.found = Found()
        self.number = itertools.count()

    async def learn(self) -> None:
        for body in self.encoded:
            status, answer = await ask(self.server, body)
            if status != 200:
                raise SystemExit(f"a good request got {status}: {answer[:300]!r}")
            self.solo.append(meaning(answer))

    async def fill(self) -> None:
        """Has every page of the cache used once, and every bad schema seen: what is kept of either
        would be taken for growth later."""
        for number in range(SCHEMAS):
            await ask(self.server, json.dumps(bad_schemas(number)).encode())
        for number in range(500):
            if figures(self.server)["f1_engine_free_pages"] == 0:
                return
            text = " ".join(f"{number} and {k} are {number + k}." for k in range(100))
            messages = [{"role": "user", "content": text}]
            body = {"model": "f1", "messages": messages, "max_tokens": 1}
            await ask(self.server, json.dumps(body).encode())

    async def good(self, choose: random.Random) -> None:
        index = choose.randrange(len(self.bodies))
        status, answer = await self.end(ask(self.server, self.encoded[index]), "good")
        if status == 200:
            self.found.wrong += meaning(answer) != self.solo[index]

    async def mischief(self, kind: str, choose: random.Random) -> None:
        body = self.bodies[choose.randrange(len(self.bodies))]
        match kind:
            case "leaves a stream":
                sent = json.dumps(body | {"stream": True}).encode()
                await self.end(ask(self.server, sent, leave_after=choose.randrange(1, 4000)), kind)
            case "leaves":
                with suppress(TimeoutError):
                    async with asyncio.timeout(choose.uniform(0, 3)):
                        await ask(self.server, json.dumps(body).encode(), leave_after=1)
                self.found.statuses[f"{kind}: 0"] += 1
            case "hurries":
                timeout = choose.uniform(0.05, 3)
                began = time.monotonic()
                sent = json.dumps(body | {"timeout": timeout}).encode()
                status, _ = await self.end(ask(self.server, sent), kind)
                if status == 408:
                    self.found.late.append(time.monotonic() - began - timeout)
            case "bad schema":
                sent = json.dumps(bad_schemas(next(self.number) % SCHEMAS)).encode()
                await self.end(ask(self.server, sent), kind)
            case "too large":
                messages = [{"role": "user", "content": "x" * (5 << 20)}]
                sent = json.dumps({"messages": messages}).encode()
                try:
                    await self.end(ask(self.server, sent), kind)
                except (OSError, IndexError):  # it may hang up before all is sent
                    self.found.statuses[f"{kind}: hung up on"] += 1
            case "no JSON":
                await self.end(ask(self.server, b'{"model": "f1", "messages": [' * 9), kind)

    async def end(self, work: Any, kind: str) -> tuple[int, bytes]:
        """Waits for the end of a request, whatever it is, and counts it."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(HUNG):
                status, answer = await work
        except TimeoutError:
            self.found.hung += 1
            return -1, b""
        took = time.monotonic() - began
        self.found.statuses[f"{kind}: {status}"] += 1
        self.found.crashed += status >= 500
        if status == 429:
            self.found.refused_in.append(took)
        elif status == 200:
            count = json.loads(answer)["usage"]["completion_tokens"]
            self.found.tokens.append((time.monotonic(), count))
            if kind == "good":
                self.found.took.append(took)
        return status, answer

    async def closed_loop(self, seconds: float) -> tuple[float, float]:
        """(tokens, good answers) a second with as many clients as are served side by side."""
        until = time.monotonic() + seconds

        async def client(seed: int) -> None:
            choose = random.Random(seed)
            while time.monotonic() < until:
                await self.good(choose)

        begin, count = time.monotonic() + seconds / 5, len(self.found.took)
        await asyncio.gather(*map(client, range(SIDE_BY_SIDE)))
        rate = (len(self.found.took) - count) / (time.monotonic() - begin + seconds / 5)
        return self.found.goodput(begin, until), rate

    async def open_loop(self, seconds: float, rate: float, choose: random.Random) -> None:
        """Arrivals at random, whether or not there are answers."""
        kinds = ["good", *MISCHIEF]
        weights = [100 - sum(MISCHIEF.values()), *MISCHIEF.values()]
        until = due = time.monotonic()
        until += seconds
        tasks: set[asyncio.Task[None]] = set()
        while (due := due + choose.expovariate(rate)) < until:
            await asyncio.sleep(max(due - time.monotonic(), 0))
            (kind,) = choose.choices(kinds, weights)
            work = self.good(choose) if kind == "good" else self.mischief(kind, choose)
            task = asyncio.create_task(work)
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
