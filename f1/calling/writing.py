"""Shapes of values as the text of a grammar (xgrammar's EBNF).

A value is written in one way, as `json.dumps` does: properties in the order declared, no escapes
but those that are needed.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from f1.calling.numerals import integers, numbers
from f1.calling.patterns import ANY, ANYTHING, plain, without
from f1.calling.shapes import Array, Conjunction, Number, Object, Shape, Shapes, String, Values
from f1.calling.strings import spelled

MAX_RULES = 10_000
MAX_COUNTS = 4_000  # rules of one object whose properties are counted
MAX_ITEMS = 10_000  # elements counted in an array
# Characters of declared names that are told apart from those of further keys: each is a state that
# takes 8 to 20 ms to compile. With more, further keys come when all that are declared are there.
MAX_UNITS = 12
MAX_INLINE = 128  # items of a rule that is written where it is used

# --- the grammar as it is built ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Rule:
    """A rule, by name."""

    name: str


@dataclass(frozen=True, slots=True)
class _Many:
    """`inner` at least `low` times, at most `high`; None: any number of times."""

    inner: tuple[_Item, ...]
    low: int
    high: int | None


_Item = str | _Rule | _Many  # a str is EBNF
_Body = list[list[_Item]]  # alternatives; none of them: nothing matches


class Writer:
    """Writes the rules of one schema."""

    def __init__(self, shapes: Shapes, whitespace: int):
        self._shapes = shapes
        space = f"[ \\n\\t]{{0,{whitespace}}}" if whitespace else '""'
        self._space = space
        self._comma = f'{space} "," {space}' if whitespace else '", "'
        self._colon = f'{space} ":" {space}' if whitespace else '": "'
        self._rules: dict[str, _Body] = {}
        self._values: dict[tuple[int, ...], _Rule] = {}
        self._shared: dict[object, _Rule] = {}
        self._waiting: deque[tuple[_Rule, Conjunction]] = deque()

    def write(self, root: Conjunction) -> str | None:
        """All rules as text; None where no text matches."""
        self._rules["root"] = [[self._value(root)]]
        while self._waiting:
            self._fill(*self._waiting.popleft())
        alive = _alive(self._rules)
        if "root" not in alive:
            return None
        used = _reachable(self._rules, alive)
        return "\n".join(
            _text(name, self._rules[name], alive) for name in self._rules if name in used
        )

    # --- values --------------------------------------------------------------------------------

    def _value(self, conjunction: Conjunction) -> _Rule:
        key = tuple(map(id, conjunction))
        if key not in self._values:
            rule = self._values[key] = self._new()
            self._waiting.append((rule, conjunction))
        return self._values[key]

    def _fill(self, rule: _Rule, conjunction: Conjunction) -> None:
        shapes = self._shapes.of(conjunction)
        if len(self._rules) > MAX_RULES:
            self._shapes.relax_root("properties", f"its grammar would have over {MAX_RULES} rules")
            shapes = None
        if shapes is None:
            self._rules[rule.name] = [[self._any()]]
        else:
            self._rules[rule.name] = [body for shape in shapes for body in self._shape(shape)]

    def _new(self) -> _Rule:
        rule = _Rule(f"r{len(self._rules)}")
        self._rules[rule.name] = []
        return rule

    def _share(self, key: object, body: _Body) -> _Rule:
        """One rule for all that is written alike."""
        if key not in self._shared:
            self._shared[key] = self._new()
            self._rules[self._shared[key].name] = body
        return self._shared[key]

    def _shape(self, shape: Shape) -> _Body:
        match shape:
            case Values(values):
                return [list(self._literal(value)) for each in values for value in _spellings(each)]
            case String():
                return [[self._string(shape)]]
            case Number():
                return [[self._share(shape, [[_regex(_numeral(shape))]])]]
            case Array():
                return self._array(shape)
            case Object():
                return self._object(shape)

    def _string(self, shape: String) -> _Rule:
        text = ANYTHING if shape.text is None else shape.text
        return self._share(("string", text), [[_regex(f'"{spelled(text)}"')]])

    def _any(self) -> _Rule:
        if "any" not in self._shared:
            rule = self._shared["any"] = self._new()
            anything: list[Shape] = [
                Array((), (), 0, None),
                _ANY_OBJECT,
                String(None),
                Number(False),
            ]
            anything.append(Values((True, False, None)))
            self._rules[rule.name] = [body for shape in anything for body in self._shape(shape)]
        return self._shared["any"]

    def _literal(self, value: Any) -> Iterator[_Item]:
        """A value as it is written."""
        if isinstance(value, dict):
            pieces: list[list[_Item]] = [
                [_quote(_json(key)), self._colon, *self._literal(inner)]
                for key, inner in value.items()
            ]
            yield from self._enclosed("{", pieces, "}")
        elif isinstance(value, list):
            yield from self._enclosed("[", [list(self._literal(inner)) for inner in value], "]")
        else:
            yield _quote(_json(value))

    def _enclosed(self, opening: str, pieces: list[list[_Item]], closing: str) -> Iterator[_Item]:
        yield _quote(opening)
        for index, piece in enumerate(pieces):
            yield self._comma if index else self._space
            yield from piece
        yield self._space
        yield _quote(closing)

    # --- arrays --------------------------------------------------------------------------------

    def _array(self, shape: Array) -> _Body:
        low, high = min(shape.low, MAX_ITEMS), shape.high
        prefix = [self._value(part) for part in shape.prefix]
        after: _Item | None = None  # what may follow the elements before it
        rest = None if shape.rest is None else self._value(shape.rest)
        count = len(prefix)
        if rest is not None and (high is None or high > count):
            more = None if high is None or high > MAX_ITEMS else high - count
            first = max(count, 1)
            least = max(low - first, 0)
            after = _Many(
                (self._comma, rest), least, None if more is None else more - first + count
            )
            if count == 0:
                prefix = [rest]
        elif count < low:
            return []
        shape_high = len(prefix) if high is None else min(high, len(prefix))
        tail: list[_Item] = [] if after is None else [after]
        for index in range(shape_high - 1, 0, -1):
            inner: list[_Item] = [self._comma, prefix[index], *tail]
            if low <= index:
                rule = self._new()
                self._rules[rule.name] = [[], inner]
                tail = [rule]
            else:
                tail = inner
        body: _Body = []
        if shape_high > 0:
            body.append(['"["', self._space, prefix[0], *tail, self._space, '"]"'])
        if low == 0:
            body.append(['"["', self._space, '"]"'])
        return body

    # --- objects -------------------------------------------------------------------------------

    def _object(self, shape: Object) -> _Body:
        low, high = shape.low, shape.high
        if low <= len(shape.required):
            low = 0
        closed = shape.extra is None and not shape.patterned
        if high is not None and closed and high >= len(shape.properties):
            high = None
        counted = max(1, low, high or 0)
        if counted > 1 and (len(shape.properties) + 1) * (counted + 1) > MAX_COUNTS:
            self._shapes.relax_root("maxProperties", "it counts too far")
            low, high, counted = 0, None, 1
        taken = frozenset(shape.properties) | shape.forbidden
        if shape.extra is not None and shape.names is None and _units(taken) > MAX_UNITS:
            every = replace(shape, required=frozenset(shape.properties))
            shapes = [replace(shape, extra=None), every] if shape.properties else [shape]
        else:
            shapes = [shape]
        members = [_Members(self, each, low, high, counted) for each in shapes]
        return [['"{"', *each.from_(0, 0), self._space, '"}"'] for each in members]

    def _extras(self, shape: Object) -> list[list[_Item]]:
        """A property that is not declared, in each way there is."""
        found: list[list[_Item]] = []
        taken = frozenset(shape.properties) | shape.forbidden
        for text, part in shape.patterned:
            found.append([self._string(String(text)), self._colon, self._value(part)])
        if shape.extra is not None:
            value = self._value(shape.extra)
            match shape.names:
                case Values(values):
                    names = [_quote(_json(name)) for name in values if name not in taken]
                    found += [[name, self._colon, value] for name in names]
                case String():
                    found.append([self._string(shape.names), self._colon, value])
                case None if _units(taken) <= MAX_UNITS:
                    key = self._share(("keys", taken), [[_regex(f'"{_except(taken)}"')]])
                    found.append([key, self._colon, value])
                case None:
                    if shape.forbidden:
                        why = "further keys are not told apart from those that may not be there"
                        self._shapes.relax_root("additionalProperties", why)
                    found.append([self._string(String(None)), self._colon, value])
        return found


def _units(names: Iterable[str]) -> int:
    return sum(map(len, names))


class _Members:
    """The properties of one object, in order, counted as far as it takes.

    from_(i, k): what may follow when the properties before the i-th have been passed and k written.
    """

    def __init__(self, writer: Writer, shape: Object, low: int, high: int | None, counted: int):
        self._writer = writer
        self._low, self._high, self._counted = low, high, counted
        self._required = shape.required
        self._properties: list[tuple[str, list[_Item]]] = [
            (name, [_quote(_json(name)), writer._colon, writer._value(part)])
            for name, part in shape.properties.items()
        ]
        self._extras = writer._extras(shape)
        self._rules: dict[tuple[int, int], list[_Item]] = {}
        for index in range(len(self._properties), -1, -1):  # so that none waits for many others
            for written in range(counted, -1, -1):
                self.from_(index, written)

    def from_(self, index: int, written: int) -> list[_Item]:
        place = (index, written)
        if place not in self._rules:
            rule = self._writer._new()
            self._rules[place] = [rule]
            body = self._body(index, written)
            if len(body) == 1 and len(body[0]) <= MAX_INLINE:
                self._rules[place] = body[0]
            self._writer._rules[rule.name] = body
        return self._rules[place]

    def _body(self, index: int, written: int) -> _Body:
        comma = self._writer._comma if written else self._writer._space
        more = self._high is None or written < self._high
        following = min(written + 1, self._counted)
        body: _Body = []
        if index < len(self._properties):
            name, member = self._properties[index]
            if name not in self._required:
                body.append(self.from_(index + 1, written))
            if more:
                body.append([comma, *member, *self.from_(index + 1, following)])
            return body
        if self._extras and written == self._counted and self._high is None:
            one = self._writer._new()
            self._writer._rules[one.name] = self._extras
            return [[_Many((comma, one), 0, None)]]
        if written >= self._low:
            body.append([])
        if self._extras and more:
            body += [[comma, *extra, *self.from_(index, following)] for extra in self._extras]
        return body


_ANY_OBJECT = Object({}, frozenset(), (), (), None, frozenset(), 0, None)

# --- what can be reached -----------------------------------------------------------------------


def _alive(rules: Mapping[str, _Body]) -> set[str]:
    """The rules that some text matches."""
    alive: set[str] = set()
    dead = list(rules)[::-1]
    while True:
        left = []
        for name in dead:
            if any(_matches(items, alive) for items in rules[name]):
                alive.add(name)
            else:
                left.append(name)
        if len(left) == len(dead):
            return alive
        dead = left[::-1]  # in either order, most rules stand behind those that use them


def _matches(items: Iterable[_Item], alive: set[str]) -> bool:
    return all(
        isinstance(item, str)
        or (isinstance(item, _Rule) and item.name in alive)
        or (isinstance(item, _Many) and (item.low == 0 or _matches(item.inner, alive)))
        for item in items
    )


def _reachable(rules: Mapping[str, _Body], alive: set[str]) -> set[str]:
    reached, work = {"root"}, ["root"]
    while work:
        for items in rules[work.pop()]:
            if _matches(items, alive):
                for name in _names(items, alive):
                    if name not in reached:
                        reached.add(name)
                        work.append(name)
    return reached


def _names(items: Iterable[_Item], alive: set[str]) -> Iterator[str]:
    for item in items:
        if isinstance(item, _Rule):
            yield item.name
        elif isinstance(item, _Many) and _matches(item.inner, alive):
            yield from _names(item.inner, alive)


# --- text --------------------------------------------------------------------------------------


def _text(name: str, body: _Body, alive: set[str]) -> str:
    options = [_sequence(items, alive) for items in body if _matches(items, alive)]
    return f"{name} ::= {' | '.join(dict.fromkeys(options))}"


def _sequence(items: Iterable[_Item], alive: set[str]) -> str:
    parts = [part for item in items if (part := _part(item, alive)) != '""']
    return " ".join(parts) or '""'


def _part(item: _Item, alive: set[str]) -> str:
    match item:
        case _Rule(name):
            return name
        case _Many(inner, low, high):
            if not _matches(inner, alive) or high == 0:
                return '""'
            text = _sequence(inner, alive)
            return f"({text})*" if (low, high) == (0, None) else f"({text}){{{low},{_or(high)}}}"
    return item


def _or(high: int | None) -> str:
    return "" if high is None else str(high)


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _regex(pattern: str) -> str:
    return f"Regex({_quote(pattern)})"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _spellings(value: Any) -> list[Any]:
    """A whole number with and without its point."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return [int(value), value]
    return [value]


def _numeral(shape: Number) -> str:
    if shape.step is not None:
        return _multiples(shape.step)
    if shape.integer:
        low, high = (None if b is None else int(b) for b in (shape.low, shape.high))
        return integers(low, high)
    return numbers(shape.low, shape.high, above=shape.above, below=shape.below)


def _multiples(step: Decimal) -> str:
    if step < 1:
        digits = -int(step.normalize().as_tuple().exponent)
        return rf"\-?(?:0|[1-9][0-9]*)(?:|\.[0-9]{{1,{digits}}}0*)"
    ends = "|".join(f"{n:02d}" for n in range(0, 100, int(step)))
    small = "|".join(str(n) for n in range(0, 100, int(step)))
    return rf"\-?(?:{small}|[1-9][0-9]*(?:{ends}))"


def _except(names: Iterable[str]) -> str:
    """Any text but these, as JSON spells it; escapes where none are needed pass."""
    tree: dict[str, Any] = {}
    for name in names:
        branch = tree
        for unit in _UNITS.findall(_json(name)[1:-1]):
            branch = branch.setdefault(unit, {})
        branch[""] = {}
    return _outside(tree)


def _outside(tree: dict[str, Any]) -> str:
    """Any text that does not go along a path of `tree` to a leaf."""
    if not tree:
        return spelled(ANYTHING)
    taken = tuple((ord(unit), ord(unit)) for unit in tree if len(unit) == 1)
    short = "".join(rf"\u{{{ord(char):x}}}" for char in '"\\/bfnrt' if f"\\{char}" not in tree)
    other = "|".join([*plain(without(ANY.ranges, taken)), rf"\\[{short}]|\\u[0-9a-fA-F]{{4}}"])
    options = [f"(?:{other}){spelled(ANYTHING)}"]
    for unit in sorted(tree):
        if unit:
            written = "".join(rf"\u{{{ord(char):x}}}" for char in unit)
            options.append(f"{written}(?:{_outside(tree[unit])})")
    text = "|".join(options)
    return f"(?:{text})" if "" in tree else f"(?:|{text})"


_UNITS = re.compile(r"\\u.{4}|\\.|.")
