"""A client's connection: uvicorn's, with bounds on what it may take of time and of memory.

    head ──▶ body ──▶ answer ──▶ head …
    10 s     10 s and 1 s for 64 kB     as long as it is read

Who is slower is hung up on. A head or a body that is no HTTP is answered 400, a head that is too
large 431, and a body that nobody wants any more (413, 401) is not read to its end.
"""

from __future__ import annotations

import asyncio
import http
import socket
import sys
from typing import ClassVar

import h11
import orjson
from uvicorn.protocols.http.h11_impl import H11Protocol

from f1.errors import F1Error, InvalidRequest
from f1.serve.head import HeadTooLarge
from f1.serve.limits import Limits
from f1.serve.wire.response import write_error

_UNREAD_BYTES = 256 << 10  # that the kernel keeps for a client; by itself it would keep megabytes
_UNWANTED_BYTES = 8 << 20  # of a body read behind its answer, so that the client gets to read that
_LEAST_RATE = 64 << 10  # bytes of a body a second


class Connection(H11Protocol):
    """Hangs up on a client that does not read what it is sent. Meanwhile its frames wait in
    buffers of fixed size, and its tokens, which its own limits bound, in its stream; no other
    request waits for it."""

    patience: ClassVar[float] = 10.0  # seconds
    max_head_bytes: ClassVar[int] = Limits().max_head_bytes
    at_most: ClassVar[int] = 1024  # connections at a time
    _hanging_up: asyncio.TimerHandle | None = None  # for what it does not read
    _waiting: asyncio.TimerHandle | None = None  # for what it does not send
    _received = 0  # bytes, of the head or body that is being waited for
    _since = 0.0
    _unwanted = 0  # bytes
    _lingering = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        connected = transport.get_extra_info("socket")
        if connected is not None:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNREAD_BYTES)
            # asyncio sets it, but not where a listener was made without naming its protocol; then
            # the second part of an answer waits 40 ms for the first to be acknowledged.
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().connection_made(transport)
        if len(self.connections) > self.at_most:
            transport.abort()
        else:
            self._wait_anew()

    def connection_lost(self, exc: Exception | None) -> None:
        self._keep()
        self._wait_no_more()
        super().connection_lost(exc)

    # --- what it does not read ---

    def pause_writing(self) -> None:
        super().pause_writing()
        # Not close(): that would first wait for the client to read the rest.
        self._hanging_up = self.loop.call_later(self.patience, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._keep()

    def _keep(self) -> None:
        if self._hanging_up is not None:
            self._hanging_up.cancel()
            self._hanging_up = None

    def timeout_keep_alive_handler(self) -> None:
        """It asks for nothing more: what it has not read by now it need not have."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    # --- what it does not send ---

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            self._drop(data)
            return
        before = self.conn.their_state
        idle = self._waiting is None
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._is_unwanted():
            self._drop(data)
        after = self.conn.their_state
        if after not in (h11.IDLE, h11.SEND_BODY):
            self._wait_no_more()
        elif idle or after is not before:
            self._wait_anew()
        else:
            self._received += len(data)

    def _is_unwanted(self) -> bool:
        answered = self.cycle is not None and self.cycle.response_complete
        return answered and self.conn.their_state is h11.SEND_BODY

    def _wait_anew(self) -> None:
        self._wait_no_more()
        self._received, self._since = 0, self.loop.time()
        self._waiting = self.loop.call_later(self.patience, self._out_of_patience)

    def _wait_no_more(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _out_of_patience(self) -> None:
        granted = self.patience
        if self.conn.their_state is h11.SEND_BODY:
            granted += self._received / _LEAST_RATE
        left = self._since + granted - self.loop.time()
        if self.flow.read_paused:  # it is not the client that is slow
            left = self.patience
        if left > 0:
            self._waiting = self.loop.call_later(left, self._out_of_patience)
        else:
            self.transport.abort()

    # --- what it should not have sent ---

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn where h11 has raised. Its own would be plain text, and always 400."""
        status = getattr(sys.exc_info()[1], "error_status_hint", 400)
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # an answer is on its way
            self.transport.close()
            return
        told: F1Error = InvalidRequest("this is not HTTP", code="invalid_http")
        if status == HeadTooLarge.status:
            told = HeadTooLarge(f"the head is larger than {self.max_head_bytes} bytes")
        body = orjson.dumps(write_error(told))
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        reason = http.HTTPStatus(status).phrase.encode()
        answer = h11.Response(status_code=status, headers=headers, reason=reason)
        for event in (answer, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self._linger()

    def _linger(self) -> None:
        """Closes as soon as the client has: before, what it still sends would reset the connection,
        and it would never read why. It gets a second for that."""
        self._wait_no_more()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._waiting = self.loop.call_later(1.0, self.transport.abort)
        self._lingering = True
        if self.cycle is not None:  # a body that broke off: nobody has to wait for the rest
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _drop(self, data: bytes) -> None:
        self._unwanted += len(data)
        if self._unwanted > _UNWANTED_BYTES:
            self.transport.abort()
