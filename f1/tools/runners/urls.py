"""URL templates: "https://api.example.com/weather/{city}?units=metric&days={days}".

Scheme, host and port are the template's own. A name stands for a path segment or a part of one, or
for the whole value of a query's key. Whatever an argument holds, it stays in its place.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from f1.tools.spec import ToolFailure

_URL = re.compile(
    r"(?P<scheme>https?)://"
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[A-Za-z0-9/{}._~!$'()*+,;:@%-]*)?"
    r"(?:\?(?P<query>[A-Za-z0-9/{}._~!$'()*+,;:@%=&\[\]-]*))?\Z"
)
_NAME = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.-]*)\}")
_DOTS = re.compile(r"(?:\.|%2[eE]){1,2}")
_MAX_TARGET = 8000  # bytes; servers take about as much


@dataclass(frozen=True, slots=True)
class UrlTemplate:
    scheme: str
    host: str  # an IPv6 address without its brackets
    port: int
    segments: tuple[str, ...]  # of the path, names in braces
    query: tuple[tuple[str, str], ...]  # (key as it is sent, "{name}" or what is sent)

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = self.port == (443 if self.scheme == "https" else 80)
        return host if usual else f"{host}:{self.port}"

    @property
    def path_names(self) -> list[str]:
        return [name for segment in self.segments for name in _NAME.findall(segment)]

    @property
    def query_names(self) -> list[str]:
        return [name for _, value in self.query for name in _NAME.findall(value)]

    def target(self, arguments: Mapping[str, Any], query: Mapping[str, Any]) -> str:
        """Path and query, in ASCII. `query`: what else goes there. Raises ToolFailure."""
        path = "/".join(_segment(segment, arguments) for segment in self.segments)
        pairs: list[str] = []
        for key, value in self.query:
            names = _NAME.findall(value)
            if not names:
                pairs.append(f"{key}={value}")
            elif names[0] in arguments:
                pairs += _pairs(key, arguments[names[0]])
        for name, value in query.items():
            pairs += _pairs(_quoted(name, name), value)
        target = "/" + path + ("?" + "&".join(pairs) if pairs else "")
        if len(target) > _MAX_TARGET:
            raise ToolFailure(f"the arguments make an address of more than {_MAX_TARGET} bytes")
        return target


def read_template(url: str) -> UrlTemplate:
    """Raises ValueError, with a reason for its author."""
    match = _URL.match(url)
    if match is None:
        raise ValueError(
            "it is not of the form http(s)://host[:port][/path][?query], percent-encoded, without "
            "user or fragment, with {names} in path and query only"
        )
    default = 443 if match["scheme"] == "https" else 80
    port = int(match["port"] or default)
    if not 0 < port < 65536:
        raise ValueError(f"there is no port {port}")
    segments = tuple((match["path"] or "/")[1:].split("/"))
    pairs = [pair.partition("=") for pair in (match["query"] or "").split("&") if pair]
    query = tuple((key, value) for key, _, value in pairs)
    for part in (*segments, *(key for key, _ in query), *(value for _, value in query)):
        if set(_NAME.sub("", part)) & set("{}"):
            raise ValueError(f"'{part}' has a brace that belongs to no {{name}}")
        if _DOTS.fullmatch(part) and part in segments:
            raise ValueError(f"its path has a segment '{part}'")
    for key, value in query:
        if _NAME.search(key) or (_NAME.search(value) and not _NAME.fullmatch(value)):
            raise ValueError(f"in '{key}={value}' a {{name}} must be the whole value")
    return UrlTemplate(match["scheme"], match["host"].strip("[]"), port, segments, query)


def _segment(segment: str, arguments: Mapping[str, Any]) -> str:
    def put(match: re.Match[str]) -> str:
        name = match[1]
        text = _text(name, arguments.get(name))
        # Many servers decode a path before they split it, and fold wide slashes; or drop what is
        # empty.
        if not text or any(c in "/\\" or not c.isprintable() for c in text + _folded(text)):
            raise ToolFailure(f"'{name}' may not be empty or hold '/', '\\' or control characters")
        return _quoted(name, text)

    put_in = _NAME.sub(put, segment)
    if _DOTS.fullmatch(_folded(unquote(put_in))):
        raise ToolFailure(f"the arguments make a path segment '{put_in}'")
    return put_in


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _pairs(key: str, value: Any) -> list[str]:
    """None is left out; each item of an array has the key to itself."""
    items = value if isinstance(value, list | tuple) else [value]
    texts = [_text(key, item) for item in items if item is not None]
    return [f"{key}={_quoted(key, text)}" for text in texts]


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        raise ToolFailure(f"'{name}' is missing")
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _quoted(name: str, text: str) -> str:
    try:
        return quote(text, safe="")
    except UnicodeEncodeError as error:
        raise ToolFailure(f"'{name}' holds half a character") from error
