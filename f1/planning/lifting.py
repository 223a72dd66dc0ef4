"""A tool's parameters with room for references: what a call may say before results are there.

    amount: number  ──with node 1, which returns {"price": number, "name": string}──▶
    amount: number | {"ref": "1", "path": "price"}

Wherever the schema takes a value that an earlier node can give, the node's id and the path of a
part that fits are possible beside the literals, and no others. It is a JSON Schema like any, so the
grammar that holds a call to its schema holds its references too.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from f1.calling.latest import latest
from f1.calling.schema import schema_text
from f1.calling.shapes import Array, Object
from f1.planning.fitting import Part, below, fits, part_of
from f1.planning.naming import related
from f1.planning.paths import write_path
from f1.types import JsonSchema, Tool

MAX_FIELDS = 48  # of one output that can be referred to
_MAX_INPUT_LEVELS = 3  # of parameters
_MAX_OUTPUT_LEVELS = 4
_INDEX = "([0-9]|[1-9][0-9])"
_ANY_PATH = r"^[A-Za-z_][A-Za-z0-9_-]{0,39}(\.[A-Za-z_][A-Za-z0-9_-]{0,39}|\[[0-9]{1,2}\]){0,3}$"
_DEFS = "$defs"


@dataclass(frozen=True, slots=True)
class Source:
    """An earlier node; `output` None: nothing is known of what its tool returns."""

    node_id: str
    tool: str
    output: JsonSchema | None


@dataclass(frozen=True, slots=True)
class Field:
    """A part of an output: its keys, None standing for any index."""

    keys: tuple[str | None, ...]
    part: Part

    @property
    def pattern(self) -> str | None:
        """Of its paths; None where it is one path."""
        if None not in self.keys:
            return None
        marked = write_path([0 if key is None else key for key in self.keys])
        text = "".join("\\" + c if c in r"\.[]{}()*+?|^$" else c for c in marked)
        return f"^{text}$".replace(r"\[0\]", rf"\[{_INDEX}\]")

    @property
    def name(self) -> str | None:
        """The innermost."""
        return next((key for key in reversed(self.keys) if key is not None), None)

    @property
    def path(self) -> str:
        return write_path([0 if key is None else key for key in self.keys])


def lift(tool: Tool, sources: Sequence[Source]) -> Tool:
    """The tool, accepting references to what these nodes will return beside all literals."""
    return _lift(tool, sources, (), loosely=True) or tool


def lift_only(
    tool: Tool, sources: Sequence[Source], only: Collection[str], *, loosely: bool
) -> Tool | None:
    """The tool, accepting references alone for the arguments named by `only`, and for no others:
    to fields that go by that name and are in no list. `loosely`: also to those, and where there is
    none of the name to all that fit. None: an argument has none."""
    return _lift(tool, sources, tuple(only), loosely=loosely)


def _lift(
    tool: Tool, sources: Sequence[Source], only: tuple[str, ...], *, loosely: bool
) -> Tool | None:
    given = tuple((s.node_id, s.tool, _text(s.output)) for s in sources)
    schema = schema_text(tool.parameters, "parameters")
    accepts = _lifted(schema, tool.name, given, only, loosely) if tool.strict else None
    return None if accepts is None else replace(tool, accepts=accepts)


def fields_of(output: JsonSchema | None) -> list[Field]:
    """The parts of an output that a path leads to, the whole first."""
    found: list[Field] = []
    for field in _fields((), part_of(output), _MAX_OUTPUT_LEVELS):
        found.append(field)
        if len(found) == MAX_FIELDS:
            break
    return found


@latest(8 << 20, lambda lifted, schema, *_: 4 * len(json.dumps(lifted)) + len(schema) + 1000)
def _lifted(
    schema: bytes,
    tool: str,
    sources: tuple[tuple[str, str, bytes | None], ...],
    only: tuple[str, ...],
    loosely: bool,
) -> JsonSchema | None:
    """None: nothing of it can be referred to, or not all that has to be."""
    root = json.loads(schema)
    known = [Source(node_id, maker, _loads(text)) for node_id, maker, text in sources]
    lifting = _Lifting(tool, known, frozenset(only), loosely)
    lifted = lifting.inside(root, part_of(root), _MAX_INPUT_LEVELS)
    if not lifting.definitions or not lifting.only <= lifting.lifted:
        return None
    return {**lifted, _DEFS: {**root.get(_DEFS, {}), **lifting.definitions}}


class _Lifting:
    """One schema's. References that several places may hold are defined once."""

    def __init__(self, tool: str, sources: Sequence[Source], only: frozenset[str], loosely: bool):
        self._tool = tool
        self._sources = [
            (source, None if source.output is None else fields_of(source.output))
            for source in sources
        ]
        self.only = only  # names at the top
        self.lifted: set[str] = set()  # those of them with a reference
        self._loosely = loosely
        self.definitions: dict[str, Any] = {}
        self._names: dict[str, str] = {}

    def inside(self, node: Any, part: Part, levels: int) -> Any:
        """The schema of a value, with room for references in its parts."""
        if not isinstance(node, dict) or not levels:
            return node
        lifted = dict(node)
        shapes = part.shapes() or []
        properties = node.get("properties")
        if isinstance(properties, dict):
            lifted["properties"] = {
                name: self._value(inner, _at(part, shapes, name), levels, name)
                for name, inner in properties.items()
            }
        if isinstance(node.get("items"), dict):
            lifted["items"] = self._value(node["items"], _at(part, shapes, 0), levels)
        for key in ("anyOf", "oneOf"):
            if isinstance(node.get(key), list):
                lifted[key] = [self.inside(inner, part, levels - 1) for inner in node[key]]
        return lifted

    def _value(self, node: Any, part: Part | None, levels: int, name: str = "") -> Any:
        """The schema of a value that a reference may stand in place of."""
        if part is None:
            return node
        if self.only:  # all else was said, and stays
            if name not in self.only or levels != _MAX_INPUT_LEVELS:
                return node
            held = [self._refer(of) for of in self._references(self._meant(name, part))]
            self.lifted |= {name} if held else set()
            return {"anyOf": held} if held else node
        references = [self._refer(of) for of in self._references(self._fitting(part))]
        literal = self.inside(node, part, levels - 1)
        return {"anyOf": [literal, *references]} if references else literal

    def _fitting(self, part: Part) -> list[tuple[Source, list[Field] | None]]:
        """What of each source may stand there; None: it may well be, for all that is known."""
        return [
            (source, fields and [field for field in fields if fits(field.part, part) != "never"])
            for source, fields in self._sources
        ]

    def _meant(self, name: str, part: Part) -> list[tuple[Source, list[Field] | None]]:
        """What of it a made-up argument of that name can stand for: where there are any, fields
        that go by the name."""
        fitting = self._fitting(part)
        named: list[tuple[Source, list[Field] | None]] = [
            (source, [f for f in fields if related(name, self._tool, f.name, source.tool)])
            for source, fields in fitting
            if fields is not None
        ]
        if self._loosely:
            return named if any(fields for _, fields in named) else fitting
        return [(s, [f for f in fields or () if None not in f.keys]) for s, fields in named]

    def _references(
        self, fitting: Sequence[tuple[Source, list[Field] | None]]
    ) -> Iterator[dict[str, Any]]:
        for source, fields in fitting:
            if fields is None:
                yield _reference(source.node_id, {"type": "string", "pattern": _ANY_PATH})
                yield _reference(source.node_id, None)
                continue
            if any(not field.keys for field in fields):
                yield _reference(source.node_id, None)
            patterns = [field.pattern for field in fields if field.keys]
            paths = [field.path for field in fields if field.keys and field.pattern is None]
            ways: list[JsonSchema] = [{"enum": paths}] if paths else []
            ways += [{"type": "string", "pattern": p} for p in patterns if p is not None]
            if ways:
                yield _reference(source.node_id, ways[0] if len(ways) == 1 else {"anyOf": ways})

    def _refer(self, schema: dict[str, Any]) -> dict[str, Any]:
        """To the definition, which is made once."""
        text = json.dumps(schema)
        if text not in self._names:
            name = f"f1.reference.{len(self._names)}"
            self._names[text] = name
            self.definitions[name] = schema
        return {"$ref": f"#/{_DEFS}/{self._names[text]}"}


def _reference(node_id: str, path: JsonSchema | None) -> dict[str, Any]:
    properties: dict[str, Any] = {"ref": {"const": node_id}}
    if path is not None:
        properties["path"] = path
    required = list(properties)
    closed = {"type": "object", "required": required, "additionalProperties": False}
    return {"properties": properties, **closed}


def _fields(keys: tuple[str | None, ...], part: Part, levels: int) -> Iterator[Field]:
    yield Field(keys, part)
    shapes = part.shapes() if levels else None
    for shape in shapes or ():
        if isinstance(shape, Object):
            for name in shape.properties:
                if (inner := part.at(name)) is not None:
                    yield from _fields((*keys, name), inner, levels - 1)
        elif isinstance(shape, Array) and (inner := part.at(0)) is not None:
            yield from _fields((*keys, None), inner, levels - 1)


def _at(part: Part, shapes: Sequence[Any], key: str | int) -> Part | None:
    ways = [way for shape in shapes for way in below(shape, key)]
    return Part(part.reader, tuple(ways)) if ways else None


def _text(output: JsonSchema | None) -> bytes | None:
    return None if output is None else schema_text(output, "output")


def _loads(text: bytes | None) -> Mapping[str, Any] | None:
    return None if text is None else json.loads(text)
