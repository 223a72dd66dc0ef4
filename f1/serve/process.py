"""`f1 serve` as a process: bind, load, serve until told to stop."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass

from fastapi import FastAPI
from rich.console import Console
from rich.markup import escape

from f1.config import Config, RemoteModel, ServeOptions
from f1.errors import EngineStopped, F1Error, InvalidRequest
from f1.keeping import hiding, open_recorder
from f1.roles import Connect, Models, open_models
from f1.serve.access import Access, is_local
from f1.serve.app import create_app
from f1.serve.drain import DrainingServer
from f1.serve.limits import Limits
from f1.serve.logs import hide_in_logs
from f1.serve.registrar import Registrar
from f1.settings import Settings
from f1.store.responses import ResponseStore
from f1.store.tools import ToolStore
from f1.tools.configured import configured_tool
from f1.tools.embedder import Embedder
from f1.tools.mcp.pins import Pins
from f1.tools.mcp.servers import McpServers, publish_into
from f1.tools.registry import OPERATOR
from f1.tools.runners.process import Workers
from f1.tools.runners.supervisor import keep_to_itself
from f1.tools.runners.workers import WorkerSettings
from f1.tools.vectors import ToolVectors
from f1.trace.recorder import Redacts

_M_ARENA_MAX = -8  # of glibc's malloc.h
_KEYS = "F1_API_KEYS"
_MADE_READY = 4  # choices that are prepared while the batch of the engine is full


def _share_memory() -> None:
    """Has all threads allocate from two heaps. By itself glibc gives each thread its own, and what
    one has freed no other gets: the process then grows for as long as it serves."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # none but glibc has it
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 2)


Embed = Callable[[str, RemoteModel, Settings], Embedder]  # by its name here


@dataclass(frozen=True, slots=True)
class Door:
    """Where to listen. What other machines reach needs keys, or `keyless`."""

    host: str
    port: int
    keyless: bool = False

    def listen(self) -> socket.socket:
        try:
            return socket.create_server((self.host, self.port))
        except OSError as error:
            raise F1Error(f"cannot listen on {self.host}:{self.port}: {error.strerror}") from error


def run_server(config: Config, connect: Connect, connect_embedder: Embed, door: Door) -> bool:
    """Serves until SIGINT or SIGTERM. False when the caller's model could not be loaded or an
    engine has failed: a supervisor must see that from the exit code. The two that connect reach
    models on other servers."""
    env = dict(os.environ)
    access = _access(config.serve, door)
    console = Console(stderr=True, highlight=False)
    failures: list[BaseException] = []

    def ready(names: str) -> None:
        address = f"http://{door.host}:{port}/v1"
        console.print(f"[green]ready[/] {escape(names)} at [bold]{escape(address)}[/]")

    def stop(error: BaseException) -> None:
        failures.append(error)
        server.should_exit = True

    with (
        _built(config, env, connect, connect_embedder, ready, stop, access) as built,
        door.listen() as listener,
    ):
        app, redaction, _ = built
        port = listener.getsockname()[1]  # now: at the end the socket is closed before the app
        server = DrainingServer(app, grace=config.all_settings(env).shutdown_grace)
        hide_in_logs(redaction)  # of uvicorn, too, which has set up its own by now
        server.run(sockets=[listener])
    if server.engine_failed:
        failures.append(EngineStopped("the engine failed"))
    for failure in failures:
        console.print(f"[red]error:[/] {escape(str(failure))}")
    return not failures


def run_on_stdio(config: Config, connect: Connect, connect_embedder: Embed) -> bool:
    """The same as an MCP server on stdin and stdout, for whoever has started this: until stdin
    ends. Nothing else is written there, and nobody else is let in."""
    failures: list[BaseException] = []
    env = dict(os.environ)
    os.environ.pop(_KEYS, None)  # what this process starts does not inherit them

    async def speak(app: FastAPI) -> None:
        from f1.serve.offering import speak_on_stdio  # with the SDK: half a second

        async with app.router.lifespan_context(app):
            await asyncio.to_thread(servers.met)  # who speaks lists tools once, and all of them
            await speak_on_stdio(app.state.server)

    with _built(config, env, connect, connect_embedder, _nothing, failures.append) as built:
        app, redaction, servers = built
        hide_in_logs(redaction)
        asyncio.run(speak(app))
    return not failures


def _nothing(names: str) -> None:
    """Nobody looks."""


@contextmanager
def _built(
    config: Config,
    env: Mapping[str, str],
    connect: Connect,
    connect_embedder: Embed,
    on_ready: Callable[[str], None],
    on_load_error: Callable[[BaseException], None],
    access: Access | None = None,
) -> Iterator[tuple[FastAPI, Redacts, McpServers]]:
    """All that the file says, as an app. `env` is the environment, the keys in it included. What it
    runs is ended when this is left."""
    _share_memory()
    settings = config.all_settings(env)
    redaction = hiding(config, settings, env)
    recorder = open_recorder(config, settings, env, redaction)
    registrar = Registrar(store=ToolStore(settings.tools_file))
    with closing(_register(config, registrar)):
        registrar.load()
        with closing(_meet(config, registrar, settings)) as servers:
            apart = settings.engine_process and os.name == "posix"
            # A fetch shows its progress here.
            models = open_models(config, settings, connect, apart=apart)
            embedder = Embedder(settings)
            if isinstance(there := config.models.get(config.embedder or ""), RemoteModel):
                embedder = connect_embedder(config.embedder or "", there, settings)

            def load() -> Models:
                if models.pool.names and not apart:
                    _import_engine()
                return models

            app = create_app(
                load,
                limits=Limits(
                    max_running=settings.max_sequences + _MADE_READY,
                    max_queued=settings.max_queued,
                    defaults=config.defaults,
                ),
                access=access,
                embedder=embedder,
                vectors=ToolVectors(embedder, settings.vectors_file),
                store=ResponseStore(settings.responses_file, settings.responses_disk),
                registrar=registrar,
                recorder=recorder,
                redaction=redaction,
                policy=config.policy,
                approvals=config.approvals,
                on_ready=lambda: on_ready(", ".join(models.names)),
                on_load_error=on_load_error,
                log_to=sys.stderr if settings.log_requests else None,
                log_prompts=settings.log_prompts,
            )
            yield app, redaction, servers


def _register(config: Config, registrar: Registrar) -> Workers:
    """The operator's tools and toolsets, as the file has them; what runs them. Raises
    InvalidRequest."""
    hidden = [config.file.absolute(), config.all_settings(os.environ).cache.absolute()]
    if (keys := config.serve.keys_file) is not None:
        hidden.append(keys.absolute())
    folder = config.file.parent.absolute()
    workers = Workers(WorkerSettings(folder, hidden=tuple(hidden), **config.workers))
    if config.mcp or any("python" in table for table in config.tools.values()):
        keep_to_itself()  # before any of theirs runs
    try:
        specs = {n: configured_tool(n, table, workers) for n, table in config.tools.items()}
        for spec in specs.values():
            registrar.registry.put_tool(OPERATOR, spec)
        for name, members in config.toolsets.items():
            registrar.registry.put_toolset(OPERATOR, name, [specs[member] for member in members])
    except BaseException as error:
        workers.close()
        if isinstance(error, InvalidRequest):
            raise InvalidRequest(f"{config.file}: {error.message}", param=error.param) from error
        raise
    return workers


def _meet(config: Config, registrar: Registrar, settings: Settings) -> McpServers:
    """The operator's MCP servers, which are started while the models are loaded: who comes later,
    or never, keeps nobody waiting."""
    publish = publish_into(registrar.registry)
    if any(server.command for server in config.mcp.values()):
        keep_to_itself()
    for name in config.mcp:
        publish(name, ())
    return McpServers(tuple(config.mcp.values()), Pins(settings.pins_file), publish)


def _import_engine() -> None:
    """Takes seconds. What was imported stays: to look through it again takes 0.3 s, in which
    nothing moves. (Models do not stay: they come after this.)"""
    import f1.calling.grammar  # brings torch and transformers
    import f1.engine  # noqa: F401

    gc.freeze()


def _access(options: ServeOptions, door: Door) -> Access:
    """Of the environment, or else of the file. Raises InvalidRequest."""
    given = {
        "F1_API_KEYS_FILE": str(options.keys_file or ""),
        "F1_ALLOWED_HOSTS": ",".join(options.allowed_hosts),
        "F1_ALLOWED_ORIGINS": ",".join(options.allowed_origins),
    }
    given |= {name: text for name, text in os.environ.items() if text.strip()}
    os.environ.pop(_KEYS, None)  # what this process starts does not inherit them
    access = Access.from_env(given, door.host)
    if not access.keys and not door.keyless and not is_local(door.host):
        raise InvalidRequest(
            f"other machines reach {door.host}: set F1_API_KEYS or F1_API_KEYS_FILE (`f1 key` "
            "makes a key), or let everybody in with --no-keys",
            param="host",
        )
    return access
