"""Secrets of every kind, each in what may carry it: what no record may have in it."""

from __future__ import annotations

import base64
import json
import random
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import quote

_ALL = string.ascii_letters + string.digits


def _letters(rng: random.Random, count: int, of: str = _ALL) -> str:
    """Never a word: a digit, an upper and a lower case letter are in it."""
    return "".join(rng.choice(of) for _ in range(count - 3)) + "7Qz"


def _base64url(rng: random.Random, value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


SHAPES: dict[str, Callable[[random.Random], str]] = {
    "openai": lambda r: "sk-proj-" + _letters(r, 40),
    "openai_old": lambda r: "sk-" + _letters(r, 48),
    "anthropic": lambda r: "sk-ant-api03-" + _letters(r, 60),
    "aws": lambda r: "AKIA" + _letters(r, 19, string.ascii_uppercase + string.digits)[:16],
    "github": lambda r: "ghp_" + _letters(r, 36),
    "github_fine": lambda r: "github_pat_" + _letters(r, 60),
    "slack": lambda r: f"xoxb-{r.randrange(10**11)}-{_letters(r, 24)}",
    "google": lambda r: "AIza" + _letters(r, 35),
    "stripe": lambda r: "sk_live_" + _letters(r, 24),
    "jwt": lambda r: ".".join(
        [_base64url(r, {"alg": "HS256"}), _base64url(r, {"sub": _letters(r, 8)}), _letters(r, 43)]
    ),
    "pem": lambda r: (
        "-----BEGIN PRIVATE KEY-----\n" + _letters(r, 64) + "\n-----END PRIVATE KEY-----"
    ),
    "bearer": lambda r: "Bearer " + _letters(r, 24),
}

# Of a plain password or token: what stands around it says what it is.
CONTEXTS: dict[str, str] = {
    "assigned": "DB_PASSWORD={}",
    "said": "my password is {} by the way",
    "yaml": "client_secret: {}",
    "header": "Authorization: Basic {}",
    "cookie": "Set-Cookie: sid={}; Path=/",
    "url": "see https://bob:{}@example.com/x",
    "query": "GET /v1/x?user=1&api_key={}&page=2",
    "exception": "ValueError: login failed for {{'user': 'bob', 'password': '{}'}}",
    "option": "mysql --password {} --host db",
    "xml": "<password>{}</password>",
}


@dataclass(frozen=True)
class Planted:
    """`text` carries `secret`, spelled as it is there in `spelled`."""

    kind: str
    secret: str
    spelled: str
    text: str


def _carried(rng: random.Random, secret: str, text: str) -> Iterator[tuple[str, str, str]]:
    """How it is carried, how it is spelled there, all of it."""
    yield "plain", secret, f"It said: {text}"
    yield "json", json.dumps(secret)[1:-1], json.dumps({"said": [text, rng.randrange(99)]})
    inner = json.dumps({"a": [json.dumps({"b": text})]})
    twice = json.dumps(json.dumps(secret)[1:-1])[1:-1]
    yield "nested", json.dumps(twice)[1:-1], json.dumps({"deep": inner})
    packed = base64.b64encode(f"{'.' * rng.randrange(3)} {text} .".encode()).decode()
    yield "base64", packed, f"payload={packed} end"
    yield "percent", quote(secret, safe=""), f"callback?to={quote(text, safe='')}&x=1"


def planted(count: int, seed: int) -> list[Planted]:
    rng = random.Random(seed)
    found: list[Planted] = []
    while len(found) < count:
        for name in (*SHAPES, *CONTEXTS):
            secret = SHAPES[name](rng) if name in SHAPES else _letters(rng, 14)
            text = secret if name in SHAPES else CONTEXTS[name].format(secret)
            for how, spelled, carrier in _carried(rng, secret, text):
                found.append(Planted(f"{name}-{how}", secret, spelled, carrier))
    rng.shuffle(found)
    return found[:count]
