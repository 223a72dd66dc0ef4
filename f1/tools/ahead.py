"""Doing ahead what the first request with some tools would wait for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from f1.tools.spec import ToolSpec
from f1.types import RunOptions, Tool


class Registering(Protocol):
    """What that needs of f1.engine.AsyncEngine."""

    async def register_tools(self, tools: Sequence[Tool]) -> int: ...
    async def judge_tools(self, tools: Sequence[Tool]) -> None: ...


async def prepare(
    engine: Registering, specs: Sequence[ToolSpec], defaults: RunOptions | None = None
) -> None:
    """Has their grammars judged; and what prompts with all of them begin with computed and kept,
    where they are few enough to be shown whole by a request that says no more than `defaults`. Of
    more, each request shows a few, which it is not known before. Raises what a request with them
    would."""
    tools = [spec.tool for spec in specs]
    if (defaults or RunOptions()).num_shown(len(tools)) == len(tools):
        await engine.register_tools(tools)
    else:
        await engine.judge_tools(tools)
