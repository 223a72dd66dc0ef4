"""A server of another make on a free port, which says what a test tells it to, byte for byte."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """`wait` holds the last byte back until it is set; `breaks`: the connection ends before it."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    wait: threading.Event | None = None


Script = Reply | Callable[[Json], Reply]


class Foreign:
    """Plays the replies one after the other, the last one again and again, and keeps what it was
    asked: (path, headers, body)."""

    def __init__(self, *replies: Script):
        self.replies = list(replies)
        self.asked: list[tuple[str, dict[str, str], Json]] = []
        self.url = ""

    @property
    def bodies(self) -> list[Json]:
        return [body for _, _, body in self.asked]

    def next(self, path: str, headers: dict[str, str], body: Json) -> Reply:
        reply = self.replies[min(len(self.asked), len(self.replies) - 1)]
        self.asked.append((path, headers, body))
        return reply(body) if callable(reply) else reply


@contextmanager
def foreign(*replies: Script) -> Iterator[Foreign]:
    script = Foreign(*replies)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = script.next(self.path, headers, body)
            self.send_response(reply.status)
            for name, value in ({"content-type": "text/event-stream"} | reply.headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)
            self.wfile.flush()
            if reply.wait is not None:
                reply.wait.wait(60)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    script.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def sse(*chunks: Json, done: str = "data: [DONE]\n\n", line: str = "\n\n") -> bytes:
    return ("".join(f"data: {json.dumps(chunk)}{line}" for chunk in chunks) + done).encode()


def delta(end: str | None = None, /, **fields: Any) -> Json:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": end}]}


def said(text: str) -> Reply:
    return Reply(sse(delta(content=text), delta("stop")))


def called(name: str, arguments: object, call_id: str = "c1") -> Reply:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    piece = {"index": 0, "id": call_id, "type": "function"}
    piece["function"] = {"name": name, "arguments": text}
    return Reply(sse(delta(tool_calls=[piece]), delta("tool_calls")))
