"""The HTTP endpoint: an app that loads the engine, its routes, its errors."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TextIO

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from f1.config import ApprovalOptions
from f1.errors import DeadlineExceeded, F1Error, InvalidRequest, ModelNotFound
from f1.pool import LocalEngine
from f1.roles import Models
from f1.serve import (
    anthropic,
    approvals,
    chat,
    completions,
    embeddings,
    health,
    mcp,
    openapi,
    responses,
    sessions,
    tokens,
    tools,
    traces,
)
from f1.serve.access import Access, Guard
from f1.serve.admission import Admission
from f1.serve.exchange import ClientGone, caller_of, internal_error, json_response
from f1.serve.limits import Limits
from f1.serve.logs import RequestLog
from f1.serve.metrics import Metrics
from f1.serve.record import Recorder as RequestRecorder
from f1.serve.registrar import Registrar
from f1.serve.resuming import resume_runs
from f1.serve.server import Server
from f1.serve.wire.anthropic.writer import write_anthropic_error
from f1.serve.wire.response import write_error, write_model, write_models
from f1.store.database import NotStored
from f1.store.responses import ResponseStore
from f1.tools.embedder import Embedder
from f1.tools.policy import AllowAll, Policy
from f1.tools.registry import Registry
from f1.tools.vectors import ToolVectors
from f1.trace.recorder import ASKED_BY, TRACEPARENT, Recorder, Redacts, RedactsNothing

log = logging.getLogger("f1.serve")


def create_app(
    load: Callable[[], LocalEngine | Models],
    *,
    limits: Limits | None = None,
    access: Access | None = None,
    store: ResponseStore | None = None,
    embedder: Embedder | None = None,
    vectors: ToolVectors | None = None,
    registrar: Registrar | None = None,
    recorder: Recorder | None = None,
    redaction: Redacts | None = None,
    policy: Policy | None = None,
    approvals: ApprovalOptions | None = None,
    on_ready: Callable[[], None] | None = None,
    on_load_error: Callable[[BaseException], None] | None = None,
    log_to: TextIO | None = None,
    log_prompts: bool = False,
) -> FastAPI:
    """The app. `load` runs in a thread once the server is up, and gives the one engine, or all
    models, which are then started; until that is done `/ready` and all work answer 503. Where it
    fails, `on_load_error` is told (to end the process). A line for each request goes to `log_to`.
    `store` is closed with the app; without, none are stored. So is `embedder`; without, there are
    no embeddings. So are `vectors`; without, tools are selected by words alone. So is what
    `registrar` stores tools in. So is `recorder`; without, runs are not written down. `redaction`
    takes secrets out of lines of the log, errors, and responses that are kept."""
    limits = limits or Limits()
    store = store or ResponseStore(Path(), 0)
    registrar = registrar or Registrar(Registry(max_bytes=limits.max_registered_bytes))
    server = Server(
        limits,
        Admission(limits),
        store,
        embedder=embedder,
        vectors=vectors,
        keep_prompts=log_prompts,
        registrar=registrar,
        recorder=recorder,
        redaction=redaction or RedactsNothing(),
        policy=policy or AllowAll(),
        approvals=approvals or ApprovalOptions(),
    )
    metrics = Metrics(server)

    async def load_models() -> None:
        try:
            loaded = await asyncio.to_thread(load)
            server.models = loaded if isinstance(loaded, Models) else Models.of(loaded)
            await server.models.start()
            if on_ready is not None and not server.admission.closed:  # as by a signal meanwhile
                on_ready()
        except Exception as error:
            if not isinstance(error, F1Error):
                log.exception("the model could not be loaded")
            if on_load_error is not None:
                on_load_error(error)

    async def prepare_tools(loading: asyncio.Task[None]) -> None:
        await asyncio.shield(loading)
        try:
            if server.models is not None and server.models.started:
                await tools.prepare_operators(server)
        except InvalidRequest as error:  # one of them can never be called
            log.error("the operator's tools: %s", error)
            if on_load_error is not None:
                on_load_error(error)
        except F1Error as error:  # as busy models: the first request with them does it
            log.warning("the operator's tools are not prepared: %s", error)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(load_models())
        preparing = asyncio.create_task(prepare_tools(loading))
        resuming = asyncio.create_task(resume_runs(server, loading))
        try:
            yield
        finally:
            preparing.cancel()
            resuming.cancel()
            await asyncio.gather(preparing, resuming, return_exceptions=True)
            await offered.close()
            await loading  # a thread cannot be stopped: what it loads must be closed
            if server.models is not None:
                await server.models.close()
            await asyncio.to_thread(store.close)
            await asyncio.to_thread(registrar.store.close)
            if recorder is not None:
                await recorder.close()
            if vectors is not None:
                vectors.close_soon()  # and waits no longer when the embedder is closed
            if embedder is not None:
                await asyncio.to_thread(embedder.close)
            if vectors is not None:
                await asyncio.to_thread(vectors.close)

    # No generated documentation: the wire is OpenAI's, and the pages would load remote scripts.
    app = FastAPI(title="F1", lifespan=lifespan, openapi_url=None)
    # The one that is added last is asked first.
    app.add_middleware(Guard, access=access or Access(), limits=limits, write=_error_body)
    app.add_middleware(RequestIds)
    tell = (metrics, RequestLog(log_to, server.redaction)) if log_to else (metrics,)
    app.add_middleware(RequestRecorder, tell=tell)
    app.state.server = server
    _add_routes(app, server)
    offered = mcp.add_routes(app, server)
    health.add_routes(app, server, metrics)
    openapi.add_routes(app, limits)
    _add_error_handlers(app)
    return app


def _add_routes(app: FastAPI, server: Server) -> None:
    chat.add_routes(app, server)
    completions.add_routes(app, server)
    responses.add_routes(app, server)
    anthropic.add_routes(app, server)
    tokens.add_routes(app, server)
    embeddings.add_routes(app, server)
    tools.add_routes(app, server)
    approvals.add_routes(app, server)
    sessions.add_routes(app, server)
    traces.add_routes(app, server)

    @app.get("/v1/models")
    async def models() -> Response:
        return json_response(write_models(server.model_ids(), server.created))

    @app.get("/v1/models/{model_id:path}")
    async def model(model_id: str) -> Response:
        if model_id not in server.model_ids():
            raise ModelNotFound(f"no model '{model_id[:100]}'", param="model")
        return json_response(write_model(model_id, server.created))


def _error_body(request: Request, error: F1Error, status: int) -> dict[str, Any]:
    """In the words of the API that was asked."""
    caller_of(request).record.error = error.code or error.type
    path: str = request.scope["path"]
    error = request.app.state.server.told(error)
    if path == anthropic.PATH or path.startswith(f"{anthropic.PATH}/"):
        return write_anthropic_error(error, status, caller_of(request).request_id)
    return write_error(error)


def _advice(error: F1Error) -> dict[str, str]:
    """Headers that say whether, and when, to try again."""
    # OpenAI's clients would try again at once, and it would take as long again.
    at_once = not isinstance(error, DeadlineExceeded | NotStored)
    advice = {} if at_once else {"x-should-retry": "false"}
    after = error.retry_after or (1.0 if at_once and error.status in (429, 503) else None)
    return advice if after is None else advice | {"retry-after": str(math.ceil(after))}


def _methods(app: FastAPI, scope: Scope) -> set[str]:
    """That the path can be asked with."""
    matching = [route for route in app.routes if route.matches(scope)[0] is not Match.NONE]
    return {method for route in matching for method in getattr(route, "methods", None) or ()}


def _add_error_handlers(app: FastAPI) -> None:
    Handler = Callable[[Request, Any], Coroutine[Any, Any, Response]]

    async def known(request: Request, error: F1Error) -> Response:
        return json_response(
            _error_body(request, error, error.status), error.status, **_advice(error)
        )

    async def http(request: Request, error: HTTPException) -> Response:
        path = request.scope["path"][:200]  # not from request.url: that one is built of the Host
        shaped = InvalidRequest(f"{request.method} {path}: {error.detail}")
        status, headers = error.status_code, error.headers or {}
        if status == 405:  # the framework knows those of one route
            headers = {"allow": ", ".join(sorted(_methods(app, request.scope)))}
        return json_response(_error_body(request, shaped, status), status, **headers)

    async def gone(request: Request, error: ClientGone) -> Response:
        return Response(status_code=499)  # nobody reads it; the access log does

    async def unknown(request: Request, error: Exception) -> Response:
        # The connection ends with what was raised, and a client is not to send more on it.
        body = _error_body(request, internal_error(), 500)
        return json_response(body, 500, connection="close")

    handlers: dict[type[Exception], Handler] = {
        F1Error: known,
        HTTPException: http,
        ClientGone: gone,
        Exception: unknown,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


class RequestIds:
    """Gives every answer an id, which clients show as `_request_id`: OpenAI's read `x-request-id`,
    Anthropic's `request-id`. Runs are told whose `traceparent` they are under."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["f1.request_id"] = request_id = f"req_{secrets.token_hex(12)}"
        headers = dict(scope.get("headers", ()))
        ASKED_BY.set(headers.get(TRACEPARENT.encode(), b"")[:256].decode("latin-1"))

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers: MutableMapping[str, Any] = message
                added = [(name, request_id.encode()) for name in (b"x-request-id", b"request-id")]
                headers["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        await self.app(scope, receive, send_with_id)
