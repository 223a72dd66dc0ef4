"""Who may ask: keys, and which names and origins browsers may use.

    scope ─▶ head bounded? ─▶ Host known? ─▶ Origin known? ─▶ key known? ─▶ the app, with
                4xx              403             403             401     scope["f1.tenant"]

Decided from `scope["path"]` and the raw headers: what is rebuilt from the Host header (URLs) can be
forged. Only hashes of keys are kept.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from fastapi import Request, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from f1.errors import F1Error, Forbidden, InvalidRequest, Unauthorized
from f1.serve.exchange import json_response
from f1.serve.head import check_head
from f1.serve.limits import Limits

OPEN_PATHS = frozenset({"/health", "/ready"})  # need no key: who watches a server has none
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ANY = frozenset({"0.0.0.0", "::", ""})


@dataclass(frozen=True, slots=True)
class Key:
    """`tenant` is who uses it; several keys of one tenant make it possible to change them."""

    tenant: str
    digest: bytes  # SHA-256


@dataclass(frozen=True, slots=True)
class Access:
    """`hosts` are names without ports, in lower case; `origins` like "https://example.org".
    Without keys everybody may ask."""

    keys: tuple[Key, ...] = ()
    hosts: frozenset[str] = LOCAL_HOSTS
    any_address: bool = False  # also every Host that is an IP address: no name to rebind
    origins: frozenset[str] = frozenset()

    @classmethod
    def from_env(cls, env: MutableMapping[str, str], bound: str) -> Access:
        """As F1_API_KEYS, F1_API_KEYS_FILE, F1_ALLOWED_HOSTS and F1_ALLOWED_ORIGINS have it, for a
        server at the address `bound`. The keys are taken out of `env`: what this process starts
        does not inherit them. Raises InvalidRequest."""
        keys = [_read_plain(item) for item in _items(env.pop("F1_API_KEYS", ""))]
        if file := env.get("F1_API_KEYS_FILE", "").strip():
            keys += read_keys(Path(file).expanduser())
        named = f"[{bound}]" if ":" in bound else bound
        hosts = {host.lower() for host in (named, *_items(env.get("F1_ALLOWED_HOSTS", "")))}
        origins = {item.rstrip("/") for item in _items(env.get("F1_ALLOWED_ORIGINS", ""))}
        return cls(tuple(keys), LOCAL_HOSTS | hosts, bound in _ANY, frozenset(origins))

    def tenant(self, given: Iterable[bytes]) -> str | None:
        """Whose key one of `given` is. Takes as long whichever it is, and when it is none."""
        found = None
        for key in given:
            digest = hashlib.sha256(key).digest()
            for known in self.keys:
                if hmac.compare_digest(digest, known.digest):
                    found = known.tenant
        return found

    def knows_host(self, host: str) -> bool:
        name = re.sub(r":\d{1,5}\Z", "", host.lower())
        return name in self.hosts or (self.any_address and _is_address(name))


def is_local(bound: str) -> bool:
    """Whether only this machine reaches a server at that address."""
    if bound == "localhost":
        return True
    return _is_address(bound) and ipaddress.ip_address(bound.strip("[]")).is_loopback


def make_key(name: str) -> tuple[str, str]:
    """A new key, and its line for F1_API_KEYS_FILE. Raises InvalidRequest."""
    _check_name(name, "name")
    key = f"f1-{secrets.token_urlsafe(32)}"
    line = {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest()}
    return key, orjson.dumps(line).decode()


def read_keys(file: Path) -> list[Key]:
    """Keys from lines like {"name": "alice", "sha256": "…"}. Raises InvalidRequest."""
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"F1_API_KEYS_FILE: {file}: {error}") from None
    return [_read_line(line, f"{file}:{n}") for n, line in enumerate(lines, 1) if line.strip()]


def _read_line(line: str, where: str) -> Key:
    try:
        entry = orjson.loads(line)
        name, digest = entry["name"], bytes.fromhex(entry["sha256"])
    except (ValueError, KeyError, TypeError):
        raise InvalidRequest(f'{where}: must be {{"name": …, "sha256": …}}') from None
    _check_name(name, where)
    if len(digest) != hashlib.sha256().digest_size:
        raise InvalidRequest(f"{where}: sha256 must be 64 hexadecimal digits")
    return Key(name, digest)


def _read_plain(item: str) -> Key:
    """ "name:key", or a key alone, whose tenant is then called by the start of its hash."""
    name, colon, key = item.partition(":")
    digest = hashlib.sha256((key if colon else item).encode()).digest()
    if not colon:
        return Key(f"key-{digest.hex()[:12]}", digest)
    _check_name(name, "F1_API_KEYS")
    if not key:
        raise InvalidRequest(f"F1_API_KEYS: the key of '{name}' is empty")
    return Key(name, digest)


def _check_name(name: object, where: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        expected = "a name must be 1 to 64 of A-Z, a-z, 0-9, '_', '.' and '-'"
        raise InvalidRequest(f"{where}: {expected}")


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


class Guard:
    """The app behind its access rules. `write` puts an error in the words of the API asked."""

    def __init__(
        self,
        app: ASGIApp,
        access: Access,
        limits: Limits,
        write: Callable[[Request, F1Error, int], dict[str, Any]],
    ):
        self.app = app
        self.limits = limits
        self.access = access
        self.write = write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        origin = _one(scope, b"origin")
        foreign = None
        try:
            check_head(scope, self.limits)
            self._check_host(_one(scope, b"host"))
            foreign = self._foreign(origin, _one(scope, b"host"))
            if foreign is not None:
                send = _readable_by(foreign, send)
            if foreign is not None and _is_preflight(scope):
                await _preflight()(scope, receive, send)
                return
            scope["f1.tenant"] = self._tenant(scope)
        except F1Error as error:
            headers = {"www-authenticate": "Bearer"} if isinstance(error, Unauthorized) else {}
            body = self.write(Request(scope), error, error.status)
            await json_response(body, error.status, **headers)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _check_host(self, host: str | None) -> None:
        if host is None or not self.access.knows_host(host):
            told = "" if host is None else f" '{host[:100]}'"
            raise Forbidden(
                f"the Host{told} is not one of this server's; F1_ALLOWED_HOSTS adds names",
                code="host_not_allowed",
            )

    def _foreign(self, origin: str | None, host: str | None) -> str | None:
        """The origin, where another site's page asks that may. Raises Forbidden."""
        if origin is None or origin.partition("://")[2] == host:
            return None
        if origin not in self.access.origins:
            raise Forbidden(
                f"the Origin '{origin[:100]}' may not ask; F1_ALLOWED_ORIGINS adds origins",
                code="origin_not_allowed",
            )
        return origin

    def _tenant(self, scope: Scope) -> str:
        if not self.access.keys or scope["path"] in OPEN_PATHS:
            return ""
        tenant = self.access.tenant(_given(scope))
        if tenant is None:
            raise Unauthorized("a key is needed: 'Authorization: Bearer KEY' or 'x-api-key: KEY'")
        return tenant


def _one(scope: Scope, name: bytes) -> str | None:
    """A header that must not be sent twice; two are taken together, which is no known value."""
    values = [value for key, value in scope["headers"] if key == name]
    return b",".join(values).decode("latin-1") if values else None


def _given(scope: Scope) -> list[bytes]:
    keys = []
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            keys.append(value)
        elif name == b"authorization" and value[:7].lower() == b"bearer ":
            keys.append(value[7:].strip())
    return keys[:4]


def _is_preflight(scope: Scope) -> bool:
    return (
        scope["method"] == "OPTIONS" and _one(scope, b"access-control-request-method") is not None
    )


def _preflight() -> Response:
    headers = {
        "access-control-allow-methods": "GET, POST, PUT, DELETE",
        "access-control-allow-headers": "*, authorization",
        "access-control-max-age": "600",
    }
    return Response(status_code=204, headers=headers)


def _readable_by(origin: str, send: Send) -> Send:
    added = [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", b"x-request-id, retry-after"),
        (b"vary", b"Origin"),
    ]

    async def send_readable(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await send(message)

    return send_readable
