"""A real server on a free port of this machine, for the length of a `with` block."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI

from f1.serve.app import LocalEngine, Server, create_app
from f1.serve.limits import Limits


@dataclass(frozen=True, slots=True)
class Running:
    url: str
    app: FastAPI

    @property
    def state(self) -> Server:
        return self.app.state.server


@contextmanager
def serving(
    load: Callable[[], LocalEngine],
    limits: Limits | None = None,
    on_load_error: Callable[[BaseException], None] | None = None,
) -> Iterator[Running]:
    """Yields once connections are taken; the model may still be loading."""
    app = create_app(load, limits=limits, on_load_error=on_load_error)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield Running(f"http://127.0.0.1:{listener.getsockname()[1]}", app)
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
