"""uvicorn's server, which finishes what it has begun before it stops.

signal ──▶ the door is shut: /ready and new work answer 503
             │ all that was inside has ended, or the grace is over and the rest is cut
             ▼
           exit                                       a second signal: at once
"""

from __future__ import annotations

import math
import signal
import sys
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI

from f1.serve.connection import Connection
from f1.serve.server import Server

_LAST_BYTES = 1  # seconds for the last bytes of answers, when all else has ended
_STUCK = 60  # seconds behind the end of the grace; who is not gone then does not get on


class DrainingServer(uvicorn.Server):
    """Serves `app`, which create_app() made, until it is told to stop or its engine has failed."""

    def __init__(
        self,
        app: FastAPI,
        *,
        grace: float,
        log_level: str = "warning",
        connection: type[Connection] = Connection,
    ):
        # The grace is kept here; what uvicorn may wait for then is the last bytes of answers.
        super().__init__(
            uvicorn.Config(
                app,
                http=connection,
                h11_max_incomplete_event_size=connection.max_head_bytes,
                ws="none",
                proxy_headers=False,  # anybody can send them
                server_header=False,
                log_level=log_level,
                access_log=False,
                timeout_graceful_shutdown=_LAST_BYTES,
            )
        )
        self.inside: Server = app.state.server
        self.engine_failed = False
        self._grace = grace
        self._grace_ends = math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGINT:
            self._captured_signals.append(sig)  # raised again at the end: the shell is told of it
        self.stop()
        if sys.platform != "win32":
            # The kernel ends it then, in whatever it hangs.
            signal.alarm(math.ceil(self._grace_ends - time.monotonic()) + _STUCK)

    def stop(self) -> None:
        """What a signal asks for; the second time there is no grace."""
        grace = 0 if self.inside.admission.closed else self._grace
        self.inside.admission.closed = True
        self._grace_ends = time.monotonic() + grace

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second."""
        if self.inside.failed():
            self.engine_failed = self.should_exit = True
        if self.inside.admission.closed and not self.inside.busy():
            self.should_exit = True
        if time.monotonic() >= self._grace_ends:
            self.inside.cut()
            self.should_exit = True
        return await super().on_tick(counter)
