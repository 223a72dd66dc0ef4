"""Whether what a tool returns may stand where another one takes something.

    output schema ──at("items")──at(0)──at("price")──▶ Part ─┐
                                                             ├─ fits ──▶ always | sometimes | never
    parameters    ──at("item")──▶ Part ──────────────────────┘

Decided by type and bounds, carefully: "always" only where each value that the one schema allows is
allowed by the other. What fits sometimes is looked at when it is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from f1.calling.document import document
from f1.calling.schema import schema_text
from f1.calling.shapes import (
    ANYTHING,
    Array,
    Conjunction,
    Number,
    Object,
    Shape,
    Shapes,
    String,
    Values,
)
from f1.calling.validating import Problem
from f1.types import JsonSchema

Fit = Literal["always", "sometimes", "never"]

_MAX_LEVELS = 6  # of values that are compared part by part
_ANYTHING: JsonSchema = {}


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A place in what a schema allows; its value goes one of these `ways`."""

    reader: Shapes
    ways: tuple[Conjunction, ...]

    def shapes(self) -> list[Shape] | None:
        """What may stand here; None: anything."""
        found: list[Shape] = []
        for way in self.ways:
            shapes = self.reader.of(way)
            if shapes is None:
                return None
            found += shapes
        return found

    def at(self, key: str | int) -> Part | None:
        """The place below; None where no value has it."""
        shapes = self.shapes()
        if shapes is None:
            return Part(self.reader, (ANYTHING,))
        ways = [way for shape in shapes for way in below(shape, key)]
        return Part(self.reader, tuple(ways)) if ways else None

    def check(self, value: Any) -> Problem | None:
        """None where the value may stand here; else what is wrong with it."""
        problems = [self.reader.check(way, value) for way in self.ways]
        return None if None in problems else problems[0]


def part_of(schema: JsonSchema | None) -> Part:
    """All of what the (checked) schema allows; without one, anything."""
    text = schema_text(_ANYTHING if schema is None else schema, "schema")
    reader = Shapes(document(text), "schema")
    return Part(reader, ((reader.root,),))


def fits(given: Part, wanted: Part) -> Fit:
    """Whether all, some or none of what `given` allows is allowed by `wanted`."""
    wanted.reader.relaxed.clear()
    fit = _fits(given, wanted, _MAX_LEVELS)
    is_wider = bool(wanted.reader.relaxed)  # its shapes allow more than it does
    return "sometimes" if fit == "always" and is_wider else fit


def _fits(given: Part, wanted: Part, levels: int) -> Fit:
    options = wanted.shapes()
    if options is None:
        return "always"
    shapes = given.shapes()
    if shapes is None or not levels:
        return "sometimes"
    return _all(_best(given, shape, wanted, options, levels) for shape in shapes)


def _best(given: Part, shape: Shape, wanted: Part, options: list[Shape], levels: int) -> Fit:
    if isinstance(shape, Values):
        return _all("never" if wanted.check(v) else "always" for v in shape.values)
    found = [_one(given, shape, wanted, option, levels) for option in options]
    return "always" if "always" in found else "sometimes" if "sometimes" in found else "never"


def _one(given: Part, shape: Shape, wanted: Part, option: Shape, levels: int) -> Fit:
    match shape, option:
        case _, Values():
            return "sometimes" if any(_is_kind(v, shape) for v in option.values) else "never"
        case String(), String():
            return "always" if option.text in (None, shape.text) else "sometimes"
        case Number(), Number():
            return _numbers(shape, option)
        case Array(), Array():
            return _arrays(given, shape, wanted, option, levels)
        case Object(), Object():
            return _objects(given, shape, wanted, option, levels)
        case _:
            return "never"


def _is_kind(value: Any, shape: Shape) -> bool:
    match shape:
        case String():
            return isinstance(value, str)
        case Number():
            return isinstance(value, int | float) and not isinstance(value, bool)
        case Array():
            return isinstance(value, list)
        case _:
            return isinstance(value, dict)


def _numbers(a: Number, b: Number) -> Fit:
    if a.low is not None and b.high is not None and a.low > b.high:
        return "never"
    if a.high is not None and b.low is not None and a.high < b.low:
        return "never"
    low = b.low is None or (a.low is not None and (a.low, a.above) >= (b.low, b.above))
    high = b.high is None or (a.high is not None and (-a.high, a.below) >= (-b.high, b.below))
    inside = low and high and (a.integer or not b.integer) and b.step in (None, a.step)
    return "always" if inside else "sometimes"


def _arrays(given: Part, a: Array, wanted: Part, b: Array, levels: int) -> Fit:
    if (b.high is not None and a.low > b.high) or (a.high is not None and b.low > a.high):
        return "never"
    longest = b.high is None or (a.high is not None and a.high <= b.high)
    found: list[Fit] = ["always" if b.low <= a.low and longest else "sometimes"]
    size = max(len(a.prefix), len(b.prefix)) + 1
    for index in range(size if a.high is None else min(size, a.high)):
        mine, theirs = _item(a, index), _item(b, index)
        if mine is None:
            break
        fit: Fit = "never"
        if theirs is not None:
            fit = _fits(Part(given.reader, (mine,)), Part(wanted.reader, (theirs,)), levels - 1)
        if fit == "never" and index < a.low:
            return "never"
        found.append("sometimes" if fit == "never" else fit)
    return _all(found)


def _item(shape: Array, index: int) -> Conjunction | None:
    return shape.prefix[index] if index < len(shape.prefix) else shape.rest


def _objects(given: Part, a: Object, wanted: Part, b: Object, levels: int) -> Fit:
    is_open = a.extra is not None or bool(a.patterned)
    known = b.required <= a.required and not is_open
    counted = b.low <= len(a.required) and (b.high is None or len(a.properties) <= b.high)
    found: list[Fit] = ["always" if known and counted and b.names is None else "sometimes"]
    if not is_open and any(name not in a.properties for name in b.required):
        return "never"
    for name, mine in a.properties.items():
        ways = below(b, name)
        part = Part(wanted.reader, tuple(ways))
        fit = _fits(Part(given.reader, (mine,)), part, levels - 1) if ways else "never"
        if fit == "never" and name in a.required:
            return "never"
        found.append("sometimes" if fit == "never" else fit)
    return _all(found)


def below(shape: Shape | None, key: str | int) -> Sequence[Conjunction]:
    """What the shape says of its part; None: anything may stand there."""
    match shape:
        case None:
            return [ANYTHING]
        case Values():
            kind = dict if isinstance(key, str) else list
            return [ANYTHING] if any(isinstance(value, kind) for value in shape.values) else []
        case Array() if isinstance(key, int) and (shape.high is None or key < shape.high):
            item = _item(shape, key)
            return [] if item is None else [item]
        case Object() if isinstance(key, str):
            if key in shape.properties:
                return [shape.properties[key]]
            if key in shape.forbidden:
                return []
            extra = [] if shape.extra is None else [shape.extra]
            return [*(way for _, way in shape.patterned), *extra]
        case _:
            return []


def _all(fits: Iterable[Fit]) -> Fit:
    found = set(fits)
    if found == {"always"}:
        return "always"
    return "never" if found <= {"never"} else "sometimes"
