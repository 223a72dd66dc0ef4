"""`/v1/tools` and `/v1/toolsets`: what requests may name instead of sending it.

    PUT ─▶ body checked ─▶ schemas checked ─▶ grammars judged, prompt computed ─▶ stored ─▶ seen
               400              400                        400                      503

A set small enough to be shown whole is computed as far as all prompts with it begin alike, so that
its first request is as fast as any.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from fastapi import FastAPI, Request, Response

from f1.config import ORCHESTRATED
from f1.errors import InvalidRequest, NotFound
from f1.serve.exchange import answer_aside, caller_of, json_response, read_json
from f1.serve.registrar import Prepare
from f1.serve.server import Server
from f1.serve.wire.tools import (
    parse_page,
    parse_tool,
    parse_toolset,
    write_deleted,
    write_page,
    write_tool,
    write_toolset,
)
from f1.tools.ahead import prepare
from f1.tools.mcp.servers import McpRunner
from f1.tools.registry import OPERATOR
from f1.tools.spec import ToolSpec

T = TypeVar("T")
log = logging.getLogger("f1.serve")
_BYTES_PER_TOKEN = 4
_ALL = 1 << 30


def add_routes(app: FastAPI, server: Server) -> None:
    _add_tools(app, server)
    _add_toolsets(app, server)


async def prepare_operators(server: Server) -> None:
    """Has done what the first requests with the operator's toolsets would wait for. Raises what a
    request with them would."""
    registry, prepared = server.registrar.registry, _preparing(server)
    for toolset in registry.toolsets(OPERATOR, limit=_ALL).entries:
        tools = toolset.tools
        while (told := await _refused(prepared, tools)) is not None:
            if not any(isinstance(spec.runner, McpRunner) for spec in tools):
                raise told
            before = len(tools)
            if _leave_out(tools, told) and (now := registry.toolset(OPERATOR, toolset.name)):
                tools = now.tools
            if len(tools) == before:
                log.warning("%s: %s", toolset.name, told.message)
                break
        await asyncio.to_thread(server.system.selector.prepare, tools)


async def _refused(prepared: Prepare, tools: Sequence[ToolSpec]) -> InvalidRequest | None:
    try:
        await prepared(tools)
    except InvalidRequest as error:
        return error
    return None


def _leave_out(specs: Sequence[ToolSpec], error: InvalidRequest) -> bool:
    """The tool that the error names, where it is an MCP server's: that is no fault of the file."""
    for spec in specs:
        if (error.param or "").startswith(f"tools.{spec.name}.") and isinstance(
            spec.runner, McpRunner
        ):
            spec.runner.leave_out(error.message)
            return True
    return False


def _add_tools(app: FastAPI, server: Server) -> None:
    registrar, limits = server.registrar, server.limits

    async def put(request: Request, name: str | None) -> Response:
        spec = parse_tool(await read_json(request, limits.max_body_bytes), limits, name)
        tenant, ready = caller_of(request).tenant, _preparing(server)

        async def work() -> Response:
            entry = await registrar.put_tool(tenant, spec, ready, new=name is None)
            return json_response(write_tool(entry))

        return await _aside(server, request, work)

    @app.post("/v1/tools")
    async def create(request: Request) -> Response:
        return await put(request, None)

    @app.put("/v1/tools/{name}")
    async def replace(request: Request, name: str) -> Response:
        return await put(request, name)

    @app.get("/v1/tools")
    async def listed(request: Request) -> Response:
        page = registrar.registry.tools(
            caller_of(request).tenant, **parse_page(request.query_params)
        )
        return json_response(write_page(page, write_tool))

    @app.get("/v1/tools/{name}")
    async def one(request: Request, name: str) -> Response:
        entry = registrar.registry.tool(caller_of(request).tenant, name)
        if entry is None:
            raise NotFound(f"no tool '{name[:100]}' is registered", param="name")
        return json_response(write_tool(entry))

    @app.delete("/v1/tools/{name}")
    async def delete(request: Request, name: str) -> Response:
        await registrar.remove_tool(caller_of(request).tenant, name)
        return json_response(write_deleted("tool", name))


def _add_toolsets(app: FastAPI, server: Server) -> None:
    registrar, limits = server.registrar, server.limits

    async def put(request: Request, name: str | None) -> Response:
        body = await read_json(request, limits.max_toolset_bytes)
        tenant, ready = caller_of(request).tenant, _preparing(server)

        async def work() -> Response:
            asked = await asyncio.to_thread(parse_toolset, body, limits, name)
            new = name is None
            found = await registrar.put_toolset(tenant, asked.name, asked.tools, ready, new=new)
            await asyncio.to_thread(server.system.selector.prepare, found.tools)
            return json_response(write_toolset(found))

        return await _aside(server, request, work)

    @app.post("/v1/toolsets")
    async def create(request: Request) -> Response:
        return await put(request, None)

    @app.put("/v1/toolsets/{name}")
    async def replace(request: Request, name: str) -> Response:
        return await put(request, name)

    @app.get("/v1/toolsets")
    async def listed(request: Request) -> Response:
        page = registrar.registry.toolsets(
            caller_of(request).tenant, **parse_page(request.query_params)
        )
        return json_response(write_page(page, write_toolset))

    @app.get("/v1/toolsets/{name}")
    async def one(request: Request, name: str) -> Response:
        found = registrar.registry.toolset(caller_of(request).tenant, name)
        if found is None:
            raise NotFound(f"no toolset '{name[:100]}' is registered", param="name")
        return json_response(await asyncio.to_thread(write_toolset, found, whole=True))

    @app.delete("/v1/toolsets/{name}")
    async def delete(request: Request, name: str) -> Response:
        await registrar.remove_toolset(caller_of(request).tenant, name)
        return json_response(write_deleted("toolset", name))


def _preparing(server: Server) -> Prepare:
    """Raises EngineStopped while the model is loading."""
    models = server.loaded()

    async def ready(specs: Sequence[ToolSpec]) -> None:
        if models.runs_here(ORCHESTRATED):  # else there is nothing to be done ahead
            async with models.lease(ORCHESTRATED) as engine:
                await prepare(engine, specs, server.limits.defaults)

    return ready


async def _aside(server: Server, request: Request, work: Callable[[], Awaitable[T]]) -> T:
    tokens = 1 + caller_of(request).num_bytes // _BYTES_PER_TOKEN
    queue = server.registering
    return await answer_aside(server, request, ORCHESTRATED, work, tokens, queue=queue)
