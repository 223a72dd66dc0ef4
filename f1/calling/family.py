"""A model family's tool syntax, from a file in `grammars/`: how tools, calls and results look.

One description serves both ways: the grammar that constrains a call and the reader that finds it
are built from the same `Form`. `grammars/README.md` explains the files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from f1.types import Message, Tool, ToolCall

_ELEMENT = re.compile(r'\s+|"[^"]*"|[{}\[\],:;]|[^\s{}\[\],:;"]+')


@dataclass(frozen=True, slots=True)
class Form:
    """How calls are written. A turn with two calls reads

    `open` "f" `arguments` {…} `next` "g" `arguments` {…} `close`
    """

    open: str  # up to the first call's name
    arguments: str  # between a call's name and its arguments
    next: str  # between a call's arguments and the next one's name
    close: str  # after the last call's arguments
    # In free text a call has begun once `open`'s first element ("marker") or a given tool's whole
    # name ("name") was read. A marker is for text that means nothing else, such as <tool_call>.
    commits_at: Literal["marker", "name"]
    only_at_start: bool = False  # recognised only as the first thing in a turn

    @property
    def marker(self) -> str:
        return elements(self.open)[0]


@dataclass(frozen=True, slots=True)
class Family:
    """One model family. The first form is the one written; all are recognised."""

    name: str
    models: tuple[str, ...]  # patterns over the model's name
    forms: tuple[Form, ...]
    system: str  # Jinja: the system message when tools are given; sees system, tools, parallel
    result: str  # Jinja: one tool result; sees content, name
    result_role: Literal["user", "tool"]
    result_separator: str

    @property
    def form(self) -> Form:
        return self.forms[0]

    def write_calls(self, calls: Sequence[ToolCall]) -> str:
        """The calls of one turn as the model would have written them."""
        form, text = self.form, ""
        for index, call in enumerate(calls):
            lead = form.open if index == 0 else form.next
            text += f"{lead} {json.dumps(call.name)}{form.arguments} {call.arguments or '{}'}"
        return text + form.close if calls else ""

    def plain_messages(
        self, messages: Sequence[Message], tools: Sequence[Tool], *, parallel: bool = True
    ) -> list[Message]:
        """The conversation in roles and text only, as a chat template without tools takes it."""
        plain = list(self._flatten(messages))
        if tools:
            first = plain[0] if plain and plain[0].role == "system" else None
            text = _render(
                self.system, system=first.content if first else "", tools=tools, parallel=parallel
            )
            plain[: 1 if first else 0] = [Message("system", text)]
        return plain

    def _flatten(self, messages: Sequence[Message]) -> Iterable[Message]:
        names: dict[str | None, str] = {}
        results: list[str] = []
        for message in [*messages, None]:
            if message is not None and message.role == "tool":
                name = names.get(message.tool_call_id, "")
                results.append(_render(self.result, content=message.content, name=name))
                continue
            if results:
                yield Message(self.result_role, self.result_separator.join(results))
                results = []
            if message is None:
                return
            if message.tool_calls:
                names.update((call.id, call.name) for call in message.tool_calls)
                parts = [message.content, self.write_calls(message.tool_calls)]
                message = Message("assistant", "\n".join(part for part in parts if part))
            yield message


def elements(text: str) -> list[str]:
    """The pieces of a form's text between which whitespace may vary; whitespace itself left out."""
    return [piece for piece in _ELEMENT.findall(text) if not piece.isspace()]


def pieces(text: str) -> list[str]:
    """Like `elements`, with the line breaks, which may not vary, kept."""
    return [p for p in _ELEMENT.findall(text) if not p.isspace() or "\n" in p]


@cache
def _template(source: str) -> Any:
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(source)


def _render(source: str, **values: object) -> str:
    return str(_template(source).render(**values))


def grammars_folder() -> Path:
    """Where the family files are: in the installed package, or beside it in a checkout."""
    installed = Path(str(resources.files("f1"))) / "grammars"
    return installed if installed.is_dir() else installed.parent.parent / "grammars"


def load_family(path: Path) -> Family:
    data = json.loads(path.read_text("utf-8"))
    return Family(
        name=path.stem,
        models=tuple(data["models"]),
        forms=tuple(Form(**form) for form in data["forms"]),
        system="\n".join(data["system"]),
        result=data["result"],
        result_role=data["result_role"],
        result_separator=data["result_separator"],
    )


@cache
def families() -> tuple[Family, ...]:
    return tuple(load_family(p) for p in sorted(grammars_folder().glob("*.json")) if _is_family(p))


def _is_family(path: Path) -> bool:
    return "forms" in json.loads(path.read_text("utf-8"))


def family_for(model: str, chat_template: str = "") -> Family:
    """The family whose patterns match most of `model`'s name; Hermes when none does.

    A chat template that itself speaks of <tool_call> would also lead to Hermes.
    """
    found = [
        (len(match.group()), family.name, family)
        for family in families()
        for pattern in family.models
        if (match := re.search(pattern, model, re.IGNORECASE))
    ]
    if found:
        return max(found, key=lambda entry: entry[:2])[2]
    return next(family for family in families() if family.name == "hermes")
