"""A schema as xgrammar gets it right and in time, and what that leaves to validation.

The grammar is made of the lowered schema, a call is checked against the schema as given. So what
is dropped here is never lost: it is enforced later, and reported.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from f1.types import JsonSchema, Relaxed

# Characters that all bounds of one schema may make its grammar count. Each is a state of its own,
# and takes some 20 milliseconds of the request that brings it.
MAX_COUNTED = 64

# What to try in turn: keywords to go without when xgrammar refuses the schema with them.
_BYTES = ("pattern", "patternProperties")
_COUNTS = ("format", "minLength", "maxLength", "multipleOf")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
RELAXATIONS: tuple[tuple[str, ...], ...] = (
    (),
    _BYTES,
    (*_BYTES, *_COUNTS),
    (*_BYTES, *_COUNTS, *_BOUNDS),
)

_COUNTING = ("minLength", "maxLength", "pattern")


@dataclass(frozen=True, slots=True)
class Lowered:
    """`schema` allows whatever the given one allows, and more where something is `relaxed`."""

    schema: JsonSchema
    relaxed: tuple[Relaxed, ...] = ()


def lower(schema: JsonSchema, where: str, *, without: Collection[str] = ()) -> Lowered:
    """`schema`, of the tool or response format `where`, for a grammar; `without` some keywords."""
    lowering = _Lowering(where, without, _largest_counted(schema))
    return Lowered(lowering.lower(schema, ""), tuple(lowering.relaxed))


class _Lowering:
    """One pass over one schema."""

    def __init__(self, where: str, without: Collection[str], limit: float):
        self._where = where
        self._without = without
        self._limit = limit
        self.relaxed: list[Relaxed] = []

    def lower(self, schema: Any, path: str) -> Any:
        """Every required property is declared: xgrammar ignores the others."""
        if isinstance(schema, list):
            return [self.lower(item, f"{path}[{index}]") for index, item in enumerate(schema)]
        if not isinstance(schema, Mapping):
            return schema
        kept: dict[str, Any] = {}
        for key, value in schema.items():
            inner = f"{path}.{key}" if path else key
            if key in ("enum", "const", "default", "examples"):
                kept[key] = value
            elif (why := self._refusal(key, value)) is not None:
                self._relax(path, key, why)
            elif key in ("properties", "$defs", "definitions") and isinstance(value, Mapping):
                kept[key] = {name: self.lower(s, f"{inner}.{name}") for name, s in value.items()}
            elif key == "patternProperties" and isinstance(value, Mapping):
                kept[key] = self._pattern_properties(value, path)
            else:
                kept[key] = self.lower(value, inner)
        undeclared = set(kept.get("required", ())) - set(kept.get("properties", {}))
        if undeclared:
            kept["properties"] = kept.get("properties", {}) | {n: {} for n in sorted(undeclared)}
        return kept

    def _pattern_properties(self, patterns: Mapping[str, Any], path: str) -> dict[str, Any]:
        kept = {}
        for pattern, schema in patterns.items():
            if _counted(pattern) > self._limit:
                self._relax(path, "patternProperties", _why_counted(pattern))
            else:
                kept[pattern] = self.lower(schema, f"{path}.patternProperties.{pattern}")
        return kept

    def _refusal(self, key: str, value: Any) -> str | None:
        """Why the keyword cannot be in the grammar; None when it can."""
        if key in self._without:
            return "no grammar could be made with it"
        if key == "pattern" and isinstance(value, str) and _is_hostile(value):
            return "it has a quote, a backslash or a repeat beyond 127"
        if key in _COUNTING and _counted(value) > self._limit:
            return _why_counted(value)
        return None

    def _relax(self, path: str, keyword: str, why: str) -> None:
        self.relaxed.append(Relaxed(self._where, path, keyword, why))


def _why_counted(bound: object) -> str:
    return f"it counts to {_counted(bound):g}; a schema's counts have room for {MAX_COUNTED} in all"


def _largest_counted(schema: Any) -> float:
    """The largest bound that can stay in the grammar, with all smaller ones, within MAX_COUNTED.
    Equal bounds share their states."""
    kept, total = 0.0, 0.0
    for count, equal in groupby(sorted(count for _, count in set(_bounds(schema)))):
        total += sum(equal)
        if total > MAX_COUNTED:
            break
        kept = count
    return kept


def _bounds(schema: Any) -> Iterator[tuple[object, float]]:
    """What makes a grammar count, and how far."""
    if isinstance(schema, list):
        for item in schema:
            yield from _bounds(item)
    elif isinstance(schema, Mapping):
        for key, value in schema.items():
            if key in _COUNTING and isinstance(value, str | int | float):
                yield (key, value), _counted(value)
            elif key == "patternProperties" and isinstance(value, Mapping):
                yield from ((pattern, _counted(pattern)) for pattern in value)
            yield from _bounds(value)


def _counted(bound: object) -> float:
    """How many characters a length or a pattern has a grammar count."""
    if isinstance(bound, str):
        return sum(map(int, re.findall(r"\{(?:\d*,)?(\d+)\}", bound)))
    return bound if isinstance(bound, int | float) else 0


def _is_hostile(pattern: str) -> bool:
    """Known to be compiled into something else: xgrammar lets a literal quote or backslash through
    unescaped, and miscounts repeats beyond 127."""
    return (
        '"' in pattern
        or "\\\\" in pattern
        or any(int(count) > 127 for count in re.findall(r"\{(?:\d*,)?(\d+)\}", pattern))
    )
