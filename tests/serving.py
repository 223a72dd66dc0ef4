"""A real server on a free port of this machine, for the length of a `with` block."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import FastAPI

from f1.pool import LocalEngine
from f1.roles import Models
from f1.serve.app import Server, create_app
from f1.serve.connection import Connection
from f1.serve.drain import DrainingServer
from f1.serve.limits import Limits

HELLO = {"model": "f1", "messages": [{"role": "user", "content": "Hello"}]}


@dataclass(frozen=True, slots=True)
class Running:
    url: str
    app: FastAPI
    process: DrainingServer

    @property
    def state(self) -> Server:
        return self.app.state.server

    @property
    def engine(self) -> LocalEngine:
        """Of a server that has one, and has loaded it."""
        (engine,) = self.state.loaded().loaded().values()
        return engine


@contextmanager
def serving(
    load: Callable[[], LocalEngine | Models],
    limits: Limits | None = None,
    on_load_error: Callable[[BaseException], None] | None = None,
    connection: type[Connection] = Connection,
    **options: Any,
) -> Iterator[Running]:
    """Yields once connections are taken; the model may still be loading."""
    app = create_app(load, limits=limits, on_load_error=on_load_error, **options)
    listener = socket.create_server(("127.0.0.1", 0))
    server = DrainingServer(app, grace=60, log_level="critical", connection=connection)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield Running(f"http://127.0.0.1:{listener.getsockname()[1]}", app, server)
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def wait_until_loaded(http: httpx.Client, server: Running) -> None:
    while http.get(f"{server.url}/ready").status_code != 200:
        pass


def leave_after_sending(server: Running, body: bytes, until: Callable[[], bool]) -> None:
    """Asks for a completion, and hangs up as soon as `until` is true."""
    host, port = server.url.removeprefix("http://").split(":")
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        while not until():
            pass
