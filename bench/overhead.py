"""What the server itself takes: from a request's last byte to the engine's first step for it.

    python bench/overhead.py [--model qwen2.5-coder-0.5b] [--tools 50] [--requests 200]

A real server in this process, asked over HTTP one request at a time; schemas, grammars and the
prompt's pages are known from the requests before, as in a conversation. The clock starts when the
server has read the body and stops when the core is handed the sequence.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import threading
import time
from typing import Any

import httpx
import uvicorn
from rich.console import Console
from rich.table import Table

from f1.engine import AsyncEngine
from f1.serve.app import create_app
from f1.settings import Settings


class Clock:
    """Two marks of each request: its body was read, the core has it."""

    def __init__(self) -> None:
        self.read = self.submitted = 0.0
        self.milliseconds: list[float] = []

    def watch_bodies(self, app: Any) -> Any:
        async def watched(scope: Any, receive: Any, send: Any) -> None:
            async def marked() -> Any:
                message = await receive()
                if message["type"] == "http.request" and not message.get("more_body"):
                    self.read = time.perf_counter()
                return message

            await app(scope, marked, send)

        return watched

    def watch_submits(self, engine: AsyncEngine) -> None:
        stepper = engine._stepper
        submit = stepper.submit

        def marked(choices: Any) -> None:
            self.milliseconds.append((time.perf_counter() - self.read) * 1e3)
            submit(choices)

        stepper.submit = marked  # type: ignore[method-assign]


def tool(index: int) -> dict[str, Any]:
    properties = {
        "city": {"type": "string", "description": "Name of the city."},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "unit": {"type": "string", "enum": ["C", "F"]},
    }
    function = {
        "name": f"forecast_{index}",
        "description": f"Weather forecast of source {index} for a city.",
        "parameters": {"type": "object", "properties": properties, "required": ["city"]},
    }
    return {"type": "function", "function": function}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--tools", type=int, default=50)
    parser.add_argument("--requests", type=int, default=200)
    options = parser.parse_args()
    clock = Clock()
    engine = AsyncEngine.start(options.model, Settings.from_env())
    clock.watch_submits(engine)
    app = clock.watch_bodies(create_app(lambda: engine))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    tools = [tool(index) for index in range(options.tools)]
    try:
        with httpx.Client(base_url=url, timeout=600) as http:
            while http.get("/ready").status_code != 200:
                pass
            for number in range(-5, options.requests):
                if number == 0:
                    clock.milliseconds.clear()
                text = f"What is the weather in city {number}?"
                body = {
                    "model": "f1",
                    "messages": [{"role": "user", "content": text}],
                    "tools": tools,
                    "max_tokens": 1,
                }
                http.post("/v1/chat/completions", json=body).raise_for_status()
    finally:
        server.should_exit = True
        thread.join()
    took = sorted(clock.milliseconds)
    table = Table("tools", "requests", "median ms", "p90 ms", "p99 ms")
    at = [took[int(len(took) * share)] for share in (0.9, 0.99)]
    figures = [statistics.median(took), *at]
    table.add_row(str(options.tools), str(len(took)), *(f"{value:.2f}" for value in figures))
    Console().print(table)


if __name__ == "__main__":
    main()
