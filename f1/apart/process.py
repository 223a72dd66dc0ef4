"""An engine's process as its parent sees it."""

from __future__ import annotations

import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from f1.apart.frames import read_frames

_PIECE = 1 << 18
# Of our variables, what it may see: paths, the locale, devices. No keys, no tokens.
_NAMES = frozenset(
    "PATH HOME USER LANG LANGUAGE TZ TMPDIR LD_LIBRARY_PATH LD_PRELOAD PYTHONHOME VIRTUAL_ENV "
    "XDG_CACHE_HOME HF_HOME HF_HUB_CACHE".split()
)
_KINDS = ("LC_", "CUDA_", "NVIDIA_", "OMP_", "MKL_", "OPENBLAS_", "MALLOC_", "ASAN_", "UBSAN_")


def default_command() -> list[str]:
    """What starts one, but for its two arguments."""
    return [sys.executable, "-P", "-m", "f1.apart.child"]


def environment() -> dict[str, str]:
    given = {
        name: value
        for name, value in os.environ.items()
        if name in _NAMES or name.startswith(_KINDS)
    }
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return given | {"PYTHONPATH": os.pathsep.join(paths)}


class Process:
    """Started at once; in a session of its own, for Ctrl-C is for the server, which has requests to
    finish. For one thread that receives and any that send. end() it from that thread, too: by the
    kernel's rule it dies with the thread that has started it."""

    def __init__(self, command: Sequence[str]):
        """Raises OSError."""
        self._channel, theirs = socket.socketpair()
        self._received = bytearray()
        self._sending: queue.SimpleQueue[Callable[[], bytes | None] | None] = queue.SimpleQueue()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [*command, str(theirs.fileno()), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    env=environment(),
                    start_new_session=True,
                )
        except BaseException:
            self._channel.close()
            raise
        self._poll = select.poll()
        self._poll.register(self._channel, select.POLLIN)
        self._sender = threading.Thread(target=self._send, name="f1-apart-sender", daemon=True)
        self._sender.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, make: Callable[[], bytes | None]) -> None:
        """A frame, or None for nothing. At once: it is made, and waits where the process does not
        read, in a thread of its own."""
        self._sending.put(make)

    def receive(self, seconds: float) -> list[Any]:
        """What has come; nothing after so many seconds. Raises EOFError when it has ended, and
        Malformed."""
        if not self._poll.poll(seconds * 1000):
            return []
        try:
            data = self._channel.recv(_PIECE)
        except ConnectionError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        self._received += data
        return read_frames(self._received)

    def let_go(self) -> None:
        """It ends what it does, and itself."""
        with suppress(OSError):
            self._channel.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def end(self, seconds: float = 0.0) -> str:
        """Waits so long, and then no more. Says how it ended. Nothing of it is left."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        if self._process.returncode is None:
            self.kill()
        status = self._process.wait()
        self._sending.put(None)
        self._sender.join()
        self._channel.close()
        if status < 0:
            with suppress(ValueError):
                return f"was ended by {signal.Signals(-status).name}"
        return f"ended with status {status}"

    def _send(self) -> None:
        with suppress(OSError):  # it is gone, as who receives will see
            while (make := self._sending.get()) is not None:
                if (frame := make()) is not None:
                    self._channel.sendall(frame)
