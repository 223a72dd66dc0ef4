"""A conversation that waits for its tools is still there when they have answered."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from f1.engine import AsyncEngine
from f1.planning.collect import gather
from f1.settings import Settings
from f1.types import Completion, GenerateRequest, Message, Tool, ToolChoice

LOOK_UP = Tool(
    "look_up",
    "Look up what is known of a word",
    {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
)
POOL = 64 * 16  # tokens
PAGE_BYTES = 30 * 3 * 64 * 2 * 2 * 16  # of SmolLM2: layers, heads, width, K and V, f16, positions


def talk(number: int) -> GenerateRequest:
    """Some 400 tokens that no other has."""
    story = " ".join(f"Case {number}, part {i}: nothing was found." for i in range(20))
    return GenerateRequest(
        (Message("user", story + " What is a word?"),),
        (LOOK_UP,),
        tool_choice=ToolChoice("required"),
        max_tokens=60,
    )


async def ask(engine: AsyncEngine, request: GenerateRequest) -> Completion:
    (completion,) = await gather(engine.generate(request), 1)
    return completion


async def flood(engine: AsyncEngine) -> None:
    """Twice what the cache holds, one after the other, and none of it calls a tool."""
    for number in range(5):
        idle = replace(talk(number), tools=(), tool_choice=ToolChoice(), max_tokens=2)
        await ask(engine, idle)


@pytest.mark.parametrize("warm_seconds", [0, 60])
async def test_results_find_their_conversation(smollm_path: Path, warm_seconds: int) -> None:
    settings = Settings(kv_memory=POOL // 16 * PAGE_BYTES, warm_seconds=warm_seconds)
    engine = await asyncio.to_thread(AsyncEngine.start, str(smollm_path), settings)
    try:
        assert engine.context_length == POOL
        asked = talk(100)
        first = await ask(engine, asked)
        assert first.reason == "tool_calls"
        usage, held = first.usage, engine.stats()["num_held_pages"]
        whole_pages = (usage.prompt_tokens + usage.completion_tokens) // 16
        assert held == 0 if warm_seconds == 0 else usage.prompt_tokens // 16 <= held <= whole_pages
        await flood(engine)
        (call,) = first.message.tool_calls
        result = Message("tool", "It is what people say.", tool_call_id=call.id)
        back = replace(asked, messages=(*asked.messages, first.message, result))
        second = await ask(engine, back)
        if warm_seconds:
            assert second.usage.cached_tokens >= usage.prompt_tokens // 16 * 16
        else:
            assert second.usage.cached_tokens < 64
        # Nobody is kept out by what is held: not even one that needs all there is.
        whole = replace(talk(0), prompt=(5,) * (POOL - 2), messages=(), tools=(), max_tokens=2)
        await ask(engine, replace(whole, tool_choice=ToolChoice()))
        assert engine.stats()["num_held_pages"] == 0
    finally:
        engine.close()
