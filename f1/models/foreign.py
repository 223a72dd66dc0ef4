"""A chat template that nobody knows, held in a process of its own (`f1/models/rendering.py`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import TemplateError

from f1.models import rendering

_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG")  # no secrets
_BYTES_A_CHARACTER = 12  # of JSON in ASCII, at most


class ForeignTemplate:
    """Compiled and rendered elsewhere, by one thread at a time. The process is started again after
    one that took too long, and ends with this object."""

    def __init__(self, source: str):
        """Raises TemplateError where the source does not compile in the time and memory allowed."""
        self._source = source
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._end: Callable[[], object] = lambda: None
        with self._lock:
            self._start()

    def render(self, arguments: Mapping[str, Any], limit: int) -> str:
        """At most `limit` characters. Raises TemplateError, also where it takes too much."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            return str(self._ask({"arguments": arguments, "limit": limit}, limit)["text"])

    def _start(self) -> None:
        self._end()
        self._process = subprocess.Popen(
            [sys.executable, "-P", rendering.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            start_new_session=True,  # Ctrl-C is for the server, which has requests to finish
        )
        self._end = weakref.finalize(self, _end, self._process)
        self._ask({"source": self._source})

    def _ask(self, question: Mapping[str, Any], limit: int = 0) -> dict[str, Any]:
        line = b""
        if self._process is not None and self._process.stdin and self._process.stdout:
            try:
                self._process.stdin.write(json.dumps(question).encode() + b"\n")
                self._process.stdin.flush()
                line = self._process.stdout.readline(_BYTES_A_CHARACTER * limit + 20_000)
            except BrokenPipeError:
                pass
        if not line.endswith(b"\n"):
            self._end()
            self._process = None
            raise TemplateError(f"it takes more than {rendering.CPU_SECONDS} s, or too much memory")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise TemplateError(answer["error"])
        return answer


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.wait()
