"""All servers of an operator's file, on an event loop in a thread of their own: whatever one of
them does, it keeps no other from being called, and nobody's requests from being answered."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from f1.errors import InvalidRequest
from f1.tools.mcp.definitions import Definition, read_definitions, spec_of, visible
from f1.tools.mcp.pins import Pins
from f1.tools.mcp.settings import McpServer, State
from f1.tools.registry import OPERATOR, Registry
from f1.tools.spec import CallLimits, Output, ToolFailure, ToolSpec, invocation

if TYPE_CHECKING:
    from f1.tools.mcp.connection import Connection

log = logging.getLogger("f1.tools.mcp")

Standing = Literal["approved", "new", "changed", "unfit"]
Publish = Callable[[str, Sequence[ToolSpec]], None]  # of the server of that name
_CLOSE_SECONDS = 5.0
_LOOK_SECONDS = 1.0  # between looks at what is approved
_MAX_TOLD = 20  # lines of a log
_KEY = "f1/idempotencyKey"  # in `_meta` of a call: the same in every try of it


@dataclass(frozen=True, slots=True)
class Offer:
    """A tool that a server has. `spec` is what models may call, where it is "approved"."""

    definition: Definition
    standing: Standing
    approved: str = ""  # the text that is
    spec: ToolSpec | None = None
    why: str = ""  # it is "unfit"


@dataclass(frozen=True, slots=True)
class McpRunner:
    """Calls one tool as it was defined when it was approved; once it is not any more, nothing."""

    servers: McpServers = field(repr=False)
    server: McpServer
    definition: Definition

    async def call(self, arguments: Mapping[str, Any], limits: CallLimits) -> Output:
        made = invocation()
        meta = {_KEY: made.key} if made else {}
        async with asyncio.timeout(limits.timeout):
            return await self.servers.call(self.definition, arguments, limits, meta)

    def leave_out(self, why: str) -> None:
        """No grammar can be made of it, as turned out: it is not there any more."""
        self.servers.leave_out(self.definition, why)


@dataclass(frozen=True, slots=True)
class Status:
    server: McpServer
    state: State
    why: str  # it is down
    era: str  # the version of the protocol that it speaks


class McpServers:
    """Starts them. `publish` is told, on another thread, of each server's tools, each time they
    have changed; it must not wait for anything."""

    def __init__(self, servers: Sequence[McpServer], pins: Pins, publish: Publish):
        self._pins = pins
        self._publish = publish
        self._connections: dict[str, Connection] = {}
        self._offers: dict[str, dict[str, Offer]] = {server.name: {} for server in servers}
        self._unfit: dict[str, str] = {}  # by digest, why
        self._listed: dict[str, list[Definition]] = {}
        self._loop: asyncio.AbstractEventLoop
        started = threading.Event()

        def body() -> None:
            with asyncio.Runner() as runner:
                self._loop = runner.get_loop()
                started.set()
                runner.run(self._run(servers))

        self._thread = threading.Thread(target=body, name="f1-mcp", daemon=True)
        self._begun, self._stop = asyncio.Event(), asyncio.Event()
        self._thread.start()
        started.wait()

    async def _run(self, servers: Sequence[McpServer]) -> None:
        if servers:  # it brings the SDK: half a second
            from f1.tools.mcp.connection import Connection
        for server in servers:
            listed = partial(self._on_listed, server)
            self._connections[server.name] = Connection(server, listed)
        tasks = [asyncio.create_task(each.run()) for each in self._connections.values()]
        self._begun.set()
        await self._until_stopped()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=_CLOSE_SECONDS) if tasks else None

    async def _until_stopped(self) -> None:
        """Another process may approve something meanwhile (`f1 mcp approve`)."""
        stamp = self._pins.stamp()
        while not self._stop.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._stop.wait()
            if stamp != (stamp := self._pins.stamp()):
                for name in self._listed:
                    self._judge_again(self._connections[name].server)

    async def _on_listed(self, server: McpServer, tools: Sequence[Mapping[str, Any]]) -> None:
        self._listed[server.name] = read_definitions(server, tools)
        self._judge(server)

    def _judge_again(self, server: McpServer) -> None:
        """Where that cannot be found out, what it offers stays as it was."""
        try:
            self._judge(server)
        except (OSError, ValueError) as error:
            log.warning("mcp.%s: what is approved of it cannot be read: %s", server.name, error)

    def _judge(self, server: McpServer) -> None:
        listed = self._listed[server.name]
        pinned = self._pins.of(server.name)
        if pinned is None:
            trusted = listed if server.pin == "first" else []
            self._pins.approve(server.name, trusted)
            pinned = {each.name: each.text for each in trusted}
        offers = {each.name: self._offer(server, each, pinned) for each in listed}
        if offers == self._offers[server.name]:
            return
        left_out = [offer for offer in offers.values() if offer.standing != "approved"]
        for offer in left_out[:_MAX_TOLD]:
            what = visible(offer.definition.name)[:100], offer.standing, offer.why
            log.warning("mcp.%s: %s is disabled: %s %s", server.name, *what)
        if len(left_out) > _MAX_TOLD:
            log.warning("mcp.%s: and %d more", server.name, len(left_out) - _MAX_TOLD)
        self._offers[server.name] = offers
        self._publish(server.name, [offer.spec for offer in offers.values() if offer.spec])

    def _offer(self, server: McpServer, each: Definition, pinned: Mapping[str, str]) -> Offer:
        approved = pinned.get(each.name)
        if approved != each.text:
            return Offer(each, "new" if approved is None else "changed", approved or "")
        if (why := self._unfit.get(each.digest)) is not None:
            return Offer(each, "unfit", approved, why=visible(why)[:500])
        try:
            return Offer(
                each, "approved", approved, spec_of(server, each, McpRunner(self, server, each))
            )
        except InvalidRequest as error:
            return Offer(each, "unfit", approved, why=visible(error.message)[:500])

    # --- from other threads ----------------------------------------------------------------------

    async def call(
        self,
        definition: Definition,
        arguments: Mapping[str, Any],
        limits: CallLimits,
        meta: Mapping[str, Any],
    ) -> Output:
        """Raises ToolFailure."""

        async def work() -> Output:
            await self._begun.wait()
            offer = self._offers[definition.server].get(definition.name)
            connection = self._connections[definition.server]
            if offer is not None and (
                offer.standing != "approved" or offer.definition.digest != definition.digest
            ):
                raise ToolFailure("its definition has changed, and nobody has approved that")
            return await connection.call(definition.name, arguments, limits, meta)

        calling = work()
        try:
            future = asyncio.run_coroutine_threadsafe(calling, self._loop)
        except RuntimeError:
            calling.close()
            raise ToolFailure("its server is closed") from None
        return await asyncio.wrap_future(future)

    def met(self, seconds: float | None = None) -> None:
        """Waits until each has told its tools, or could not; no longer than that, or than they have
        for it."""

        async def work() -> None:
            await self._begun.wait()
            given = (each.server.start_timeout for each in self._connections.values())
            longest = max(given, default=0.0) if seconds is None else seconds
            waits = [asyncio.create_task(each.met.wait()) for each in self._connections.values()]
            if waits:
                _, late = await asyncio.wait(waits, timeout=longest)
                for task in late:
                    task.cancel()

        asyncio.run_coroutine_threadsafe(work(), self._loop).result()

    def offers(self, server: str) -> list[Offer]:
        return list(self._offers[server].values())

    def approve(self, server: str, definitions: Sequence[Definition]) -> None:
        """As a person has seen them. Raises OSError."""
        self._pins.approve(server, definitions)

        async def work() -> None:
            self._judge(self._connections[server].server)

        asyncio.run_coroutine_threadsafe(work(), self._loop).result()

    def leave_out(self, definition: Definition, why: str) -> None:
        async def work() -> None:
            self._unfit[definition.digest] = why
            self._judge(self._connections[definition.server].server)

        asyncio.run_coroutine_threadsafe(work(), self._loop).result()

    def wait_for(self, server: str, state: State, seconds: float) -> bool:
        """Until it is in that state. False: it was not, in that time."""

        async def work() -> bool:
            try:
                async with asyncio.timeout(seconds):
                    await self._connections[server].reaches(state)
            except TimeoutError:
                return False
            return True

        return asyncio.run_coroutine_threadsafe(work(), self._loop).result()

    def states(self) -> list[Status]:
        return [
            Status(each.server, each.state, each.why, each.era)
            for each in self._connections.values()
        ]

    def close(self) -> None:
        """Ends them all, with all that they have started."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()


def publish_into(registry: Registry) -> Publish:
    """Each server's tools as the operator's, and as a toolset of the server's name. One that has
    the name of another tool of the operator's is left out."""

    def publish(server: str, specs: Sequence[ToolSpec]) -> None:
        fitting = [spec for spec in specs if is_own(server, spec.name)]
        for spec in fitting:
            registry.add(registry.tool_to_be(OPERATOR, spec))
        names = {spec.name for spec in fitting}
        had = registry.toolset(OPERATOR, server)
        for spec in had.tools if had else ():
            if spec.name not in names and is_own(server, spec.name):
                registry.remove_tool(OPERATOR, spec.name)
        registry.add(registry.toolset_to_be(OPERATOR, server, fitting))

    def is_own(server: str, name: str) -> bool:
        had = registry.tool(OPERATOR, name)
        runner = had.spec.runner if had else None
        own = had is None or (isinstance(runner, McpRunner) and runner.server.name == server)
        if not own:
            log.warning("mcp.%s: %s is left out: f1.toml has another one", server, name)
        return own

    return publish
