"""Tools of MCP servers: real servers of both eras, on stdio and over HTTP."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from f1.tools.mcp.pins import Pins
from f1.tools.mcp.servers import McpServers
from f1.tools.mcp.settings import McpServer, read_server
from f1.tools.spec import Output, ToolSpec

HERE = Path(__file__).parent
WRITTEN = [sys.executable, "-P", str(HERE / "mcpserver.py")]


def written(name: str = "w", said: dict[str, Any] | None = None, **table: Any) -> McpServer:
    """A server that is written out (mcpserver.py)."""
    table = {"command": [*WRITTEN, json.dumps(said or {})]} | table
    return read_server(name, table, HERE)


class Met:
    """Servers that have told their tools, and the tools."""

    def __init__(self, servers: Sequence[McpServer], pins: Pins):
        self.specs: dict[str, dict[str, ToolSpec]] = {}
        self.servers = McpServers(servers, pins, self._publish)
        self.servers.met(30)

    def _publish(self, server: McpServer, specs: Sequence[ToolSpec]) -> None:
        self.specs[server.name] = {spec.name: spec for spec in specs}

    def spec(self, name: str) -> ToolSpec:
        return self.specs[name.partition("__")[0]][name]

    async def call(self, name: str, **arguments: Any) -> Output:
        spec = self.spec(name)
        assert spec.runner is not None
        return await spec.runner.call(arguments, spec.limits)


@pytest.fixture
def meet(tmp_path: Path) -> Iterator[Callable[..., Met]]:
    met: list[Met] = []

    def start(*servers: McpServer, pins: Pins | None = None) -> Met:
        met.append(Met(servers, pins or Pins(tmp_path / "pins.json")))
        return met[-1]

    yield start
    for each in met:
        each.servers.close()


async def test_a_written_server(meet: Callable[..., Met]) -> None:
    met = meet(written())
    assert met.spec("w__echo").tool.description == "Says it again."
    assert (await met.call("w__echo", text="hi")).value == {"text": "hi"}
