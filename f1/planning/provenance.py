"""Where the values of a call's arguments came from.

    user: From Oslo to Lisbon              book(to="Lisbon", id="KL7", seats=1, note="asap")
    search ─▶ {"flights": [{"id": "KL7"}]}            user      result   schema       model
                                                     16:22  flights[0].id  default  its own

Looked for whole before loosely; in each, what the user said before what tools returned, and that
before what F1 said; the latest first. A value that a result has whole is the user's only where it
stands whole in the user's words.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from f1.calling.latest import latest
from f1.planning.grounding import ID, SMALL, TOKEN
from f1.planning.naming import related
from f1.planning.paths import Key, write_path
from f1.planning.plan import show_ref
from f1.planning.standing import Scalar, Span, Text, fold, length, number_of, text_of
from f1.trace.entries import Origin, Source
from f1.types import Message, Node, Ref, Role, Tool, ToolCall, ToolResult

_MAX_WORK = 20_000_000  # characters looked through for one call
_MAX_LEAVES = 20_000  # of a result
_MAX_EQUAL = 16  # of which the one that goes by the argument's name is taken
_MAX_LEVELS = 64
_MAX_SCHEMAS = 32  # alternatives of one value's
_FAILED = '{"error"'
_NOTHING = object()
_SPEAKERS: Mapping[Role, Source] = {"user": "user", "system": "system", "assistant": "assistant"}

Leaf = tuple[tuple[Key, ...], Any]
_At = tuple[int, Message]
_Look = Callable[[Text, Scalar], Span | None]


def origins(
    node: Node,
    messages: Sequence[Message],
    tool: Tool | None,
    results: Mapping[str, ToolResult],
) -> tuple[Origin, ...]:
    """One for each value at the leaves of the node's arguments, in their order. `messages`: the
    conversation that the model read when it wrote them; `results`: by node id.

    Of a value in the JSON of a result `field` says where; `start` and `end` where it is text. The
    work is bounded: where that is spent, values count as results', where there are any.
    """
    search = _Search(node.tool, messages, tool)
    found = []
    for keys, value in leaves(node.arguments):
        if isinstance(value, Ref):
            result = results.get(value.id)
            call_id = "" if result is None else result.call.id
            path, text = write_path(keys), show_ref(value)
            found.append(Origin(path, "reference", call_id=call_id, field=value.path, text=text))
        else:
            found.append(search.origin(keys, value))
    return tuple(found)


def tainted(
    node: Node,
    call: ToolCall,
    found: Sequence[Origin],
    results: Mapping[str, ToolResult],
) -> dict[str, str]:
    """Paths in the call's arguments with a value that came from what a tool returned, also in part,
    and that tool's name. A value that a person has put in its place did not."""
    tools = {result.call.id: result.call.name for result in results.values()}
    given = dict(_written(leaves(node.arguments)))
    bound = dict(_written(leaves(json.loads(call.arguments))))
    return {
        origin.path: tools.get(origin.call_id, "a tool")
        for origin in found
        if origin.source == "reference"
        or (origin.source == "result" and given.get(origin.path) == bound.get(origin.path))
    }


def leaves(value: Any, keys: tuple[Key, ...] = ()) -> Iterator[Leaf]:
    """Texts, numbers, true, false, null and references, and the ways to them."""
    if isinstance(value, Mapping) and len(keys) < _MAX_LEVELS:
        for key, inner in value.items():
            yield from leaves(inner, (*keys, str(key)))
    elif isinstance(value, list | tuple) and len(keys) < _MAX_LEVELS:
        for index, inner in enumerate(value):
            yield from leaves(inner, (*keys, index))
    elif not isinstance(value, Mapping | list | tuple):
        yield keys, value


def _written(found: Iterator[Leaf]) -> Iterator[tuple[str, Any]]:
    return ((write_path(keys), value) for keys, value in found)


class _Search:
    """For the values of one call."""

    def __init__(self, name: str, messages: Sequence[Message], tool: Tool | None):
        self._name = name
        self._parameters = tool.parameters if tool is not None else {}
        asked = max((i for i, m in enumerate(messages) if m.role == "user"), default=0)
        last_first = list(enumerate(messages))[::-1]
        self._user = [(i, m) for i, m in last_first if m.role == "user"]
        self._told = [(i, m) for i, m in last_first if m.role == "system"]
        self._told += [(i, m) for i, m in last_first if m.role == "assistant" and i < asked]
        calls = {call.id: call for message in messages for call in message.tool_calls}
        self._results = [
            _Result(i, m, calls.get(m.tool_call_id or ""))
            for i, m in last_first
            if m.role == "tool"
        ]
        self._cost = 1 + sum(len(message.content) for message in messages)
        self._left = _MAX_WORK

    def origin(self, keys: tuple[Key, ...], value: Any) -> Origin:
        path = write_path(keys)
        listed = self._listed(path, keys, value)
        if isinstance(value, bool) or value is None or value == "":
            return listed or Origin(path, "model")
        if not isinstance(value, str | int | float):
            return Origin(path, "model")
        self._left -= self._cost
        if self._left < 0:
            return listed or self._unseen(path)
        name = next((key for key in reversed(keys) if isinstance(key, str)), "")
        small = not isinstance(value, str) and abs(value) <= SMALL and not ID.search(name)
        return (
            self._said(path, value, self._user, Text.whole)
            or (listed if small else None)
            or self._returned(path, name, value, small)
            or listed
            or self._said(path, value, self._told, Text.whole)
            or self._said(path, value, self._user, Text.day)
            or self._returned_in_part(path, value)
            or self._said(path, value, self._user, Text.loosely)
            or self._said(path, value, self._told, Text.loosely)
            or Origin(path, "model")
        )

    def _said(
        self, path: str, value: Scalar, messages: Sequence[_At], look: _Look
    ) -> Origin | None:
        for index, message in messages:
            text = text_of(message.content)
            if (span := look(text, value)) is not None:
                return _spanned(path, _SPEAKERS[message.role], index, text, span, value)
        return None

    def _returned(self, path: str, name: str, value: Scalar, small: bool) -> Origin | None:
        """Results that only repeat what they were called with come last."""
        spelled = json.dumps(value, ensure_ascii=False)
        repeating = []
        for result in self._results:
            if spelled in result.arguments:
                repeating.append(result)
            elif (found := self._field(result, path, name, value, small)) is not None:
                return found
        for result in repeating:
            found = None if result.failed else self._field(result, path, name, value, small)
            if found is not None:
                return found
        return None

    def _field(
        self, result: _Result, path: str, name: str, value: Scalar, small: bool
    ) -> Origin | None:
        """Of an object or a list the field that is the value, or has it in its text."""
        if not result.text.may_have(value):
            return None
        may_be = _may_be(value)
        found = (each for each in result.leaves if may_be(each[1]) and _equal(each[1], value))
        equal = list(islice(found, _MAX_EQUAL))
        if equal:
            maker = result.call.name if result.call is not None else ""
            named = (each for each in equal if related(name, self._name, _name(each[0]), maker))
            keys, leaf = next(named, equal[0])
            return result.field(path, keys, "" if _spelled(leaf) == _spelled(value) else leaf)
        span = result.text.whole(value)
        if small or span is None:
            return None
        return result.within(path, span, value)

    def _returned_in_part(self, path: str, value: Scalar) -> Origin | None:
        """With words that the user did not say: the result that has most of it."""
        said = set().union(*(text_of(message.content).tokens for _, message in self._user))
        best: tuple[_Result, Span] | None = None
        for result in self._results:
            without = said.union(TOKEN.findall(fold(result.arguments)))
            span = result.text.loosely(value, without)
            if span is not None and (best is None or length(span) > length(best[1])):
                best = result, span
        return best[0].within(path, best[1], value) if best is not None else None

    def _unseen(self, path: str) -> Origin:
        if not self._results:
            return Origin(path, "model")
        return Origin(path, "result", call_id=self._results[0].call_id)

    def _listed(self, path: str, keys: Sequence[Key], value: Any) -> Origin | None:
        """`field` says as what."""
        for schema in _schemas(self._parameters, keys):
            if "default" in schema and _equal(schema["default"], value):
                return Origin(path, "schema", field="default")
            listed = schema["enum"] if isinstance(schema.get("enum"), list) else []
            if any(_equal(each, value) for each in (*listed, schema.get("const", _NOTHING))):
                return Origin(path, "schema", field="enum")
        return None


@dataclass(frozen=True, slots=True)
class _Result:
    """What a tool returned, as the model read it."""

    index: int
    message: Message
    call: ToolCall | None

    @property
    def call_id(self) -> str:
        return self.message.tool_call_id or ""

    @property
    def text(self) -> Text:
        text: Text = text_of(self.message.content)
        return text

    @property
    def arguments(self) -> str:
        return "" if self.call is None else self.call.arguments

    @property
    def failed(self) -> bool:
        return self.message.content.startswith(_FAILED)

    @property
    def leaves(self) -> Sequence[Leaf]:
        found: Sequence[Leaf] = _leaves_of(self.message.content)
        return found

    def within(self, path: str, span: Span, value: Scalar) -> Origin:
        """The field with that piece of the text in it; where no field has, the piece."""
        piece = self.message.content[slice(*span)]
        for keys, leaf in self.leaves:
            if isinstance(leaf, str) and piece in leaf:
                return self.field(path, keys, piece)
        found = _spanned(path, "result", self.index, self.text, span, value)
        return replace(found, call_id=self.call_id)

    def field(self, path: str, keys: Sequence[Key], text: object) -> Origin:
        return Origin(
            path, "result", self.index, None, None, self.call_id, write_path(keys), _spelled(text)
        )


@latest(16 << 20, lambda found, content: 40 * len(content) + 1000)
def _leaves_of(content: str) -> Sequence[Leaf]:
    """Of an object or a list, if that is what it is; as many of them as are looked at."""
    if content.lstrip()[:1] not in ("{", "["):
        return ()
    try:
        return tuple(islice(leaves(json.loads(content)), _MAX_LEAVES))
    except (ValueError, RecursionError):
        return ()


def _spanned(
    path: str, source: Source, index: int, text: Text, span: Span, value: Scalar
) -> Origin:
    piece = text.content[slice(*span)]
    said = "" if piece == _spelled(value) else piece
    return Origin(path, source, index, *span, text=said)


def _spelled(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _equal(a: Any, b: Any) -> bool:
    """They say the same, as text or as a number."""
    if isinstance(a, bool | None) or isinstance(b, bool | None):
        return a is b
    if isinstance(a, str) and isinstance(b, str):
        return a == b or fold(a.strip()) == fold(b.strip())
    numbers = [number_of(each) if isinstance(each, str) else each for each in (a, b)]
    return numbers[0] is not None and numbers[0] == numbers[1]


def _may_be(value: Scalar) -> Callable[[Any], bool]:
    """Cheaper than `_equal`, and never less: of texts without numbers it is the length."""
    number = number_of(value.strip()) if isinstance(value, str) else value
    if isinstance(value, str) and number is None:
        size = len(value.strip())
        return lambda leaf: (
            isinstance(leaf, str) and len(leaf) >= size and len(leaf.strip()) == size
        )
    return lambda leaf: leaf == number or isinstance(leaf, str)


def _name(keys: Sequence[Key]) -> str | None:
    return next((key for key in reversed(keys) if isinstance(key, str)), None)


# --- what a schema says of a value ---------------------------------------------------------------


def _schemas(parameters: Any, keys: Sequence[Key]) -> Sequence[Mapping[str, Any]]:
    """Those that hold for the value behind the keys."""
    here = _alternatives(parameters, parameters)
    for key in keys:
        inner = [each for schema in here for each in _inside(schema, key)]
        here = [each for schema in inner for each in _alternatives(schema, parameters)]
    return here


def _inside(schema: Mapping[str, Any], key: Key) -> Iterator[Any]:
    if isinstance(key, int):
        yield schema.get("items")
    elif isinstance(properties := schema.get("properties"), Mapping) and key in properties:
        yield properties[key]
    else:
        yield schema.get("additionalProperties")


def _alternatives(schema: Any, root: Any) -> list[Mapping[str, Any]]:
    """The schema, and those that it consists of or refers to."""
    found: list[Mapping[str, Any]] = []
    waiting = [schema]
    while waiting and len(found) < _MAX_SCHEMAS:
        if not isinstance(each := waiting.pop(), Mapping):
            continue
        found.append(each)
        for keyword in ("anyOf", "oneOf", "allOf"):
            waiting += each[keyword] if isinstance(each.get(keyword), list) else []
        where, _, name = str(each.get("$ref", "")).rpartition("/")
        if where in ("#/$defs", "#/definitions"):
            definitions = root.get(where[2:])
            waiting += [definitions.get(name)] if isinstance(definitions, Mapping) else []
    return found
