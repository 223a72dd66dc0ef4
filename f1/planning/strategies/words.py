"""The words of a turn as they come, but for those that are a call in disguise.

A model that wants a tool which is not there writes its call as text, for the grammar knows only
those that are. Such a text is no answer: what may become one is held back.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from f1.planning.collect import Collector
from f1.types import Completion, Event, ReasoningDelta, TextDelta, ToolCall

Delta = TextDelta | ReasoningDelta
_BEGINS = ("```", "{", "[{", "<tool")


@dataclass(slots=True)
class Words:
    """Of one turn."""

    turn: Collector = field(default_factory=Collector)
    held: list[TextDelta] = field(default_factory=list)
    is_plain: bool = False  # it is no call, however it goes on

    def add(self, event: Event) -> Iterator[Delta]:
        """What can be told of now."""
        self.turn.add(event)
        if isinstance(event, ReasoningDelta):
            yield event
        if not isinstance(event, TextDelta):
            return
        self.held.append(event)
        text = "".join(self.turn.text).lstrip()
        self.is_plain = self.is_plain or not any(
            text.startswith(begin[: len(text)]) for begin in _BEGINS
        )
        if self.is_plain:
            yield from self.rest()

    def rest(self) -> Iterator[TextDelta]:
        """What was held back."""
        yield from self.held
        self.held = []

    def disguised(self, call_id: str) -> ToolCall | None:
        """The call that the text is."""
        text = "".join(self.turn.text)
        if self.is_plain or self.turn.calls or "{" not in text:
            return None
        try:
            value, _ = json.JSONDecoder().raw_decode(text, text.index("{"))
        except ValueError:
            return None
        name, arguments = value.get("name"), value.get("arguments")
        if not isinstance(name, str) or not isinstance(arguments, dict):
            return None
        return ToolCall(call_id, name[:64], json.dumps(arguments))

    def completion(self) -> Completion:
        """What is remembered of the turn: not the text that was held back to its end."""
        done = self.turn.completion()
        if not self.held:
            return done
        return replace(done, message=replace(done.message, content=""))
