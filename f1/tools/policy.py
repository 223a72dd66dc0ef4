"""What may run: the operator's rules, asked right before a call runs, with the very arguments.

    [[policy]]                       # f1.toml; the strictest of the rules that match counts
    tools = ["send_*", "delete_*"]
    action = "ask"

No rule is the tool's own or the model's: annotations count as the operator has set them, and no
tool can reach the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from f1.tools.spec import ToolSpec

Action = Literal["allow", "ask", "deny"]


@dataclass(frozen=True, slots=True)
class Ruling:
    """`why` is for a person, and for the model where the action is "deny"."""

    action: Action = "allow"
    rule: str = ""  # which, as the file has it
    why: str = ""


class Policy(Protocol):
    @property
    def version(self) -> str:
        """A digest of all rules: what was approved under others is asked again."""

    def ruling(
        self, spec: ToolSpec, arguments: Mapping[str, Any], tainted: Mapping[str, str]
    ) -> Ruling:
        """`tainted`: paths in the arguments whose values came from what tools returned, and which
        tool's result it was."""


@dataclass(frozen=True, slots=True)
class AllowAll:
    """Where nobody has set rules."""

    version: str = ""

    def ruling(
        self, spec: ToolSpec, arguments: Mapping[str, Any], tainted: Mapping[str, str]
    ) -> Ruling:
        return Ruling()
