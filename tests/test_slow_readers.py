"""Streams whose clients read slowly: nobody waits for them, and they miss nothing."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator
from contextlib import aclosing

import httpx
import pytest
from scripted import ScriptedEngine
from serving import HELLO, Running, serving, wait_until_loaded

from f1.errors import EngineStopped
from f1.serve.limits import Limits
from f1.serve.read_ahead import MAX_UNREAD, read_ahead
from f1.types import Event, Finished, GenerateRequest, TextDelta, Usage

END = Finished(0, "stop", Usage(1, 1))


class Source:
    """Events as they are asked for; `ended` is how it came to its end."""

    def __init__(self, count: int, error: Exception | None = None):
        self.count, self.error = count, error
        self.given = 0
        self.ended = False

    async def events(self) -> AsyncGenerator[Event]:
        try:
            for number in range(1, self.count + 1):
                self.given = number
                yield TextDelta(0, str(number))
            if self.error is not None:
                raise self.error
            yield END
        finally:
            self.ended = True


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_it_comes_to_its_end_before_it_is_read() -> None:
    source = Source(100)
    async with aclosing(read_ahead(source.events())) as events:
        first = await anext(events)
        await settle()
        assert source.ended
        rest = [event async for event in events]
    assert [first, *rest] == [*(TextDelta(0, str(n)) for n in range(1, 101)), END]


async def test_what_is_not_read_has_a_bound() -> None:
    source = Source(3 * MAX_UNREAD)
    async with aclosing(read_ahead(source.events())) as events:
        await anext(events)
        await settle()
        assert source.given == MAX_UNREAD + 2  # the one that was read, and one that waits
        assert len([event async for event in events]) == 3 * MAX_UNREAD
    assert source.ended


async def test_an_error_comes_behind_the_events_before_it() -> None:
    source = Source(3, EngineStopped("broken"))
    events = read_ahead(source.events())
    assert [await anext(events) for _ in range(3)] == [TextDelta(0, n) for n in "123"]
    with pytest.raises(EngineStopped, match="broken"):
        await anext(events)


@pytest.mark.parametrize("count", [1, 2 * MAX_UNREAD])
async def test_what_is_left_early_ends(count: int) -> None:
    source = Source(count)
    events = read_ahead(source.events())
    await anext(events)
    await events.aclose()
    assert source.ended
    assert asyncio.all_tasks() == {asyncio.current_task()}


class Talkative(ScriptedEngine):
    """Says more than the buffers of a connection hold."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        for number in range(1000):
            yield TextDelta(0, f"{number:4096}")
        yield END


def ask(server: Running) -> socket.socket:
    """A stream that nobody reads yet."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.settimeout(60)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((host, int(port)))
    body = json.dumps(HELLO | {"stream": True}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return connection


def test_who_reads_slowly_keeps_no_place() -> None:
    with (
        serving(lambda: Talkative(""), Limits(max_running=1)) as server,
        httpx.Client(timeout=60) as http,
    ):
        wait_until_loaded(http, server)
        with ask(server) as slow:
            while not server.state.streams:
                pass
            assert http.post(f"{server.url}/v1/chat/completions", json=HELLO).status_code == 200
            assert server.state.streams == 1
            assert server.state.busy()  # a server that stops waits for it
            answer = b""
            while piece := slow.recv(1 << 16):
                answer += piece
        assert answer.count(b'"content"') == 1001  # the first says the role
        assert b"data: [DONE]" in answer
        assert not server.state.busy()
