"""A client's connection: uvicorn's, with an end to its patience."""

from __future__ import annotations

import asyncio
import socket
from typing import ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

_UNREAD_BYTES = 256 << 10  # that the kernel keeps for a client; by itself it would keep megabytes


class Connection(H11Protocol):
    """Hangs up on a client that does not read what it is sent. Meanwhile its frames wait in
    buffers of fixed size, and its tokens, which its own limits bound, in its stream; no other
    request waits for it."""

    patience: ClassVar[float] = 15.0  # seconds
    _hanging_up: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        connected = transport.get_extra_info("socket")
        if connected is not None:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNREAD_BYTES)
        super().connection_made(transport)

    def pause_writing(self) -> None:
        super().pause_writing()
        # Not close(): that would first wait for the client to read the rest.
        self._hanging_up = self.loop.call_later(self.patience, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._keep()

    def connection_lost(self, exc: Exception | None) -> None:
        self._keep()
        super().connection_lost(exc)

    def _keep(self) -> None:
        if self._hanging_up is not None:
            self._hanging_up.cancel()
            self._hanging_up = None
