"""stdio in place of the SDK's client, which holds lines of any length, reads as fast as it is
written to, and ends no more than a process group. The SDK speaks the protocol on top of this.

    server ─ stdout ─▶ throttle ─▶ lines, each bounded ─▶ parsed ─▶ gate ─▶ the SDK's session
           ◀─ stdin ── written as it is taken, and never waited for by a call
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from io import FileIO
from typing import TYPE_CHECKING, Any

import anyio
from mcp.shared.message import SessionMessage
from mcp.types import jsonrpc_message_adapter
from mcp.types.jsonrpc import JSONRPCError, JSONRPCRequest, JSONRPCResponse

from f1.tools.mcp.definitions import MAX_TOOLS, visible
from f1.tools.mcp.lines import Flooded, Line, Lines, first_of
from f1.tools.mcp.process import Process
from f1.tools.mcp.settings import McpServer
from f1.tools.mcp.throttle import Throttle
from f1.tools.runners.process import to_its_end

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

log = logging.getLogger("f1.tools.mcp")

_PIECE = 1 << 16
_MAX_UNSENT = 256  # messages for it; who reads none of them is gone
_MAX_ASKED = 16  # requests of its own that are not answered yet


class Pipes:
    """A server's process with what the SDK reads and writes. `lost` is set when nothing more
    will come, and `why`."""

    def __init__(self, server: McpServer):
        self.lost = asyncio.Event()
        self.why = ""
        self.hangs = False  # somebody has found that it does not answer
        self._server = server
        self._asked: set[Any] = set()

    @asynccontextmanager
    async def streams(self) -> AsyncGenerator[TransportStreams]:
        """Raises OSError where it cannot be started."""
        process = Process(self._server)
        stdin, stdout = os.fdopen(process.stdin, "wb", 0), os.fdopen(process.stdout, "rb", 0)
        to_us, read = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        write, from_us = anyio.create_memory_object_stream[SessionMessage](_MAX_UNSENT)

        async def receive() -> None:
            try:
                await self._receive(stdout, to_us)
                self.why = self.why or process.ending
            finally:
                self.lost.set()
                to_us.close()  # the session sees the end; its calls end

        tasks = [
            asyncio.create_task(receive()),
            asyncio.create_task(self._send(stdin, from_us)),
        ]
        try:
            yield read, write
        finally:
            tasks[1].cancel()  # which closes its stdin
            try:
                await to_its_end(process.end(at_once=self.hangs or bool(self.why)))
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                for each in (read, write, to_us, from_us, stdin, stdout):
                    each.close()  # also where a task had not begun

    async def _receive(
        self, stdout: FileIO, to_us: anyio.abc.ObjectSendStream[SessionMessage | Exception]
    ) -> None:
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader(_PIECE)
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), stdout
        )
        lines, throttle = Lines(self._server.max_message), Throttle()
        try:
            while piece := await reader.read(_PIECE):
                await throttle.take(len(piece) / _PIECE)
                for line in lines.feed(piece):
                    await throttle.take(1 + len(line.head) / (1 << 14))
                    if (message := self._read(line)) is not None:
                        await to_us.send(SessionMessage(message))
        except Flooded:
            self.why = "it sends without end"
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # the session is over
        finally:
            transport.close()

    def _read(self, line: Line) -> Any:
        """The message; None where it is none, or not one to be answered."""
        try:
            if line.is_cut:
                said = first_of(line)
                message = said and jsonrpc_message_adapter.validate_python(said)
            else:
                message = jsonrpc_message_adapter.validate_json(line.head, by_name=False)
        except ValueError:
            message = None
        if message is None:
            told = visible(line.head[:100].decode(errors="replace"))
            log.debug("mcp.%s says what is no message: %s", self._server.name, told)
        if isinstance(message, JSONRPCResponse) and isinstance(message.result.get("tools"), list):
            del message.result["tools"][MAX_TOOLS + 1 :]  # before each becomes a large object
        if isinstance(message, JSONRPCRequest):
            if len(self._asked) >= _MAX_ASKED:
                return None  # it does not read the answers
            self._asked.add(message.id)
        return message

    async def _send(
        self, stdin: FileIO, from_us: anyio.abc.ObjectReceiveStream[SessionMessage]
    ) -> None:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, stdin)
        writer = asyncio.StreamWriter(transport, protocol, None, loop)
        try:
            async for item in from_us:
                message = item.message
                if isinstance(message, JSONRPCResponse | JSONRPCError):
                    self._asked.discard(message.id)
                data = message.model_dump_json(by_alias=True, exclude_unset=True)
                writer.write(data.encode(errors="replace") + b"\n")
                await writer.drain()
        except OSError:
            pass  # it has closed its stdin; what it says before it goes is read
        finally:
            transport.abort()
