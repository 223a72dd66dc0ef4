"""A server's process, as F1 sees it: two pipes, and the keeper that ends it."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from contextlib import suppress

from f1.tools.mcp.definitions import visible
from f1.tools.mcp.settings import McpServer
from f1.tools.runners.supervisor import kill_descendants

_ENVIRONMENT = "PATH HOME USER LOGNAME SHELL LANG LC_ALL LC_CTYPE TZ TMPDIR".split()
_RUN = "import sys; sys.path[:] = {!r}; from f1.tools.mcp.keeper import main; main()"
_LEAVE_SECONDS = 0.5  # for a server that is asked to go, before it is ended
_END_SECONDS = 0.5  # for its keeper to end it, and all that it has started
_MAX_SAID = 2000  # bytes of its stderr that are kept, the last ones


class Process:
    """Started when it is made. Raises OSError."""

    def __init__(self, server: McpServer):
        self.said = b""  # the end of what it has written to stderr
        self._control, control = socket.socketpair()
        reads, self.stdin = os.pipe()
        self.stdout, writes = os.pipe()
        try:
            with control:
                self._process = _start(server, control, reads, writes)
        except BaseException:
            self._control.close()
            os.close(self.stdin)
            os.close(self.stdout)
            raise
        finally:
            os.close(reads)
            os.close(writes)
        self._control.setblocking(False)
        self._ended = asyncio.ensure_future(self._listen())

    @property
    def ending(self) -> str:
        """How it ended, and what it said last."""
        said = visible(self.said.decode(errors="replace")).strip()
        code = self._process.poll()
        how = "its process was ended" if code is None else f"its process ended with status {code}"
        return f"{how}: {said}" if said else how

    async def end(self, *, at_once: bool = False) -> None:
        """Nothing that it has started is left when this returns. Its pipes are closed by whoever
        reads them; a server that is not ended at once goes when its stdin is closed."""
        if not at_once:
            await asyncio.wait([self._ended], timeout=_LEAVE_SECONDS)
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)
        await asyncio.wait([self._ended], timeout=_END_SECONDS)
        if self._process.poll() is None:  # the keeper was stopped, or cannot keep up
            await asyncio.to_thread(_end_without_keeper, self._process)
        self._ended.cancel()
        self._control.close()

    async def _listen(self) -> None:
        """Until the keeper ends. What is not read would not be there when it is asked for."""
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while piece := await loop.sock_recv(self._control, 1 << 14):
                self.said = (self.said + piece)[-_MAX_SAID:]
        await asyncio.to_thread(self._process.wait)


def _start(
    server: McpServer, control: socket.socket, reads: int, writes: int
) -> subprocess.Popen[bytes]:
    """-I: the environment is for the server alone, and says nothing to the keeper's Python."""
    names = (*_ENVIRONMENT, *server.env)
    keeper = [sys.executable, "-I", "-c", _RUN.format(sys.path)]
    return subprocess.Popen(
        [*keeper, str(reads), str(writes), *server.command],
        stdin=control.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(reads, writes),
        env={name: os.environ[name] for name in names if name in os.environ},
        cwd=server.cwd,
        start_new_session=True,
    )


def _end_without_keeper(process: subprocess.Popen[bytes]) -> None:
    while kill_descendants(process.pid):
        pass
    process.kill()
    process.wait()
