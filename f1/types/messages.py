"""What is said: the turns of a conversation, and the tools that they speak of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
JsonSchema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call. `parameters` is a JSON Schema (2020-12) of an object.

    Not `strict`: arguments are some JSON object, held to no schema, and F1 never runs the call.
    `accepts`: what its calls are held to in place of `parameters`, which is what the model reads.
    """

    name: str
    description: str = ""
    parameters: JsonSchema = field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool = True
    accepts: JsonSchema | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call; `arguments` is the JSON text of an object, valid under a strict tool's schema."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. `tool_call_id` is set for role "tool" only, `reasoning` (what was
    thought before `content`) for "assistant" only."""

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning: str = ""
