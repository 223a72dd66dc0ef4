"""What is no good HTTP, or too much, or too slow: refused early, hung up on, and nobody else waits.

Time limits are shortened for the test; the full tier takes them, and the crowds, as they are.
"""

from __future__ import annotations

import gzip
import json
import resource
import select
import socket
import statistics
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from scripted import ScriptedEngine
from serving import HELLO, Running, serving, wait_until_loaded

from f1.serve.connection import Connection
from f1.serve.limits import Limits
from f1.types import Event, GenerateRequest, TextDelta

BODY = json.dumps(HELLO).encode()
PATH = "/v1/chat/completions"
LONG = "Tell me all."


class Hasty(Connection):
    patience = 0.5


class Talker(ScriptedEngine):
    """Says more than buffers hold, where that is asked for."""

    much = TextDelta(0, "x" * 100_000)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        for _ in range(10 if request.messages[0].content == LONG else 0):
            yield self.much
        async for event in super().generate(request):
            yield event


@contextmanager
def running(connection: type[Connection] = Connection) -> Iterator[Running]:
    with serving(lambda: Talker("Hi."), connection=connection) as server:
        with httpx.Client() as http:
            wait_until_loaded(http, server)
        yield server


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running() as server:
        yield server


def connect(server: Running, receive_bytes: int | None = None) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.socket()
    if receive_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.settimeout(60)
    connection.connect((host, int(port)))
    return connection


def head(*headers: str, method: str = "POST", path: str = PATH) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def send(server: Running, *pieces: bytes) -> tuple[int, str]:
    """Status and text of what is answered; pieces that the server takes no more are dropped."""
    with connect(server) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
        except OSError:
            pass
        return read(connection)


def read(connection: socket.socket) -> tuple[int, str]:
    """Up to the end of one answer that has a length."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += (more := connection.recv(1 << 16))
        assert more, received
    top, _, rest = received.partition(b"\r\n\r\n")
    lengths = [line for line in top.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    length = int(lengths[0].split(b":")[1])
    while len(rest) < length:
        rest += (more := connection.recv(1 << 16))
        assert more, received
    return int(top.split()[1]), rest[:length].decode()


def is_closed(connection: socket.socket) -> bool:
    """Waits for it, at most a minute."""
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    return True


def check_served(server: Running) -> None:
    assert httpx.post(f"{server.url}{PATH}", json=HELLO).status_code == 200


LENGTH = f"Content-Length: {len(BODY)}"
REFUSED = {
    "a header of 1 MB": ((head("X: " + "x" * (1 << 20)),), 431),
    "a header of 100 kB, sent at once": ((head("X: " + "x" * 100_000),), 431),
    "200 headers": ((head(*[f"X-{n}: {n}" for n in range(200)]),), 431),
    "a URL of 10 kB": ((head(path=f"{PATH}?{'x' * 10_000}"),), 414),
    "a body told to be of 10 GB": ((head("Content-Length: 10000000000"),), 413),
    "a body of 10 GB, told when asked": (
        (head("Content-Length: 10000000000", "Expect: 100-continue"),), 413),
    "a length that is none": ((head("Content-Length: -1"), b"x"), 400),
    "two lengths": ((head("Content-Length: 1", "Content-Length: 2"), b"x"), 400),
    "a length and chunks": ((head(LENGTH, "Transfer-Encoding: chunked"), b"0\r\n\r\n"), 400),
    "an unknown transfer": ((head("Transfer-Encoding: gzip, chunked"), b"0\r\n\r\n"), 501),
    "a gzip body": (
        (head("Content-Encoding: gzip", f"Content-Length: {len(gzip.compress(BODY))}"),
         gzip.compress(BODY)), 415),
    "chunks that are none": ((head("Transfer-Encoding: chunked"), b"xyz\r\n"), 400),
    "a chunk of a negative size": ((head("Transfer-Encoding: chunked"), b"-5\r\nhello\r\n"), 400),
    "no HTTP": ((b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n",), 400),
    "another protocol": ((b"SSH-2.0-OpenSSH_9.2\r\n\r\n",), 400),
    "HTTP/2": ((b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",), 403),  # read as a request, without a Host
    "NUL in a header": ((head("X: a\x00b"),), 400),
    "no Host": ((b"GET /health HTTP/1.1\r\n\r\n",), 400),
    "no Host, as was once allowed": ((b"GET /health HTTP/1.0\r\n\r\n",), 403),
    "a websocket": (
        (head("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: eA==", method="GET",
              path="/health"),), 200),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_good_http_is_refused(server: Running, name: str) -> None:
    pieces, expected = REFUSED[name]
    status, text = send(server, *pieces)
    assert status == expected, text
    if status != 200:
        assert json.loads(text)["error"]["type"] == "invalid_request_error" or status == 403
    check_served(server)


def test_a_body_without_an_end_is_refused_at_its_limit(server: Running) -> None:
    """10 GB in chunks: what is read of it is what a body may be, and a little."""
    chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    sent = 0
    with connect(server) as connection:
        connection.sendall(head("Transfer-Encoding: chunked"))
        try:
            for _ in range(10_000):
                connection.sendall(chunk)
                sent += 1
        except OSError:
            pass
        assert sent < 64
        assert server.state.receiving == 0
    with connect(server) as connection:
        connection.sendall(head("Transfer-Encoding: chunked"))
        for _ in range(5):
            connection.sendall(chunk)
        assert read(connection)[0] == 413
        connection.sendall(b"0\r\n\r\n" + head(method="GET", path="/health"))
        assert read(connection)[0] == 200  # who sends it to its end may go on
    check_served(server)


def test_a_client_gone_in_the_middle_of_its_body_leaves_nothing(server: Running) -> None:
    with connect(server) as connection:
        connection.sendall(head("Content-Length: 1000") + BODY)
        while not server.state.receiving:
            check_served(server)
    while server.state.receiving:
        check_served(server)


def test_too_many_bodies_at_a_time_are_refused() -> None:
    limits = Limits(max_bodies_bytes=1000)
    with serving(lambda: ScriptedEngine("Hi."), limits) as server, ExitStack() as stack:
        with httpx.Client() as http:
            wait_until_loaded(http, server)
        connections = [stack.enter_context(connect(server)) for _ in range(3)]
        for connection in connections:
            connection.sendall(head("Content-Length: 600") + b" " * 400)
        refused, _, _ = select.select(connections, [], [], 60)
        assert read(refused[0])[0] == 429
        for connection in connections:
            connection.close()
        while server.state.receiving:
            httpx.get(f"{server.url}/health")
        check_served(server)


def test_requests_sent_ahead_are_answered_in_order_and_garbage_behind_them_is_refused(
    server: Running,
) -> None:
    with connect(server) as connection:
        known = head(method="GET", path="/health")
        connection.sendall(known + head(LENGTH) + BODY + known + b"garbage\r\n\r\n")
        stream = connection.makefile("rb")
        received = stream.read()
    statuses = [line.split()[1] for line in received.split(b"\r\n") if line[:5] == b"HTTP/"]
    statuses += [part[:3] for part in received.split(b"HTTP/1.1 ")[1:]]
    assert statuses[-4:] == [b"200", b"200", b"200", b"400"]


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"POST",
        head()[:-2],
        head("Content-Length: 50") + b"{",
        head("Transfer-Encoding: chunked"),
    ],
    ids=["nothing", "a word", "a head", "a body", "chunks"],
)
def test_who_does_not_go_on_is_hung_up_on(begun: bytes) -> None:
    with running(Hasty) as server, connect(server) as connection:
        connection.sendall(begun)
        assert is_closed(connection)
        check_served(server)


def test_who_does_not_go_on_behind_a_request_is_hung_up_on() -> None:
    with running(Hasty) as server, connect(server) as connection:
        connection.sendall(head(method="GET", path="/health"))
        assert read(connection)[0] == 200
        connection.sendall(b"GET")
        assert is_closed(connection)


def test_who_sends_a_byte_now_and_then_is_hung_up_on() -> None:
    with running(Hasty) as server:
        for begun in (b"GET / HTTP/1.1\r\nX: ", head("Content-Length: 100000")):
            with connect(server) as connection:
                connection.sendall(begun)
                connection.settimeout(0.05)
                assert trickle(connection, seconds=60)


def trickle(connection: socket.socket, seconds: float) -> bool:
    """Sends a byte at a time, until hung up on."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            connection.sendall(b"x")
            if not connection.recv(1 << 16):
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


def test_an_answer_may_take_longer_than_patience() -> None:
    begun = threading.Event()

    def endless(request: GenerateRequest) -> str:
        begun.set()
        return "Hi …"  # goes on until somebody stops it

    with serving(lambda: ScriptedEngine(endless), connection=Hasty) as server, ExitStack() as stack:
        with httpx.Client() as http:
            wait_until_loaded(http, server)
        body = json.dumps(HELLO | {"stream": True, "timeout": 2.0}).encode()
        connection = stack.enter_context(connect(server))
        started = time.monotonic()
        connection.sendall(head(f"Content-Length: {len(body)}") + body)
        assert is_closed(connection) is True
        assert begun.is_set()
        assert time.monotonic() - started > 2.0


def test_there_is_an_end_to_connections() -> None:
    class Few(Connection):
        at_most = 5

    with running(Few) as server, ExitStack() as stack:
        held = [stack.enter_context(connect(server)) for _ in range(5)]
        with connect(server) as one_more:
            assert is_closed(one_more)
        held.pop().close()
        for attempt in range(1000):  # the server has to have seen it
            try:
                check_served(server)
                break
            except httpx.TransportError:
                assert attempt < 999


# --- crowds --------------------------------------------------------------------------------------


def served_within(server: Running, count: int) -> float:
    """Seconds for the slowest but one in a hundred."""
    taken = []
    with httpx.Client(base_url=server.url, timeout=60) as http:
        for _ in range(count):
            begun = time.monotonic()
            assert http.post(PATH, json=HELLO).status_code == 200
            taken.append(time.monotonic() - begun)
    return statistics.quantiles(taken, n=100)[98]


def crowd(server: Running, stack: ExitStack, size: int) -> list[socket.socket]:
    """Of twenty: sixteen that send their heads slowly, three their bodies, one that does not
    read."""
    slow = [stack.enter_context(connect(server, 4096)) for _ in range(size)]
    asked = HELLO | {"stream": True, "messages": [{"role": "user", "content": LONG}]}
    long = json.dumps(asked).encode()
    for number, connection in enumerate(slow):
        match number % 20:
            case 0 | 1 | 2:
                connection.sendall(head("Content-Length: 4000") + b" ")
            case 3:
                connection.sendall(head(f"Content-Length: {len(long)}") + long)
            case _:
                connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nX: ")
    return slow


def test_a_crowd_of_slow_clients_keeps_nobody_waiting() -> None:
    with running(Hasty) as server, ExitStack() as stack:
        slow = crowd(server, stack, 40)
        for _ in range(20):
            check_served(server)
        assert all(is_closed(connection) for connection in slow)


@pytest.mark.full
def test_a_large_crowd_of_slow_clients() -> None:
    with running() as server, ExitStack() as stack:
        alone = served_within(server, 300)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begun = time.monotonic()
        slow = crowd(server, stack, 600)
        beside = served_within(server, 300)
        assert all(is_closed(connection) for connection in slow)
        taken = time.monotonic() - begun
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(f"p99 alone {alone:.4f}, beside {beside:.4f} s; closed in {taken:.1f} s; +{grown} kB")
        assert beside <= alone * 1.5 + 0.005
        assert taken <= 15 + 2
        assert grown <= 64 << 10


def test_no_part_of_an_answer_waits_for_the_part_before(server: Running) -> None:
    """Nagle's algorithm and a client's delayed acknowledgement together cost 40 ms an answer."""
    with httpx.Client() as http:
        http.get(f"{server.url}/health")
        sockets = [
            connection.transport.get_extra_info("socket")
            for connection in server.process.server_state.connections
        ]
        assert sockets
        assert all(s.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for s in sockets)
