"""What a person has approved of what servers offer: the whole text, so that a change can be shown.

A server is approved as it is when it is first met (unless it is `pin = "strict"`: who wrote its
command into f1.toml trusts it now). What it offers later, or says otherwise, is approved again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import orjson
from filelock import FileLock

from f1.tools.mcp.definitions import Definition

Pinned = Mapping[str, str]  # the text of a definition by the server's name for the tool


class Pins:
    """A file, which other processes write, too. None: kept nowhere but here."""

    def __init__(self, file: Path | None):
        self._file = file
        self._kept: dict[str, dict[str, str]] = {}

    def of(self, server: str) -> Pinned | None:
        """None: it was never met. Raises OSError."""
        return self._read().get(server)

    def stamp(self) -> int:
        """Another one when another process has approved something."""
        try:
            return self._file.stat().st_mtime_ns if self._file else 0
        except OSError:
            return 0

    def approve(
        self, server: str, definitions: Iterable[Definition], *, anew: bool = False
    ) -> None:
        """These, beside those that are; `anew`: and no others. Raises OSError."""
        if self._file is None:
            self._put(self._kept, server, definitions, anew)
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self._file}.lock"):
            kept = self._read()
            self._put(kept, server, definitions, anew)
            written = self._file.with_suffix(".new")
            with written.open("wb") as file:
                file.write(orjson.dumps(kept, option=orjson.OPT_INDENT_2))
                file.flush()
                os.fsync(file.fileno())
            written.replace(self._file)

    def _put(
        self,
        kept: dict[str, dict[str, str]],
        server: str,
        definitions: Iterable[Definition],
        anew: bool,
    ) -> None:
        had = {} if anew else kept.get(server, {})
        kept[server] = had | {each.name: each.text for each in definitions}

    def _read(self) -> dict[str, dict[str, str]]:
        """Where the file cannot be read as such, nothing is approved, and nothing is new."""
        if self._file is None:
            return self._kept
        try:
            return dict(orjson.loads(self._file.read_bytes()))
        except FileNotFoundError:
            return {}
