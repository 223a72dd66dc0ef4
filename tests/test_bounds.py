"""Every field of every body, at and beyond its edges: refused by name, never a failure of the
server, and the next request is served.

The fields come from the tables of bounds; what fits a kind is said here once more, independently.
"""

from __future__ import annotations

import gc
import http.client
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from scripted import Spelling
from serving import HELLO, Running, serving, wait_until_loaded

from f1.engine import AsyncEngine
from f1.serve.limits import Limits
from f1.serve.openapi import BODIES
from f1.serve.wire.bodies import TOOL_NAME
from f1.serve.wire.fields import MAX_DEPTH
from f1.serve.wire.shape import (
    Either,
    Flag,
    Free,
    Integer,
    Items,
    Keyed,
    Number,
    Record,
    Shape,
    Tagged,
    Text,
    Unsupported,
    Word,
)
from f1.settings import Settings

LEAKS = re.compile(r"0x[0-9a-f]{6,}|/usr|/root|/home|/tmp|Traceback|\.py\b|site-packages")
HOLE = "the hole"
Wrap = Callable[[object], object]
Api = tuple[str, str]  # method and path


@dataclass(frozen=True, slots=True)
class Place:
    """A field of a body: `wrap` puts a value there."""

    api: Api
    path: str
    shape: Shape
    wrap: Wrap


def places(api: Api, shape: Shape, path: str = "", wrap: Wrap = lambda value: value) -> list[Place]:
    """The place itself and all that is in it."""
    found = [Place(api, path, shape, wrap)] if path else []
    for name, inner, inside in _inner(shape):
        found += places(api, inner, _join(path, name), lambda v, i=inside: wrap(i(v)))
    return found


def _inner(shape: Shape) -> Iterator[tuple[str, Shape, Wrap]]:
    match shape:
        case Record():
            for name, field in shape.fields.items():
                yield name, field, lambda v, n=name: sample(shape) | {n: v}
        case Items():
            yield "[0]", shape.of, lambda v: [v] + [sample(shape.of)] * (shape.at_least - 1)
        case Keyed():
            yield "1", shape.of, lambda v: {"1": v}
        case Tagged():
            for record in shape.records.values():
                yield from _inner(record)
        case Either():
            for one in shape.shapes:
                yield from _inner(one)


def _join(path: str, name: str) -> str:
    return path + name if name.startswith("[") or not path else f"{path}.{name}"


def sample(shape: Shape) -> Any:
    """Something that fits."""
    match shape:
        case Record():
            return {name: sample(shape.fields[name]) for name in shape.required}
        case Tagged():
            return sample(next(iter(shape.records.values())))
        case Either():
            return sample(shape.shapes[0])
        case Items():
            return [sample(shape.of)] * shape.at_least
        case Number() | Integer():
            return max(shape.low, 1)
        case Text():
            return "1" * max(shape.at_least, 1)
        case Word():
            return shape.options[0]
        case Flag():
            return True
    return {}


def fits(shape: Shape, value: Any) -> bool:
    match shape:
        case Flag():
            return value is True or value is False
        case Number():
            return type(value) in (int, float) and shape.low <= value <= shape.high
        case Integer():
            return type(value) is int and shape.low <= value <= shape.high
        case Text():
            return (
                type(value) is str
                and shape.at_least <= len(value) <= (shape.at_most or len(value))
                and (shape.pattern is None or bool(re.match(shape.pattern + r"\Z", value)))
            )
        case Word():
            return type(value) is str and value in shape.options
        case Free():
            return type(value) is dict
        case Items():
            return (
                type(value) is list
                and shape.at_least <= len(value) <= shape.at_most
                and all(fits(shape.of, item) for item in value)
            )
        case Keyed():
            return (
                type(value) is dict
                and len(value) <= shape.at_most
                and all(fits(shape.keys, k) and fits_or_null(shape.of, v) for k, v in value.items())
            )
        case Record():
            return (
                type(value) is dict
                and all(value.get(name) is not None for name in shape.required)
                and all(
                    fits_or_null(shape.fields[name], item) if name in shape.fields else shape.open
                    for name, item in value.items()
                )
            )
        case Tagged():
            record = shape.records.get(str(value.get(shape.tag))) if type(value) is dict else None
            return record is not None and fits(record, value)
        case Either():
            return any(fits(one, value) for one in shape.shapes)
    return False  # Unsupported


def fits_or_null(shape: Shape, value: object) -> bool:
    return value is None or fits(shape, value)


# What is no JSON, or is none here: refused before it is known for which field it is.
NOT_JSON = [
    "NaN", "Infinity", "-Infinity", "1e400", "-1e400", "9" * 5000, r'"\ud800"', r'"\udc00x"',
    "[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000, "[" * 100_000, "01",
    '"\x00"', "'x'", "undefined", "[1,]",
]  # fmt: skip
DEEP = ["[" * MAX_DEPTH + "]" * MAX_DEPTH, '{"a":' * MAX_DEPTH + "1" + "}" * MAX_DEPTH]
TWINS = ['{"twin": 1, "twin": 2}']
# The edges of all kinds; each is put into every field, whatever that one's kind is.
EDGES: list[Any] = [
    -1, 0, 1, 2**31 - 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, 0.5, -0.0,
    1e308, -1e308, 5e-324, 1.0, True, False, "", "x", "\x00", "a\x00b", "\u202e", "x" * 100_000,
    "\U0001f600" * 300, "1", "NaN", "null", [], {}, [[]], [None], [{}], {"": None}, {"\x00": 1},
    [0] * 100_000, ["x"] * 100_000, [{}] * 10_000, {str(i): 0 for i in range(10_000)},
    {"type": "text"}, {"type": 5}, {"__proto__": {}}, {"$ref": "#"},
]  # fmt: skip
PLACES = [place for api, body in BODIES.items() for place in places(api, body(Limits()))]


def own_edges(shape: Shape) -> list[Any]:
    """Just inside and just outside of this field's bounds."""
    match shape:
        case Integer() | Number():
            return [shape.low, shape.high, shape.low - 1, shape.high + 1]
        case Text():
            return ["1" * n for n in (shape.at_least, shape.at_most or 1, (shape.at_most or 1) + 1)]
        case Items():
            item = sample(shape.of)
            most = min(shape.at_most, 5000)  # more is larger than a body may be
            return [[item] * shape.at_least, [item] * most, [item] * (most + 1)]
        case Keyed():
            keyed = {str(i): sample(shape.of) for i in range(shape.at_most + 1)}
            return [dict(list(keyed.items())[:-1]), keyed]
        case Either():
            return [edge for one in shape.shapes for edge in own_edges(one)]
    return []


class Client:
    """Asks with bodies that are no JSON, too, and looks at what comes back."""

    def __init__(self, server: Running):
        self.connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)

    def send(self, api: Api, body: bytes) -> tuple[int, str]:
        method, path = api[0].upper(), api[1].replace("{name}", sample(TOOL_NAME))
        self.connection.request(method, path, body, {"content-type": "application/json"})
        answer = self.connection.getresponse()
        text = answer.read().decode()
        return answer.status, text

    def refused(self, place: Place, text: str) -> tuple[int, str | None, str | None]:
        """Status, `param` and `code` of the answer to a body with `text` in that place."""
        body = json.dumps(place.wrap(HOLE)).replace(f'"{HOLE}"', text)
        status, answer = self.send(place.api, body.encode())
        assert status < 500, (place.path, text[:80], answer)
        assert not LEAKS.search(answer), (place.path, text[:80], answer)
        if status == 200:
            return status, None, None
        assert len(answer) < 1000
        error = json.loads(answer)["error"]
        named = re.match(r"'([^']*)' ", error["message"])  # Anthropic's errors have no `param`
        return status, error.get("param", named and named[1]), error.get("code", "invalid_json")

    def check_served(self) -> None:
        status, answer = self.send(("post", "/v1/chat/completions"), json.dumps(HELLO).encode())
        assert (status, json.loads(answer)["choices"][0]["finish_reason"]) == (200, "stop")


@pytest.fixture(scope="module")
def client(smollm_path: Path) -> Iterator[Client]:
    def load() -> Spelling:
        return Spelling(AsyncEngine.start(str(smollm_path), Settings(kv_memory=2**26)), "Hi.")

    with serving(load) as server, httpx.Client() as plain:
        wait_until_loaded(plain, server)
        client = Client(server)
        yield client
        client.connection.close()
        assert (server.state.admission.in_flight, server.state.admission.running) == (0, 0)
        assert server.state.receiving == 0


def check(client: Client, place: Place, values: list[Any], texts: list[str]) -> Iterator[None]:
    """Each value fits, or is refused by name. Stops behind each."""
    for text in texts:
        status, param, code = client.refused(place, text)
        assert (status, code) == (400, "invalid_json"), (place.path, text[:80])
        if text in DEEP:
            assert param == re.split(r"[.[]", place.path)[0]
        if text in TWINS:
            assert param == "twin"
        yield
    for value in values:
        status, param, _ = client.refused(place, json.dumps(value))
        told = (place.path, repr(value)[:80], status, param)
        if not fits(place.shape, value):
            assert status == 400, told
            assert (param or "").startswith(place.path), told
        yield


def test_the_table_has_every_field_and_its_samples_are_served(client: Client) -> None:
    assert len(PLACES) > 100
    for api, body in BODIES.items():
        status, answer = client.send(api, json.dumps(sample(body(Limits()))).encode())
        assert status in (200, 400, 404), answer  # of a model "1" there is none


@pytest.mark.parametrize("api", BODIES, ids=" ".join)
def test_every_field_at_its_edges(client: Client, api: str) -> None:
    """Its own edges, and some of all: others for each field."""
    texts = NOT_JSON + DEEP + TWINS
    for number, place in enumerate(PLACES):
        if place.api == api:
            some = EDGES[number % 29 :: 29] + own_edges(place.shape)
            for _ in check(client, place, some, texts[number % 40 :: 40]):
                pass
            client.check_served()


@pytest.mark.full
@pytest.mark.parametrize("api", BODIES, ids=" ".join)
def test_every_field_at_every_edge(client: Client, api: str) -> None:
    count = 0
    for place in PLACES:
        if place.api == api:
            values = EDGES + own_edges(place.shape)
            for _ in check(client, place, values, NOT_JSON + DEEP + TWINS):
                client.check_served()
                count += 1
    print(f"{' '.join(api)}: {count} values, each followed by a request that was served")


@pytest.mark.full
def test_refusing_costs_little(client: Client) -> None:
    """Processor time, the client's included: the machine may be busy."""
    gc.freeze()  # as `f1 serve` does: to look through all that torch has made takes 0.2 s
    slowest = {}
    for place in PLACES:
        for text in (*NOT_JSON, *DEEP, *map(json.dumps, EDGES)):
            begun = time.process_time()
            client.refused(place, text)
            taken = time.process_time() - begun
            slowest[taken] = (place.api, place.path, text[:40])
    print(sorted(slowest.items())[-5:])
    assert max(slowest) <= 0.1, slowest[max(slowest)]


# --- a real engine behind them -------------------------------------------------------------------

CONTENT = "messages[0].content"
REAL: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": content}]}
    for content in ("", "\x00", "\U0010ffff" * 50, "a\x00" * 200, "<|im_end|>\x00", "\u202e\ufeff")
] + [
    {"logit_bias": {"2147483647": 100, "0": -100}},
    {"logit_bias": dict.fromkeys(map(str, range(1024)), -100)},
    {"seed": -(2**63)},
    {"seed": 2**63 - 1, "top_k": 2**31 - 1, "top_p": 0, "min_p": 1, "temperature": 2},
    {"temperature": 5e-324, "repetition_penalty": 0.01, "presence_penalty": -2},
    {"repetition_penalty": 10, "frequency_penalty": 2, "top_k": 1},
    {"stop": ["\x00", "x" * 256, "\U0001f600", " "]},
    {"n": 32, "logprobs": True, "top_logprobs": 20},
    {"max_completion_tokens": 2**31 - 1},
    {"tools": [{"type": "function", "function": {"name": "1", "description": "\x00"}}]},
]


def test_edges_reach_the_engine_and_do_it_no_harm(smollm_path: Path) -> None:
    def load() -> AsyncEngine:
        return AsyncEngine.start(str(smollm_path), Settings(kv_memory=2**26))

    with serving(load) as server, httpx.Client(timeout=120) as plain:
        wait_until_loaded(plain, server)
        url = f"{server.url}/v1/chat/completions"
        good = HELLO | {"max_tokens": 2}
        before = plain.post(url, json=good).json()["choices"]
        for fields in REAL:
            answer = plain.post(url, json=good | fields)
            assert answer.status_code in (200, 400), (fields, answer.text)
            assert not LEAKS.search(answer.text)
            assert plain.post(url, json=good).json()["choices"] == before


def test_what_is_not_supported_is_in_the_table() -> None:
    assert any(isinstance(place.shape, Unsupported) for place in PLACES)
