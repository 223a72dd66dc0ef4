"""Asking a second time: what the model wrote breaks its schema in a way that no mask could prevent.

    turn ──▶ Broken ──▶ the conversation, what was written, what is wrong with it ──▶ second turn

The second turn writes the same call (or content) anew and goes on from there. There is no third.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from f1.errors import ConstraintError
from f1.types import Message, Tool, ToolCall

BROKEN_ID = "broken"


@dataclass(frozen=True, slots=True)
class Broken:
    """What a turn has said when it had to be ended: all of it valid but `written`."""

    tool: Tool | None  # whose arguments are `written`; None: it is content
    written: str
    wrong: str
    text: str = ""  # released before a call
    thought: str = ""
    calls: tuple[ToolCall, ...] = ()  # released
    bounded: tuple[int, ...] = ()  # of them
    num_tokens: int = 0  # decoded so far, this turn's prefix included
    remaining: int = 0  # tokens of the budget that are left

    def error(self) -> ConstraintError:
        """For a request that is not, or not again, asked anew."""
        if self.tool is None:
            message = f"the model's answer does not satisfy response_format: {self.wrong}"
            return ConstraintError(message, code="invalid_content")
        name = self.tool.name
        message = f"the model's call of {name!r} does not satisfy its schema: {self.wrong}"
        return ConstraintError(message, code="invalid_tool_call")

    def messages(self) -> list[Message]:
        """What follows the conversation: what was written, and what is wrong with it."""
        if self.tool is None:
            told = f"This is not valid: {self.wrong}\nAnswer again, with the corrected JSON alone."
            return [Message("assistant", self.written), Message("user", told)]
        told = f"Error: {self.wrong}\n{_properties(self.tool.parameters)}Call it again."
        broken = ToolCall(BROKEN_ID, self.tool.name, self.written)
        return [
            Message("assistant", self.text, (*self.calls, broken), reasoning=self.thought),
            *[Message("tool", "Accepted.", tool_call_id=call.id) for call in self.calls],
            Message("tool", told, tool_call_id=BROKEN_ID),
        ]


def _properties(schema: Mapping[str, Any]) -> str:
    """The names that there are: a wrong one is often only misspelled."""
    names = [str(name) for name in schema.get("properties", {})]
    return f"The properties are: {', '.join(names)}. " if names else ""
