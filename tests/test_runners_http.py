"""HTTP tools: what they bring back, and 120 ways to lead them elsewhere.

Every attack is first shown to reach a listener where nothing is in its way (`allow` of everything,
a client that follows, a template that is filled without care), then to reach none.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

from f1.errors import InvalidRequest
from f1.tools.configured import configured_tool
from f1.tools.runners import http
from f1.tools.runners.addresses import is_public
from f1.tools.runners.http import HttpRunner, http_runner
from f1.tools.runners.process import Workers
from f1.tools.spec import INVOCATION, CallLimits, Invocation, Output, ToolFailure
from f1.types import Tool

SECRET = "sesame-open-up"
LIMITS = CallLimits(timeout=10)
ANYWHERE = ("0.0.0.0/0", "::/0")
LOCAL = ("127.0.0.0/8",)
WELL = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\ntrue"
CERTIFICATE = Path(__file__).parent / "data" / "api.example.com.pem"
WEATHER = Tool(
    "weather",
    "",
    {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {}, "tags": {}, "filter": {}},
        "required": ["city"],
    },
)


class Server:
    """Says `answer`, whatever it is asked; keeps what it was asked."""

    def __init__(self, answer: bytes | Callable[[asyncio.StreamWriter], Any]):
        self.answer = answer
        self.asked: list[bytes] = []
        self.connections = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = [line for line in head.lower().split(b"\r\n") if b"content-length:" in line]
            body = await reader.readexactly(int(length[0].split(b":")[1])) if length else b""
            self.asked.append(head + body)
            if isinstance(self.answer, bytes):
                writer.write(self.answer)
                await writer.drain()
            else:
                await self.answer(writer)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass  # the client has gone, or the test
        finally:
            writer.close()

    @property
    def target(self) -> str:
        return self.asked[-1].split(b" ")[1].decode()


@asynccontextmanager
async def listening(
    answer: bytes | Callable[[asyncio.StreamWriter], Any] = WELL, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Server, int]]:
    server = Server(answer)
    running = await asyncio.start_server(server, "127.0.0.1", 0, ssl=tls)
    async with running:
        yield server, running.sockets[0].getsockname()[1]


@pytest.fixture
async def wire(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Server, list[str]]]:
    """A network in which every address of every host is one listener; and where was connected to,
    at the last moment at which that can be seen: the loop's connecting."""
    loop = asyncio.get_running_loop()
    connect, reached = loop.create_connection, list[str]()
    async with listening() as (server, port):

        async def create_connection(protocol: Any, host: str, _: int, **rest: Any) -> Any:
            reached.append(host)
            return await connect(protocol, "127.0.0.1", port, **rest)

        monkeypatch.setattr(loop, "create_connection", create_connection)
        yield server, reached


def resolver(*answers: Sequence[str]) -> Any:
    """One answer after the other; the last for ever."""
    left = list(answers)

    async def resolve(host: str, port: int) -> Sequence[str]:
        return left.pop(0) if len(left) > 1 else left[0]

    return resolve


def runner(url: str = "http://api.example.com/v1/{city}", **options: Any) -> HttpRunner:
    options.setdefault("headers", {"Authorization": "Bearer ${KEY}"})
    return http_runner(WEATHER, url, environment={"KEY": SECRET}, **options)


# --- addresses ------------------------------------------------------------------------------------

FORBIDDEN = """
    0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 127.0.0.1 127.0.0.2
    127.255.255.254 168.63.129.16 169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.1
    192.0.0.192 192.0.2.1 192.31.196.1 192.52.193.1 192.88.99.1 192.168.0.1 192.168.255.255
    192.175.48.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.250
    240.0.0.1 255.255.255.255
    :: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:10.0.0.1 ::ffff:0:127.0.0.1
    64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::a00:1 100::1 2001::1 2001:0:7f00:1::1 2001:10::1
    2001:20::1 2001:db8::1 2002:7f00:1:: 2002:a9fe:a9fe:: 2002:a00:1::1 3fff::1 5f00::1 fc00::1
    fd00:ec2::254 fd12::1 fe80::1 fe80::1%lo fec0::1 ff02::1 ff0e::1
""".split()
PUBLIC = "8.8.8.8"


@pytest.mark.parametrize("address", FORBIDDEN)
async def test_addresses_that_are_not_public(address: str, wire: tuple[Server, list[str]]) -> None:
    server, reached = wire
    assert await runner(allow=ANYWHERE, resolve=resolver([address])).call(
        {"city": "oslo"}, LIMITS
    ) == Output(True)
    assert [ip_address(host) for host in reached] == [ip_address(address.partition("%")[0])]
    assert SECRET.encode() in server.asked[0]
    for answer in ([address], [PUBLIC, address], [address, PUBLIC]):
        with pytest.raises(ToolFailure, match="not allowed") as told:
            await runner(resolve=resolver(answer)).call({"city": "oslo"}, LIMITS)
        assert not told.value.passing
        assert address not in str(told.value)  # the map of the operator's network is no answer
    assert len(reached) == server.connections == 1


@pytest.mark.parametrize("address", [PUBLIC, "1.1.1.1", "172.32.0.1", "2606:4700::1111", "2a00::1"])
async def test_public_addresses(address: str, wire: tuple[Server, list[str]]) -> None:
    server, reached = wire
    assert is_public(ip_address(address))
    assert await runner(resolve=resolver([address])).call({"city": "oslo"}, LIMITS) == Output(True)
    assert reached == [address]
    assert server.target == "/v1/oslo"
    assert b"\r\nhost: api.example.com\r\n" in server.asked[0].lower()


async def test_a_name_is_resolved_once(wire: tuple[Server, list[str]]) -> None:
    """Whoever asks again, after the check, is told another address."""
    _, reached = wire
    rebinding = resolver([PUBLIC], ["127.0.0.1"])
    assert await runner(resolve=rebinding).call({"city": "oslo"}, LIMITS) == Output(True)
    assert await rebinding("api.example.com", 80) == ["127.0.0.1"]
    assert reached == [PUBLIC]


@pytest.mark.parametrize(
    "host",
    """127.0.0.1 127.1 0x7f.1 0x7f000001 2130706433 017700000001 0177.0.0.1 0 localhost LOCALHOST
    [::1] [::ffff:127.0.0.1] [::ffff:7f00:1] [0:0:0:0:0:0:0:1]""".split(),
)
async def test_spellings_of_this_machine(host: str, wire: tuple[Server, list[str]]) -> None:
    """With the system's own resolver."""
    _, reached = wire
    url = f"http://{host}/v1/{{city}}"
    assert await runner(url, allow=ANYWHERE).call({"city": "oslo"}, LIMITS) == Output(True)
    here = ip_address(reached[0])
    mapped = getattr(here, "ipv4_mapped", None) or here
    assert mapped.is_loopback or mapped.is_unspecified
    with pytest.raises(ToolFailure, match="not allowed"):
        await runner(url).call({"city": "oslo"}, LIMITS)
    assert len(reached) == 1


async def test_what_the_operator_allows(wire: tuple[Server, list[str]]) -> None:
    _, reached = wire
    for address in ("10.1.2.3", "fd00::1"):
        made = runner(allow=("10.0.0.0/8", "fd00::1"), resolve=resolver([address]))
        assert await made.call({"city": "oslo"}, LIMITS) == Output(True)
    with pytest.raises(ToolFailure, match="not allowed"):
        await runner(allow=("10.0.0.0/8",), resolve=resolver(["11.0.0.1", "192.168.0.1"])).call(
            {"city": "oslo"}, LIMITS
        )
    assert reached == ["10.1.2.3", "fd00::1"]


# --- redirects, proxies, names --------------------------------------------------------------------


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "location",
    ["http://127.0.0.1:{port}/got", "//127.0.0.1:{port}/got", "http://a@localhost:{port}/"],
)
async def test_redirects_are_not_followed(status: int, location: str) -> None:
    async with listening() as (thief, port):
        where = location.format(port=port)
        answer = f"HTTP/1.1 {status} Look\r\nLocation: {where}\r\nContent-Length: 0\r\n\r\n"
        async with listening(answer.encode()) as (server, ours):
            url = f"http://127.0.0.1:{ours}/v1/oslo"
            if status != 300:  # that a client may follow, and httpx does not
                async with httpx.AsyncClient(follow_redirects=True, trust_env=False) as eager:
                    await eager.post(url, headers={"X-Key": SECRET})
                assert SECRET.encode() in thief.asked[0]
            before = thief.connections
            for method in ("GET", "POST"):
                made = runner(f"http://127.0.0.1:{ours}/v1/{{city}}", method=method, allow=LOCAL)
                with pytest.raises(ToolFailure, match=f"{status} Look.*redirect"):
                    await made.call({"city": "oslo"}, LIMITS)
            assert thief.connections == before
            assert len(server.asked) >= 2


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
async def test_proxies_of_the_environment_are_not_asked(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with listening() as (thief, port), listening() as (server, ours):
        monkeypatch.setenv(variable, f"http://127.0.0.1:{port}")
        async with httpx.AsyncClient() as trusting:
            await trusting.get(f"http://127.0.0.1:{ours}/", headers={"X-Key": SECRET})
        assert SECRET.encode() in thief.asked[0]
        made = runner(f"http://127.0.0.1:{ours}/{{city}}", allow=LOCAL)
        assert await made.call({"city": "oslo"}, LIMITS) == Output(True)
        assert thief.connections == 1
        assert len(server.asked) == 1


async def test_credentials_are_the_templates_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No netrc, no cookies of an earlier answer."""
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login me password {SECRET}")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    answer = WELL.replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=b; Path=/\r\n\r\n")
    async with listening(answer) as (server, ours):
        made = runner(f"http://127.0.0.1:{ours}/{{city}}", allow=LOCAL, headers={})
        for _ in range(2):
            await made.call({"city": "oslo"}, LIMITS)
    for head in server.asked:
        assert b"authorization" not in head.lower()
        assert b"cookie" not in head.lower()


@pytest.mark.parametrize("host", ["api.example.com", "api.example.org"])
async def test_tls_speaks_to_the_templates_host(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number is connected to; the certificate must still be the name's."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(CERTIFICATE)
    names: list[str] = []
    tls.sni_callback = lambda connection, name, context: names.append(name)  # type: ignore[misc]
    trusted = ssl.create_default_context(cafile=CERTIFICATE)
    monkeypatch.setattr(http, "_tls", lambda: trusted)
    async with listening(tls=tls) as (server, port):
        made = runner(
            f"https://{host}:{port}/{{city}}", allow=LOCAL, resolve=resolver(["127.0.0.1"])
        )
        if host == "api.example.com":
            assert await made.call({"city": "oslo"}, LIMITS) == Output(True)
            assert SECRET.encode() in server.asked[0]
        else:
            with pytest.raises(ToolFailure, match="cannot be reached"):
                await made.call({"city": "oslo"}, LIMITS)
            assert server.asked == []
    assert names == [host]


# --- arguments ------------------------------------------------------------------------------------

STAY = [
    *"""
    @evil.example .evil.example :8080 a?admin=1 a#b a&b=c a%3Fb a=b;c {days} ${KEY} a:b@c ~root *
    a+b a%00b a..b ... %2 http: [::1] a|b a"b 'a'--
    """.split(),
    *("a b", "zürich", "日本", "x" * 500),
]
REFUSED = [
    *"""
    .. . %2e%2e %2E . /etc /../admin ../admin a/b a/../../admin \\\\evil.example ..\\admin
    //evil.example/x http://evil.example/ \uff0e\uff0e a\uff0fb a\uff3cb ..%2fadmin/x
    """.split(),
    *("", "a\r\nX-Key: b", "a\nb", "a\0b", "a\u2028b", "\ud800", "x" * 9000),
]


def short(value: str) -> str:
    return ascii(value)[:40]


@pytest.mark.parametrize("value", STAY, ids=short)
async def test_an_argument_stays_in_its_place(value: str, wire: tuple[Server, list[str]]) -> None:
    server, _ = wire
    made = runner(
        "http://api.example.com/v1/{city}/now?days={days}&k=1", resolve=resolver([PUBLIC])
    )
    assert await made.call({"city": value, "days": value, "tags": value}, LIMITS) == Output(True)
    path, _, query = server.target.partition("?")
    assert [unquote(segment) for segment in path.split("/")] == ["", "v1", value, "now"]
    pairs = [pair.split("=") for pair in query.split("&")]
    assert [(k, unquote(v)) for k, v in pairs] == [("days", value), ("k", "1"), ("tags", value)]
    assert server.asked[0].lower().count(b"host: api.example.com\r\n") == 1


@pytest.mark.parametrize("value", REFUSED, ids=short)
async def test_an_argument_that_could_leave_its_place(
    value: str, wire: tuple[Server, list[str]]
) -> None:
    server, _ = wire
    made = runner("http://api.example.com/v1/{city}/now", resolve=resolver([PUBLIC]))
    with pytest.raises(ToolFailure):
        await made.call({"city": value}, LIMITS)
    assert server.connections == 0


@pytest.mark.parametrize(
    "value", ["/../../admin", "..", "../admin?x=", "?admin=1&", "#", "@evil.example/", "a&days=7"]
)
def test_the_same_arguments_put_in_without_care_do_leave(value: str) -> None:
    careless = httpx.URL(f"http://api.example.com/v1/{value}/now?q={value}")
    path = [unquote(segment) for segment in careless.raw_path.decode().partition("?")[0].split("/")]
    assert path != ["", "v1", value, "now"] or careless.params["q"] != value


@pytest.mark.parametrize(
    ("options", "param"),
    [
        *(
            ({"url": url}, "url")
            for url in [
                "http://me:you@api.example.com/",
                "http://api.example.com\\@evil.example/",
                "http://api.example.com/#x",
                "http://{city}/",
                "http://{city}.example.com/",
                "http://api.example.com:{days}/{city}",
                "{city}://api.example.com/",
                "ftp://api.example.com/{city}",
                "file:///etc/passwd",
                "//api.example.com/{city}",
                "http:///{city}",
                "http://api.example.com:99999/{city}",
                "http://api.example.com/{city}/../x",
                "http://api.example.com/{city}/%2e%2e/x",
                "http://api.example.com/{town}",
                "http://api.example.com/{city",
                "http://api.example.com/{days}",
                "http://api.example.com/?{city}=1",
                "http://api.example.com/?a=x{city}",
                "http://api.example.com/a b",
                "http://api.example.com/\r\nX: y",
                "http://ex\u00e4mple.com/",
            ]
        ),
        ({"method": "TRACE"}, "method"),
        ({"method": "get"}, "method"),
        ({"headers": {"Host": "evil.example"}}, "headers"),
        ({"headers": {"X: Y": "a"}}, "headers"),
        ({"headers": {"X": "a\r\nY: b"}}, "headers"),
        ({"headers": {"X": "${NOT_SET}"}}, "headers"),
        ({"query": ["town"]}, "query"),
        ({"query": ["city"]}, "query"),
        ({"body": ["days"]}, "body"),
        ({"method": "POST", "body": ["town"]}, "body"),
        ({"allow": ["10.0.0.1/8"]}, "allow"),
        ({"allow": ["here"]}, "allow"),
        ({"allow": [2130706433]}, "allow"),  # 127.0.0.1
        ({"headers": {"A": 1}}, "headers"),
        ({"query": [["a"]]}, "query"),
        ({"method": "POST", "body": [{}]}, "body"),
    ],
)
def test_the_operators_mistakes_are_named(options: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as told:
        runner(**options)
    assert told.value.param == param
    assert SECRET not in str(told.value)


async def test_where_arguments_go(wire: tuple[Server, list[str]]) -> None:
    server, _ = wire
    url, given = "http://api.example.com/{city}", {"city": "oslo", "days": 3, "tags": ["a", "b&"]}
    public: dict[str, Any] = {"resolve": resolver([PUBLIC])}
    await runner(url, **public).call({**given, "filter": {"a": None}}, LIMITS)
    assert server.target == "/oslo?days=3&tags=a&tags=b%26&filter=%7B%22a%22%3Anull%7D"
    await runner(url, **public).call({"city": "oslo", "days": None, "tags": True}, LIMITS)
    assert server.target == "/oslo?tags=true"
    await runner(f"{url}?d={{days}}", **public).call({"city": "oslo"}, LIMITS)
    assert server.target == "/oslo"
    await runner(url, method="POST", query=["days"], **public).call(given, LIMITS)
    assert server.target == "/oslo?days=3"
    assert json.loads(server.asked[-1].split(b"\r\n\r\n")[1]) == {"tags": ["a", "b&"]}
    assert b"content-type: application/json\r\n" in server.asked[-1].lower()


# --- answers --------------------------------------------------------------------------------------


def says(
    body: bytes, kind: str = "application/json", status: str = "200 OK", **headers: str
) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def ask(answer: Any, limits: CallLimits = LIMITS) -> Output:
    async with listening(answer) as (_, port):
        return await runner(f"http://127.0.0.1:{port}/{{city}}", allow=LOCAL).call(
            {"city": "oslo"}, limits
        )


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (says(b'{"a": [1, 2.5]}'), Output({"a": [1, 2.5]})),
        (says(b'{"a": 1}', "application/problem+json; charset=utf-8"), Output({"a": 1})),
        (says(b'{"a": 1}', "text/plain"), Output('{"a": 1}')),
        (says("zürich \N{SNOWMAN}".encode(), "text/html"), Output("zürich ☃")),
        (says(b"\xff\x00", "image/png"), Output("\ufffd\x00")),
        (says(b""), Output(None)),
        (says(gzip.compress(b"[1]"), Content_Encoding="gzip"), Output([1])),
        (says(zlib.compress(b"[1]"), Content_Encoding="deflate"), Output([1])),
        (says(f'["{SECRET}"]'.encode()), Output(["*" * len(SECRET)])),
        (says(b"x" * 1500, "text/plain"), Output("x" * 1000, 1500)),
        (says(b"[" + b"1," * 1000 + b"1]"), Output("[" + "1," * 499 + "1", 2003)),
    ],
)
async def test_answers(answer: bytes, expected: Output) -> None:
    assert await ask(answer, CallLimits(timeout=10, max_bytes=1000)) == expected


@pytest.mark.parametrize(
    ("answer", "told", "passing"),
    [
        (
            says(b"no such city", "text/plain", "404 Not Found"),
            "HTTP 404 Not Found: no such",
            False,
        ),
        (says(b"{}", status="400 Bad Request"), "HTTP 400", False),
        (says(b"", status="429 Slow Down", Retry_After="7"), r"429 .*Retry-After: 7", True),
        (says(b"", status="408 Late"), "HTTP 408", True),
        (says(SECRET.encode(), status="500 Oh"), r"HTTP 500 Oh: \*\*\*", True),
        (says(b"x" * 10**6, status="503 Busy"), "HTTP 503 Busy: xxx", True),
        (says(b"{"), "no JSON", False),
        (says(b"NaN"), "no JSON", False),
        (says(b"abc", Content_Encoding="gzip"), "packed", False),
        (says(b"abc", Content_Encoding="br"), "encoding", False),
        (says(b"[1]")[:-1], "broke off", True),
        (b"", "broke off", True),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "broke off", True),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000 + b"\r\n", "broke off", True),
    ],
)
async def test_failures_are_told(answer: bytes, told: str, passing: bool) -> None:
    with pytest.raises(ToolFailure, match=told) as failure:
        await ask(answer)
    assert failure.value.passing == passing
    assert len(str(failure.value)) < 1300


async def test_what_cannot_be_reached() -> None:
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/{{city}}"
        with pytest.raises(ToolFailure, match="cannot be reached") as told:
            await runner(url, allow=LOCAL).call({"city": "oslo"}, LIMITS)
    assert told.value.passing

    async def unknown(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "not known")

    with pytest.raises(ToolFailure, match="no address"):
        await runner(resolve=unknown).call({"city": "oslo"}, LIMITS)


@pytest.mark.parametrize(
    ("annotations", "is_sent"),
    [({}, True), ({"idempotent": True}, True), ({"read_only": True}, False)],
)
async def test_what_must_not_count_twice_has_a_key(annotations: Any, is_sent: bool) -> None:
    async with listening() as (server, port):
        http = {"url": f"http://127.0.0.1:{port}/{{city}}", "allow": list(LOCAL)}
        table = {"parameters": WEATHER.parameters, "annotations": annotations, "http": http}
        made = configured_tool("weather", table, Workers()).runner
        assert made is not None
        await made.call({"city": "oslo"}, LIMITS)
        token = INVOCATION.set(Invocation("run 1:7\r\nX: y"))
        await made.call({"city": "oslo"}, LIMITS)
        INVOCATION.reset(token)
    without, with_key = server.asked
    assert b"dempotency" not in without
    assert (b"\r\nidempotency-key: run%201:7%0D%0AX:%20y\r\n" in with_key) == is_sent


async def test_the_next_address_is_tried() -> None:
    async with listening() as (server, port):
        made = runner(
            f"http://api.example.com:{port}/{{city}}",
            allow=LOCAL,
            resolve=resolver(["127.0.0.2", "127.0.0.1"]),
        )
        assert await made.call({"city": "oslo"}, LIMITS) == Output(True)
    assert len(server.asked) == 1


def endless(head: bytes, piece: bytes) -> Callable[[asyncio.StreamWriter], Any]:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()

    return answer


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
BOMB = gzip.compress(bytes(1 << 26))


@pytest.mark.parametrize(
    ("answer", "size"),
    [
        (endless(HEAD + b"\r\n", b"x" * 65536), None),
        (endless(HEAD + b"Content-Length: 1073741824\r\n\r\n", b"\xff" * 65536), 1 << 30),
        (endless(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\nline\n\r\n" * 1000), None),
        (endless(HEAD + b"Content-Encoding: gzip\r\n\r\n", BOMB), None),
    ],
    ids=["endless", "gigabyte of nothing", "lines", "bomb"],
)
async def test_giant_answers_are_cut_and_cost_little(answer: Any, size: int | None) -> None:
    await ask(WELL)  # what is imported and kept is so by now
    limits = CallLimits(timeout=60)
    before = resident()
    output = await ask(answer, limits)
    assert resident() - before < 16 << 20
    assert len(output.value) == limits.max_bytes
    assert output.num_bytes is not None
    assert output.num_bytes == size or (size is None and output.num_bytes > limits.max_bytes)


def resident() -> int:
    """Bytes of ours at their peak since the last time."""
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
    Path("/proc/self/clear_refs").write_text("5")
    return peak


@pytest.mark.parametrize("said", [b"", HEAD, HEAD + b"Content-Length: 9\r\n\r\nhalf"])
async def test_who_says_nothing_more_runs_out_of_time(said: bytes) -> None:
    silent = asyncio.Event()

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await silent.wait()

    async with listening(answer) as (server, port):
        made = runner(f"http://127.0.0.1:{port}/{{city}}", allow=LOCAL)
        with pytest.raises(TimeoutError):
            await made.call({"city": "oslo"}, CallLimits(timeout=0.2))
        assert len(server.asked) == 1
        silent.set()
