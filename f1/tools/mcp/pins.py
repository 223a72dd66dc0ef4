"""What a person has approved of what servers offer: the whole text, so that a change can be shown.

A server is approved as it is when it is first met (unless it is `pin = "strict"`: who wrote its
command into f1.toml trusts it now). What it offers later, or says otherwise, is approved again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson
from filelock import FileLock

from f1.tools.mcp.definitions import Definition

log = logging.getLogger("f1.tools.mcp")

Pinned = Mapping[str, str]  # the text of a definition by the server's name for the tool


class BrokenPins(OSError):
    """The file holds something else."""


class Pins:
    """A file, which other processes write, too. None: kept nowhere but here."""

    def __init__(self, file: Path | None):
        self._file = file
        self._kept: dict[str, dict[str, str]] = {}

    def of(self, server: str) -> Pinned | None:
        """None: it was never met. Of a file that holds something else nothing is approved, and
        nobody is met for the first time. Raises OSError."""
        try:
            return self._read().get(server)
        except BrokenPins as broken:
            log.warning("mcp.%s: nothing of it is approved: %s", server, broken)
            return {}

    def stamp(self) -> int:
        """Another one when another process has approved something."""
        try:
            return self._file.stat().st_mtime_ns if self._file else 0
        except OSError:
            return 0

    def approve(
        self, server: str, definitions: Iterable[Definition], *, anew: bool = False
    ) -> None:
        """These, beside those that are; `anew`: and no others. Raises OSError; BrokenPins where the
        file holds something else, which is left as it is."""
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
        """Raises OSError."""
        if self._file is None:
            return self._kept
        try:
            kept = orjson.loads(self._file.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError:
            kept = None
        if not _is_kept(kept):
            raise BrokenPins(f"{self._file} is not what F1 wrote: repair it, or move it away")
        return dict(kept)


def _is_kept(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(texts, dict) and all(isinstance(text, str) for text in texts.values())
        for texts in value.values()
    )
