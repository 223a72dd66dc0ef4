"""Holds a value to a schema (2020-12), within a bounded number of steps.

Every pair of subschema and value is looked at once, so that references which double at each level
cost no more than they say; regular expressions run on RE2 in linear time; equality goes by hash.

    check(node, value) ──▶ Problem | None
       └─ in place:  $ref allOf anyOf oneOf not if dependentSchemas      the same value
       └─ below:     properties items …                                  its parts
       └─ last:      unevaluated…, by what the others have `seen`
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import Any

import re2
from referencing.jsonschema import DRAFT202012

from f1.calling.document import REFERENCES, Document
from f1.calling.formats import FORMATS

MAX_STEPS = 50_000  # pairs of subschema and value: tenths of a second

_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: (
        (isinstance(value, int) and not isinstance(value, bool))
        or (isinstance(value, float) and value.is_integer())
    ),
}


class TooMuch(Exception):
    """The value takes more steps than a check may."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and where in the value."""

    message: str
    path: tuple[str | int, ...] = ()

    def below(self, key: str | int) -> Problem:
        return Problem(self.message, (key, *self.path))

    def __str__(self) -> str:
        parts = (f"[{key}]" if isinstance(key, int) else f".{key}" for key in self.path)
        path = "".join(parts).removeprefix(".")
        message = self.message if len(self.message) <= 500 else f"{self.message[:500]}…"
        return f"{path}: {message}" if path else message


@dataclass(slots=True)
class Seen:
    """Properties and items of one value that some keyword has looked at."""

    keys: set[str] = field(default_factory=set)
    items: set[int] = field(default_factory=set)

    def add(self, other: Seen) -> None:
        self.keys |= other.keys
        self.items |= other.items


def check(document: Document, value: Any, node: Any = None) -> Problem | None:
    """What is wrong with `value` under `node` of the document, by default its root."""
    root = document.root if node is None else node
    try:
        return _Check(document).check(root, value, None, None)
    except TooMuch:
        return Problem(f"takes more than {MAX_STEPS} steps to be checked")
    except RecursionError:  # levels of the value times references of the schema
        return Problem("nested too deep to be checked")


class _Check:
    """One check of one value."""

    def __init__(self, document: Document):
        self._document = document
        self._dynamic = document.holds("$dynamicRef")
        self._sees = document.holds("unevaluatedProperties") or document.holds("unevaluatedItems")
        self._steps = 0
        self._known: dict[tuple[int, int], Problem | None] = {}

    def check(self, node: Any, value: Any, seen: Seen | None, resolver: Any) -> Problem | None:
        if isinstance(node, bool):
            return None if node else Problem("nothing is allowed here")
        pair = (id(node), id(value))
        # Small values are shared, but equal ones have the same problems.
        if not self._sees and not self._dynamic and pair in self._known:
            return self._known[pair]
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise TooMuch
        if self._dynamic:
            resolver = self._resolver(node, resolver)
        own = Seen() if self._sees else None
        found = None
        for problem in self._problems(node, value, own, resolver):
            if problem is not None:
                found = problem
                break
        else:
            if seen is not None and own is not None:
                seen.add(own)
        self._known[pair] = found
        return found

    def _problems(
        self, node: Any, value: Any, seen: Seen | None, resolver: Any
    ) -> Iterator[Problem | None]:
        """Of each keyword; None where it has nothing against the value."""
        yield _kind(node, value)
        for keyword in REFERENCES:
            if keyword in node:
                yield self._reference(node, keyword, value, seen, resolver)
        yield from self._in_place(node, value, seen, resolver)
        if isinstance(value, str):
            yield _string(node, value)
        elif isinstance(value, dict):
            yield from self._object(node, value, seen, resolver)
        elif isinstance(value, list):
            yield from self._array(node, value, seen, resolver)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield _number(node, value)

    # --- the same value ------------------------------------------------------------------------

    def _resolver(self, node: Any, resolver: Any) -> Any:
        """With `$dynamicRef` anywhere, what a reference means depends on the way to it."""
        if resolver is None:
            return self._document.places[id(node)].resolver
        return resolver.in_subresource(DRAFT202012.create_resource(node))

    def _reference(
        self, node: Any, keyword: str, value: Any, seen: Seen | None, resolver: Any
    ) -> Problem | None:
        if not self._dynamic:
            return self.check(self._document.target(node, keyword), value, seen, None)
        found = resolver.lookup(node[keyword])
        return self.check(found.contents, value, seen, found.resolver)

    def _in_place(
        self, node: Any, value: Any, seen: Seen | None, resolver: Any
    ) -> Iterator[Problem | None]:
        for inner in node.get("allOf", ()):
            yield self.check(inner, value, seen, resolver)
        if "anyOf" in node:
            yield self._any_of(node["anyOf"], value, seen, resolver)
        if "oneOf" in node:
            yield self._one_of(node["oneOf"], value, seen, resolver)
        if "not" in node and self.check(node["not"], value, Seen(), resolver) is None:
            yield Problem(f"{_show(value)} should not be valid under {_show(node['not'])}")
        if "if" in node:
            taken = Seen()
            holds = self.check(node["if"], value, taken, resolver) is None
            if holds and seen is not None:
                seen.add(taken)
            yield self.check(node.get("then" if holds else "else", True), value, seen, resolver)
        if isinstance(value, dict):
            for name, inner in node.get("dependentSchemas", {}).items():
                if name in value:
                    yield self.check(inner, value, seen, resolver)

    def _any_of(
        self, options: list[Any], value: Any, seen: Seen | None, resolver: Any
    ) -> Problem | None:
        problems = []
        for option in options:
            problem = self.check(option, value, seen, resolver)
            if problem is None and seen is None:
                return None
            problems.append(problem)
        return None if None in problems else _nearest(problems, value)

    def _one_of(
        self, options: list[Any], value: Any, seen: Seen | None, resolver: Any
    ) -> Problem | None:
        problems = [self.check(option, value, seen, resolver) for option in options]
        match problems.count(None):
            case 0:
                return _nearest(problems, value)
            case 1:
                return None
            case more:
                return Problem(f"{_show(value)} is valid under {more} of the oneOf, not one")

    # --- its parts -----------------------------------------------------------------------------

    def _object(
        self, node: Any, value: dict[str, Any], seen: Seen | None, resolver: Any
    ) -> Iterator[Problem | None]:
        yield _counts(node, value, "Properties", "properties")
        for name in node.get("required", ()):
            if name not in value:
                yield Problem(f"{name!r} is a required property")
        for name, others in node.get("dependentRequired", {}).items():
            for other in others if name in value else ():
                if other not in value:
                    yield Problem(f"{other!r} is required beside {name!r}")
        if "propertyNames" in node:
            for key in value:
                yield self.check(node["propertyNames"], key, None, resolver)
        known, patterns = node.get("properties", {}), node.get("patternProperties", {})
        extra = node.get("additionalProperties", True)
        looked = set()
        for key, part in value.items():
            inner = [known[key]] if key in known else []
            inner += [schema for pattern, schema in patterns.items() if matches(pattern, key)]
            if not inner and extra is False:
                names = ", ".join(known) or "none"
                yield Problem(f"unknown property {key!r}; the properties are: {names}")
            if not inner and "additionalProperties" in node:
                inner = [extra]
            if inner:
                looked.add(key)
            for schema in inner:
                yield self._part(schema, key, part, resolver)
        if seen is not None:
            seen.keys |= looked
            yield from self._unevaluated_keys(node, value, seen, resolver)

    def _unevaluated_keys(
        self, node: Any, value: dict[str, Any], seen: Seen, resolver: Any
    ) -> Iterator[Problem | None]:
        if "unevaluatedProperties" in node:
            for key, part in value.items():
                if key not in seen.keys:
                    problem = self._part(node["unevaluatedProperties"], key, part, resolver)
                    if problem is not None:
                        yield Problem(f"property {key!r} is not allowed by any part of the schema")
            seen.keys |= value.keys()

    def _array(
        self, node: Any, value: list[Any], seen: Seen | None, resolver: Any
    ) -> Iterator[Problem | None]:
        yield _counts(node, value, "Items", "items")
        if node.get("uniqueItems") and len(set(map(identity, value))) < len(value):
            yield Problem(f"{_show(value)} has non-unique elements")
        prefix = node.get("prefixItems", ())
        for index, (inner, part) in enumerate(zip(prefix, value, strict=False)):
            yield self._part(inner, index, part, resolver)
        if "items" in node:
            for index in range(len(prefix), len(value)):
                yield self._part(node["items"], index, value[index], resolver)
        looked = set(range(len(value) if "items" in node else min(len(prefix), len(value))))
        if "contains" in node:
            found = {
                index
                for index, part in enumerate(value)
                if self.check(node["contains"], part, None, resolver) is None
            }
            looked |= found
            low, high = node.get("minContains", 1), node.get("maxContains", len(found))
            if not low <= len(found) <= high:
                yield Problem(f"{_show(value)} has {len(found)} elements of those it must contain")
        if seen is not None:
            seen.items |= looked
            if "unevaluatedItems" in node:
                for index in sorted(set(range(len(value))) - seen.items):
                    yield self._part(node["unevaluatedItems"], index, value[index], resolver)
                seen.items |= set(range(len(value)))

    def _part(self, schema: Any, key: str | int, part: Any, resolver: Any) -> Problem | None:
        problem = self.check(schema, part, None, resolver)
        return None if problem is None else problem.below(key)


# --- keywords that look at nothing else --------------------------------------------------------


def _kind(node: Any, value: Any) -> Problem | None:
    if "type" in node:
        wanted = node["type"]
        kinds = [wanted] if isinstance(wanted, str) else wanted
        if not any(_TYPES[kind](value) for kind in kinds):
            return Problem(f"{_show(value)} is not of type {', '.join(map(repr, kinds))}")
    if "const" in node and identity(node["const"]) != identity(value):
        return Problem(f"{_show(node['const'])} was expected")
    if "enum" in node and identity(value) not in _members(_Held(node["enum"])):
        return Problem(f"{_show(value)} is not one of {_show(node['enum'])}")
    return None


def _string(node: Any, value: str) -> Problem | None:
    if len(value) < node.get("minLength", 0):
        return Problem(f"{_show(value)} is too short")
    if len(value) > node.get("maxLength", len(value)):
        return Problem(f"{_show(value)} is too long")
    if "pattern" in node and not matches(node["pattern"], value):
        return Problem(f"{_show(value)} does not match {node['pattern']!r}")
    form = FORMATS.get(node["format"]) if isinstance(node.get("format"), str) else None
    if form is not None and not matches(form, value):
        return Problem(f"{_show(value)} is not a {node['format']!r}")
    return None


def _number(node: Any, value: float) -> Problem | None:
    if value < node.get("minimum", value):
        return Problem(f"{value} is less than the minimum of {node['minimum']}")
    if value > node.get("maximum", value):
        return Problem(f"{value} is greater than the maximum of {node['maximum']}")
    if "exclusiveMinimum" in node and value <= node["exclusiveMinimum"]:
        return Problem(f"{value} must be more than {node['exclusiveMinimum']}")
    if "exclusiveMaximum" in node and value >= node["exclusiveMaximum"]:
        return Problem(f"{value} must be less than {node['exclusiveMaximum']}")
    if "multipleOf" in node and not is_multiple(value, node["multipleOf"]):
        return Problem(f"{value} is not a multiple of {node['multipleOf']}")
    return None


def _counts(node: Any, value: Any, ending: str, what: str) -> Problem | None:
    if len(value) < node.get(f"min{ending}", 0):
        return Problem(f"{_show(value)} has fewer than {node[f'min{ending}']} {what}")
    if len(value) > node.get(f"max{ending}", len(value)):
        return Problem(f"{_show(value)} has more than {node[f'max{ending}']} {what}")
    return None


def is_multiple(value: float, of: float) -> bool:
    """Whether the numbers as written divide: 0.07 is a multiple of 0.01."""
    if isinstance(value, int) and isinstance(of, int):
        return value % of == 0
    part, whole = Decimal(str(of)), Decimal(str(value))
    scale = -min(int(part.as_tuple().exponent), int(whole.as_tuple().exponent), 0)
    return int(whole.scaleb(scale)) % int(part.scaleb(scale)) == 0


def identity(value: Any) -> object:
    """Equal for what JSON Schema calls equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, bool):
        return (bool, value)
    if isinstance(value, list):
        return (list, tuple(map(identity, value)))
    if isinstance(value, dict):
        return (dict, frozenset((key, identity(part)) for key, part in value.items()))
    return value


class _Held:
    """A list, told apart by identity, and kept alive while its place in a cache is."""

    __slots__ = ("values",)

    def __init__(self, values: list[Any]):
        self.values = values

    def __hash__(self) -> int:
        return id(self.values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held) and self.values is other.values


@lru_cache(maxsize=1024)
def _members(held: _Held) -> frozenset[object]:
    return frozenset(map(identity, held.values))


@lru_cache(maxsize=4096)
def compile_pattern(pattern: str) -> Any:
    """The pattern on RE2. Raises re2.error."""
    options = re2.Options()
    options.log_errors = False
    return re2.compile(pattern, options)


PatternError = re2.error


def matches(pattern: str, text: str) -> bool:
    """Whether a part of the text does. Raises PatternError."""
    return compile_pattern(pattern).search(text) is not None


def _nearest(problems: list[Problem | None], value: Any) -> Problem:
    """Of the options' problems that of the one which came furthest, if one did."""
    found = sorted((p for p in problems if p is not None), key=lambda p: -len(p.path))
    if found and (len(found) == 1 or len(found[0].path) > len(found[1].path)):
        return found[0]
    return Problem(f"{_show(value)} is not valid under any of the given schemas")


def _show(value: Any) -> str:
    text = repr(value) if not isinstance(value, list | dict) or len(str(value)) < 200 else ""
    return text[:200] if text else f"{'an array' if isinstance(value, list) else 'an object'}"
