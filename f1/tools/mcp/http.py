"""Streamable HTTP, as the SDK speaks it, with bounds beneath: it reads a JSON answer whole, however
long, and events as fast as they come. A connection goes where the operator has said: no proxies of
the environment, no redirects elsewhere, no credentials to another."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx2
import orjson
from mcp.client.streamable_http import streamable_http_client

from f1.tools.mcp.lines import Line, first_of
from f1.tools.mcp.settings import McpServer
from f1.tools.mcp.throttle import Throttle
from f1.tools.spec import ToolFailure

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

_CONNECT_SECONDS = 10.0
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class HttpLink:
    """Where the server keeps no connection, it is lost when a request finds nobody."""

    def __init__(self, server: McpServer):
        self.lost = asyncio.Event()
        self.why = ""
        self.hangs = False
        self._server = server

    @asynccontextmanager
    async def streams(self) -> AsyncGenerator[TransportStreams]:
        server = self._server
        client = httpx2.AsyncClient(
            headers=_headers(server, os.environ),
            timeout=httpx2.Timeout(None, connect=_CONNECT_SECONDS),  # calls have their own
            trust_env=False,
            transport=_Bounded(server.max_message),
        )
        async with (
            client,
            streamable_http_client(
                server.url,
                http_client=client,
                max_sse_event_size=server.max_message,
                terminate_on_close=False,  # it may not answer
            ) as streams,
        ):
            yield streams


def _headers(server: McpServer, environment: Mapping[str, str]) -> dict[str, str]:
    """With "${NAME}" in them filled in. Raises ToolFailure for a variable that is not set."""

    def value(name: str) -> str:
        if not (found := environment.get(name, "")):
            raise ToolFailure(f"the variable {name} is not set")
        return found

    filled = {
        name: _VARIABLE.sub(lambda match: value(match[1]), text)
        for name, text in server.headers.items()
    }
    if server.api_key_env:
        filled["authorization"] = f"Bearer {value(server.api_key_env)}"
    return {"user-agent": "f1", **filled}


class _Bounded(httpx2.AsyncBaseTransport):
    """Answers of bounded length, at a bounded pace, in no encoding that could make them longer."""

    def __init__(self, max_bytes: int):
        self._beneath = httpx2.AsyncHTTPTransport(trust_env=False)
        self._max = max_bytes

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        request.headers["accept-encoding"] = "identity"
        response = await self._beneath.handle_async_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise httpx2.DecodingError("an encoding that was not asked for", request=request)
        is_events = response.headers.get("content-type", "").startswith("text/event-stream")
        kept = _Events(response.stream) if is_events else _Json(response, self._max, request)
        headers = [(k, v) for k, v in response.headers.raw if k.lower() != b"content-length"]
        return httpx2.Response(
            response.status_code, headers=headers, stream=kept, extensions=response.extensions
        )

    async def aclose(self) -> None:
        await self._beneath.aclose()


class _Events(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.SyncByteStream | httpx2.AsyncByteStream):
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        throttle = Throttle()
        if isinstance(self._stream, httpx2.AsyncByteStream):
            async for piece in self._stream:
                await throttle.take(1 + len(piece) / (1 << 10))
                yield piece

    async def aclose(self) -> None:
        if isinstance(self._stream, httpx2.AsyncByteStream):
            await self._stream.aclose()


class _Json(httpx2.AsyncByteStream):
    """The body; of one that is too long, what its beginning says, as a whole answer."""

    def __init__(self, response: httpx2.Response, max_bytes: int, request: httpx2.Request):
        self._response = response
        self._max = max_bytes
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        head, size = bytearray(), 0
        if isinstance(self._response.stream, httpx2.AsyncByteStream):
            async for piece in self._response.stream:
                head += piece[: self._max - len(head)]
                size += len(piece)
                if size > self._max:  # nothing is read beyond
                    answer = first_of(Line(bytes(head), size), self._asked())
                    yield orjson.dumps(answer)
                    return
        yield bytes(head)

    def _asked(self) -> int | None:
        try:
            said = orjson.loads(self._request.content)
        except (orjson.JSONDecodeError, httpx2.RequestNotRead):
            return None
        found = said.get("id") if isinstance(said, dict) else None
        return found if isinstance(found, int) else None

    async def aclose(self) -> None:
        if isinstance(self._response.stream, httpx2.AsyncByteStream):
            await self._response.stream.aclose()
