"""Whether a plan holds together, before anything of it runs: names, order, paths and types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from f1.calling.shapes import Array, Number, Object, Shape, String, Values
from f1.errors import InvalidRequest
from f1.planning.fitting import Part, below, fits, part_of
from f1.planning.paths import parse_path, write_path
from f1.tools.spec import ToolSpec
from f1.types import Node, Ref

_SHOWN = 80  # characters of a value, in errors
_LISTED = 20  # names


def check_nodes(nodes: Sequence[Node], tools: Mapping[str, ToolSpec], param: str) -> None:
    """Raises InvalidRequest for the first thing wrong, `param` being the plan's own path."""
    places = {node.id: index for index, node in reversed([*enumerate(nodes)])}
    for index, node in enumerate(nodes):
        here = f"{param}.nodes[{index}]"
        if (first := places[node.id]) < index:
            raise _refuse(f"{here}.id", f"must be an id of its own: nodes[{first}] is {node.id!r}")
        if node.tool not in tools:
            known = _list(tools)
            raise _refuse(f"{here}.tool", f"must be a tool ({known}), not {shown(node.tool)}")
        for place, needed in enumerate(node.after):
            _check_order(needed, node, nodes, f"{here}.after[{place}]")
        earlier = {other.id: other for other in nodes[:index]}
        _Arguments(node, earlier, nodes, tools).check(here)


def unchecked(
    node: Node, earlier: Mapping[str, Node], tools: Mapping[str, ToolSpec]
) -> tuple[str, ...]:
    """Paths of the arguments that only a run can tell the type of. The node has been checked."""
    return _Arguments(node, earlier, (), tools).check("")


def _check_order(needed: str, node: Node, nodes: Sequence[Node], param: str) -> None:
    """A node needs only nodes that stand before it."""
    ids = [other.id for other in nodes]
    if needed == node.id:
        raise _refuse(param, f"must be an earlier node, not node {needed!r} itself")
    if needed not in ids:
        earlier = _list(ids[: ids.index(node.id)])
        raise _refuse(param, f"must be an earlier node ({earlier}), not {shown(needed)}")
    if ids.index(needed) > ids.index(node.id):
        told = f"must be an earlier node: {needed!r} stands later"
        circle = _way(nodes, needed, node.id)
        raise _refuse(param, f"{told}, and needs {node.id!r} itself: a cycle" if circle else told)


def _way(nodes: Sequence[Node], start: str, goal: str) -> bool:
    """Whether `start` needs `goal`, over however many others."""
    needed = {node.id: {*node.after, *(r.id for r in _refs(node.arguments))} for node in nodes}
    seen, waiting = set[str](), [start]
    while waiting:
        for other in needed.get(waiting.pop(), ()):
            if other == goal:
                return True
            if other not in seen:
                seen.add(other)
                waiting.append(other)
    return False


class _Arguments:
    """One node's arguments, held to its tool's parameters."""

    def __init__(
        self,
        node: Node,
        earlier: Mapping[str, Node],
        nodes: Sequence[Node],
        tools: Mapping[str, ToolSpec],
    ):
        self._node, self._earlier, self._nodes, self._tools = node, earlier, nodes, tools
        self._outputs: dict[str, Part] = {}
        self._here = ""

    def check(self, here: str) -> tuple[str, ...]:
        """Paths of those whose type is not known. Raises InvalidRequest."""
        self._here = f"{here}.arguments" if here else "arguments"
        part = part_of(self._tools[self._node.tool].tool.parameters)
        return tuple(self._value(self._node.arguments, part, ()))

    def _value(self, value: Any, part: Part, at: tuple[str | int, ...]) -> list[str]:
        if isinstance(value, Ref):
            return self._reference(value, part, at)
        if not any(True for _ in _refs(value)):
            problem = part.check(_plain(value))
            if problem is not None:
                path = self._path((*at, *problem.path))
                raise _refuse(path, f"must fit its schema: {problem.message}")
            return []
        shapes = part.shapes()
        kind: type[Object] | type[Array] = Object if isinstance(value, Mapping) else Array
        options = [None] if shapes is None else [s for s in shapes if isinstance(s, kind)]
        if not options:
            expected = f"must be {_words(shapes)}, not {shown(value)}"
            raise _refuse(self._path(at), expected)
        errors = []
        for option in options:
            try:
                return self._inside(value, option, part, at)
            except InvalidRequest as error:
                errors.append(error)
        raise max(errors, key=lambda error: len(error.param or ""))  # that came furthest

    def _inside(
        self, value: Any, shape: Shape | None, part: Part, at: tuple[str | int, ...]
    ) -> list[str]:
        if isinstance(shape, Object | Array):
            self._check_counts(value, shape, at)
        found: list[str] = []
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, inner in items:
            ways = below(shape, key)
            if not ways:
                known = f" ({_list(shape.properties)})" if isinstance(shape, Object) else ""
                raise _refuse(self._path((*at, key)), f"must be a known parameter{known}")
            found += self._value(inner, Part(part.reader, tuple(ways)), (*at, key))
        return found

    def _check_counts(self, value: Any, shape: Object | Array, at: tuple[str | int, ...]) -> None:
        if isinstance(shape, Object):
            missing = [name for name in shape.properties if name in shape.required - value.keys()]
            if missing:
                raise _refuse(self._path(at), f"must have {missing[0]!r}, which is required")
        if not shape.low <= len(value) <= (len(value) if shape.high is None else shape.high):
            most = "any number of" if shape.high is None else f"up to {shape.high}"
            told = f"must hold {shape.low} to {most} values, not {len(value)}"
            raise _refuse(self._path(at), told)

    def _reference(self, ref: Ref, part: Part, at: tuple[str | int, ...]) -> list[str]:
        here = self._path(at)
        if ref.id not in self._earlier:
            _check_order(ref.id, self._node, self._nodes, f"{here}.ref")
        spec = self._tools[self._earlier[ref.id].tool]
        if spec.output is None:
            return [write_path(at)]
        given: Part = self._outputs.setdefault(ref.id, part_of(spec.output))
        keys = parse_path(ref.path)
        for index, key in enumerate(keys):
            inner = given.at(key)
            if inner is None:
                there = f"what {spec.name} returns"
                there += f" at {write_path(keys[:index])}" if index else ""
                told = f"must lead to something: {there} is {_words(given.shapes())}"
                raise _refuse(f"{here}.path", told)
            given = inner
        fit = fits(given, part)
        if fit == "never":
            where = f"{here}.path" if ref.path else here
            found = f"what {spec.name} returns there is {_words(given.shapes())}"
            raise _refuse(where, f"must lead to {_words(part.shapes())}; {found}")
        return [] if fit == "always" else [write_path(at)]

    def _path(self, at: tuple[str | int, ...]) -> str:
        parts = (f"[{key}]" if isinstance(key, int) else f".{key}" for key in at)
        return self._here + "".join(parts)


def _refs(value: Any) -> list[Ref]:
    if isinstance(value, Ref):
        return [value]
    inner = value.values() if isinstance(value, Mapping) else value
    found = inner if isinstance(value, Mapping | list | tuple) else ()
    return [ref for item in found for ref in _refs(item)]


def _plain(value: Any) -> Any:
    """As validation knows JSON."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


# --- words for errors ----------------------------------------------------------------------------


def shown(value: object) -> str:
    """A value as an error may show it."""
    match value:
        case Mapping():
            return "an object"
        case list() | tuple():
            return "an array"
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case _:
            text = repr(value)
            return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _words(shapes: list[Shape] | None) -> str:
    """What may stand at a place."""
    if shapes is None:
        return "anything"
    return " or ".join(dict.fromkeys(map(_word, shapes))) or "nothing"


def _word(shape: Shape) -> str:
    match shape:
        case Values():
            return shown(shape.values[0]) if len(shape.values) == 1 else _one_of(shape)
        case String():
            return "text"
        case Number():
            return "an integer" if shape.integer else "a number"
        case Array():
            return "an array"
        case Object():
            return f"an object with {_list(shape.properties)}" if shape.properties else "an object"


def _one_of(shape: Values) -> str:
    if set(map(repr, shape.values)) == {"True", "False"}:
        return "true or false"
    return f"one of {_list(map(shown, shape.values))}"


def _list(names: Any) -> str:
    listed = [str(name) for name in names]
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return (", ".join(listed[:_LISTED]) or "there is none") + more


def _refuse(param: str, expected: str) -> InvalidRequest:
    return InvalidRequest(f"'{param}' {expected}", param=param)
