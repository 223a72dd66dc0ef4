"""What of a call may be the doing of what tools returned, and not the user's.

Where a value stands can be seen (f1.planning.provenance), but a model that obeys a result may say
the value in other words, in another encoding, summed up, or pick a tool that nobody spoke of. So
from the first result that it has read, whatever the user did not say himself counts as the
result's:

    user: Mail ann@x.org what the page says      send_mail(to="ann@x.org", body="…")
    send_mail was spoken of: ✓                        to: said ✓    body: unsaid ✗

Earlier answers of the model count as results: what it read for them may be gone from the
conversation. System messages count as the user's. Results of tools that the operator calls
`trusted` count for nothing until something else was read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from f1.planning.naming import words
from f1.planning.paths import write_path
from f1.planning.plan import references
from f1.planning.provenance import tainted
from f1.tools.policy import CLEAN, Taint
from f1.tools.spec import ToolSpec
from f1.trace.entries import Origin
from f1.types import Message, Node, ToolCall, ToolResult

EARLIER = "an earlier answer"
_STEM = 5  # letters by which a word is known: "delete", "deleting"
_LOWER = {ord(letter): ord(letter) + 32 for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
# What a value that stands alone has before and behind it.
_BEFORE = re.compile(r"[\s\"'(\[{<«“\u2018`,;:=]")
_BEHIND = re.compile(r"[.,;:!?]*(?:$|[\s\"')\]}>»”\u2019`])")
_NUMBER = re.compile(r"(?<![\w.@/-])[$€£]?(-?\d[\d,]*(?:\.\d+)?)(?![\w@/]|\.\w)")


@dataclass(frozen=True, slots=True)
class _Written:
    """With what a node was written: what the user had said, and the first result read."""

    said: str
    after: str
    origins: Sequence[Origin]


@dataclass(slots=True)
class Taints:
    """Of one run. A node is `wrote` when the model has written it, and judged by `of` right before
    it runs."""

    tools: Mapping[str, ToolSpec]
    _written: dict[str, _Written] = field(default_factory=dict)
    _nodes: dict[str, Node] = field(default_factory=dict)
    _read: str = ""  # the first result of others' that was read, whatever is left out since

    def wrote(
        self, node: Node, messages: Sequence[Message], origins: Sequence[Origin] = ()
    ) -> None:
        """`messages`: the conversation as the model had read it."""
        said = "\n".join(m.content for m in messages if m.role in ("user", "system"))
        self._read = self._read or self._after(messages)
        self._written[node.id] = _Written(folded(said), self._read, origins)
        self._nodes[node.id] = node

    def of(self, node: Node, call: ToolCall, results: Mapping[str, ToolResult]) -> Taint:
        """`results`: by node id. A node that nobody wrote counts as all tainted."""
        written = self._written.get(node.id, _Written("", EARLIER, ()))
        found = tainted(node, call, written.origins, results)
        copied = {path: name for path, name in found.items() if not self._trusts_all(name, results)}
        for at, ref in references(node):
            if (source := self._source(ref.id, results)) is not None:
                copied.setdefault(write_path(at), source)
        if not written.after:
            return Taint(copied) if copied else CLEAN
        schema = self.tools[call.name].tool.parameters if call.name in self.tools else {}
        known = json.dumps(schema, default=str)
        unsaid = {
            write_path(at): written.after
            for at, value in _leaves(json.loads(call.arguments), (), known)
            if not (is_said(at, value, written.said) or _is_default(at, value, schema))
        }
        if not spoke_of(call.name, written.said):
            unsaid[""] = written.after
        return Taint(copied, unsaid, written.after)

    def _after(self, messages: Sequence[Message]) -> str:
        """The first thing read that others may have written."""
        names = {call.id: call.name for m in messages for call in m.tool_calls}
        asked = max((i for i, m in enumerate(messages) if m.role == "user"), default=0)
        for index, message in enumerate(messages):
            if message.role == "tool":
                name = names.get(message.tool_call_id or "", "a tool")
                if not self._trusts(name):
                    return name
            elif message.role == "assistant" and message.content.strip() and index < asked:
                return EARLIER
        return ""

    def _source(self, node_id: str, results: Mapping[str, ToolResult]) -> str | None:
        """The tool that others may write to, whose result this node's is, or is made of."""
        result = results.get(node_id)
        if result is None or not self._trusts(result.call.name):
            return "an earlier call" if result is None else result.call.name
        node, written = self._nodes.get(node_id), self._written.get(node_id)
        if node is None or written is None or written.after:
            return result.call.name
        found = (self._source(ref.id, results) for _, ref in references(node))
        return next((source for source in found if source is not None), None)

    def _trusts_all(self, name: str, results: Mapping[str, ToolResult]) -> bool:
        """What the tool returned in this run was made of nothing that others may have written."""
        nodes = [n.id for n in self._nodes.values() if n.tool == name and n.id in results]
        return self._trusts(name) and all(self._source(n, results) is None for n in nodes)

    def _trusts(self, name: str) -> bool:
        """What the caller runs is not the operator's, whatever is said of it."""
        spec = self.tools.get(name)
        return spec is not None and spec.runner is not None and spec.annotations.trusted


def spoke_of(tool: str, said: str) -> bool:
    """All words of its name were said."""
    return all(word[:_STEM] in said for word in words(tool) if len(word) > 2)


def is_said(at: tuple[str | int, ...], value: Any, said: str) -> bool:
    """Whole, and not as a part of something else: "x.org" is not said in "ann@x.org". True is said
    with the argument's name."""
    if value is None or value == "":
        return True  # there is nothing in it
    if value is True:
        return _has(folded(str(at[-1]).replace("_", " ")), said)
    if value is False:
        return False
    if not isinstance(value, str):
        return float(value) in {float(n.replace(",", "")) for n in _NUMBER.findall(said)}
    return _has(folded(value), said)


def _has(text: str, said: str) -> bool:
    start = said.find(text)
    while start >= 0:
        if _stands_alone(said, start, start + len(text)):
            return True
        start = said.find(text, start + 1)
    return False


def _stands_alone(said: str, start: int, end: int) -> bool:
    before = start == 0 or _BEFORE.match(said, start - 1) is not None
    return before and _BEHIND.match(said, end) is not None


def _is_default(at: tuple[str | int, ...], value: Any, schema: Mapping[str, Any]) -> bool:
    """It does what leaving it out would do."""
    if len(at) != 1:
        return False
    there = schema.get("properties", {}).get(at[0])
    return isinstance(there, Mapping) and "default" in there and there["default"] == value


def _leaves(
    value: Any, at: tuple[str | int, ...], known: str
) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Values, and keys that the schema does not name: they are as free as what is behind them."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if json.dumps(key) not in known:
                yield (*at, key), key
            yield from _leaves(inner, (*at, key), known)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(inner, (*at, index), known)
    else:
        yield at, value


def folded(text: str) -> str:
    """Letters of ASCII in lower case, white space as one space. Other letters stay what they are:
    two that look alike, or fold alike, may be two addresses."""
    return " ".join(text.translate(_LOWER).split())
