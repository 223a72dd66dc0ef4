"""Nobody gets another one's tokens: secrets in random company, with too little memory for all.

Every prompt holds a number that occurs nowhere else and asks for it. What a request answers must be
what it answers alone; so if pages, rows or drafts were ever mixed up, a foreign number shows.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from pathlib import Path

import pytest
from cores import alone, request

from f1 import _core
from f1.engine import AsyncEngine
from f1.models.checkpoint import Checkpoint
from f1.models.load import load_checkpoint, load_model
from f1.settings import Settings
from f1.types import Finished, GenerateRequest, Message, TextDelta

LEADS = [
    "You are a careful clerk. Keep the register of visitors, and answer from it alone. ",
    "You are a careful clerk. Keep the register of visitors, and answer briefly. ",
    "",
]
PAGE_BYTES = 16 * 30 * 2 * 3 * 64 * 2  # tokens, layers, K and V, heads, width, f16
NAMES = ["Ada", "Bela", "Carl", "Dora", "Emil", "Fritz"]


@dataclass(frozen=True)
class Asked:
    secret: str
    request: _core.Request
    expected: list[int]  # alone, in an engine of its own, without reuse


@dataclass(frozen=True)
class World:
    checkpoint: Checkpoint
    model: _core.Model
    asked: list[Asked]

    def secrets_in(self, token_ids: list[int]) -> set[str]:
        text = self.checkpoint.tokenizer.decode(token_ids).decode("utf-8", "replace")
        return {asked.secret for asked in self.asked if asked.secret in text}


def world(path: Path, num_prompts: int) -> World:
    checkpoint = load_checkpoint(str(path))
    model = load_model(checkpoint, num_threads=2)
    draw = random.Random(1)
    asked = []
    for secret in draw.sample(range(100_000, 1_000_000), num_prompts):
        name = draw.choice(NAMES)
        text = f"The number of {name} is {secret}. Do not forget: {name} has {secret}."
        text = draw.choice(LEADS) + text + f" Again, the number of {name} is"
        token_ids = checkpoint.tokenizer.encode(text)
        made = request(token_ids, draw.choice([9, 12, 40]))
        asked.append(Asked(str(secret), made, alone(model, made)))
    return World(checkpoint, model, asked)


@pytest.fixture(scope="module")
def small_world(smollm_path: Path) -> World:
    return world(smollm_path, 24)


@pytest.fixture(scope="module")
def large_world(smollm_path: Path) -> World:
    return world(smollm_path, 400)


@dataclass
class Traffic:
    """Requests come, are drafted for, cancelled and preempted; the tokens of each are kept."""

    world: World
    engine: _core.Engine
    draw: random.Random
    num_cancelled: int = 0
    num_foreign_drafts: int = 0
    num_checked: int = 0

    def run(self, num_requests: int) -> None:
        live: dict[int, tuple[Asked, list[int]]] = {}
        num_left = num_requests
        while num_left or live:
            for _ in range(min(num_left, self.draw.choice([0, 0, 0, 1, 6]), 30 - len(live))):
                asked = self.draw.choice(self.world.asked)
                live[self.engine.submit(asked.request)] = (asked, [])
                num_left -= 1
            if live and self.draw.random() < 0.02:
                cancelled = self.draw.choice(list(live))
                self.engine.abort(cancelled)
                self.check(*live.pop(cancelled), is_whole=False)
                self.num_cancelled += 1
            for sequence_id in self.draw.sample(sorted(live), len(live) // 8):
                other = self.draw.choice(self.world.asked).expected
                self.engine.draft(sequence_id, other[: self.draw.randrange(1, 5)])
                self.num_foreign_drafts += 1
            self.engine.begin_step()
            for output in self.engine.finish_step():
                asked, tokens = live[output.sequence_id]
                tokens.append(output.token_id)
                if output.finish is not None:
                    self.check(*live.pop(output.sequence_id), is_whole=True)
            self.engine.check()
        stats = self.engine.stats()
        unused = stats["num_free_pages"] + stats["num_reclaimable_pages"]
        assert unused * 16 == self.engine.capacity, "pages leaked"

    def check(self, asked: Asked, tokens: list[int], *, is_whole: bool) -> None:
        assert tokens == (asked.expected if is_whole else asked.expected[: len(tokens)])
        assert self.world.secrets_in(tokens) <= {asked.secret}
        self.num_checked += 1


@pytest.mark.parametrize(("num_pages", "prefix_reuse"), [(30, True), (30, False), (9, True)])
@pytest.mark.parametrize(
    ("name", "num_requests"),
    [("small_world", 40), pytest.param("large_world", 4000, marks=pytest.mark.full)],
)
def test_secrets_stay_with_their_owners(
    name: str, num_requests: int, num_pages: int, prefix_reuse: bool, request: pytest.FixtureRequest
) -> None:
    """With and without reuse of prefixes, with much memory and with little: the same tokens."""
    there: World = request.getfixturevalue(name)
    told = sum(asked.secret in there.secrets_in(asked.expected) for asked in there.asked)
    assert told > 0.8 * len(there.asked), "a model that does not tell secrets proves nothing"
    engine = _core.Engine(
        there.model,
        num_pages=num_pages,
        max_batch_tokens=64,
        max_sequences=8,
        prefix_reuse=prefix_reuse,
    )
    traffic = Traffic(there, engine, random.Random(2))
    traffic.run(num_requests)
    stats = engine.stats()
    print(f"{traffic}, {stats}")
    assert traffic.num_checked == num_requests
    assert traffic.num_cancelled >= num_requests // 100
    assert traffic.num_foreign_drafts > num_requests // 10
    assert num_pages > 10 or stats["num_preemptions"] > num_requests // 50
    assert (stats["num_reused_tokens"] > 2 * num_requests) == prefix_reuse


# --- through the engine that serves --------------------------------------------------------------


def ask(text: str, max_tokens: int) -> GenerateRequest:
    return GenerateRequest((Message("user", text),), max_tokens=max_tokens)


async def streamed(engine: AsyncEngine, request: GenerateRequest) -> tuple[str, int]:
    """The text as it came, and how many tokens that is said to be."""
    text, num_tokens = [], -1
    async for event in engine.generate(request):
        if isinstance(event, TextDelta):
            text.append(event.text)
        elif isinstance(event, Finished):
            assert num_tokens == -1
            num_tokens = event.usage.completion_tokens
    return "".join(text), num_tokens


@pytest.mark.parametrize(
    ("num_requests", "num_preemptions"),
    [(30, 50), pytest.param(640, 1000, marks=pytest.mark.full)],
)
async def test_preempted_streams_lose_and_repeat_nothing(
    smollm_path: Path, num_requests: int, num_preemptions: int
) -> None:
    asked = [ask(f"Tell me about the number {n}.", 150) for n in range(num_requests)]
    told = []
    for num_pages in (24 * 16, 16):
        settings = Settings(max_sequences=24, snapshot_disk=0, kv_memory=num_pages * PAGE_BYTES)
        engine = AsyncEngine.start(str(smollm_path), settings)
        told.append(await asyncio.gather(*(streamed(engine, request) for request in asked)))
        stats = engine.stats()
        engine.close()
        if len(told) == 1:
            assert stats["num_preemptions"] == 0
    print(stats)
    assert told[0] == told[1]
    assert stats["num_preemptions"] >= num_preemptions
