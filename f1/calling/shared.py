"""What the prompts of many requests have in common."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from f1.calling.family import Family
from f1.models.chat import ChatTemplate
from f1.types import Message, Tool


def shared_prefix(
    family: Family,
    template: ChatTemplate,
    tools: Sequence[Tool],
    system: str = "",
    *,
    parallel: bool = True,
) -> list[int]:
    """Token ids that prompts with these tools and this system message begin with.

    They are found as what the prompts of two requests share, so it takes no knowledge of where a
    family puts its tools. A user's text may merge with the last of them; who reuses the prefix
    compares token by token and in whole pages, and finds a shorter one.
    """
    lead = [Message("system", system)] if system else []
    prompts = [
        template.render(
            family.plain_messages([*lead, Message("user", text)], tools, parallel=parallel)
        )
        for text in ("Ask", "7?")
    ]
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(*prompts, strict=False))
    return [token_id for token_id, _ in pairs]
