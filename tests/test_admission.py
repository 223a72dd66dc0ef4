"""Who starts when: order, shares and bounds of the queue; deadlines; clients that leave it."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import httpx
import pytest
from scripted import ScriptedEngine
from serving import HELLO, Running, leave_after_sending, serving, wait_until_loaded

from f1.errors import Overloaded, ShuttingDown
from f1.planning.collect import gather
from f1.roles import Models
from f1.serve.access import Access, Key
from f1.serve.admission import Admission, Ticket, estimate
from f1.serve.app import create_app
from f1.serve.limits import Limits
from f1.serve.server import Caller, Server
from f1.types import GenerateRequest, Message, TextDelta


def started(tickets: list[Ticket]) -> list[str]:
    return [ticket.tenant for ticket in tickets if ticket.started.is_set()]


def test_no_more_start_than_may_run_and_the_next_starts_when_one_leaves() -> None:
    admission = Admission(Limits(max_running=3))
    tickets = [admission.enter("a", 1, 10) for _ in range(2)] + [admission.enter("a", 2, 10)]
    last = admission.enter("a", 1, 10)  # there is room for it; it came behind one that waits
    assert len(started(tickets)) == 2
    assert not last.started.is_set()
    admission.leave(tickets[0])
    assert tickets[2].started.is_set()
    assert not last.started.is_set()
    admission.leave(tickets[1])
    assert last.started.is_set()
    assert admission.running == 3
    wide = admission.enter("a", 32, 10)  # more than may ever run: as many as may
    for ticket in (tickets[2], last):
        admission.leave(ticket)
    assert wide.started.is_set()


def test_a_light_tenant_does_not_wait_for_a_heavy_ones_queue() -> None:
    admission = Admission(Limits(max_running=1))
    heavy = [admission.enter("heavy", 1, 100) for _ in range(40)]
    light = admission.enter("light", 1, 100)
    admission.leave(heavy[0])
    assert light.started.is_set()
    assert len(started(heavy)) == 1


def test_tenants_that_always_wait_share_by_tokens() -> None:
    """The bound of start-time fair queueing: two shares differ by one request of each at most."""
    admission = Admission(Limits(max_running=2, max_queued=1000, max_queued_tokens=2**30))
    sizes = {"one": 1000, "many": 10, "odd": 37}
    tokens: Counter[str] = Counter()
    running: list[Ticket] = []
    waiting = [admission.enter(name, 1, size) for name, size in sizes.items() for _ in range(4)]
    for _ in range(5000):
        running += [ticket for ticket in waiting if ticket.started.is_set()]
        waiting = [ticket for ticket in waiting if not ticket.started.is_set()]
        done = running.pop(0)
        tokens[done.tenant] += done.tokens
        waiting.append(admission.enter(done.tenant, 1, done.tokens))
        admission.leave(done)
    most, least = max(tokens.values()), min(tokens.values())
    assert most - least <= 2 * (1000 + 37), tokens


@pytest.mark.parametrize("seed", range(4))
def test_its_books_are_right_whatever_happens(seed: int) -> None:
    choose = random.Random(seed)
    limits = Limits(max_running=5, max_queued=12, max_queued_tokens=2000)
    admission = Admission(limits)
    inside: list[Ticket] = []
    refused = 0
    for _ in range(3000):
        if choose.random() < 0.6:
            try:
                ticket = admission.enter(choose.choice("abc"), choose.randint(1, 7),
                                         choose.randint(1, 400))  # fmt: skip
                inside.append(ticket)
            except Overloaded:
                refused += 1
        elif inside:
            admission.leave(inside.pop(choose.randrange(len(inside))))
        going = [ticket for ticket in inside if ticket.started.is_set()]
        waiting = [ticket for ticket in inside if not ticket.started.is_set()]
        assert admission.running == sum(ticket.choices for ticket in going) <= limits.max_running
        assert admission.queued.requests == len(waiting) <= limits.max_queued
        assert admission.queued.tokens == sum(ticket.tokens for ticket in waiting)
        assert admission.queued.tokens <= limits.max_queued_tokens + 3 * 400
        assert admission.in_flight == len(inside)
        assert going or not waiting  # never idle with work
    assert refused
    while inside:  # the first that waits starts at last, whoever leaves
        admission.leave(inside.pop())
    assert (admission.running, admission.queued.requests, admission.queued.tokens) == (0, 0, 0)


def test_a_tenant_over_its_share_is_refused_while_others_get_in() -> None:
    admission = Admission(Limits(max_running=1, max_queued=16))
    admission.enter("greedy", 1, 10)
    for _ in range(8):
        admission.enter("greedy", 1, 10)
    with pytest.raises(Overloaded) as caught:
        admission.enter("greedy", 1, 10)
    assert admission.queued.requests == 8  # half: as many as it left free
    assert caught.value.retry_after is not None
    assert 1 <= caught.value.retry_after <= 60
    for name in ("b", "c", "d"):
        admission.enter(name, 1, 10)
    by_tokens = Admission(Limits(max_running=1, max_queued_tokens=1000))
    by_tokens.enter("a", 1, 10)
    by_tokens.enter("a", 1, 400)
    with pytest.raises(Overloaded):
        by_tokens.enter("a", 1, 400)
    by_tokens.enter("b", 1, 400)


def test_what_a_request_is_taken_to_need() -> None:
    def tokens(num_bytes: int, **fields: object) -> int:
        request = GenerateRequest((Message("user", "x" * 300),), **fields)  # type: ignore[arg-type]
        return estimate(request, num_bytes, context_length=2048)

    assert tokens(900, max_tokens=10) == 300 + 10  # the body has tools, too
    assert tokens(0, max_tokens=10) == 100 + 10  # a conversation that was kept here
    assert tokens(0, max_tokens=10, n=4) == 100 + 40
    assert tokens(0) == 100 + 1024
    assert tokens(3 * 2**20, max_tokens=2**30) == 2**20 + 2048  # refused by those who know more


def test_a_closed_door_stays_closed() -> None:
    admission = Admission(Limits(max_running=1))
    first = admission.enter("a", 1, 1)
    second = admission.enter("a", 1, 1)
    admission.closed = True
    with pytest.raises(ShuttingDown):
        admission.enter("a", 1, 1)
    admission.leave(first)
    assert second.started.is_set()  # who was inside is served


# --- through the endpoint ------------------------------------------------------------------------


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=60) as client:
        yield client


def url_of(server: Running) -> str:
    return f"{server.url}/v1/chat/completions"


@pytest.mark.parametrize("model", ["f1", "scripted"])
def test_a_request_that_takes_too_long_is_stopped(http: httpx.Client, model: str) -> None:
    engine = ScriptedEngine("Words …")
    with serving(lambda: engine) as server:
        wait_until_loaded(http, server)
        body = HELLO | {"model": model, "timeout": 0.05}
        whole = http.post(url_of(server), json=body)
        assert (whole.status_code, whole.json()["error"]["code"]) == (408, "timeout")
        assert whole.headers["x-should-retry"] == "false"
        assert engine.stopped_early == 1
        streamed = http.post(url_of(server), json=body | {"stream": True})
        assert streamed.status_code == 200  # it had begun
        assert "Words" in streamed.text
        last = streamed.text.strip().removesuffix("data: [DONE]").strip().split("\n\n")[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"
        assert engine.stopped_early == 2
        by_header = http.post(
            url_of(server), json=HELLO | {"timeout": 60}, headers={"x-request-timeout": "0.05"}
        )
        assert by_header.status_code == 408
        assert server.state.admission.in_flight == 0


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e9", "soon", ""])
def test_a_time_that_is_none_is_refused(http: httpx.Client, text: str) -> None:
    with serving(lambda: ScriptedEngine("Hi.")) as server:
        wait_until_loaded(http, server)
        answer = http.post(url_of(server), json=HELLO, headers={"x-request-timeout": text})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "x-request-timeout"
        answer = http.post(url_of(server), json=HELLO | {"timeout": text})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "timeout")
        assert http.post(url_of(server), json=HELLO).status_code == 200


def test_what_ends_while_it_waits_never_reaches_the_engine(http: httpx.Client) -> None:
    """By its deadline, or because its client left."""
    engine = ScriptedEngine("Words …", "Hello.")
    with serving(lambda: engine, Limits(max_running=1)) as server:
        wait_until_loaded(http, server)
        admission = server.state.admission
        with http.stream("POST", url_of(server), json=HELLO | {"stream": True}) as first:
            lines = first.iter_lines()
            next(lines)
            for stream in (False, True):
                late = http.post(url_of(server), json=HELLO | {"timeout": 0.02, "stream": stream})
                assert (late.status_code, late.json()["error"]["code"]) == (408, "timeout")
                body = json.dumps(HELLO | {"stream": stream}).encode()
                leave_after_sending(server, body, lambda: admission.queued.requests == 1)
                while admission.queued.requests:
                    http.get(f"{server.url}/health")
            assert len(engine.requests) == 1
        assert http.post(url_of(server), json=HELLO).status_code == 200
        assert len(engine.requests) == 2
    assert (admission.in_flight, admission.running, admission.queued.tokens) == (0, 0, 0)


def test_keys_share_what_there_is(http: httpx.Client) -> None:
    """One asks for ten times what it is served; the other's request is the next all the same."""
    keys = (Key(name, sha256(name.encode()).digest()) for name in ("heavy", "light"))
    access = Access(tuple(keys))
    engine = ScriptedEngine("Words …", "Hello.")
    with serving(lambda: engine, Limits(max_running=1), access=access) as server:
        wait_until_loaded(http, server)
        admission = server.state.admission

        def send(name: str) -> httpx.Response:
            messages = [{"role": "user", "content": name}]
            body = HELLO | {"messages": messages}
            return http.post(url_of(server), json=body, headers={"x-api-key": name})

        def wait_for(queued: int) -> None:
            while admission.queued.requests < queued:
                http.get(f"{server.url}/health")

        with ThreadPoolExecutor(12) as pool:
            first = {"messages": [{"role": "user", "content": "first"}], "timeout": 60}
            head = {"x-api-key": "heavy"}
            with http.stream(
                "POST", url_of(server), json=HELLO | first | {"stream": True}, headers=head
            ) as running:
                lines = running.iter_lines()
                next(lines)
                heavy = [pool.submit(send, "heavy") for _ in range(10)]
                wait_for(10)
                light = pool.submit(send, "light")
                wait_for(11)
            assert light.result().status_code == 200
            assert {answer.result().status_code for answer in heavy} == {200}
    served = [request.messages[0].content for request in engine.requests]
    assert served == ["first", "light"] + ["heavy"] * 10


def test_while_the_door_closes_nothing_is_let_in(http: httpx.Client) -> None:
    with serving(lambda: ScriptedEngine("Hello.")) as server:
        wait_until_loaded(http, server)
        server.state.admission.closed = True
        assert http.get(f"{server.url}/ready").json() == {"status": "draining"}
        refused = http.post(url_of(server), json=HELLO)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["error"]["code"] == "shutting_down"


async def test_what_is_cut_ends_wherever_it_is() -> None:
    engine = ScriptedEngine("Words …")
    server: Server = create_app(lambda: engine, limits=Limits(max_running=1)).state.server
    server.models = Models.of(engine)
    request = GenerateRequest((Message("user", "Hello"),))
    running, waiting = (server.events("f1", [request], Caller()) for _ in range(2))
    assert isinstance(await anext(running), TextDelta)
    ends = [asyncio.ensure_future(gather(events, 1)) for events in (running, waiting)]
    while server.admission.queued.requests == 0:
        await asyncio.sleep(0)
    server.cut()
    for end in ends:
        with pytest.raises(ShuttingDown):
            await end
    assert (engine.stopped_early, len(engine.requests)) == (1, 1)
    assert (server.admission.in_flight, server.deadlines) == (0, set())
