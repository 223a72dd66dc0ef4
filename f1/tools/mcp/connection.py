"""A server, as long as it is wanted: started, listed, called, and started again where it is lost.

    starting ──▶ up ──▶ lost ──▶ rests, twice as long each time ──▶ starting …
                  │ ▲
                  ▼ │ list_changed, at most one a second: listed again
Both eras of the protocol: the SDK asks `server/discover`, and shakes hands with who knows nothing
of that (before 2026-07-28).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING, Any, Protocol

from mcp import Client, MCPError
from mcp.types import (
    CONNECTION_CLOSED,
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    Implementation,
    InputRequiredResult,
    PaginatedRequestParams,
    ToolListChangedNotification,
)
from pydantic import TypeAdapter, ValidationError

from f1.tools.mcp.definitions import MAX_TOOLS, visible
from f1.tools.mcp.http import HttpLink
from f1.tools.mcp.results import read_result
from f1.tools.mcp.settings import McpServer, State
from f1.tools.mcp.stdio import Pipes
from f1.tools.spec import CallLimits, Output, ToolFailure

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

log = logging.getLogger("f1.tools.mcp")

Listed = Callable[[Sequence[Mapping[str, Any]]], Awaitable[None]]
_RESULT: TypeAdapter[CallToolResult | InputRequiredResult] = TypeAdapter(
    CallToolResult | InputRequiredResult
)

_BACKOFF = 0.5  # seconds before the first restart; twice as many before each further one
_MAX_BACKOFF = 60.0
_WINDOW = 600.0  # seconds in which `restarts` are counted
_SETTLE = 1.0  # seconds between two listings
_PROBE = 0.5  # seconds in which a server answers that lets calls run out of time
_CLOSED = ("Connection closed", "SSE stream")  # the SDK's own words
_NO_SESSION = "Session terminated"
_MAX_PAGES = 64
_MAX_LISTED = 4 << 20  # bytes of definitions


class Link(Protocol):
    """What carries messages. `lost`: nothing more will come, `why`; `hangs` ends it at once."""

    lost: asyncio.Event
    why: str
    hangs: bool

    def streams(self) -> AbstractAsyncContextManager[TransportStreams]: ...


class Connection:
    """Of one event loop. `listed` is told what the server offers, each time that may have changed,
    before it is called."""

    def __init__(self, server: McpServer, listed: Listed):
        self.server = server
        self.state: State = "starting"
        self.why = ""  # it is down
        self.era = ""  # the version of the protocol
        self.met = asyncio.Event()  # it was up, or could not be started
        self._listed = listed
        self._client: Client | None = None
        self._link: Link | None = None
        self._moved = asyncio.Event()  # from one state to another; each time a new one
        self._changed = asyncio.Event()
        self._starts: deque[float] = deque()
        self._probing: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Until cancelled. Nothing that the server does ends this."""
        loop, failures = asyncio.get_running_loop(), 0
        while True:
            began = loop.time()
            self._starts.append(began)
            try:
                await self._serve()
            except Exception as error:
                self.why = self._told(error)
            finally:
                self._client = None
                self._move("down")
            log.warning("mcp.%s is lost: %s", self.server.name, self.why)
            failures = 0 if loop.time() - began > _MAX_BACKOFF else failures + 1
            await asyncio.sleep(self._rest(loop.time(), failures))
            self._move("starting")

    def _move(self, state: State) -> None:
        self.state = state
        if state != "starting":
            self.met.set()
        self._moved.set()
        self._moved = asyncio.Event()

    async def reaches(self, *states: State) -> None:
        while self.state not in states:
            await self._moved.wait()

    def _rest(self, now: float, failures: int) -> float:
        """Seconds. Of `restarts` in a window the last is spent: until the first is out of it."""
        while self._starts and self._starts[0] < now - _WINDOW:
            self._starts.popleft()
        rest = min(_MAX_BACKOFF, _BACKOFF * 2.0 ** max(0, failures - 1))
        if len(self._starts) > self.server.restarts:
            rest = max(rest, self._starts[0] + _WINDOW - now)
        return rest

    async def _serve(self) -> None:
        """Starts it, and stays until it is lost, which is raised."""
        link: Link = HttpLink(self.server) if self.server.url else Pipes(self.server)
        self._link = link
        client = Client(
            link.streams(),
            message_handler=self._heard,
            client_info=Implementation(name="f1", version="0"),
            cache=None,
        )
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self.server.start_timeout):
                    await stack.enter_async_context(client)
                    self._changed.clear()
                    tools = await self._list(client)
            except TimeoutError:
                link.hangs = True
                raise
            await self._listed(tools)
            self._client, self.why = client, ""
            self.era = client.protocol_version
            self._move("up")
            await self._stay(client, link)

    async def _stay(self, client: Client, link: Link) -> None:
        lost = asyncio.create_task(link.lost.wait())
        listening = asyncio.create_task(self._listen(client))
        try:
            while True:
                changed = asyncio.create_task(self._changed.wait())
                await asyncio.wait([lost, changed], return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                if lost.done():
                    self._client, self.why = None, link.why
                    self._move("down")
                    raise _Lost(link.why)
                await asyncio.wait([lost], timeout=_SETTLE)  # a storm of them is one
                self._changed.clear()
                listing = asyncio.create_task(self._list(client))
                try:
                    await asyncio.wait(
                        [lost, listing],
                        timeout=self.server.start_timeout,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    if lost.done():
                        continue
                    if not listing.done():
                        link.why, link.hangs = "it does not tell its tools any more", True
                        link.lost.set()
                        continue
                    tools = listing.result()
                finally:
                    listing.cancel()
                    await asyncio.gather(listing, return_exceptions=True)
                await self._listed(tools)
        finally:
            lost.cancel()
            listening.cancel()
            await asyncio.wait([listening])

    async def _listen(self, client: Client) -> None:
        """The newer era tells of changes only who asks to be told."""
        if client.session.discover_result is None:
            return
        try:
            async with client.listen(tools_list_changed=True) as changes:
                async for _ in changes:
                    self._changed.set()
        except Exception as error:  # it cannot: it is listed again when it is started again
            log.info("mcp.%s tells of no changes: %s", self.server.name, type(error).__name__)

    async def _list(self, client: Client) -> list[dict[str, Any]]:
        """Bounded in pages, tools and bytes; what is beyond is not there."""
        tools: list[dict[str, Any]] = []
        cursor, seen, size = None, set[str](), 0
        for _ in range(_MAX_PAGES):
            params = PaginatedRequestParams(cursor=cursor) if cursor else None
            page = await client.session.list_tools(params=params)
            for tool in page.tools:
                dumped = tool.model_dump_json(by_alias=True, exclude_none=True)
                size += len(dumped)
                tools.append(tool.model_dump(by_alias=True, mode="json", exclude_none=True))
                if size > _MAX_LISTED or len(tools) > MAX_TOOLS:
                    return tools
            cursor = page.next_cursor
            if not cursor or cursor in seen:
                break
            seen.add(cursor)
        return tools

    async def _heard(self, message: object) -> None:
        if isinstance(message, ToolListChangedNotification):
            self._changed.set()

    # --- calls -----------------------------------------------------------------------------------

    async def call(
        self, name: str, arguments: Mapping[str, Any], limits: CallLimits, meta: Mapping[str, Any]
    ) -> Output:
        """Raises ToolFailure. Cancelled, it tells the server, and sees if that still answers."""
        await self.reaches("up", "down")
        client, link = self._client, self._link
        if client is None or link is None or link.lost.is_set():
            raise ToolFailure(f"its server is down: {self.why}", passing=True)
        said = {"name": name, "arguments": arguments} | ({"_meta": meta} if meta else {})
        params = CallToolRequestParams.model_validate(said)
        try:
            # Not `call_tool`: that holds results to the server's own schema, whose patterns may
            # take for ever, on this loop.
            result = await client.session.send_request(CallToolRequest(params=params), _RESULT)
        except asyncio.CancelledError:
            self._probe(client, link)
            raise
        except MCPError as error:
            # Servers use this code, too.
            if error.code == CONNECTION_CLOSED and error.message.startswith(_CLOSED):
                told = "its server was lost before it answered; what the call does may be done"
                raise ToolFailure(told, passing=True) from error
            if error.message == _NO_SESSION and isinstance(link, HttpLink):
                link.why = "it has forgotten this session"  # as where it was started again
                link.lost.set()
                raise ToolFailure(f"its server is down: {link.why}", passing=True) from error
            raise ToolFailure(visible(error.message)[:2000] or "it failed") from error
        except ValidationError as error:
            raise ToolFailure("its server answered with something that is no result") from error
        if isinstance(result, InputRequiredResult):
            raise ToolFailure("its server asks for more, which nobody here can give")
        return read_result(result, limits)

    def _probe(self, client: Client, link: Link) -> None:
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._ask_if_alive(client, link))

    async def _ask_if_alive(self, client: Client, link: Link) -> None:
        """A server that answers nothing else either is ended: it would go on for ever."""
        try:
            async with asyncio.timeout(_PROBE):
                await client.session.list_tools()
        except (MCPError, ValidationError):
            return  # it answers
        except TimeoutError:
            link.why, link.hangs = "it does not answer", True
            link.lost.set()

    def _told(self, error: BaseException) -> str:
        """What to tell of it, without what the server has put into it beyond a line."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, ValidationError):
            wrong = error.errors(include_input=False, include_url=False)[:1]
            return visible(f"what it says is not what the protocol asks for: {wrong}")[:500]
        if self._link is not None and self._link.why:
            return self._link.why
        if isinstance(error, TimeoutError):
            return f"it did not tell its tools in {self.server.start_timeout:g} s"
        return visible(f"{type(error).__name__}: {error}")[:500]


class _Lost(Exception):
    """The connection is over."""
