"""Registering from Python: kept in this process, and made ready here or told to a server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from urllib.parse import quote, urlsplit

import httpx
import orjson

from f1.errors import EngineStopped
from f1.serve.wire.remote import read_error
from f1.tools.ahead import Registering, prepare
from f1.tools.registry import Registry, check_toolset
from f1.tools.spec import ToolSpec
from f1.tools.tables import check_spec, write_table
from f1.types import GenerateRequest, Tool

_TIMEOUT = httpx.Timeout(None, connect=10.0)  # a server may have to compute a long prompt
_TENANT = ""  # there is but one here

# Does what is to be done before they are seen: with all of a toolset, or with tools by themselves.
Publish = Callable[[Sequence[ToolSpec], str | None], Awaitable[None]]


class LocalTools:
    """What a client has registered. `registry` resolves the names in its runs."""

    def __init__(self, publish: Publish):
        self.registry = Registry()
        self._publish = publish

    async def register(self, specs: Sequence[ToolSpec], toolset: str | None) -> tuple[str, ...]:
        """Returns the names that requests may use. Raises InvalidRequest naming the field, and what
        publishing raises."""
        if toolset is not None:
            check_toolset(toolset, specs)
        for index, spec in enumerate(specs):
            check_spec(spec, f"tools[{index}].")
        await self._publish(specs, toolset)
        if toolset is not None:
            self.registry.put_toolset(_TENANT, toolset, specs)
            return (toolset,)
        return tuple(self.registry.put_tool(_TENANT, spec).name for spec in specs)

    def named(self, _: str, request: GenerateRequest) -> tuple[ToolSpec, ...]:
        """What a request of a run names. Raises InvalidRequest."""
        return self.registry.resolve(_TENANT, request.run.tools, request.run.toolsets)

    def shown(self, request: GenerateRequest) -> GenerateRequest:
        """The request with what it names, for an engine that knows of no names."""
        specs = self.named(_TENANT, request)
        run = replace(request.run, tools=(), toolsets=())
        return replace(request, tools=(*request.tools, *(s.tool for s in specs)), run=run)

    def tools(self) -> tuple[Tool, ...]:
        """Those that were registered by themselves, by name."""
        limit = 1 << 30
        return tuple(entry.spec.tool for entry in self.registry.tools(_TENANT, limit=limit).entries)


def ready_in(engine: Registering) -> Publish:
    """Has what their first request would wait for done by the engine of this process."""

    async def publish(specs: Sequence[ToolSpec], toolset: str | None) -> None:
        for together in [specs] if toolset is not None else [[spec] for spec in specs]:
            await prepare(engine, together)

    return publish


def told_to(base_url: str, api_key: str | None) -> Publish:
    """Registers them with the server as tools of the caller's, which it returns calls to. Raises
    what the server answered, EngineStopped where it cannot be reached."""
    base_url = base_url.rstrip("/")
    if urlsplit(base_url).path == "":
        base_url += "/v1"
    headers = {"content-type": "application/json"}
    if api_key:
        headers["authorization"] = f"Bearer {api_key}"

    async def put(http: httpx.AsyncClient, path: str, body: object) -> None:
        try:
            response = await http.put(f"{base_url}/{path}", content=orjson.dumps(body))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise EngineStopped(f"{base_url}: {error or type(error).__name__}") from error
        if response.status_code != 200:
            raise read_error(response.status_code, response.content)

    async def publish(specs: Sequence[ToolSpec], toolset: str | None) -> None:
        bodies = [{"name": spec.name} | _body(spec) for spec in specs]
        async with httpx.AsyncClient(headers=headers, timeout=_TIMEOUT) as http:
            if toolset is not None:
                await put(http, f"toolsets/{quote(toolset, safe='')}", {"tools": bodies})
                return
            for body in bodies:
                await put(http, f"tools/{body['name']}", body)

    return publish


def _body(spec: ToolSpec) -> dict[str, object]:
    """How long a call may take is not the server's to know: it is run here."""
    return {key: value for key, value in write_table(spec).items() if key != "limits"}
