"""A conversation over many tools, on a real model: what was computed of it is used again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from test_selection import QUESTIONS, SPECS

from f1.engine import AsyncEngine
from f1.planning.collect import gather
from f1.planning.orchestrator import Orchestrator, System
from f1.settings import Settings
from f1.store.snapshot import PAGE_TOKENS
from f1.types import Completion, GenerateRequest, Message, RunOptions, ToolChoice


@pytest.fixture(scope="module")
def engine(smollm_path: Path) -> Iterator[AsyncEngine]:
    settings = replace(Settings.from_env(), snapshot_disk=0)
    engine = AsyncEngine.start(str(smollm_path), settings)
    yield engine
    engine.close()


async def complete(orchestrator: Orchestrator, request: GenerateRequest) -> Completion:
    (completion,) = await gather(orchestrator.generate(request), 1)
    return completion


async def talk(engine: AsyncEngine, turns: int) -> list[Completion]:
    """Each question is answered by a call; its result, by words."""
    system = replace(System.of(engine), registered=lambda tenant, request: SPECS)
    orchestrator = Orchestrator(system)
    messages: list[Message] = []
    completions = []
    for text, _ in QUESTIONS[:turns]:
        messages.append(Message("user", text))
        for mode in ("required", "none"):
            choice = ToolChoice("required") if mode == "required" else ToolChoice("none")
            request = GenerateRequest(
                tuple(messages), tool_choice=choice, max_tokens=60, run=RunOptions(max_tools=4)
            )
            completions.append(completion := await complete(orchestrator, request))
            messages.append(completion.message)
            messages += [
                Message("tool", '{"ok": true}', tool_call_id=call.id)
                for call in completion.message.tool_calls
            ]
    return completions


def test_a_prompt_is_the_one_before_and_what_was_said_and_more(engine: AsyncEngine) -> None:
    completions = asyncio.run(talk(engine, 4))
    runs = [completion.report.run for completion in completions]
    assert [run.num_tools for run in runs if run] == [len(SPECS)] * len(runs)
    num_shown = [len(run.selected) for run in runs if run]
    assert num_shown[0] <= 4
    assert num_shown[-1] > num_shown[0]  # later questions brought tools of their own
    assert any(completion.message.tool_calls for completion in completions)
    for before, after in pairwise(completions):
        written = before.usage.prompt_tokens + before.usage.completion_tokens
        assert after.usage.prompt_tokens > written - PAGE_TOKENS
        # All but the last page, and a few tokens that are written otherwise than they were said.
        assert after.usage.cached_tokens >= written - 2 * PAGE_TOKENS
