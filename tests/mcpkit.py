"""MCP servers for tests: those that are written out (mcpserver.py), and what is left of them."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from f1.tools.mcp.pins import Pins
from f1.tools.mcp.servers import McpServers, Publish
from f1.tools.mcp.settings import McpServer, read_server
from f1.tools.spec import Output, ToolSpec

HERE = Path(__file__).parent
WRITTEN = [sys.executable, "-P", str(HERE / "mcpserver.py")]


def written(name: str = "w", said: Mapping[str, Any] | None = None, **table: Any) -> McpServer:
    table = {"command": [*WRITTEN, json.dumps(said or {})]} | table
    return read_server(name, table, HERE)


class Met:
    """Servers that have told their tools, or could not, and the tools."""

    def __init__(self, servers: Sequence[McpServer], pins: Pins, seconds: float = 30):
        self.specs: dict[str, dict[str, ToolSpec]] = {server.name: {} for server in servers}
        self.follow: Publish | None = None  # who else is told
        self.published = threading.Condition()
        self.servers = McpServers(servers, pins, self._publish)
        self.servers.met(seconds)

    def _publish(self, server: str, specs: Sequence[ToolSpec]) -> None:
        if self.follow is not None:
            self.follow(server, specs)
        with self.published:
            self.specs[server] = {spec.name: spec for spec in specs}
            self.published.notify_all()

    def spec(self, name: str) -> ToolSpec:
        return self.specs[name.partition("__")[0]][name]

    def tools(self) -> dict[str, ToolSpec]:
        return {name: spec for specs in self.specs.values() for name, spec in specs.items()}

    async def call(self, name: str, **arguments: Any) -> Output:
        spec = self.spec(name)
        assert spec.runner is not None
        return await spec.runner.call(arguments, spec.limits)


class Note:
    """What servers have written down of themselves."""

    def __init__(self, file: Path):
        self.file = file

    def lines(self, kind: str) -> list[str]:
        text = self.file.read_text() if self.file.exists() else ""
        return [line.partition(" ")[2] for line in text.splitlines() if line.startswith(kind)]

    def alive(self) -> list[int]:
        """Of all processes that there were, those that are left."""
        return [pid for pid in map(int, self.lines("pid")) if is_alive(pid)]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def num_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def peak() -> int:
    """The most memory that this process has had since `forget_peak`, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def forget_peak() -> int:
    """What it has now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()
