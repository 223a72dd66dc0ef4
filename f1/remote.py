"""A server as an engine: the same requests and events, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from urllib.parse import urlsplit

import httpx
import orjson

from f1.errors import EngineStopped, InvalidRequest
from f1.serve.wire.remote import ChunkReader, read_error
from f1.serve.wire.request import ChatRequest, write_chat_request
from f1.types import Event, GenerateRequest

# A prompt may take minutes on a small machine; only the connection itself has to be quick.
_TIMEOUT = httpx.Timeout(None, connect=10.0)


class RemoteEngine:
    """Decodes on the server at `base_url`, with the model of that id. Used on one event loop."""

    def __init__(self, base_url: str, model: str, api_key: str | None = None):
        base_url = base_url.rstrip("/")
        if urlsplit(base_url).path == "":
            base_url += "/v1"
        headers = {"content-type": "application/json"}
        if api_key:
            headers["authorization"] = f"Bearer {api_key}"
        self.model_id = model
        self._url = f"{base_url}/chat/completions"
        self._http = httpx.AsyncClient(headers=headers, timeout=_TIMEOUT)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        """Raises what the server answered, as the F1Error of its code; EngineStopped when the
        server cannot be reached or goes away."""
        if request.prompt is not None:
            raise InvalidRequest("prompt: a server is asked with messages", param="prompt")
        chat = ChatRequest(self.model_id, request, stream=True, include_usage=True)
        body = orjson.dumps(write_chat_request(chat))
        reader = ChunkReader(eager=request.eager_arguments)
        try:
            async with self._http.stream("POST", self._url, content=body) as response:
                if response.status_code != 200:
                    raise read_error(response.status_code, await response.aread())
                async with aclosing(_sse_data(response)) as items:
                    async for data in items:
                        for event in reader.read(data):
                            yield event
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise EngineStopped(f"{self._url}: {error or type(error).__name__}") from error
        for event in reader.close():
            yield event

    async def aclose(self) -> None:
        await self._http.aclose()


async def _sse_data(response: httpx.Response) -> AsyncGenerator[bytes]:
    """The `data` of each server-sent event but the last, [DONE]. Lines end at \\n alone:
    str.splitlines would also cut at U+2028 and its like, which JSON may hold."""
    pending = b""
    async for piece in response.aiter_bytes():
        *lines, pending = (pending + piece).split(b"\n")
        for line in lines:
            data = line.removeprefix(b"data:").strip()
            if line.startswith(b"data:") and data != b"[DONE]":
                yield data
