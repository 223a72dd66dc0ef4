"""A program under measurement, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from f1.errors import F1Error


class SubjectFailed(F1Error):
    """A subject could not start or answer; the message ends with the last it said."""


class Subject:
    """One worker process (`f1.bench.worker`) that answers one question at a time.

    `folder` goes before everything else on its module path: a peer may lie outside F1's
    environment. `settings` are fields of Settings that differ from this process's.
    """

    def __init__(
        self,
        kind: str,
        model: str,
        *,
        folder: Path | None = None,
        settings: Mapping[str, int | str] | None = None,
    ):
        self.kind = kind
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  # see close()
        home = Path(__file__).resolve().parents[2]
        paths = [str(folder or ""), str(home), os.environ.get("PYTHONPATH", "")]
        variables = {f"F1_{name.upper()}": str(value) for name, value in (settings or {}).items()}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "f1.bench.worker", kind, model],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, **variables, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )

    def ask(self, what: str, **arguments: object) -> Any:
        """Calls the subject's method `what`; blocks until it has answered. Raises SubjectFailed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps({"what": what, **arguments}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise SubjectFailed(f"{self.kind} stopped: {self._last_words()}")
        answer: Mapping[str, Any] = json.loads(line)
        if "error" in answer:
            raise SubjectFailed(f"{self.kind}: {answer['error']}")
        return answer["answer"]

    def close(self) -> None:
        self._process.terminate()
        self._process.communicate()
        self._log.close()

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().splitlines() if line.strip()]
        return lines[-1] if lines else f"exit code {self._process.wait()}"

    def __enter__(self) -> Subject:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()
