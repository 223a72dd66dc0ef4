"""MCP servers over HTTP that mean harm: as on stdio (test_mcp_hostile.py), with nothing to end."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcpkit import Met, forget_peak, num_files, peak, written
from mcpserver import TOOL

from f1.planning.executor import Executor
from f1.planning.gates import Gates
from f1.tools.mcp.pins import Pins
from f1.tools.mcp.settings import read_server
from f1.types import Node

LIMIT = 1.5
MB = 1 << 20
JSON = "Content-Type: application/json\r\n"
ZIPPED = gzip.compress(b" " * (64 * MB))
EVENTS = "Content-Type: text/event-stream\r\n"


class Bad:
    """Speaks the older era well, until a tool is called."""

    def __init__(self, fault: str):
        self.fault = fault
        self.did = 0
        self.began = 0
        self.elsewhere = 0  # requests that were sent to another place
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._converse(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := (await reader.readuntil(b"\r\n\r\n")).decode():
            length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
            body = await reader.readexactly(int(length[1]) if length else 0)
            if not head.startswith("POST /mcp"):
                self.elsewhere += head.startswith("POST")
                await self._say(writer, "405 No", "", b"")
                continue
            await self._answer(writer, json.loads(body))

    async def _say(self, writer: Any, status: str, headers: str, body: bytes) -> None:
        head = f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    async def _answer(self, writer: asyncio.StreamWriter, asked: dict[str, Any]) -> None:
        told = {"jsonrpc": "2.0", "id": asked.get("id")}
        match asked["method"]:
            case "initialize":
                self.began += 1
                version = asked["params"]["protocolVersion"]
                info = {"name": "bad", "version": "1"}
                told["result"] = {
                    "protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info,
                }  # fmt: skip
                headers = JSON + "Mcp-Session-Id: s1\r\n"
                return await self._say(writer, "200 OK", headers, json.dumps(told).encode())
            case "tools/list":
                told["result"] = {"tools": [TOOL]}
            case "tools/call":
                self.did += 1
                return await self._harm(writer, told)
            case _ if "id" in asked:
                told["error"] = {"code": -32601, "message": "Method not found"}
            case _:
                return await self._say(writer, "202 Accepted", "", b"")
        await self._say(writer, "200 OK", JSON, json.dumps(told).encode())

    async def _harm(self, writer: asyncio.StreamWriter, told: dict[str, Any]) -> None:
        async def endless(headers: str, *pieces: bytes) -> None:
            writer.write(f"HTTP/1.1 200 OK\r\n{headers}Connection: close\r\n\r\n".encode())
            for piece in pieces[:-1]:
                writer.write(piece)
            while True:
                writer.write(pieces[-1])
                await writer.drain()

        match self.fault:
            case "hang":
                await asyncio.Event().wait()
            case "close":
                writer.close()
            case "half":
                writer.write(f"HTTP/1.1 200 OK\r\n{JSON}Content-Length: 99\r\n\r\n{{".encode())
                await writer.drain()
                writer.close()
            case "drip":
                writer.write(f"HTTP/1.1 200 OK\r\n{JSON}Content-Length: 99\r\n\r\n".encode())
                while True:
                    writer.write(b" ")
                    await writer.drain()
                    await asyncio.sleep(0.05)
            case "endless JSON":
                start = (
                    json.dumps(told)[:-1] + ', "result": {"content": [{"type": "text", "text": "'
                )
                await endless(JSON, start.encode(), b"y" * 65536)
            case "endless event":
                await endless(EVENTS, b"data: ", b"y" * 65536)
            case "endless events":
                note = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
                await endless(EVENTS, b"data: " + json.dumps(note).encode() + b"\n\n")
            case "events that end":
                await self._say(writer, "200 OK", EVENTS, b": nothing\n\n")
            case "zipped":
                await self._say(writer, "200 OK", JSON + "Content-Encoding: gzip\r\n", ZIPPED)
            case "another type":
                await self._say(writer, "200 OK", "Content-Type: text/html\r\n", b"<html>")
            case "no JSON":
                await self._say(writer, "200 OK", JSON, b"{]" * 1000)
            case "500":
                await self._say(writer, "500 Oh", "Content-Type: text/plain\r\n", b"x" * 10_000)
            case "404":
                await self._say(writer, "404 Gone", "", b"")
            case "redirect":
                there = self.url.replace("127.0.0.1", "localhost") + "/elsewhere"
                await self._say(writer, "307 There", f"Location: {there}\r\n", b"")
            case "202":
                await self._say(writer, "202 Accepted", "", b"")
            case "another id":
                told |= {"id": 10**6, "result": {"content": []}}
                await self._say(writer, "200 OK", JSON, json.dumps(told).encode())


@asynccontextmanager
async def served(bad: Bad) -> AsyncIterator[str]:
    server = await asyncio.start_server(bad.serve, "127.0.0.1", 0)
    bad.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield f"{bad.url}/mcp"
    finally:
        server.close()
        ours = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not ours]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)  # what was aborted is let go of


FAULTS = {
    "hang": "within 1.5 s",
    "close": "lost before|down|RemoteProtocol|disconnected|error",
    "half": "lost before|error",
    "drip": "within 1.5 s",
    "endless JSON": "",  # cut, and that is all
    "endless event": "SSE|lost before",
    "endless events": "within 1.5 s",
    "events that end": "lost before|ended without",
    "zipped": "lost before|error",
    "another type": "Unexpected content type",
    "no JSON": "Failed to parse",
    "500": "error response",
    "404": "forgotten this session",
    "redirect": "not followed",
    "202": "202",
    "another id": "within 1.5 s",
}
CI = {"hang", "endless JSON", "404", "redirect"}


@pytest.mark.parametrize(
    "fault", [pytest.param(f, marks=[] if f in CI else [pytest.mark.full]) for f in FAULTS]
)
async def test_a_call_over_http_that_goes_wrong(fault: str, tmp_path: Path) -> None:
    threads = threading.enumerate()
    bad = Bad(fault)
    async with served(bad) as url:
        files = num_files()
        servers = [read_server("bad", {"url": url, "timeout": LIMIT}, tmp_path), written("good")]
        met = await asyncio.to_thread(Met, servers, Pins(tmp_path / "pins.json"))
        try:
            before = forget_peak()
            async with Executor(met.tools(), Gates()) as executor:
                for number, tool in enumerate(("bad__echo", "good__echo"), 1):
                    executor.add(Node(str(number), tool, {"text": "hi"}))
                while executor.unfinished:
                    await executor.next()
                harmed, good = executor.results["1"], executor.results["2"]
            assert bad.did
            assert bad.elsewhere == 0
            assert good.value == {"text": "hi"}
            assert harmed.seconds < LIMIT + 5
            assert len(harmed.content) < 64_000
            assert peak() - before < 16 * MB
            if fault == "404":  # it is met again
                async with asyncio.timeout(20):
                    while bad.began < 2:
                        await asyncio.sleep(0.01)
            if fault == "endless JSON":
                assert harmed.cut
            else:
                assert harmed.failed in ("error", "timeout")
                assert re.search(FAULTS[fault], harmed.content), harmed.content
        finally:
            await asyncio.to_thread(met.servers.close)
    assert threading.enumerate()[: len(threads)] == threads
    assert num_files() <= files
