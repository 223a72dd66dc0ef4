"""In the worker: the operator's module, and the calls of its functions, one after the other.

Frames over the channel, JSON in them, never pickle:

    server ▶ worker   length u32, {"id": 7, "function": "search", "arguments": {…},
                                   "invocation": {"key": …}, "max_bytes": n}
                                   or {"id": 7} alone: is anybody there?
    worker ▶ server   kind, id u64, size u64, length u32, then `length` bytes

    kind J: JSON    T: text    F: {"error": …, "trace": …, "fit": …}; all of it is `size` bytes

The first frame says what to import and within which limits; its answer has the id 0.
"""

from __future__ import annotations

import asyncio
import contextvars
import faulthandler
import importlib
import importlib.util
import inspect
import io
import json
import os
import resource
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any

from f1.tools.runners.output import write_output
from f1.tools.runners.sandbox import prove
from f1.tools.spec import INVOCATION, Invocation

if TYPE_CHECKING:
    from f1.tools.function import FunctionTool

REQUEST = struct.Struct("!I")
REPLY = struct.Struct("!cQQI")
MAX_FAILURE = 1 << 18  # bytes of a failure's frame
_MAX_MESSAGE = 4000  # characters
_NOT_THEIRS = ("f1.", "importlib")  # modules at the outer end of a trace
_MAX_TRACE = 12_000


def main() -> None:
    """In a sandbox, whose channel is the last argument."""
    channel = socket.socket(fileno=int(sys.argv[-1]))
    channel.set_inheritable(False)
    work(channel)


def work(channel: socket.socket) -> None:
    """Until the server lets go of the channel."""
    calls, here = _Calls(), os.getpid()
    answers: Callable[[dict[str, Any]], tuple[bytes, bytes, int]] = calls.start
    while (request := _receive(channel)) is not None:
        fit = True  # for another call
        try:
            kind, data, size = answers(request)
        except BaseException as error:  # a tool's, and it may raise what it likes
            # Where memory has run out, who knows what else was not done.
            fit = answers != calls.start and not isinstance(error, MemoryError)
            kind, data = b"F", _failure(error, fit)
            size = len(data)
        if os.getpid() != here:  # the function has forked, and come back twice
            return
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # it has been closed, or taken away
                stream.flush()
        channel.sendall(REPLY.pack(kind, request["id"], size, len(data)))
        channel.sendall(data)
        if not fit:
            return
        answers = calls.answer


class _Calls:
    def __init__(self) -> None:
        self._functions: dict[str, FunctionTool] = {}
        self._loop: asyncio.Runner | None = None

    def start(self, request: dict[str, Any]) -> tuple[bytes, bytes, int]:
        from pydantic import TypeAdapter  # noqa: F401 - slow; no call shall wait for it

        faulthandler.enable()
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(line_buffering=True)  # what it says is there if it dies
        os.environ.pop("PYTHONPATH", None)  # ours; what a tool starts has its own
        if (sandbox := request["sandbox"]) is not None:
            prove(sandbox["outside"], sandbox["network"])
            _limit(resource.RLIMIT_NPROC, sandbox["processes"])
            _limit(resource.RLIMIT_NOFILE, sandbox["files"])
            _limit(resource.RLIMIT_FSIZE, sandbox["disk_bytes"])
        _limit(resource.RLIMIT_CORE, 1)  # with 0, a program that collects cores gets them
        if sys.platform == "linux":
            _limit(resource.RLIMIT_DATA, request["memory_bytes"])
        self._cpu_seconds = request["cpu_seconds"]
        self._module = _load(request["module"], request["folder"])
        self._begin = (os.getcwd(), dict(os.environ), os.umask(0))
        os.umask(self._begin[2])
        return b"J", b"null", 4

    def answer(self, request: dict[str, Any]) -> tuple[bytes, bytes, int]:
        if "function" not in request:
            return b"J", b"null", 4  # it listens
        function = self._function(request["function"])
        if "arguments" not in request:
            data = _described(function)
            return b"J", data, len(data)
        if self._cpu_seconds is not None:
            spent = resource.getrusage(resource.RUSAGE_SELF)
            used = spent.ru_utime + spent.ru_stime
            hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
            resource.setrlimit(resource.RLIMIT_CPU, (int(used + self._cpu_seconds) + 1, hard))
        bound = function.bind(json.dumps(request["arguments"]))
        context = contextvars.copy_context()  # of this call alone
        return context.run(self._call, function, bound, request)

    def _call(
        self, function: FunctionTool, bound: dict[str, Any], request: dict[str, Any]
    ) -> tuple[bytes, bytes, int]:
        folder, environment, mask = self._begin  # whatever the call before has made of them
        os.chdir(folder)
        os.umask(mask)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        INVOCATION.set(Invocation(**call) if (call := request["invocation"]) else None)
        result = function(**bound)
        if inspect.isawaitable(result):
            self._loop = self._loop or asyncio.Runner()
            result = self._loop.run(_wait_for(result), context=contextvars.copy_context())
        is_text, data, size = write_output(result, request["max_bytes"])
        return b"T" if is_text else b"J", data, size

    def _function(self, name: str) -> FunctionTool:
        from f1.tools.function import make_tool

        if name not in self._functions:
            found: Any = self._module
            for part in name.split("."):
                found = getattr(found, part)
            self._functions[name] = make_tool(found)
        return self._functions[name]


def _load(module: str, folder: str) -> ModuleType:
    sys.path.insert(0, folder)
    if not module.endswith(".py"):
        return importlib.import_module(module)
    os.stat(module)  # raises what tells it best where there is none
    spec = importlib.util.spec_from_file_location("f1_operator_tools", module)
    if spec is None or spec.loader is None:
        raise ImportError(f"{module} is no Python file")
    loaded = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


async def _wait_for(result: Any) -> Any:
    return await result


def _described(function: FunctionTool) -> bytes:
    from pydantic_core import to_json

    tool, limits, annotations = function.tool, function.limits, function.annotations
    return to_json(
        {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
            "output": function.output,
            "examples": function.examples,
            "annotations": annotations,
            "limits": limits,
        }
    )


def _failure(error: BaseException, fit: bool) -> bytes:
    if isinstance(error, MemoryError):
        told, trace = "MemoryError: it takes more memory than it may", ""
    else:
        ours = error.__traceback__
        while ours and ours.tb_frame.f_globals.get("__name__", "").startswith(_NOT_THEIRS):
            ours = ours.tb_next
        trace = ""  # where nothing of theirs was at work, it tells no more than the error
        if ours or isinstance(error, SyntaxError):
            trace = "".join(traceback.format_exception(error.with_traceback(ours)))[-_MAX_TRACE:]
        told = type(error).__name__
        with suppress(Exception):  # its text is foreign code, too
            told = f"{told}: {error}"[:_MAX_MESSAGE]
    return json.dumps({"error": told, "trace": trace, "fit": fit}).encode()


def _receive(channel: socket.socket) -> dict[str, Any] | None:
    header = _exactly(channel, REQUEST.size)
    body = header and _exactly(channel, REQUEST.unpack(header)[0])
    return json.loads(body) if body else None


def _exactly(channel: socket.socket, size: int) -> bytes | None:
    pieces = bytearray()
    while len(pieces) < size:
        piece = channel.recv(min(size - len(pieces), 1 << 20))
        if not piece:
            return None
        pieces += piece
    return bytes(pieces)
