"""Has grammars that may take too much made in another process first; see judging.py."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Literal
from weakref import finalize

from f1.calling.judging import receive, send
from f1.calling.source import Source
from f1.errors import F1Error

MAX_BYTES = 1 << 30  # of memory, beyond what the process has before
_START_SECONDS = 60.0  # to import, and to take the vocabulary; some seconds on a busy machine
_GRACE_SECONDS = 2.0  # beyond the kernel's limit, before the whole process is ended


@dataclass(frozen=True, slots=True)
class Verdict:
    """`ended`: its limit of time or memory was reached. Not `sure`: only because others took the
    time that was left, or the processor, so that it may do another time."""

    error: str | None = None  # what the library said
    num_bytes: int = 0  # of the compiled grammar
    seconds: float = 0.0  # of processor time
    ended: Literal["", "time", "memory"] = ""
    sure: bool = True


class Judge:
    """Its process is started when it is first asked. Thread-safe; one asks at a time."""

    def __init__(
        self,
        vocabulary: Sequence[bytes],
        vocab_size: int,
        stop_token_ids: Sequence[int],
        common: Sequence[str],
        *,
        max_bytes: int = MAX_BYTES,
    ):
        self._setup = (vocabulary, vocab_size, stop_token_ids, common)
        self._max_bytes = max_bytes
        self._lock = Lock()
        self._process: _Process | None = None

    def ask(
        self, sources: Sequence[Source], *, cpu_seconds: float, seconds: float
    ) -> list[Verdict]:
        """A verdict for each of `sources`, each of which may take `cpu_seconds`, all together
        `seconds`. Waits for others that ask, however long."""
        with self._lock:
            self._start()
            deadline = time.monotonic() + seconds
            verdicts: list[Verdict] = []
            while len(verdicts) < len(sources):
                verdicts += self._ask(sources[len(verdicts) :], cpu_seconds, deadline)
            return verdicts

    @property
    def process_id(self) -> int | None:
        """Also of its process group, with all that it started; None before it is first asked."""
        return self._process.process_id if self._process is not None else None

    def close(self) -> None:
        """Ends the process, and what runs in it."""
        if self._process is not None:
            self._process.end()

    def _ask(self, sources: Sequence[Source], cpu_seconds: float, deadline: float) -> list[Verdict]:
        """Verdicts of the first ones, up to one that was ended."""
        process = self._start()
        left = deadline - time.monotonic()
        if left <= 0:
            return [Verdict(ended="time", sure=False)] * len(sources)
        job = {
            "sources": [asdict(source) for source in sources],
            "cpu_seconds": cpu_seconds,
            "seconds": left,
        }
        verdicts: list[Verdict] = []
        until = time.monotonic() + left + _GRACE_SECONDS
        try:
            process.send(job)
            clock = process.receive(until)["clock"]
            while len(verdicts) < len(sources):
                answer = process.receive(until)
                if "ended" in answer:
                    return [*verdicts, _ended(answer, clock)]
                verdicts.append(Verdict(**answer))
        except (OSError, EOFError):  # the process itself is gone or hangs
            process.end()
            verdicts.append(Verdict(ended="time", sure=False))
        return verdicts

    def _start(self) -> _Process:
        if self._process is not None and self._process.alive:
            return self._process
        self._process = process = _Process()
        vocabulary, vocab_size, stop_token_ids, common = self._setup
        try:
            process.send(
                {
                    "vocabulary": [base64.b64encode(token).decode() for token in vocabulary],
                    "vocab_size": vocab_size,
                    "stop_token_ids": list(stop_token_ids),
                    "common": list(common),
                    "max_bytes": self._max_bytes,
                }
            )
            process.receive(time.monotonic() + _START_SECONDS)
        except (OSError, EOFError) as error:
            process.end()
            raise F1Error("the process that looks at schemas does not start") from error
        return process


def _ended(answer: dict[str, Any], begin: float) -> Verdict:
    took = answer["clock"] - begin
    if answer["ended"] not in (signal.SIGPROF, signal.SIGALRM):
        return Verdict(ended="memory", seconds=took)
    return Verdict(ended="time", seconds=took, sure=answer["ended"] == signal.SIGPROF)


class _Process:
    """A running judging.py. Ends when nobody has it any more, and with this process."""

    def __init__(self) -> None:
        root = str(Path(__file__).parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._socket, its_end = socket.socketpair()
        with its_end:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "f1.calling.judging"],
                stdin=its_end.fileno(),
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                start_new_session=True,
            )
        self.end = finalize(self, _end, self._process, self._socket)

    @property
    def process_id(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, message: Any) -> None:
        """Raises OSError where it is gone."""
        self._socket.settimeout(_START_SECONDS)
        send(self._socket, message)

    def receive(self, until: float) -> dict[str, Any]:
        """The next message. Raises TimeoutError at `until`, EOFError where it is gone."""
        self._socket.settimeout(max(until - time.monotonic(), 0.001))
        message: dict[str, Any] = receive(self._socket)
        return message


def _end(process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    connection.close()
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
            return
