"""What in a schema could make its grammar take long: looked for in microseconds, by rules.

The rules are wide: what they catch is tried in a process that can be ended, where most of it turns
out to be harmless. Measured on a vocabulary of 152,000 tokens, what passes takes under 0.2 s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MAX_PLAIN_BYTES = 16_384  # of the schema
MAX_PLAIN_DEPTH = 24
MAX_PLAIN_VALUES = 1000  # of an enum
MAX_PLAIN_CHARS = 128  # of a string in an enum, of a property's name
MAX_PLAIN_OPTIONAL = 60  # properties of an object; the cost grows with the square
MAX_PLAIN_PROPERTIES = 200
MAX_PLAIN_BRANCHES = 24
MAX_PLAIN_NESTED_BRANCHES = 3
MAX_PLAIN_COUNT = 4  # characters that are counted, 20 ms each
MAX_PLAIN_PATTERN = 64
MAX_PLAIN_DIGITS = 17

_QUANTIFIED_GROUP = re.compile(r"\)[*+?{]")
_REPEAT = re.compile(r"\{(\d*),?(\d*)\}")
_BRANCHES = ("anyOf", "oneOf", "allOf")
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why a schema's grammar may take long. `weight`: 1 at the limit."""

    path: str
    keyword: str
    why: str
    weight: float


def doubts(schema: Any, num_bytes: int) -> list[Doubt]:
    """The heaviest first; none for a schema that is surely harmless."""
    found = list(_Walk().doubts(schema, "", 0, 0))
    if num_bytes > MAX_PLAIN_BYTES:
        found.append(Doubt("", "", f"{num_bytes} bytes", num_bytes / MAX_PLAIN_BYTES))
    return sorted(found, key=lambda doubt: -doubt.weight)


class _Walk:
    """One schema's. Counts are taken in sum: their costs add up."""

    def __init__(self) -> None:
        self._count = 0
        self._branches = 0

    def doubts(self, schema: Any, path: str, depth: int, nested: int) -> Iterator[Doubt]:
        if isinstance(schema, list):
            for index, item in enumerate(schema):
                yield from self.doubts(item, f"{path}[{index}]", depth, nested)
            return
        if not isinstance(schema, Mapping):
            return
        if depth == MAX_PLAIN_DEPTH:
            yield Doubt(path, "", f"nested {depth} levels deep", 1.0)
        for key, value in schema.items():
            inner = f"{path}.{key}" if path else key
            yield from self._of(path, key, value, schema)
            if key in ("enum", "const", "default", "examples"):
                continue
            if key in _MAPS and isinstance(value, Mapping):
                for name, item in value.items():
                    yield from self.doubts(item, f"{inner}.{name}", depth + 1, nested)
                continue
            deeper = nested + (key in _BRANCHES and isinstance(value, list) and len(value) > 1)
            if deeper > max(nested, MAX_PLAIN_NESTED_BRANCHES):
                yield Doubt(path, key, f"branches within branches, {deeper} deep", 1.0)
            yield from self.doubts(value, inner, depth + 1, deeper)

    def _of(self, path: str, key: str, value: Any, schema: Mapping[str, Any]) -> Iterator[Doubt]:
        """What one keyword gives cause for."""
        measured: list[tuple[float, float, str]] = []
        if key == "enum" and isinstance(value, list):
            longest = max((len(item) for item in value if isinstance(item, str)), default=0)
            measured.append((len(value), MAX_PLAIN_VALUES, f"{len(value)} values"))
            measured.append((longest, MAX_PLAIN_CHARS, f"a value of {longest} characters"))
        elif key == "const" and isinstance(value, str):
            measured.append((len(value), MAX_PLAIN_CHARS, f"{len(value)} characters"))
        elif key == "properties" and isinstance(value, Mapping):
            longest = max(map(len, value), default=0)
            optional = len(value.keys() - set(_strings(schema.get("required"))))
            measured.append((len(value), MAX_PLAIN_PROPERTIES, f"{len(value)} properties"))
            measured.append((optional, MAX_PLAIN_OPTIONAL, f"{optional} that may be left out"))
            measured.append((longest, MAX_PLAIN_CHARS, f"a name of {longest} characters"))
        elif key in _BRANCHES and isinstance(value, list):
            self._branches += len(value)
            measured.append((self._branches, MAX_PLAIN_BRANCHES, f"{self._branches} branches"))
        elif key in ("minLength", "minProperties", "maxProperties") and _is_number(value):
            self._count += value if key == "minLength" else 0
            measured.append((self._count, MAX_PLAIN_COUNT, f"counts to {self._count} in all"))
        elif key == "pattern" and isinstance(value, str):
            yield from self._of_pattern(path, key, value)
        elif key == "patternProperties" and isinstance(value, Mapping):
            for pattern in value:
                yield from self._of_pattern(path, key, pattern)
        elif key in _NUMBERS and _is_number(value):
            digits = len(f"{value!r}".strip("-"))
            measured.append((digits, MAX_PLAIN_DIGITS, f"{digits} digits"))
        for size, limit, why in measured:
            if size > limit:
                yield Doubt(path, key, why, size / limit)

    def _of_pattern(self, path: str, key: str, pattern: str) -> Iterator[Doubt]:
        if len(pattern) > MAX_PLAIN_PATTERN:
            weight = len(pattern) / MAX_PLAIN_PATTERN
            yield Doubt(path, key, f"{len(pattern)} characters", weight)
        if _QUANTIFIED_GROUP.search(pattern):
            yield Doubt(path, key, "repeats a group", 1.0)
        counts = [int(number) for pair in _REPEAT.findall(pattern) for number in pair if number]
        self._count += sum(counts)
        if counts and self._count > MAX_PLAIN_COUNT:
            weight = self._count / MAX_PLAIN_COUNT
            yield Doubt(path, key, f"counts to {self._count} in all", weight)


def _strings(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
