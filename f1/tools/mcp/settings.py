"""A server as f1.toml has it.

[mcp.github]                       # its tools are "github__NAME", all of them toolset "github"
command = ["github-mcp", "stdio"]  # or url = "https://…"
only = ["search", "get_issue"]
[mcp.github.tools.search]          # what its calls do and may take: said here, or careful
read_only = true
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from f1.errors import InvalidRequest, meant
from f1.tools.spec import Annotations, CallLimits
from f1.tools.tables import read_table

Table = Mapping[str, Any]
Pinning = Literal["first", "strict"]
State = Literal["starting", "up", "down"]  # of a server; of one that is lost: "down", for a while

# A name holds no "__" and ends on no "_": where it ends in "NAME__tool" is seen.
_NAME = re.compile(r"[A-Za-z0-9-]+(?:_[A-Za-z0-9-]+)*\Z")
_MAX_NAME = 24
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
_URL = re.compile(r"https?://[^\s/?#@]+(?:[/?][^\s#]*)?\Z")
_ANNOTATIONS = frozenset(each.name for each in fields(Annotations))
_MAX_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class McpServer:
    """`env` are names of our variables that its process sees besides PATH, HOME and the like;
    no others are there. `pin`: "first" approves what it offers when it is first met, "strict"
    nothing; what is new or has changed later is approved by a person."""

    name: str
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    cwd: str = "."
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    api_key_env: str = ""  # the variable that holds the key
    only: tuple[str, ...] | None = None  # of its tools; None: all
    pin: Pinning = "first"
    timeout: float = 60.0  # seconds of a call, unless the tool has its own
    start_timeout: float = 30.0  # seconds until it has told its tools
    restarts: int = 5  # in ten minutes; then it rests
    annotations: Mapping[str, Annotations] = field(default_factory=dict)  # by the server's names
    limits: Mapping[str, CallLimits] = field(default_factory=dict)

    def limits_of(self, tool: str) -> CallLimits:
        return self.limits.get(tool) or CallLimits(timeout=self.timeout)

    @property
    def max_message(self) -> int:
        """Bytes of one message that are read. JSON escapes make text longer than it is."""
        most = max((each.max_bytes for each in self.limits.values()), default=0)
        return 2 * max(most, CallLimits().max_bytes)


def read_server(name: str, table: Table, folder: Path) -> McpServer:
    """Paths start from `folder`. Raises InvalidRequest whose `param` is the key that is wrong."""
    reader = _Reader(f"mcp.{name}", table)
    if len(name) > _MAX_NAME or not _NAME.match(name):
        raise reader.wrong("", f"is no name: 1 to {_MAX_NAME} of A-Z a-z 0-9 - and single _ inside")
    for key in table:
        if key not in _KEYS:
            raise reader.wrong(key, f"is not known{meant(key, sorted(_KEYS))}")
    command, url = reader.texts("command"), reader.text("url")
    if bool(command) == bool(url):
        raise reader.wrong("command", "or 'url' is needed, and not both")
    for key in ("env", "cwd") if url else ("headers", "api_key_env"):
        if key in table:
            raise reader.wrong(key, f"is not for a server with a {'url' if url else 'command'}")
    if url and not _URL.match(url):
        raise reader.wrong("url", "must be an address like 'https://host/mcp', without a password")
    pin = reader.text("pin", "first")
    if pin not in ("first", "strict"):
        raise reader.wrong("pin", "must be 'first' or 'strict'")
    timeout = reader.seconds("timeout", 60.0)
    annotations, limits = _tools(reader, timeout)
    return McpServer(
        name,
        command,
        reader.texts("env", _VARIABLE),
        str(folder / Path(reader.text("cwd")).expanduser()),
        url,
        _headers(reader),
        reader.text("api_key_env"),
        reader.texts("only") if "only" in table else None,
        "strict" if pin == "strict" else "first",
        timeout,
        reader.seconds("start_timeout", 30.0),
        reader.count("restarts", 5),
        annotations,
        limits,
    )


def _tools(reader: _Reader, timeout: float) -> tuple[dict[str, Annotations], dict[str, CallLimits]]:
    annotations, limits = {}, {}
    for tool, said in reader.table_of("tools").items():
        where = f"{reader.path}.tools.{tool}"
        if not isinstance(said, Mapping):
            raise reader.wrong(f"tools.{tool}", "must be a table")
        flags = {key: value for key, value in said.items() if key in _ANNOTATIONS}
        rest = {"timeout": timeout} | {k: v for k, v in said.items() if k not in _ANNOTATIONS}
        # A fitting name, for the sake of the reader; the errors name the key.
        spec = read_table("tool", {"annotations": flags, "limits": rest}, where)
        annotations[tool], limits[tool] = spec.annotations, spec.limits
    return annotations, limits


def _headers(reader: _Reader) -> dict[str, str]:
    headers = reader.table_of("headers")
    for name, value in headers.items():
        if not _HEADER.match(name) or not (isinstance(value, str) and value.isprintable()):
            raise reader.wrong(f"headers.{name}", "is no header that can be set")
    return dict(headers)


_KEYS = frozenset(
    "command env cwd url headers api_key_env only pin timeout start_timeout restarts tools".split()
)


@dataclass(frozen=True, slots=True)
class _Reader:
    path: str
    table: Table

    def wrong(self, key: str, told: str) -> InvalidRequest:
        path = f"{self.path}.{key}" if key else self.path
        return InvalidRequest(f"'{path[:200]}' {told}", param=path[:200])

    def text(self, key: str, default: str = "") -> str:
        value = self.table.get(key, default)
        if not isinstance(value, str) or "\0" in value:
            raise self.wrong(key, "must be a text")
        return value

    def texts(self, key: str, pattern: re.Pattern[str] | None = None) -> tuple[str, ...]:
        value = self.table.get(key, [])
        if not isinstance(value, list) or not all(
            isinstance(item, str) and "\0" not in item for item in value
        ):
            raise self.wrong(key, "must be a list of texts")
        for item in value:
            if pattern is not None and not pattern.match(item):
                raise self.wrong(key, f"holds no name: {item[:100]!r}")
        return tuple(value)

    def table_of(self, key: str) -> Table:
        value = self.table.get(key, {})
        if not isinstance(value, Mapping):
            raise self.wrong(key, "must be a table")
        return value

    def seconds(self, key: str, default: float) -> float:
        value = self.table.get(key, default)
        fine = isinstance(value, int | float) and not isinstance(value, bool)
        if not fine or not 0.001 <= value <= _MAX_SECONDS:
            raise self.wrong(key, f"must be a number of seconds up to {_MAX_SECONDS:g}")
        return float(value)

    def count(self, key: str, default: int) -> int:
        value = self.table.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 1000:
            raise self.wrong(key, "must be an integer from 0 to 1000")
        return value
