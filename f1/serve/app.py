"""The HTTP endpoint: parse, decode, write. A client that goes away stops its work."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    MutableMapping,
)
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import orjson
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from f1.errors import EngineStopped, F1Error, InvalidRequest, ModelNotFound
from f1.planning.orchestrator import Engine, Orchestrator, gather
from f1.serve.limits import Admission, Limits
from f1.serve.wire.request import ChatRequest, parse_chat_request, parse_json
from f1.serve.wire.response import (
    ChunkWriter,
    Envelope,
    write_completion,
    write_error,
    write_model,
    write_models,
)
from f1.types import Event

T = TypeVar("T")
log = logging.getLogger("f1.serve")

ORCHESTRATED = "f1"  # the model id that stands for the whole system


class LocalEngine(Engine, Protocol):
    """What the endpoint needs of f1.engine.AsyncEngine."""

    @property
    def model_id(self) -> str: ...
    def healthy(self) -> bool: ...
    def close(self) -> None: ...


@dataclass(slots=True)
class Server:
    """What the routes share: the engine once it is loaded, and the room left."""

    limits: Limits
    admission: Admission
    created: int = field(default_factory=lambda: int(time.time()))
    engine: LocalEngine | None = None

    def loaded(self) -> LocalEngine:
        if self.engine is None:
            raise EngineStopped("the model is still loading")
        return self.engine

    def model_ids(self) -> list[str]:
        return [ORCHESTRATED] + ([self.engine.model_id] if self.engine else [])

    def decoder(self, model: str) -> Engine:
        engine = self.loaded()
        if model == ORCHESTRATED:
            return Orchestrator(engine)
        if model == engine.model_id:
            return engine
        known = ", ".join(self.model_ids())
        raise ModelNotFound(f"no model '{model[:100]}': this server has {known}", param="model")


def create_app(
    load: Callable[[], LocalEngine],
    *,
    limits: Limits | None = None,
    on_load_error: Callable[[BaseException], None] | None = None,
) -> FastAPI:
    """The app. `load` runs in a thread once the server is up, and until it returns `/ready` and
    all work answer 503. Where it fails, `on_load_error` is told (to end the process)."""
    limits = limits or Limits()
    server = Server(limits, Admission(limits.max_choices_in_flight))

    async def load_engine() -> None:
        try:
            server.engine = await asyncio.to_thread(load)
        except Exception as error:
            if not isinstance(error, F1Error):
                log.exception("the model could not be loaded")
            if on_load_error is not None:
                on_load_error(error)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(load_engine())
        try:
            yield
        finally:
            await loading  # a thread cannot be stopped: what it loads must be closed
            if server.engine is not None:
                await asyncio.to_thread(server.engine.close)

    # No generated documentation: the wire is OpenAI's, and the pages would load remote scripts.
    app = FastAPI(title="F1", lifespan=lifespan, openapi_url=None)
    app.add_middleware(RequestIds)
    app.state.server = server
    _add_routes(app, server)
    _add_error_handlers(app)
    return app


def _add_routes(app: FastAPI, server: Server) -> None:
    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        body = await _read_body(request, server.limits.max_body_bytes)
        chat = parse_chat_request(parse_json(body), server.limits)
        async with AsyncExitStack() as stack:
            stack.enter_context(server.admission.reserve(chat.generate.n))
            events = server.decoder(chat.model).generate(chat.generate)
            await stack.enter_async_context(aclosing(events))
            if not chat.stream:
                return await _complete(request, chat, events)
            # Until the first event a wrong request is still an ordinary 4xx.
            first = await _unless_gone(request.receive, anext(events))
            return EventStream(_chunks(chat, first, events), stack.pop_all())

    @app.get("/v1/models")
    async def models() -> Response:
        return _json(write_models(server.model_ids(), server.created))

    @app.get("/v1/models/{model_id:path}")
    async def model(model_id: str) -> Response:
        if model_id not in server.model_ids():
            raise ModelNotFound(f"no model '{model_id[:100]}'", param="model")
        return _json(write_model(model_id, server.created))

    @app.get("/health")
    async def health() -> Response:
        return _json({"status": "ok"})

    @app.get("/ready")
    async def ready() -> Response:
        engine = server.engine
        if engine is None:
            return _json({"status": "loading"}, 503)
        return _json({"status": "ready"}) if engine.healthy() else _json({"status": "stuck"}, 503)


async def _read_body(request: Request, max_bytes: int) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > max_bytes:
            raise BodyTooLarge(f"the body is larger than {max_bytes} bytes")
    return bytes(body)


class BodyTooLarge(InvalidRequest):
    status = 413
    code = "body_too_large"


async def _complete(request: Request, chat: ChatRequest, events: AsyncIterator[Event]) -> Response:
    completions = await _unless_gone(request.receive, gather(events, chat.generate.n))
    return _json(write_completion(Envelope(chat.model), completions))


async def _chunks(
    chat: ChatRequest, first: Event, events: AsyncIterator[Event]
) -> AsyncGenerator[bytes]:
    """Server-sent events of the whole answer. An error after the first event ends the stream with
    one `error` object, which OpenAI's clients raise."""
    writer = ChunkWriter(Envelope(chat.model), include_usage=chat.include_usage)
    try:
        for chunk in writer.write(first):
            yield _sse(chunk)
        async for event in events:
            for chunk in writer.write(event):
                yield _sse(chunk)
        for chunk in writer.close():
            yield _sse(chunk)
        yield b"data: [DONE]\n\n"
    except F1Error as error:
        yield _sse(write_error(error))
    except Exception:
        log.exception("a stream failed")
        yield _sse(write_error(_internal_error()))


def _sse(body: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


def _json(body: dict[str, Any], status: int = 200, **headers: str) -> Response:
    return Response(orjson.dumps(body), status, headers, media_type="application/json")


# --- clients that go away ----------------------------------------------------------------------


class ClientGone(Exception):
    """The client closed the connection; nobody reads the answer."""


async def _unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """The work's result; cancels it and raises ClientGone when the client goes away first.
    (Frameworks watch only streams for this; a long completion would run on for nobody.)"""

    async def disconnected() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working = asyncio.ensure_future(work)
    watching = asyncio.create_task(disconnected())
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        # The work has stopped when this returns, so its events can be closed.
        await asyncio.gather(working, watching, return_exceptions=True)


class EventStream(Response):
    """A text/event-stream that stops its source as soon as the client is gone."""

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncGenerator[bytes], stack: AsyncExitStack):
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self.chunks = chunks
        self.stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self.stack, aclosing(self.chunks):
            with suppress(ClientGone, OSError):  # OSError: how servers report a lost connection
                await _unless_gone(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        headers = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **headers})
        async for chunk in self.chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


# --- errors ------------------------------------------------------------------------------------


def _internal_error() -> F1Error:
    # Nothing of the exception goes out: messages of libraries hold paths and addresses.
    return F1Error("internal error; the server's log has more", code="internal_error")


def _add_error_handlers(app: FastAPI) -> None:
    Handler = Callable[[Request, Any], Coroutine[Any, Any, Response]]

    async def known(request: Request, error: F1Error) -> Response:
        headers = {"retry-after": "1"} if error.status in (429, 503) else {}
        return _json(write_error(error), error.status, **headers)

    async def http(request: Request, error: HTTPException) -> Response:
        shaped = InvalidRequest(f"{request.method} {request.url.path}: {error.detail}")
        return _json(write_error(shaped), error.status_code)

    async def gone(request: Request, error: ClientGone) -> Response:
        return Response(status_code=499)  # nobody reads it; the access log does

    async def unknown(request: Request, error: Exception) -> Response:
        return _json(write_error(_internal_error()), 500)

    handlers: dict[type[Exception], Handler] = {
        F1Error: known,
        HTTPException: http,
        ClientGone: gone,
        Exception: unknown,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


class RequestIds:
    """Gives every answer an `x-request-id`, which OpenAI's clients show as `_request_id`."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = f"req_{secrets.token_hex(12)}".encode()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers: MutableMapping[str, Any] = message
                headers["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
            await send(message)

        await self.app(scope, receive, send_with_id)
