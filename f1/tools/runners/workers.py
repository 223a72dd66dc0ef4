"""A worker process as the server sees it: it is asked, and ended with all that is its own."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from weakref import finalize

from f1.tools.runners.cgroups import Bounds, bounds_processes, find_bounds, remove_groups
from f1.tools.runners.output import read_output
from f1.tools.runners.sandbox import Sandbox, command, outside
from f1.tools.runners.seccomp import seccomp_filter
from f1.tools.runners.supervisor import kill_descendants
from f1.tools.runners.worker import MAX_FAILURE, REPLY, REQUEST
from f1.tools.spec import Output, ToolFailure

log = logging.getLogger("f1.tools")

_ENVIRONMENT = (
    *("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "PYTHONHOME"),
)
_START_SECONDS = 30.0  # of an import
_LISTEN_SECONDS = 1.0  # of a worker that has nothing to do
_GRACE_SECONDS = 0.5  # of a supervisor that is to end its tree; then it is done from here
_KILL_SECONDS = 2.0
_PRINTED_BYTES = 1 << 18  # of what a tool prints in a call that are read
_PRINTED_CHARS = 2000  # that are logged
_FILES = 256  # open ones, of a process in a sandbox


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What workers are given. `environment`: names of our variables that tools see besides PATH,
    HOME, the locale's and the like; no others are there. `memory_bytes` are each process's own,
    without what is shared or mapped from files (RLIMIT_DATA; kept to on Linux); where cgroups can
    be had, a sandbox has no more in all.

    Without a sandbox a tool is trusted: it may do what this user may, but for reading this process
    (supervisor.keep_to_itself)."""

    folder: Path = field(default_factory=Path.cwd)  # where modules and files are looked for first
    environment: tuple[str, ...] = ()
    memory_bytes: int = 2 << 30
    cpu_seconds: float | None = None  # of one call, in its own process; None: its time alone counts
    idle: int = 4  # workers of a module that are kept; 0: each call has a new one
    sandbox: bool = False  # of tools that do not say
    network: bool = False  # in sandboxes of tools that do not say
    readable: tuple[str, ...] = ()  # what sandboxes show beside Python and `folder`; from there
    hidden: tuple[Path, ...] = ()  # what they do not, although it lies in there
    processes: int = 64  # in one sandbox, threads included
    disk_bytes: int = 256 << 20  # in each of a sandbox's two folders, /tmp and /dev/shm


class Worker:
    """Started at once; the module is imported while nobody waits yet. One call at a time."""

    def __init__(self, module: str, settings: WorkerSettings, sandbox: Sandbox | None = None):
        """Raises ToolFailure where there are no processes or files to be had, no such folder, or no
        such sandbox."""
        self.settings = settings
        self._sandbox = sandbox
        self._control, control = socket.socketpair()
        self._channel, channel = socket.socketpair()
        self._bounds: Bounds = {}
        try:
            if sandbox is not None:
                self._bounds = _bounds(settings)
            with control, channel:
                self._process = _start(control, channel, settings, sandbox, self._bounds)
        except (OSError, ToolFailure) as error:
            self._control.close()
            self._channel.close()
            if isinstance(error, ToolFailure):
                raise
            raise ToolFailure(f"its process cannot be started: {error.strerror}") from error
        ends = (self._control, self._channel)
        self.close = finalize(self, _close, self._process, *ends, self._bounds)
        for connection in ends:
            connection.setblocking(False)
        self.is_ready = False
        self._last_words = b""  # printed at its end
        self._module = module
        self._last_id = 0
        hello = {
            "id": 0,
            "module": module,
            "folder": str(settings.folder),
            "memory_bytes": settings.memory_bytes,
            "cpu_seconds": settings.cpu_seconds,
            "sandbox": sandbox
            and {
                "outside": outside(),
                "network": sandbox.network,
                "processes": settings.processes,
                "files": _FILES,
                "disk_bytes": settings.disk_bytes,
            },
        }
        with suppress(OSError):  # it is gone already, as who starts it will see
            self._channel.send(_frame(hello))

    @property
    def is_fresh(self) -> bool:
        """It lives, and has said nothing that nobody asked for."""
        try:
            said = self._channel.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return bool(said) and not self.is_ready  # its first answer waits there

    async def start(self) -> bool:
        """Waits for the module. False where it was there, and the worker listens no more: what was
        called last has answered for it and goes on, or has broken it. Raises ToolFailure where the
        module cannot be imported."""
        if self.is_ready:
            return await self._listens()
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._answer(0, MAX_FAILURE, "")
        except TimeoutError as error:
            await self.end()
            raise ToolFailure(f"its import takes more than {_START_SECONDS:g} s") from error
        except ToolFailure as error:
            if self._last_words.startswith(b"bwrap:"):
                told = _plain(self._last_words.decode(errors="replace")).splitlines()[0]
                why = told.rpartition(": ")[2] if "/" in told else told  # no paths
                raise ToolFailure(f"its sandbox cannot be set up here: {why}") from error
            raise
        self.is_ready = True
        return True

    async def _listens(self) -> bool:
        """Asked before the call is sent: so that it can be sent to another."""
        self._last_id += 1
        try:
            async with asyncio.timeout(_LISTEN_SECONDS):
                await asyncio.get_running_loop().sock_sendall(
                    self._channel, _frame({"id": self._last_id})
                )
                await self._answer(self._last_id, MAX_FAILURE, "")
        except (OSError, TimeoutError, ToolFailure):
            return False
        return True

    async def ask(self, question: Mapping[str, Any], max_bytes: int) -> Output:
        """Of a function. Raises ToolFailure. Whoever cancels this has to end the worker."""
        self._last_id += 1
        frame = _frame({**question, "max_bytes": max_bytes, "id": self._last_id})
        with suppress(OSError):  # it is gone; what it said before is read
            await asyncio.get_running_loop().sock_sendall(self._channel, frame)
        return await self._answer(self._last_id, max_bytes, question["function"])

    async def end(self) -> None:
        """Nothing that the tool has started is left behind when this returns."""
        if not self.close.alive:
            return
        loop = asyncio.get_running_loop()
        with suppress(OSError):  # also of time
            self._control.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(_GRACE_SECONDS):
                while piece := await loop.sock_recv(self._control, 1 << 16):
                    self._last_words += piece[: _PRINTED_CHARS - len(self._last_words)]
            self._process.wait()
        if self._last_words:
            log.info(
                "%s printed: %s", self._module, _plain(self._last_words.decode(errors="replace"))
            )
        if self._process.returncode is None or self._process.returncode < 0:
            _end_without_supervisor(self._process, self._bounds)
        self.close()

    async def _answer(self, number: int, max_bytes: int, function: str) -> Output:
        try:
            kind, answered, size, length = REPLY.unpack(await self._exactly(REPLY.size))
            room = {b"J": max_bytes, b"T": max_bytes, b"F": MAX_FAILURE}.get(kind, -1)
            if answered != number or not length <= min(room, size):
                raise _NoAnswer
            data = await self._exactly(length)
            self._log_printed(function)
            if kind != b"F":
                return read_output(kind == b"T", data, size)
            told, trace, is_fit = _read_failure(data)
        except _NoAnswer as error:
            await self.end()
            raise ToolFailure("its process answered with something that is no answer") from error
        except (EOFError, OSError) as error:
            await self.end()
            raise ToolFailure(self._ending()) from error
        if function or trace:  # an import that fails is told to who waits for it
            place = f"{self._module}:{function}" if function else self._module
            log.warning("%s: %s", place, _plain(f"{told}\n{trace}".rstrip()))
        if not is_fit:
            await self.end()
        raise ToolFailure(told)

    async def _exactly(self, size: int) -> bytearray:
        loop = asyncio.get_running_loop()
        data, filled = bytearray(size), 0
        with memoryview(data) as view:
            while filled < size:
                read = await loop.sock_recv_into(self._channel, view[filled : filled + (1 << 16)])
                if not read:
                    raise EOFError
                filled += read
        return data

    def _log_printed(self, function: str) -> None:
        text, left = b"", _PRINTED_BYTES
        with suppress(BlockingIOError):
            while left > 0 and (piece := self._control.recv(1 << 16)):
                text += piece[: _PRINTED_CHARS - len(text)]
                left -= len(piece)
        if text:
            text_read = _plain(text.decode(errors="replace"))
            log.info("%s:%s printed: %s", self._module, function, text_read)

    def _ending(self) -> str:
        status = self._process.returncode or 0
        name = {number.value: number.name for number in signal.Signals}.get(status - 128)
        if name is None:
            return f"its process ended with status {status}"
        over = f", after {self.settings.cpu_seconds:g} s of work" if name == "SIGXCPU" else ""
        return f"its process was ended by {name}{over}"


class _NoAnswer(Exception):
    """What came is none, or not to what was asked."""


def _frame(message: Mapping[str, Any]) -> bytes:
    body = json.dumps(message).encode()
    return REQUEST.pack(len(body)) + body


def _read_failure(data: bytearray) -> tuple[str, str, bool]:
    """What is told, what is for the log, and if the worker is fit for another call."""
    try:
        match json.loads(data):
            case {"error": str(told), "trace": str(trace), "fit": bool(is_fit)}:
                return told, trace, is_fit
    except ValueError:
        pass
    raise _NoAnswer


def _start(
    control: socket.socket,
    channel: socket.socket,
    settings: WorkerSettings,
    sandbox: Sandbox | None,
    bounds: Bounds,
) -> subprocess.Popen[bytes]:
    supervisor = [sys.executable, "-P", "-m", "f1.tools.runners.supervisor", str(channel.fileno())]
    with ExitStack() as stack:
        passed = [channel.fileno()]
        if sandbox is not None:
            filter_file = stack.enter_context(TemporaryFile())
            filter_file.write(seccomp_filter(sandbox.network))
            filter_file.seek(0)
            passed.append(filter_file.fileno())
            plan = {
                "command": command(
                    sandbox,
                    channel.fileno(),
                    filter_file.fileno(),
                    settings.folder,
                    readable=[settings.folder / Path(p).expanduser() for p in settings.readable],
                    hidden=settings.hidden,
                    disk_bytes=settings.disk_bytes,
                ),
                "seccomp": filter_file.fileno(),
                "bounds": bounds,
            }
            supervisor.append(json.dumps(plan))
        return subprocess.Popen(
            supervisor,
            stdin=control.fileno(),
            stdout=subprocess.DEVNULL,
            pass_fds=passed,
            env=_environment(settings.environment),
            cwd=settings.folder,
            start_new_session=True,  # Ctrl-C is for the server, which has requests to finish
        )


def _bounds(settings: WorkerSettings) -> Bounds:
    """Raises ToolFailure."""
    bounds = find_bounds(settings.processes, settings.memory_bytes)
    if os.geteuid() == 0 and not bounds_processes(bounds):
        raise ToolFailure(
            "its sandbox cannot bound the number of processes: as root that takes a cgroup that "
            "can be divided; run as another user"
        )
    return bounds


def _close(
    process: subprocess.Popen[bytes],
    control: socket.socket,
    channel: socket.socket,
    bounds: Bounds,
) -> None:
    control.close()
    channel.close()
    with suppress(subprocess.TimeoutExpired):
        if process.wait(_GRACE_SECONDS) >= 0:
            return
    _end_without_supervisor(process, bounds)


def _end_without_supervisor(process: subprocess.Popen[bytes], bounds: Bounds) -> None:
    """Somebody has stopped or ended it, or starts processes faster than it ends them."""
    until = time.monotonic() + _KILL_SECONDS
    while kill_descendants(process.pid) and time.monotonic() < until:
        pass
    process.kill()
    process.wait()
    while not remove_groups(bounds, f"f1-{process.pid}") and time.monotonic() < until:
        pass


def _environment(names: tuple[str, ...]) -> dict[str, str]:
    given = {name: os.environ[name] for name in (*_ENVIRONMENT, *names) if name in os.environ}
    return given | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _plain(text: str) -> str:
    """For a log: no character of it moves a cursor."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
