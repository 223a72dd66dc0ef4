"""A server as an engine: the same requests and events, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson

from f1.errors import EngineStopped, F1Error, InvalidRequest
from f1.serve.wire.remote import ChunkReader, read_error
from f1.serve.wire.request import ChatRequest, write_chat_request
from f1.types import Event, GenerateRequest

_CONNECT_SECONDS = 10.0
_MAX_LINE = 16 << 20  # bytes of one event
_MAX_ERROR = 1 << 16  # bytes of an error's body that are read


class RemoteEngine:
    """Decodes on the server at `base_url`, with the model of that id. Used on one event loop.

    `timeout`: seconds in which it may say nothing. A prompt may take minutes on a small machine,
    so that without one only the connection itself has to be quick.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None = None,
        *,
        timeout: float | None = None,
    ):
        base_url = base_url.rstrip("/")
        if urlsplit(base_url).path == "":
            base_url += "/v1"
        headers = {"content-type": "application/json"}
        if api_key:
            headers["authorization"] = f"Bearer {api_key}"
        self.model_id = model
        self._url = f"{base_url}/chat/completions"
        limits = httpx.Timeout(timeout, connect=min(_CONNECT_SECONDS, timeout or _CONNECT_SECONDS))
        self._http = httpx.AsyncClient(headers=headers, timeout=limits)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        """Raises what the server answered, as the F1Error of its code; EngineStopped when the
        server cannot be reached or goes away."""
        if request.prompt is not None:
            raise InvalidRequest("prompt: a server is asked with messages", param="prompt")
        body = orjson.dumps(self._body(request))
        reader = ChunkReader(eager=request.eager_arguments)
        try:
            async with self._http.stream("POST", self._url, content=body) as response:
                if response.status_code != 200:
                    error = self._error(response.status_code, await _first(response, _MAX_ERROR))
                    error.retry_after = _seconds(response.headers.get("retry-after", ""))
                    raise error
                async with aclosing(_sse_data(response)) as items:
                    async for data in items:
                        for event in reader.read(data):
                            yield event
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise EngineStopped(f"{self._url}: {error or type(error).__name__}") from error
        for event in reader.close():
            yield event

    def _body(self, request: GenerateRequest) -> dict[str, Any]:
        return write_chat_request(
            ChatRequest(self.model_id, request, stream=True, include_usage=True)
        )

    def _error(self, status: int, body: bytes) -> F1Error:
        return read_error(status, body)

    async def aclose(self) -> None:
        await self._http.aclose()


def _seconds(text: str) -> float | None:
    """A Retry-After that is no date."""
    return float(text) if text.isdecimal() and len(text) < 6 else None


async def _first(response: httpx.Response, num_bytes: int) -> bytes:
    """The body's beginning."""
    found = bytearray()
    async for piece in response.aiter_bytes():
        found += piece
        if len(found) >= num_bytes:
            break
    return bytes(found[:num_bytes])


async def _sse_data(response: httpx.Response) -> AsyncGenerator[bytes]:
    """The `data` of each server-sent event but the last, [DONE]; of a server that does not stream,
    its whole answer. Lines end at \\n alone: str.splitlines would also cut at U+2028 and its like,
    which JSON may hold."""
    if response.headers.get("content-type", "").startswith("application/json"):
        yield await _first(response, _MAX_LINE)
        return
    pending = b""
    async for piece in response.aiter_bytes():
        *lines, pending = (pending + piece).split(b"\n")
        if len(pending) > _MAX_LINE:
            raise EngineStopped(f"the server sent a line of more than {_MAX_LINE} bytes")
        for line in lines:
            data = line.removeprefix(b"data:").strip()
            if line.startswith(b"data:") and data != b"[DONE]":
                yield data
    last = pending.removeprefix(b"data:").strip()
    if pending.startswith(b"data:") and last != b"[DONE]":
        yield last
