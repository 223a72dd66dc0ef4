"""F1 as an MCP server, asked by the SDK's own client, over HTTP and on stdio."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcpkit import WRITTEN
from scripted import ScriptedEngine, call
from serving import Running, serving, wait_until_loaded

from f1.serve.access import Access, make_key
from f1.serve.registrar import Registrar
from f1.settings import Settings
from f1.store.runs import open_runs
from f1.tools.policy import Ruling
from f1.tools.registry import OPERATOR
from f1.tools.spec import CallLimits, Output, ToolFailure, ToolSpec
from f1.trace.recorder import Recorder
from f1.types import Tool

PAIR = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
}


class Adding:
    """Counts its calls; waits where it is told to."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.cancelled = 0

    async def call(self, arguments: Any, limits: CallLimits) -> Output:
        self.calls.append(arguments)
        if arguments["a"] == 13:
            raise ToolFailure("no such number")
        if arguments["a"] == 99:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return Output({"sum": arguments["a"] + arguments["b"]})


@pytest.fixture
def adding() -> Adding:
    return Adding()


@pytest.fixture
def registrar(adding: Adding) -> Registrar:
    registrar = Registrar()
    registry = registrar.registry
    registry.put_tool(OPERATOR, ToolSpec(Tool("add", "Adds.", PAIR), adding))
    registry.put_tool(OPERATOR, ToolSpec(Tool("theirs", "The caller runs it.", PAIR)))
    registry.put_tool("alice", ToolSpec(Tool("hers", "Alice's.", PAIR)))
    return registrar


@pytest.fixture
def server(registrar: Registrar) -> Iterator[Running]:
    engine = ScriptedEngine([call("add", a=1, b=2)], "It is 3.")
    with serving(lambda: engine, registrar=registrar) as running, httpx.Client() as http:
        wait_until_loaded(http, running)
        yield running


@asynccontextmanager
async def asking(server: Running, mode: str = "auto", key: str = "") -> AsyncIterator[Client]:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with httpx2.AsyncClient(headers=headers) as http:
        transport = streamable_http_client(f"{server.url}/mcp", http_client=http)
        async with Client(transport, mode=mode) as client:
            yield client


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_tools_and_the_system(server: Running, adding: Adding, mode: str) -> None:
    async with asking(server, mode) as client:
        listed = (await client.list_tools()).tools
        assert [tool.name for tool in listed] == ["f1", "add"]
        assert listed[1].input_schema == PAIR
        assert listed[1].annotations is not None
        assert listed[1].annotations.read_only_hint is False

        result = await client.call_tool("add", {"a": 2, "b": 3})
        assert (result.is_error, result.structured_content) == (False, {"sum": 5})
        result = await client.call_tool("add", {"a": 13, "b": 0})
        assert result.is_error
        assert "no such number" in result.content[0].text
        result = await client.call_tool("add", {"a": "two"})
        assert result.is_error
        assert "do not fit the schema" in result.content[0].text
        for name in ("theirs", "hers", "none"):
            with pytest.raises(MCPError, match="Unknown tool"):
                await client.call_tool(name, {"a": 1, "b": 2})
        assert adding.calls == [{"a": 2, "b": 3}, {"a": 13, "b": 0}]

        told: list[str] = []

        async def progress(done: float, total: float | None, message: str | None) -> None:
            told.append(message or "")

        question = {"question": "1 + 2?", "tools": ["add"], "strategy": "react"}
        result = await client.call_tool("f1", question, progress_callback=progress)
        assert result.content[0].text.strip() == "It is 3."
        assert result.structured_content is not None
        assert result.structured_content["run"]["ending"] == "answered"
        assert told == ["calls add", "add: done"]
        result = await client.call_tool("f1", {"question": "?", "strategy": "magic"})
        assert result.is_error
        result = await client.call_tool("f1", {"quest": "?"})
        assert result.is_error


async def test_who_leaves_is_not_worked_for(server: Running, adding: Adding) -> None:
    async with asking(server) as client:
        calling = asyncio.create_task(client.call_tool("add", {"a": 99, "b": 0}))
        async with asyncio.timeout(20):
            while not adding.calls:
                await asyncio.sleep(0.01)
            calling.cancel()
            while not adding.cancelled:
                await asyncio.sleep(0.01)


async def test_keys_hosts_and_origins_are_asked_for_as_everywhere(registrar: Registrar) -> None:
    secret, _ = make_key("alice")
    access = Access.from_env({"F1_API_KEYS": f"alice:{secret}"}, "127.0.0.1")
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    engine = ScriptedEngine("Hello.")
    with (
        serving(lambda: engine, registrar=registrar, access=access) as running,
        httpx.Client(base_url=running.url) as http,
    ):
        wait_until_loaded(http, running)
        accept = {"accept": "application/json, text/event-stream"}
        assert http.post("/mcp", json=body, headers=accept).status_code == 401
        key = {"authorization": f"Bearer {secret}"}
        for header in ({"host": "evil.example"}, {"origin": "https://evil.example"}):
            answer = http.post("/mcp", json=body, headers=accept | key | header)
            assert answer.status_code == 403
        assert http.get("/mcp", headers=accept | key).status_code == 405
        async with asking(running, key=secret) as client:
            assert {tool.name for tool in (await client.list_tools()).tools} == {"f1", "add"}


class Asks:
    """Rules that ask about everything."""

    version = "1"

    def ruling(self, *_: object) -> Ruling:
        return Ruling("ask", "all", "everything is asked about")


async def test_what_a_person_has_to_allow(
    registrar: Registrar, adding: Adding, tmp_path: Any
) -> None:
    store = open_runs(Settings(cache=tmp_path))
    engine = ScriptedEngine("Hello.")
    options: dict[str, Any] = {"recorder": Recorder(store), "policy": Asks()}
    with (
        serving(lambda: engine, registrar=registrar, **options) as running,
        httpx.Client(base_url=running.url) as http,
    ):
        wait_until_loaded(http, running)
        async with asking(running) as client:
            result = await client.call_tool("add", {"a": 1, "b": 1})
            assert result.is_error
            assert adding.calls == []
            (waiting,) = result.structured_content["approvals"]
            assert waiting["id"] in result.content[0].text
            run_id = result.meta["f1/runId"]
            again = await client.call_tool("add", {"a": 1, "b": 1}, meta={"f1/runId": run_id})
            assert again.is_error
            assert adding.calls == []
            http.post(f"/v1/approvals/{waiting['id']}", json={"approve": True}).raise_for_status()
            done = await client.call_tool("add", {"a": 1, "b": 1}, meta={"f1/runId": run_id})
            assert done.structured_content == {"sum": 2}
            assert adding.calls == [{"a": 1, "b": 1}]
            once = await client.call_tool("add", {"b": 1, "a": 1}, meta={"f1/runId": run_id})
            assert once.structured_content == {"sum": 2}
            other = await client.call_tool("add", {"a": 1, "b": 2}, meta={"f1/runId": run_id})
            assert other.is_error
            assert "asked something else" in other.content[0].text
            bad = await client.call_tool("f1", {"question": "?"}, meta={"f1/runId": "r" * 81})
            assert bad.is_error
            assert adding.calls == [{"a": 1, "b": 1}]


async def test_the_system_goes_on_once_a_person_has_allowed_it(
    registrar: Registrar, adding: Adding, tmp_path: Path
) -> None:
    """By the same call with the run's id in `_meta`, as it says."""
    store = open_runs(Settings(cache=tmp_path))
    engine = ScriptedEngine([call("add", a=1, b=2)], "It is 3.")
    options: dict[str, Any] = {"recorder": Recorder(store), "policy": Asks()}
    question = {"question": "1 + 2?", "tools": ["add"], "strategy": "react"}
    with (
        serving(lambda: engine, registrar=registrar, **options) as running,
        httpx.Client(base_url=running.url) as http,
    ):
        wait_until_loaded(http, running)
        async with asking(running) as client:
            result = await client.call_tool("f1", question)
            (waiting,) = result.structured_content["approvals"]
            meta = {"f1/runId": result.meta["f1/runId"]}
            again = await client.call_tool("f1", question, meta=meta)
            assert [each["id"] for each in again.structured_content["approvals"]] == [waiting["id"]]
            assert adding.calls == []
            http.post(f"/v1/approvals/{waiting['id']}", json={"approve": True}).raise_for_status()
            done = await client.call_tool("f1", question, meta=meta)
            assert (done.is_error, done.content[0].text.strip()) == (False, "It is 3.")
            assert adding.calls == [{"a": 1, "b": 2}]


async def test_on_stdio(tmp_path: Path) -> None:
    """A process of its own; its model is elsewhere and cannot be reached, its tool prints."""
    (tmp_path / "tools.py").write_text(
        "from f1 import tool\n\n\n@tool(read_only=True)\ndef double(n: int) -> int:\n"
        '    "Doubles."\n    print("not the protocol")\n    return 2 * n\n'
    )
    (tmp_path / "f1.toml").write_text(
        "[models.m]\nbase_url = 'http://127.0.0.1:9/v1'\nmodel = 'm'\n"
        "[tools.double]\npython = 'tools.py:double'\n"
        f"[mcp.w]\ncommand = {json.dumps([*WRITTEN, '{}'])}\n"
    )
    parameters = StdioServerParameters(
        command=sys.executable,
        args=["-P", "-m", "f1.cli", "mcp", "serve", "--config", str(tmp_path / "f1.toml")],
        env={**os.environ, "F1_CACHE": str(tmp_path / "cache")},
    )
    with (tmp_path / "stderr").open("w") as errors:
        async with Client(stdio_client(parameters, errlog=errors)) as client:
            listed = (await client.list_tools()).tools
            assert [tool.name for tool in listed] == ["f1", "double", "w__echo"]
            assert listed[1].annotations is not None
            assert listed[1].annotations.read_only_hint is True
            result = await client.call_tool("double", {"n": 4})
            assert (result.is_error, result.content[0].text) == (False, "8")
            result = await client.call_tool("f1", {"question": "?"})
            assert result.is_error
            assert "127.0.0.1:9" not in result.content[0].text
