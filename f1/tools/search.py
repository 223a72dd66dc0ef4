"""A tool with which a model finds tools that it was not shown.

What it finds stands in its result as the prompt has tools, and can be called from then on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from f1.tools.spec import Annotations, CallLimits, Output, ToolFailure, ToolSpec
from f1.types import Message, Tool

SEARCH_TOOL = "search_tools"
_TOOL = Tool(
    SEARCH_TOOL,
    "Find further functions. Use it only if none of the given ones fits.",
    {
        "type": "object",
        "properties": {"query": {"type": "string", "description": "What the function must do."}},
        "required": ["query"],
    },
)

_ANNOTATIONS = Annotations(read_only=True, egress=False, trusted=True)

# The tools that fit a query, best first.
Search = Callable[[str], Awaitable[Sequence[ToolSpec]]]


@dataclass(frozen=True, slots=True)
class SearchRunner:
    search: Search

    async def call(self, arguments: Mapping[str, Any], limits: CallLimits) -> Output:
        """The tools found, as JSON that `found_in` reads."""
        found = [spec.tool for spec in await self.search(str(arguments["query"]))]
        if not found:
            raise ToolFailure("no function fits; say it in other words, or do without")
        return Output(
            [
                {"name": t.name, "description": t.description, "parameters": t.parameters}
                for t in found
            ]
        )


def search_spec(search: Search) -> ToolSpec:
    return ToolSpec(_TOOL, SearchRunner(search), annotations=_ANNOTATIONS)


def found_in(result: Message) -> tuple[str, ...]:
    """The names of the tools in a result of `SEARCH_TOOL`; none where it is something else."""
    try:
        found = orjson.loads(result.content)
    except orjson.JSONDecodeError:
        return ()
    entries = found if isinstance(found, list) else ()
    names = [entry.get("name") for entry in entries if isinstance(entry, dict)]
    return tuple(name for name in names if isinstance(name, str))
