"""`f1 tools`: the tools and toolsets that a server has registered."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from f1.ask import load_tools
from f1.config import read_config
from f1.errors import EngineStopped, InvalidRequest, NotFound
from f1.serve.wire.remote import read_error
from f1.tools.selection import Selector
from f1.tools.spec import ToolSpec
from f1.tools.tables import write_table
from f1.types import Tool

Json = dict[str, Any]
_PAGE = 100
_TIMEOUT = httpx.Timeout(300.0, connect=10.0)  # registering computes what requests begin with


class ToolServer:
    """The tools of the server at `base_url`. All calls raise what it answers, as F1Error."""

    def __init__(self, base_url: str, api_key: str | None = None):
        base_url = base_url.rstrip("/")
        if urlsplit(base_url).path == "":
            base_url += "/v1"
        key = api_key or os.environ.get("F1_API_KEY")
        self._base_url = base_url
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    def tools(self) -> Iterator[Json]:
        return self._pages("tools")

    def toolsets(self) -> Iterator[Json]:
        return self._pages("toolsets")

    def show(self, name: str) -> Json:
        """A toolset where the name has an "@", or there is no tool of that name."""
        if "@" not in name:
            try:
                return self._ask("GET", f"tools/{quote(name)}")
            except NotFound:
                pass  # then it is a toolset, or nothing
        return self._ask("GET", f"toolsets/{quote(name)}")

    def put(self, tool: Json) -> Json:
        return self._ask("PUT", f"tools/{quote(tool['name'])}", tool)

    def put_set(self, name: str, tools: Sequence[Json]) -> Json:
        return self._ask("PUT", f"toolsets/{quote(name)}", {"tools": list(tools)})

    def remove(self, name: str, *, toolset: bool) -> None:
        self._ask("DELETE", f"{'toolsets' if toolset else 'tools'}/{quote(name)}")

    def specs(self) -> tuple[ToolSpec, ...]:
        """All tools, those of toolsets too, by name."""
        sets = [self.show(toolset["id"])["tools"] for toolset in self.toolsets()]
        found = [*self.tools(), *(tool for tools in sets for tool in tools)]
        return tuple({tool["name"]: ToolSpec(_tool(tool)) for tool in found}.values())

    def _pages(self, kind: str) -> Iterator[Json]:
        after = ""
        while True:
            page = self._ask("GET", f"{kind}?limit={_PAGE}&after={quote(after)}")
            yield from page["data"]
            if not page["has_more"]:
                return
            after = page["last_id"]

    def _ask(self, method: str, path: str, body: Json | None = None) -> Json:
        url = f"{self._base_url}/{path}"
        try:
            response = httpx.request(
                method, url, json=body, headers=self._headers, timeout=_TIMEOUT
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise EngineStopped(f"{url}: {error or type(error).__name__}") from error
        if response.status_code >= 400:
            raise read_error(response.status_code, response.content)
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise EngineStopped(f"{url}: what answers there is no server of F1's")
        return answer


def read_tools(path: Path) -> list[Json]:
    """Tools to register: of a Python file its functions, to be run by who asks; of a JSON file
    what it says, one tool or a list. Raises InvalidRequest."""
    if path.suffix == ".py":
        return [_body(function.spec) for function in load_tools(path)]
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{path}: {error}", param="tools") from error
    tools = found if isinstance(found, list) else [found]
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
            told = f"{path}: tools[{index}] has to be an object with a 'name'"
            raise InvalidRequest(told, param="tools")
    return tools


def _body(spec: ToolSpec) -> Json:
    """As PUT /v1/tools takes it. How long a call may take is for who runs it."""
    table = {key: value for key, value in write_table(spec).items() if key != "limits"}
    return {"name": spec.name} | table


def _tool(body: Json) -> Tool:
    return Tool(body["name"], body["description"], body["parameters"], body["strict"])


def search(server: ToolServer, query: str, count: int) -> list[ToolSpec]:
    """The tools whose words fit best, best first."""
    return list(asyncio.run(Selector().search(server.specs(), query, count)))


def list_served(server: ToolServer, console: Console) -> None:
    table = _table()
    for tool in server.tools():
        table.add_row(tool["name"], tool["owner"], tool["runner"], _first_line(tool))
    for toolset in server.toolsets():
        table.add_row(toolset["id"], toolset["owner"], "", f"{toolset['num_tools']} tools")
    console.print(table)


def list_configured(path: Path, console: Console) -> None:
    """What a server of this f1.toml would have from the start. Raises InvalidRequest."""
    config = read_config(path)
    table = _table()
    for name, tool in config.tools.items():
        runner = "server" if tool.keys() & {"python", "http"} else "client"
        table.add_row(name, "operator", runner, _first_line(tool))
    for name, tools in config.toolsets.items():
        table.add_row(name, "operator", "", f"{len(tools)} tools")
    console.print(table)


def _table() -> Table:
    return Table("name", "owner", "runs", "what", box=None, pad_edge=False)


def _first_line(tool: Mapping[str, Any]) -> str:
    return escape(str(tool.get("description", "")).partition("\n")[0])
