"""A question back to the user, where a call needs what nobody has said."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from f1.planning.collect import Collector
from f1.planning.run import Run
from f1.planning.strategy import Move
from f1.types import Message, Note, ResponseFormat, TextDelta, ToolChoice

_QUESTION = ResponseFormat(
    "regex", r"(What|Which|Who|When|Where|How many|How much|Could you tell me)[^?.{}\n]+\?"
)
_MAX_TOKENS = 80


async def clarify(run: Run, tool: str, unknown: Sequence[str]) -> AsyncGenerator[Move]:
    """Small models state that something is impossible rather than ask; so what they write is held
    to be a question."""
    what = " and ".join(name.replace("_", " ") for name in unknown)
    yield Note(f"{tool} was not called: nobody has said {what}")
    told = Message("user", f"I have not told you the {what}. Ask me for it, in one question.")
    request = replace(
        run.request,
        messages=(*run.request.messages, told),
        response_format=_QUESTION,
        tool_choice=ToolChoice("none"),
        max_tokens=min(run.request.max_tokens or _MAX_TOKENS, _MAX_TOKENS),
    )
    collector = Collector()
    async with aclosing(run.decode(request, "writer")) as events:
        async for event in events:
            collector.add(event)
            if isinstance(event, TextDelta):
                yield event
    yield collector.completion()
