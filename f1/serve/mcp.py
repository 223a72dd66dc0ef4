"""POST /mcp: F1 as an MCP server over streamable HTTP (f1/serve/offering.py), with the keys, hosts
and origins of all other routes. No sessions: each request stands for itself, in both eras of the
protocol, and there is no id to be guessed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from f1.serve.server import Server

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

PATH = "/mcp"


def add_routes(app: FastAPI, server: Server) -> Endpoint:
    endpoint = Endpoint(server)

    @app.post(PATH)
    async def mcp(request: Request) -> Response:
        return _Answered(endpoint)

    return endpoint


class _Answered(Response):
    """By another app, which reads the body itself."""

    def __init__(self, app: ASGIApp):
        super().__init__()
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


class Endpoint:
    """The SDK takes half a second to import: the first request waits for it, and no start."""

    def __init__(self, server: Server):
        self._server = server
        self._manager: asyncio.Future[StreamableHTTPSessionManager] | None = None
        self._stop = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._manager is None:
            self._manager = asyncio.get_running_loop().create_future()
            self._running = asyncio.create_task(self._run(self._manager))
        manager = await asyncio.shield(self._manager)
        await manager.handle_request(scope, receive, send)

    async def _run(self, manager: asyncio.Future[StreamableHTTPSessionManager]) -> None:
        """In one task, for what it starts is of one."""
        try:
            made = await asyncio.to_thread(_make, self._server)
            async with made.run():
                manager.set_result(made)
                await self._stop.wait()
        except BaseException as error:
            if not manager.done():
                manager.set_exception(error)
            raise

    async def close(self) -> None:
        self._stop.set()
        if self._running is not None:
            await asyncio.gather(self._running, return_exceptions=True)


def _make(server: Server) -> StreamableHTTPSessionManager:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

    from f1.serve.offering import offer

    most = server.limits.max_body_bytes
    return StreamableHTTPSessionManager(offer(server), stateless=True, max_request_body_size=most)
