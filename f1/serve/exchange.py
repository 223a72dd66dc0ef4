"""One HTTP request that decodes: its body is read, its events are awaited, its answer written.

    body ──parse──▶ Work(model, request, writer) ──Server.events──▶ events ──writer──▶ JSON | frames

Each API (chat, responses, messages, …) brings a parser and a writer; the rest is the same for all.
A client that goes away stops its work; one that reads slowly does not hold it up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import orjson
from fastapi import Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from f1.errors import F1Error, InvalidRequest, Overloaded
from f1.planning.collect import gather
from f1.serve.admission import Admission
from f1.serve.deadline import Deadline
from f1.serve.limits import Limits
from f1.serve.read_ahead import read_ahead
from f1.serve.record import Record
from f1.serve.server import Caller, Server
from f1.serve.wire.fields import parse_json, refuse
from f1.serve.wire.frames import Frame
from f1.types import Completion, Event, GenerateRequest

T = TypeVar("T")
Json = dict[str, Any]
log = logging.getLogger("f1.serve")

TIMEOUT_HEADER = "x-request-timeout"  # seconds


class Writer(Protocol):
    """One answer in the words of one API: whole, or as frames."""

    def whole(self, completions: Sequence[Completion]) -> Json: ...
    def begin(self) -> Iterable[Frame]:
        """Before the first event."""

    def write(self, event: Event) -> Iterable[Frame]: ...
    def close(self) -> Iterable[Frame]:
        """After the last event of the last choice."""

    def fail(self, error: F1Error) -> Iterable[Frame]:
        """In place of close(): the answer breaks off."""


async def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Work:
    """What a body asks for, and how its answer is written. `finished` is awaited when all is
    decoded, before the client is told that it is; what it raises, the client is told instead."""

    model: str
    request: GenerateRequest
    stream: bool
    writer: Writer
    timeout: float | None = None  # seconds, where the body says
    finished: Callable[[], Awaitable[None]] = _nothing
    more: Sequence[GenerateRequest] = ()  # decoded beside it; their choices are numbered on


class ClientGone(Exception):
    """The client closed the connection; nobody reads the answer."""


class BodyTooLarge(InvalidRequest):
    status = 413
    code = "body_too_large"


def internal_error() -> F1Error:
    # Nothing of the exception goes out: messages of libraries hold paths and addresses.
    return F1Error("internal error; the server's log has more", code="internal_error")


async def read_json(request: Request, max_bytes: int) -> object:
    """The body. Raises InvalidRequest, Overloaded where too many send theirs at a time."""
    server: Server = request.app.state.server
    too_large = BodyTooLarge(f"the body is larger than {max_bytes} bytes")
    if int(request.headers.get("content-length", 0)) > max_bytes:
        raise too_large
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            server.receiving += len(piece)
            if len(body) > max_bytes:
                raise too_large
            if server.receiving > server.limits.max_bodies_bytes:
                raise Overloaded("too many bodies are being received; try again later")
    except ClientDisconnect:
        raise ClientGone from None
    finally:
        server.receiving -= len(body)
    request.scope["f1.num_bytes"] = len(body)
    return parse_json(bytes(body))


def json_response(body: Json, status: int = 200, **headers: str) -> Response:
    return Response(orjson.dumps(body), status, headers, media_type="application/json")


def caller_of(request: Request) -> Caller:
    scope = request.scope
    return Caller(
        scope.get("f1.tenant", ""),
        scope.get("f1.request_id", ""),
        scope.get("f1.num_bytes", 0),
        scope["f1.record"],
    )


def deadline_of(
    request: Request, caller: Caller, limits: Limits, timeout: float | None = None
) -> Deadline:
    """When the answer has to be there: the body and the header may say, the sooner counts.

    (What OpenAI's clients send, `x-stainless-read-timeout`, is how long they wait for the next
    byte; when they have waited long enough they hang up, and that is seen.)
    """
    said = [] if timeout is None else [timeout]
    if (text := request.headers.get(TIMEOUT_HEADER)) is not None:
        said.append(_parse_seconds(text, limits))
    return Deadline(caller.record.began, min(said, default=limits.default_timeout))


def _parse_seconds(text: str, limits: Limits) -> float:
    low, high = limits.min_timeout, limits.max_timeout
    with suppress(ValueError):
        if low <= (seconds := float(text)) <= high:
            return seconds
    raise refuse(TIMEOUT_HEADER, f"must be a number of seconds from {low:g} to {high:g}")


async def answer(server: Server, request: Request, work: Work) -> Response:
    """Decodes. Until the first event a wrong request is an ordinary 4xx, also for a stream."""
    caller = caller_of(request)
    deadline = deadline_of(request, caller, server.limits, work.timeout)
    requests = (work.request, *work.more)
    events = server.events(work.model, requests, caller, deadline)
    if not work.stream:
        async with aclosing(events):
            num_choices = sum(asked.n for asked in requests)
            completions = await unless_gone(request.receive, gather(events, num_choices))
        body = work.writer.whole(completions)
        await work.finished()
        return json_response(body)
    if work.request.sampling.num_logprobs is None:  # with them an event is large
        events = read_ahead(events)
    try:
        first = await unless_gone(request.receive, anext(events))
    except BaseException:
        await events.aclose()
        raise
    return EventStream(_frames(server, work, first, events), events)


async def answer_aside(
    server: Server,
    request: Request,
    model: str,
    work: Callable[[], Awaitable[T]],
    tokens: int = 1,
    timeout: float | None = None,
    queue: Admission | None = None,
) -> T:
    """What `work` returns, which is not decoding and about as dear as so many tokens."""
    caller = caller_of(request)
    caller.record.model = model
    deadline = deadline_of(request, caller, server.limits, timeout)
    doing = server.do_aside(work, caller, deadline, tokens, queue)
    return await unless_gone(request.receive, doing)


async def _frames(
    server: Server, work: Work, first: Event, events: AsyncIterator[Event]
) -> AsyncGenerator[bytes]:
    """The whole answer. An error after the first event ends the stream, as the API has it."""
    writer = work.writer
    server.streams += 1
    try:
        for frame in (*writer.begin(), *writer.write(first)):
            yield frame.encode()
        async for event in events:
            for frame in writer.write(event):
                yield frame.encode()
        await work.finished()
        for frame in writer.close():
            yield frame.encode()
    except F1Error as error:
        for frame in writer.fail(server.told(error)):
            yield frame.encode()
    except Exception:
        log.exception("a stream failed")
        for frame in writer.fail(internal_error()):
            yield frame.encode()
    finally:
        server.streams -= 1


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T:
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

    def __init__(self, frames: AsyncGenerator[bytes], source: AsyncGenerator[Event]):
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self.frames = frames
        self.source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.source), aclosing(self.frames):
            try:
                await unless_gone(receive, self._send(send))
            except (ClientGone, OSError):  # OSError: how servers report a lost connection
                record: Record = scope["f1.record"]
                record.error = record.error or "client_gone"

    async def _send(self, send: Send) -> None:
        headers = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **headers})
        async for frame in self.frames:
            await send({"type": "http.response.body", "body": frame, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
