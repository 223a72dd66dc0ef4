"""A model family's tool syntax, from a file in `grammars/`: how tools, calls and results look.

One description serves both ways: the grammar that constrains a call and the reader that finds it
are built from the same `Form`. `grammars/README.md` explains the files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any, Literal

import orjson
from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from f1.calling.latest import latest
from f1.calling.thought import Reasoning
from f1.errors import InvalidRequest
from f1.types import Message, Tool, ToolCall

_MAX_TOOLS_BYTES = 32 << 20  # of what prompts say of tools that is kept
_CONTENT = "{the content of the message}"  # holds its place
_MORE = """More functions:
{% for tool in tools %}
{{ {"name": tool.name, "description": tool.description, "parameters": tool.parameters} | tojson }}
{% endfor %}

{{ content }}"""  # where a family does not say
_ELEMENT = re.compile(r'\s+|"[^"]*"|[{}\[\],:;]|[^\s{}\[\],:;"]+')


ShownAt = Mapping[int, Sequence[str]]  # names of tools, by index of the message that brings them


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

    @property
    def beginnings(self) -> list[str]:
        """What a turn that wants to call begins with: the marker, or the JSON without it."""
        return list(takewhile(lambda piece: piece != '"name"', elements(self.open)))


@dataclass(frozen=True, slots=True)
class Example:
    """A short conversation shown to the model before the real one, with tools of its own."""

    tools: tuple[Tool, ...]
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Family:
    """One model family. The first form is the one written; all are recognised."""

    name: str
    models: tuple[str, ...]  # patterns over the model's name
    forms: tuple[Form, ...]
    system: str  # Jinja: the system message when there are tools; sees system, tools, parallel
    request: str  # Jinja: the first user message; sees tools, and content once, as it is
    more: str  # Jinja: a later one that brings further tools; sees the same
    results: str  # Jinja: the results of one step; sees results (name, arguments, content)
    results_role: Literal["user", "tool"]
    examples: tuple[Example, ...]
    reasoning: Reasoning | None = None  # None: it does not think aloud

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
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool],
        shown_at: ShownAt | None = None,
        *,
        parallel: bool = True,
    ) -> list[Message]:
        """The conversation in roles and text only, as a chat template without tools takes it.
        `shown_at` as in GenerateRequest."""
        leading = list(takewhile(lambda message: message.role == "system", messages))
        system, rest = "\n\n".join(m.content for m in leading), messages[len(leading) :]
        if not tools:
            return [*([Message("system", system)] if leading else []), *self._plain(rest, (), {})]
        first, later = _when_shown(tools, shown_at or {}, len(leading))
        text = _system_text(self.system, tools_key(first), system, parallel)
        return [Message("system", text), *self._shown, *self._plain(rest, first, later)]

    @cached_property
    def _shown(self) -> list[Message]:
        return [
            m for example in self.examples for m in self._plain(example.messages, example.tools, {})
        ]

    def _plain(
        self, messages: Sequence[Message], tools: Sequence[Tool], later: Mapping[int, list[Tool]]
    ) -> Iterator[Message]:
        """Tools go into the first user message, `later` ones into those that they came with;
        results of one step into one message, in the order of their calls. Thoughts from before the
        last question are forgotten."""
        calls: dict[str, ToolCall] = {}  # by id, which later turns may use again; latest last
        asked = max((i for i, m in enumerate(messages) if m.role == "user"), default=-1)
        untold = bool(tools)
        if untold and asked < 0 and (text := _around(self.request, "", tools)):
            yield Message("user", text)
        for is_results, group in groupby(enumerate(messages), lambda item: item[1].role == "tool"):
            if is_results:
                yield Message(self.results_role, self._write_results([m for _, m in group], calls))
                continue
            for index, message in group:
                for call in message.tool_calls:
                    calls.pop(call.id, None)
                    calls[call.id] = call
                if message.role == "user" and untold:
                    untold = False
                    yield Message("user", _around(self.request, message.content, tools))
                elif message.role == "user" and index in later:
                    yield Message("user", _around(self.more, message.content, later[index]))
                elif message.role == "assistant":
                    yield Message("assistant", self._write_said(message, thinks=index > asked))
                else:
                    yield message

    def _write_said(self, message: Message, *, thinks: bool) -> str:
        parts = [message.content, self.write_calls(message.tool_calls)]
        text = "\n".join(part for part in parts if part)
        if self.reasoning is not None and message.reasoning and thinks:
            return self.reasoning.write(message.reasoning) + text
        return text

    def _write_results(self, messages: Sequence[Message], calls: Mapping[str, ToolCall]) -> str:
        unknown = ToolCall("", "", "{}")
        order = {call_id: index for index, call_id in enumerate(calls)}
        results = [
            {
                "name": call.name,
                "arguments": call.arguments or "{}",
                "content": message.content,
            }
            for message in sorted(
                messages, key=lambda m: order.get(m.tool_call_id or "", len(order))
            )
            for call in [calls.get(message.tool_call_id or "", unknown)]
        ]
        return _render(self.results, results=results)


def _when_shown(
    tools: Sequence[Tool], shown_at: ShownAt, num_leading: int
) -> tuple[list[Tool], dict[int, list[Tool]]]:
    """The tools to begin with, and further ones by the index of their message behind the leading
    ones."""
    if not shown_at:
        return list(tools), {}
    by_name = {tool.name: tool for tool in tools}
    (_, first), *later = (
        (index - num_leading, [by_name[name] for name in names if name in by_name])
        for index, names in sorted(shown_at.items())
    )
    return first, {index: brought for index, brought in later if brought}


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


# The same tools come with every request of a conversation, and with many conversations.


def tools_key(tools: Sequence[Tool]) -> bytes:
    """The tools as JSON: what caches are keyed by. Raises orjson.JSONEncodeError."""
    return orjson.dumps([(t.name, t.description, t.parameters, t.strict) for t in tools])


def tools_of(key: bytes) -> list[Tool]:
    return [Tool(*fields) for fields in orjson.loads(key)]


@latest(_MAX_TOOLS_BYTES, lambda text, source, key, system, parallel: 2 * len(text) + len(key))
def _system_text(source: str, key: bytes, system: str, parallel: bool) -> str:
    return _render(source, system=system, tools=tools_of(key), parallel=parallel)


def _around(source: str, content: str, tools: Sequence[Tool]) -> str:
    around: tuple[str, str] = _around_request(source, tools_key(tools))
    return around[0] + content + around[1]


@latest(_MAX_TOOLS_BYTES, lambda texts, source, key: 2 * sum(map(len, texts)) + len(key))
def _around_request(source: str, key: bytes) -> tuple[str, str]:
    """What stands before and behind the content of a user message that brings tools."""
    before, _, after = _render(source, content=_CONTENT, tools=tools_of(key)).partition(_CONTENT)
    return before, after


def grammars_folder() -> Path:
    """Where the family files are: in the installed package, or beside it in a checkout."""
    installed = Path(str(resources.files("f1"))) / "grammars"
    return installed if installed.is_dir() else installed.parent.parent / "grammars"


def load_family(path: Path) -> Family:
    data = json.loads(path.read_text("utf-8"))
    request = "\n".join(data["request"])
    more = "\n".join(data["more"]) if "more" in data else _MORE
    for key, text in (("request", request), ("more", more)):
        if text.count("{{ content }}") != 1:
            message = f"{path}: {key!r} must hold {{{{ content }}}} once"
            raise InvalidRequest(message, param="grammars")
    return Family(
        name=path.stem,
        models=tuple(data["models"]),
        forms=tuple(Form(**form) for form in data["forms"]),
        system="\n".join(data["system"]),
        request=request,
        more=more,
        results="\n".join(data["results"]),
        results_role=data["results_role"],
        examples=tuple(_example(example) for example in data.get("examples", ())),
        reasoning=Reasoning(**data["reasoning"]) if "reasoning" in data else None,
    )


def _example(data: Mapping[str, Any]) -> Example:
    messages: list[Message] = []
    for message in data["messages"]:
        if message["role"] == "tool":  # in the order of the calls before
            messages += [
                Message("tool", content, tool_call_id=call.id)
                for call, content in zip(messages[-1].tool_calls, message["contents"], strict=True)
            ]
            continue
        calls = tuple(
            ToolCall(f"{len(messages)}.{i}", call["name"], json.dumps(call["arguments"]))
            for i, call in enumerate(message.get("calls", ()))
        )
        messages.append(Message(message["role"], message.get("content", ""), calls))
    return Example(tuple(Tool(**tool) for tool in data["tools"]), tuple(messages))


@cache
def families(folder: Path | None = None) -> tuple[Family, ...]:
    """The families of a folder; None: F1's own."""
    paths = sorted((folder or grammars_folder()).glob("*.json"))
    return tuple(load_family(path) for path in paths if _is_family(path))


def _is_family(path: Path) -> bool:
    return "forms" in json.loads(path.read_text("utf-8"))


def family_for(model: str, folder: Path | None = None) -> Family:
    """The family whose patterns match most of `model`'s name, of `folder` if one does there;
    Hermes when none does."""
    for known in ([families(folder)] if folder else []) + [families()]:
        found = [
            (len(match.group()), family.name, family)
            for family in known
            for pattern in family.models
            if (match := re.search(pattern, model, re.IGNORECASE))
        ]
        if found:
            return max(found, key=lambda entry: entry[:2])[2]
    return next(family for family in families() if family.name == "hermes")
