"""HTTP APIs as tools. The operator says where requests go; arguments say what they ask for.

    template ─▶ resolve once ─▶ all addresses allowed? ─▶ connect to such an address, by number
                                                            TLS and Host by the template's name
No redirects, no proxies of the environment, no cookies, a connection for each call: so there is no
way for a name, an answer or an argument to lead a request, or its credentials, elsewhere.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import re
import ssl
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx

from f1.errors import InvalidRequest
from f1.tools.runners.addresses import (
    Address,
    Network,
    Resolve,
    is_allowed,
    read_address,
    read_networks,
    resolve,
)
from f1.tools.runners.output import read_output
from f1.tools.runners.urls import UrlTemplate, read_template
from f1.tools.spec import INVOCATION, CallLimits, Output, ToolFailure
from f1.types import Tool

log = logging.getLogger("f1.tools")

_WITHOUT_BODY = ("GET", "HEAD", "DELETE")
_METHODS = (*_WITHOUT_BODY, "POST", "PUT", "PATCH")
_OURS = {"host", "content-length", "transfer-encoding", "connection", "accept-encoding", "te"}
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
_PIECE = 1 << 16
_CONNECT_SECONDS = 5.0  # to one address
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_SLICE_SECONDS = 0.005  # of reading at a stretch
_SECRET_LENGTH = 6  # shorter ones are words
_TOLD_BYTES = 1000  # of an error's body


@dataclass(frozen=True, slots=True)
class HttpRunner:
    """Made by `http_runner`. Arguments that neither the template nor `query` nor `body` names go
    into the query of a GET, HEAD or DELETE, and into the JSON body of others."""

    template: UrlTemplate
    method: str
    headers: Mapping[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)  # values put into the headers
    query: frozenset[str] = frozenset()
    body: frozenset[str] = frozenset()
    allow: tuple[Network, ...] = ()
    resolve: Resolve = field(default=resolve, repr=False)
    keyed: bool = True  # requests carry the call's key, so that none counts twice

    async def call(self, arguments: Mapping[str, Any], limits: CallLimits) -> Output:
        target, content = self._request(arguments)
        async with asyncio.timeout(limits.timeout):
            for address in await self._addresses():
                try:
                    return await self._send(address, target, content, limits)
                except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                    log.info("%s at %s: %s", self.template.host, address, error)
                except (httpx.HTTPError, httpx.InvalidURL) as error:
                    log.info("%s at %s: %r", self.template.host, address, error)
                    raise ToolFailure(
                        f"{self.template.host} broke off: {type(error).__name__}", passing=True
                    ) from error
        raise ToolFailure(f"{self.template.host} cannot be reached", passing=True)

    def _request(self, arguments: Mapping[str, Any]) -> tuple[str, bytes | None]:
        """Its target, and its body."""
        named = {*self.template.path_names, *self.template.query_names}
        query: dict[str, Any] = {}
        body: dict[str, Any] = {}
        for name, value in arguments.items():
            if name in self.query:
                query[name] = value
            elif name in self.body:
                body[name] = value
            elif name not in named:
                (query if self.method in _WITHOUT_BODY else body)[name] = value
        target = self.template.target(arguments, query)
        return target, None if self.method in _WITHOUT_BODY else json.dumps(body).encode()

    async def _addresses(self) -> list[Address]:
        """All that the host has; they are asked for once. Raises ToolFailure if one is not allowed:
        a name of ours and of others is nobody's."""
        host = self.template.host
        try:
            found = [read_address(a) for a in await self.resolve(host, self.template.port)]
        except (OSError, ValueError) as error:
            raise ToolFailure(f"{host} has no address", passing=True) from error
        for address in found:
            if not is_allowed(address, self.allow):
                log.warning("%s is at %s, which is not allowed", host, address)
                raise ToolFailure(f"{host} is at an address that the operator has not allowed")
        return found

    async def _send(
        self, address: Address, target: str, content: bytes | None, limits: CallLimits
    ) -> Output:
        template = self.template
        url = httpx.URL(
            scheme=template.scheme, host=str(address), port=template.port, raw_path=target.encode()
        )
        if url.host != str(address) or url.raw_path != target.encode():
            raise ToolFailure("the arguments make an address that is read in two ways")
        client = httpx.AsyncClient(
            verify=_tls() if template.scheme == "https" else False,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(None, connect=min(_CONNECT_SECONDS, limits.timeout)),
        )
        request = client.build_request(
            self.method,
            url,
            headers={**self._key(), **self.headers, "Host": template.authority},
            content=content,
            extensions={"sni_hostname": template.host},
        )
        async with client:
            response = await client.send(request, stream=True)
            try:
                return await self._answer(response, limits)
            finally:
                await response.aclose()

    def _key(self) -> dict[str, str]:
        call = INVOCATION.get()
        return {"idempotency-key": quote(call.key, ":")} if self.keyed and call else {}

    async def _answer(self, response: httpx.Response, limits: CallLimits) -> Output:
        if response.is_redirect or 300 <= response.status_code < 400:
            raise ToolFailure(f"{_status(response)}: it wants to redirect, which is not followed")
        data, size = await _read(response, limits.max_bytes)
        for secret in self.secrets:  # a server may say what it was sent
            data = data.replace(secret.encode(), b"*" * len(secret))
        if response.status_code >= 400:
            told = data[:_TOLD_BYTES].decode(errors="replace").strip()
            after = response.headers.get("retry-after", "")[:40]
            wait = f" (Retry-After: {after})" if after else ""
            raise ToolFailure(
                f"{_status(response)}{wait}: {told}", passing=response.status_code in _PASSING
            )
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if not data and not size:
            return Output(None)
        return read_output(not (kind == "application/json" or kind.endswith("+json")), data, size)


async def _read(response: httpx.Response, max_bytes: int) -> tuple[bytes, int]:
    """The first bytes, and how many there are as far as it was seen: nothing is read beyond."""
    unpack = _unpacker(response.headers.get("content-encoding", "").strip().lower())
    data, clock = bytearray(), asyncio.get_running_loop().time
    until = clock() + _SLICE_SECONDS
    async for packed in response.aiter_raw():
        if clock() > until:  # many small chunks that are there already, and others wait
            await asyncio.sleep(0)
            until = clock() + _SLICE_SECONDS
        for piece in unpack(packed):
            data += piece[: max_bytes + 1 - len(data)]
            if len(data) > max_bytes:
                return bytes(data[:max_bytes]), max(len(data), _said_length(response))
    return bytes(data), len(data)


def _said_length(response: httpx.Response) -> int:
    said = response.headers.get("content-length", "")
    return int(said) if said.isdecimal() and "content-encoding" not in response.headers else 0


def _unpacker(encoding: str) -> Callable[[bytes], Iterator[bytes]]:
    """Piece by piece: a small packed piece may be a huge one."""
    if encoding in ("", "identity"):
        return lambda packed: iter((packed,))
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise ToolFailure("it answered in an encoding that it was not asked for")
    inflater = zlib.decompressobj(wbits=47)  # gzip or zlib, as its header says

    def unpack(packed: bytes) -> Iterator[bytes]:
        while packed:
            try:
                yield inflater.decompress(packed, _PIECE)
            except zlib.error as error:
                raise ToolFailure("its answer is packed wrongly") from error
            packed = inflater.unconsumed_tail

    return unpack


def _status(response: httpx.Response) -> str:
    return f"HTTP {response.status_code} {response.reason_phrase[:100]}".strip()


@functools.cache
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=False)


# --- from the operator's words --------------------------------------------------------------------


def http_runner(
    tool: Tool,
    url: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    query: Sequence[str] = (),
    body: Sequence[str] = (),
    allow: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    resolve: Resolve = resolve,
    keyed: bool = True,
) -> HttpRunner:
    """`url` is a template (urls.py); `headers` may hold "${NAME}", read now from `environment` (the
    process's own if None); `query` and `body` name arguments that go there whatever the method;
    `allow`: networks ("10.0.0.0/8") that may be reached besides public ones; `keyed`: requests have
    the call's key as "Idempotency-Key". Raises InvalidRequest, whose `param` is the one that is
    wrong."""
    try:
        template = read_template(url)
    except ValueError as error:
        raise InvalidRequest(f"the URL of '{tool.name}': {error}", param="url") from error
    texts = {"headers": (headers or {}).values(), "query": query, "body": body, "allow": allow}
    for param, items in texts.items():
        if not all(isinstance(item, str) for item in items):  # `allow` would take a number
            raise InvalidRequest(f"what '{tool.name}' has there must be texts", param=param)
    if method not in _METHODS:
        raise InvalidRequest(f"a method is one of {', '.join(_METHODS)}", param="method")
    if body and method in _WITHOUT_BODY:
        raise InvalidRequest(f"a {method} has no body", param="body")
    try:
        networks = read_networks(allow)
    except ValueError as error:
        raise InvalidRequest(f"what '{tool.name}' allows: {error}", param="allow") from error
    properties = tool.parameters.get("properties", {})
    places = {
        "url": [*template.path_names, *template.query_names],
        "query": list(query),
        "body": list(body),
    }
    seen: dict[str, str] = {}
    for param, names in places.items():
        for name in names:
            if name not in properties:
                raise InvalidRequest(f"'{tool.name}' has no argument '{name}'", param=param)
            if seen.setdefault(name, param) != param:
                raise InvalidRequest(f"'{name}' cannot be in two places", param=param)
    for name in template.path_names:
        if name not in tool.parameters.get("required", ()):
            raise InvalidRequest(f"'{name}' is in the path, so it must be required", param="url")
    if template.scheme == "https":
        _tls()  # 30 ms, which no call shall wait for
    sent, secrets = _headers(headers or {}, os.environ if environment is None else environment)
    if method not in _WITHOUT_BODY:
        sent = {"content-type": "application/json", **sent}
    named = (frozenset(query), frozenset(body))
    return HttpRunner(template, method, sent, secrets, *named, networks, resolve, keyed)


def _headers(
    given: Mapping[str, str], environment: Mapping[str, str]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """What is sent, and the secrets in it."""
    sent = {"accept": "application/json, */*;q=0.5", "accept-encoding": "identity"}
    sent["user-agent"] = "f1"
    secrets: list[str] = []
    for name, value in given.items():
        if not _HEADER.match(name) or name.lower() in _OURS:
            raise InvalidRequest(f"'{name}' is no header that can be set", param="headers")
        for variable in _VARIABLE.findall(value):
            if not environment.get(variable):
                raise InvalidRequest(
                    f"the header '{name}' needs the variable {variable}", param="headers"
                )
            if len(environment[variable]) >= _SECRET_LENGTH:
                secrets.append(environment[variable])
        filled = _VARIABLE.sub(lambda match: environment[match[1]], value)
        if not (filled.isascii() and filled.isprintable()):
            raise InvalidRequest(f"the header '{name}' is not plain text", param="headers")
        sent[name.lower()] = filled
    return sent, tuple(secrets)
