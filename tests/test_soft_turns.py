"""Soft steps before a turn: what its caller gets, and pays."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from f1.calling.schema import validate_arguments
from f1.engine import AsyncEngine
from f1.errors import InvalidRequest
from f1.planning.collect import gather
from f1.settings import Settings
from f1.types import (
    Completion,
    GenerateRequest,
    Message,
    SamplingParams,
    Soft,
    Tool,
    ToolChoice,
)

WEATHER = Tool(
    "get_weather",
    "Get the current weather in a city",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
TEXT = "The capital of France is Paris. The capital of Italy is Rome. The capital of Spain is"
CALL = GenerateRequest(
    (Message("user", "Is it warm in Oslo?"),),
    (WEATHER,),
    tool_choice=ToolChoice("required"),
    max_tokens=60,
)
SOFT = Soft(5, cold_steps=0, lead="Which city?", close="\n")


@pytest.fixture(scope="module")
def engine(smollm_path: Path) -> Iterator[AsyncEngine]:
    started = AsyncEngine.start(str(smollm_path), Settings(max_sequences=8))
    yield started
    started.close()


async def ask(engine: AsyncEngine, request: GenerateRequest) -> list[Completion]:
    return await gather(engine.generate(request), request.n)


async def test_greedy_steps_are_the_beginning_that_nobody_sees(engine: AsyncEngine) -> None:
    """A mix of one token is that token."""
    plain = GenerateRequest((), prompt=TEXT, max_tokens=12)
    (whole,) = await ask(engine, plain)
    (rest,) = await ask(engine, replace(plain, soft=Soft(4, top_k=1, cold_steps=0)))
    (begin,) = await ask(engine, replace(plain, max_tokens=4))
    assert begin.message.content + rest.message.content == whole.message.content
    assert (rest.usage.completion_tokens, rest.usage.reasoning_tokens) == (12, 4)
    assert rest.reason == "length"


@pytest.mark.parametrize("noise", [0.0, 1.0])
async def test_a_call_is_as_valid_as_ever_and_the_same_in_any_company(
    engine: AsyncEngine, noise: float
) -> None:
    sampling = SamplingParams(temperature=0.8, seed=5)
    asked = replace(CALL, sampling=sampling, n=3, soft=replace(SOFT, noise=noise))
    alone = await ask(engine, asked)
    others = [replace(asked, sampling=replace(sampling, seed=i), n=1) for i in range(6, 9)]
    together, *_ = await asyncio.gather(*(ask(engine, r) for r in (asked, *others)))

    def said(completions: list[Completion]) -> list[Any]:
        return [[(c.name, c.arguments) for c in k.message.tool_calls] for k in completions]

    assert said(alone) == said(together)
    num_lead = len(engine.tokenizer.encode("Which city?")) + len(engine.tokenizer.encode("\n"))
    for completion in alone:
        assert completion.message.content == ""
        assert completion.usage.reasoning_tokens == num_lead + 5
        for call in completion.message.tool_calls:
            assert not validate_arguments(WEATHER, call.arguments)


async def test_steps_leave_room_for_a_token(engine: AsyncEngine) -> None:
    plain = GenerateRequest((), prompt=TEXT, max_tokens=3)
    (cut,) = await ask(engine, replace(plain, soft=Soft(200, cold_steps=0)))
    assert (cut.usage.completion_tokens, cut.usage.reasoning_tokens) == (3, 2)
    (full,) = await ask(engine, replace(plain, soft=Soft(4, lead="one two three four")))
    assert (full.usage.completion_tokens, full.reason) == (0, "length")


@pytest.mark.parametrize(
    "soft",
    [
        Soft(0),
        Soft(257),
        Soft(top_k=65),
        Soft(temperature=0),
        Soft(temperature=float("nan")),
        Soft(noise=-1),
        Soft(cold_steps=-1),
    ],
    ids=str,
)
async def test_what_makes_no_sense_is_refused(engine: AsyncEngine, soft: Soft) -> None:
    with pytest.raises(InvalidRequest, match=r"soft\."):
        await ask(engine, replace(CALL, soft=soft))
