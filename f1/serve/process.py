"""`f1 serve` as a process: bind, load, serve until told to stop."""

from __future__ import annotations

import ctypes
import gc
import os
import socket
import sys

from rich.console import Console
from rich.markup import escape

from f1.engine import AsyncEngine
from f1.errors import EngineStopped, F1Error, InvalidRequest
from f1.models.pull import resolve
from f1.serve.access import Access, is_local
from f1.serve.app import create_app
from f1.serve.drain import DrainingServer
from f1.serve.limits import Limits
from f1.serve.registrar import Registrar
from f1.settings import Settings
from f1.store.responses import ResponseStore
from f1.store.tools import ToolStore
from f1.tools.embedder import Embedder
from f1.tools.vectors import ToolVectors

_M_ARENA_MAX = -8  # of glibc's malloc.h
_MADE_READY = 4  # choices that are prepared while the batch of the engine is full


def _share_memory() -> None:
    """Has all threads allocate from two heaps. By itself glibc gives each thread its own, and what
    one has freed no other gets: the process then grows for as long as it serves."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # none but glibc has it
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 2)


def run_server(model: str, host: str, port: int, *, keyless: bool = False) -> bool:
    """Serves until SIGINT or SIGTERM. False when the model could not be loaded or the engine has
    failed: a supervisor must see that from the exit code. What other machines reach needs keys, or
    `keyless`."""
    _share_memory()
    settings = Settings.from_env()
    access = Access.from_env(os.environ, host)
    if not access.keys and not keyless and not is_local(host):
        raise InvalidRequest(
            f"other machines reach {host}: set F1_API_KEYS or F1_API_KEYS_FILE (`f1 key` makes a "
            "key), or let everybody in with --no-keys",
            param="host",
        )
    registrar = Registrar(store=ToolStore(settings.tools_file))
    registrar.load()
    resolve(model, settings)  # a fetch shows its progress here, before the server is up
    console = Console(stderr=True, highlight=False)
    try:
        listener = socket.create_server((host, port))
    except OSError as error:
        raise F1Error(f"cannot listen on {host}:{port}: {error.strerror}") from error
    address = f"http://{host}:{listener.getsockname()[1]}/v1"
    embedder = Embedder(settings)
    failures: list[BaseException] = []

    def load() -> AsyncEngine:
        engine = AsyncEngine.start(model, settings)
        engine.warm()
        # What was imported stays. To look through it again takes 0.3 s, in which nothing moves.
        gc.freeze()
        console.print(f"[green]ready[/] {escape(engine.model_id)} at [bold]{escape(address)}[/]")
        return engine

    def stop(error: BaseException) -> None:
        failures.append(error)
        server.should_exit = True

    app = create_app(
        load,
        limits=Limits(
            max_running=settings.max_sequences + _MADE_READY, max_queued=settings.max_queued
        ),
        access=access,
        embedder=embedder,
        vectors=ToolVectors(embedder, settings.vectors_file),
        store=ResponseStore(settings.responses_file, settings.responses_disk),
        registrar=registrar,
        on_load_error=stop,
        log_to=sys.stderr if settings.log_requests else None,
        log_prompts=settings.log_prompts,
    )
    server = DrainingServer(app, grace=settings.shutdown_grace)
    with listener:
        server.run(sockets=[listener])
    if server.engine_failed:
        failures.append(EngineStopped("the engine failed"))
    for failure in failures:
        console.print(f"[red]error:[/] {escape(str(failure))}")
    return not failures
