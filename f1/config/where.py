"""A place in the file: what is read there, and errors that name it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from f1.errors import InvalidRequest, meant

Table = Mapping[str, Any]
Reader = Callable[[Any], Any]  # of one value; raises Unfit


class Unfit(Exception):
    """A value is not what its key takes. The message says what that is."""


@dataclass(frozen=True, slots=True)
class Where:
    """A place in a file."""

    file: Path
    path: tuple[str, ...] = ()

    def into(self, *names: str) -> Where:
        return Where(self.file, (*self.path, *map(_quoted, names)))

    def at(self, index: int) -> Where:
        return Where(self.file, (*self.path[:-1], f"{self.path[-1]}[{index}]"))

    @property
    def name(self) -> str:
        return ".".join(self.path)

    def wrong(self, told: str) -> InvalidRequest:
        path = self.name
        return InvalidRequest(f"{self.file}: {path} {told}" if path else f"{self.file}: {told}",
                              param=path or None)  # fmt: skip

    def table(self, value: object) -> Table:
        if not isinstance(value, Mapping):
            raise self.wrong(f"must be a table, not {_shown(value)}")
        return value

    def read(self, table: Table, known: Mapping[str, Reader]) -> dict[str, Any]:
        """The values that are given. Raises InvalidRequest for the first that is wrong."""
        self.check_keys(table, known)
        found = {}
        for key, value in table.items():
            try:
                found[key] = known[key](value)
            except Unfit as unfit:
                raise self.into(key).wrong(f"must be {unfit}, not {_shown(value)}") from None
        return found

    def check_keys(self, table: Table, known: Mapping[str, object] | frozenset[str]) -> None:
        for key in table:
            if key not in known:
                raise self.into(key).wrong(f"is not known{meant(key, list(known))}")

    def check_name(self, name: str, known: Mapping[str, object], what: str) -> None:
        if name not in known:
            raise self.wrong(f"names no {what}: {name!r}{meant(name, list(known))}")


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name[:100]}"'


def _shown(value: object) -> str:
    return repr(value)[:100]
