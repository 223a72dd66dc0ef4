"""What a value may be, as a union of shapes: the conjunction of several subschemas, worked out.

    {allOf: [{minimum: 5}, {$ref: …}], type: [integer, null]}  ──▶  Number 5…9 integer | Values null

Unions inside a conjunction are multiplied out, within bounds. A shape allows whatever the
subschemas allow; what it allows beyond that is noted as relaxed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from f1.calling.document import REFERENCES, Document, Place
from f1.calling.patterns import Node
from f1.calling.strings import Strings
from f1.calling.validating import Problem, check, identity, is_multiple, matches
from f1.types import Relaxed

MAX_ALTERNATIVES = 512  # of one value
MAX_PRODUCTS = 64  # of them, where unions are multiplied out
MAX_STEPS = 4_000  # of multiplying out, in one schema
MAX_MULTIPLES = 1000  # of a bounded number, listed
MAX_BOUND_DIGITS = 40  # each adds to the numerals' expression

Conjunction = tuple[Any, ...]  # nodes of one document; a value is held to all of them
ANYTHING: Conjunction = ()

_ANNOTATIONS = frozenset(
    "title description default examples deprecated readOnly writeOnly $comment $schema $id $defs "
    "definitions $anchor $dynamicAnchor $vocabulary contentEncoding contentMediaType "
    "contentSchema".split()
)
_DEPENDS = "what is evaluated depends on the value"
_KINDS = ("object", "array", "string", "number", "boolean", "null")


@dataclass(frozen=True, slots=True)
class Values:
    """One of these."""

    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class String:
    """Its text, as an expression; None: any."""

    text: Node | None


@dataclass(frozen=True, slots=True)
class Number:
    """From `low` to `high`; `above`, `below`: without the bound itself. `step`: a power of ten or
    one of its divisors, where there are no bounds."""

    integer: bool
    low: Decimal | None = None
    high: Decimal | None = None
    above: bool = False
    below: bool = False
    step: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Array:
    """The first elements each by its own, then `rest`; None: no more."""

    prefix: tuple[Conjunction, ...]
    rest: Conjunction | None
    low: int
    high: int | None


@dataclass(frozen=True, slots=True)
class Object:
    """`properties` in this order, then `extra` ones; None: no others. `names`: of the extra ones,
    None: any. `forbidden` names are not among them."""

    properties: Mapping[str, Conjunction]
    required: frozenset[str]
    patterned: tuple[tuple[Node | None, Conjunction], ...]
    extra: Conjunction | None
    names: Values | String | None
    forbidden: frozenset[str]
    low: int
    high: int | None


Shape = Values | String | Number | Array | Object


@dataclass(slots=True)
class _Flat:
    """Subschemas that all hold, with nothing in place left in them to follow."""

    nodes: list[dict[str, Any]] = field(default_factory=list)
    excluded: set[str] = field(default_factory=set)  # types, by `not`
    loose: list[tuple[dict[str, Any], str, str]] = field(default_factory=list)
    choices: list[_Choice] = field(default_factory=list)  # still to be made
    branched: bool = False
    alone: bool = True  # all of them are in one place
    opaque: bool = False  # there is more, which is not known

    def copy(self) -> _Flat:
        """One that goes another way."""
        return replace(
            self,
            nodes=list(self.nodes),
            excluded=set(self.excluded),
            loose=list(self.loose),
            choices=list(self.choices),
            branched=True,
        )


@dataclass(frozen=True, slots=True)
class _Choice:
    """Of these branches one holds, at least."""

    node: dict[str, Any]
    keyword: str
    branches: list[list[Any]]


class Shapes:
    """Reads shapes off one document."""

    def __init__(self, document: Document, where: str, without: Collection[str] = ()):
        self._document = Document(document.root)  # one's own, as nodes are added to it
        self._where = where
        self._without = frozenset(without)
        self._strings = Strings(self.relax)
        self._steps = 0
        self._made: dict[tuple[int, str], list[list[Any]] | None] = {}
        self._new_nodes: dict[int, tuple[dict[str, Any], str]] = {}
        self.relaxed: dict[tuple[str, str], Relaxed] = {}

    @property
    def root(self) -> Any:
        return self._document.root

    def relax_root(self, keyword: str, why: str) -> None:
        self.relax(self.root, keyword, why)

    def of(self, conjunction: Conjunction) -> list[Shape] | None:
        """The shapes a value may have; None: any."""
        flats = self._expand(conjunction)
        plain = [flat for flat in flats if not any(map(self._says, flat.nodes))]
        if any(not flat.excluded for flat in plain):
            self._note(flats)
            return None
        shapes: list[Shape] = []
        for flat in flats:
            for shape in self._shapes(flat):
                if shape not in shapes:
                    shapes.append(shape)
        return shapes

    def check(self, conjunction: Conjunction, value: Any) -> Problem | None:
        """What is wrong with a value that is to be held to all of it."""
        problems = (check(self._document, value, node) for node in conjunction)
        return next((problem for problem in problems if problem is not None), None)

    def relax(self, node: Mapping[str, Any], keyword: str, why: str) -> None:
        path = self._document.path(node)
        keyword = self._new_nodes.get(id(node), (node, keyword))[1] or keyword
        self.relaxed.setdefault((path, keyword), Relaxed(self._where, path, keyword, why))

    # --- in place ------------------------------------------------------------------------------

    def _expand(self, conjunction: Conjunction) -> list[_Flat]:
        """Every way to hold to all of it: one branch of each choice, as far as there is room."""
        first = _Flat(alone=len(conjunction) == 1)
        flats = [first] if self._settle(list(conjunction), first) else []
        while any(flat.choices for flat in flats):
            single = len(flats) == 1 and len(flats[0].choices) == 1
            limit = MAX_ALTERNATIVES if single else MAX_PRODUCTS
            waiting, flats = flats, []
            while waiting:
                flat = waiting.pop(0)
                if flat.choices:
                    flats += self._branch(flat, limit - len(flats) - len(waiting))
                else:
                    flats.append(flat)
        return flats

    def _branch(self, flat: _Flat, room: int) -> list[_Flat]:
        """`flat` with each branch of its first choice, or without where there is no room."""
        choice = flat.choices.pop(0)
        found: list[_Flat] = []
        for branch in choice.branches:
            self._steps += 1
            begun = flat.copy()
            if self._settle(list(branch), begun):
                found.append(begun)
            if len(found) > room or self._steps > MAX_STEPS:
                flat.loose.append((choice.node, choice.keyword, "too many ways to hold to it"))
                return [flat]
        return found

    def _settle(self, work: list[Any], flat: _Flat) -> bool:
        """Takes what holds in any case into `flat`; False: nothing satisfies it."""
        while work:
            node = self._lighter(work.pop(0))
            if node is False:
                return False
            if node is True or any(node is other for other in flat.nodes):
                continue
            flat.nodes.append(node)
            for keyword in REFERENCES:
                if keyword in node:
                    work.append(self._target(node, keyword, flat))
            work += node.get("allOf", ())
            flat.choices += self._choices(node, work, flat)
        return True

    def _lighter(self, node: Any) -> Any:
        """The node without the keywords to go without."""
        left_out = self._without & node.keys() if isinstance(node, dict) else frozenset()
        for keyword in sorted(left_out):
            self.relax(node, keyword, "no grammar could be made with it in time")

        def make() -> list[list[Any]]:
            return [[self._new(node, "", {k: v for k, v in node.items() if k not in left_out})]]

        made = self._once(node, "lighter", make) if left_out else None
        return made[0][0] if made else node

    def _target(self, node: dict[str, Any], keyword: str, flat: _Flat) -> Any:
        target = self._document.target(node, keyword)
        if keyword == "$dynamicRef" and isinstance(target, dict):
            name = target.get("$dynamicAnchor")
            if name is not None and self._document.anchors(name) > 1:
                flat.loose.append((node, keyword, "what it means depends on the way to it"))
                flat.opaque = True
                return True
        return target

    def _choices(self, node: dict[str, Any], work: list[Any], flat: _Flat) -> Iterator[_Choice]:
        if "anyOf" in node:
            yield _Choice(node, "anyOf", [[branch] for branch in node["anyOf"]])
        if "oneOf" in node:
            if not self._apart(node["oneOf"]):
                flat.loose.append((node, "oneOf", "a value may satisfy more than one of them"))
            yield _Choice(node, "oneOf", [[branch] for branch in node["oneOf"]])
        if "not" in node and not self._negate(node["not"], node, work, flat):
            flat.loose.append((node, "not", "a grammar says what may be, not what may not"))
        if "if" in node and ("then" in node or "else" in node):
            branches = self._once(node, "if", lambda: self._conditional(node))
            if branches is None:
                flat.loose.append((node, "if", "its condition has no opposite in a grammar"))
            else:
                yield _Choice(node, "if", branches)
        for keyword in ("dependentRequired", "dependentSchemas"):
            for name in node.get(keyword, ()):
                key = f"{keyword} {name}"
                made = self._once(node, key, lambda k=keyword, n=name: self._dependent(node, k, n))
                yield _Choice(node, keyword, made or [[True]])

    def _once(self, node: dict[str, Any], key: str, make: Any) -> list[list[Any]] | None:
        """Branches made up for a node are made once, so that they are told apart as nodes are."""
        if (id(node), key) not in self._made:
            self._made[id(node), key] = make()
        return self._made[id(node), key]

    def _new(self, parent: Mapping[str, Any], keyword: str, node: dict[str, Any]) -> dict[str, Any]:
        """A subschema that stands for what its parent says by `keyword`."""
        place = self._document.places[id(parent)]
        self._document.places[id(node)] = Place(place.path, place.resolver)
        self._new_nodes[id(node)] = (node, keyword)  # kept alive: nodes are told apart by identity
        return node

    def _dependent(self, node: dict[str, Any], keyword: str, name: str) -> list[list[Any]]:
        absent = self._new(node, keyword, {"properties": {name: False}})
        needs = node[keyword][name]
        if keyword == "dependentRequired":
            present = self._new(node, keyword, {"required": [name, *needs]})
            return [[present], [absent]]
        return [[self._new(node, keyword, {"required": [name]}), needs], [absent]]

    def _conditional(self, node: dict[str, Any]) -> list[list[Any]] | None:
        """`if` and `then`, or the opposite of `if` and `else`."""
        condition = node["if"]
        if isinstance(condition, bool):
            return [[node.get("then" if condition else "else", True)]]
        said = {key for key in condition if key not in _ANNOTATIONS}
        properties = condition.get("properties", {})
        if not said <= {"properties", "required", "type"} or len(properties) != 1:
            return None
        ((name, value),) = properties.items()
        of_object = condition.get("type", "object") == "object"
        if condition.get("required", [name]) != [name] or not of_object:
            return None
        opposite: dict[str, Any] = {"properties": {name: self._new(node, "if", {"not": value})}}
        if "required" not in condition:
            opposite["required"] = [name]
        otherwise = [self._new(node, "if", opposite), node.get("else", True)]
        return [[condition, node.get("then", True)], otherwise]

    def _negate(self, inner: Any, node: dict[str, Any], work: list[Any], flat: _Flat) -> bool:
        """Says the opposite of `inner` another way, where there is one."""
        if isinstance(inner, bool):
            work.append(not inner)
            return True
        said = {key for key in inner if key not in _ANNOTATIONS}
        if not said:
            work.append(False)
        elif said == {"type"}:
            kinds = inner["type"]
            if "integer" in kinds and "number" not in kinds:  # fractions are left
                flat.loose.append((node, "not", "a number may be written as a fraction"))
            flat.excluded |= {kinds} if isinstance(kinds, str) else set(kinds)
        elif said == {"anyOf"}:
            parts = [self._negate(part, node, work, flat) for part in inner["anyOf"]]
            return all(parts)
        elif said == {"required"} and len(inner["required"]) == 1:
            (name,) = inner["required"]
            without = {"type": "object", "properties": {name: False}}
            made = self._once(node, f"not {name}", lambda: [[self._new(node, "not", without)]])
            work += made[0] if made else []
        else:
            return False
        return True

    def _apart(self, options: list[Any]) -> bool:
        """Whether no value can satisfy two of the options: they differ in type, in the values they
        list, or in those of a property that all require."""
        found = [self._resolved(option) for option in options]
        if any(option is None for option in found):
            return False
        real = [option for option in found if option is not None]
        names = list(real[0].get("required", ())) if real else []
        if _disjoint([_types(option) for option in real]) or _disjoint(map(_listed, real)):
            return True
        return any(
            all(
                option.get("type") == "object" and name in option.get("required", ())
                for option in real
            )
            and _disjoint(
                _listed(self._resolved(option.get("properties", {}).get(name, True)) or {})
                for option in real
            )
            for name in names
        )

    def _resolved(self, node: Any) -> dict[str, Any] | None:
        for _ in range(10):
            if not isinstance(node, dict) or "$ref" not in node:
                break
            node = self._document.target(node, "$ref")
        return node if isinstance(node, dict) else None

    # --- which shapes --------------------------------------------------------------------------

    def _says(self, node: Mapping[str, Any]) -> bool:
        """Whether it says anything of the value but what has been followed already."""
        followed = (*REFERENCES, "allOf", "anyOf", "oneOf", "not", "if", "then", "else")
        return any(key not in _ANNOTATIONS and key not in followed for key in node)

    def _shapes(self, flat: _Flat) -> Iterator[Shape]:
        kinds = _kinds(flat)
        listed = next((node for node in flat.nodes if "enum" in node or "const" in node), None)
        if listed is not None:
            values = [listed["const"]] if "const" in listed else listed["enum"]
            if found := tuple(value for value in values if self._holds(flat, value)):
                yield Values(found)
            return
        self._note([flat])
        for kind in _KINDS:
            if kind == "number" and "integer" in kinds:
                yield from self._number(flat, integer="number" not in kinds)
            elif kind in kinds:
                yield from getattr(self, f"_{kind}")(flat)

    def _holds(self, flat: _Flat, value: Any) -> bool:
        return all(check(self._document, value, node) is None for node in flat.nodes)

    def _note(self, flats: list[_Flat]) -> None:
        for flat in flats:
            for node, keyword, why in flat.loose:
                self.relax(node, keyword, why)

    def _boolean(self, flat: _Flat) -> Iterator[Shape]:
        yield Values((True, False))

    def _null(self, flat: _Flat) -> Iterator[Shape]:
        yield Values((None,))

    def _string(self, flat: _Flat) -> Iterator[Shape]:
        yield String(self._strings.of(flat.nodes))

    def _number(self, flat: _Flat, *, integer: bool) -> Iterator[Shape]:
        low = high = None
        above = below = False
        steps: list[tuple[dict[str, Any], Decimal]] = []
        for node in flat.nodes:
            for key, strict in (("minimum", False), ("exclusiveMinimum", True)):
                bound = self._bound(node, key)
                if bound is not None and (low is None or (bound, strict) > (low, above)):
                    low, above = bound, strict
            for key, strict in (("maximum", False), ("exclusiveMaximum", True)):
                bound = self._bound(node, key)
                if bound is not None and (high is None or (-bound, strict) > (-high, below)):
                    high, below = bound, strict
            if "multipleOf" in node:
                steps.append((node, Decimal(str(node["multipleOf"]))))
        if integer:
            low, above = _whole(low, above, up=True), False
            high, below = _whole(high, below, up=False), False
        if low is not None and high is not None and (low > high or (low == high and above | below)):
            return
        if low is not None and high is not None and low == high:
            yield from self._listed(flat, [low], integer=integer)
            return
        step = None
        for node, size in steps:
            if low is not None and high is not None and (high - low) / size <= MAX_MULTIPLES:
                first = int((low / size).to_integral_value("ROUND_CEILING"))
                last = int((high / size).to_integral_value("ROUND_FLOOR"))
                listed = [size * n for n in range(first, last + 1)]
                yield from self._listed(flat, listed, integer=integer)
                return
            if low is None and high is None and step is None and _by_last_digits(size, integer):
                step = size
            else:
                self.relax(node, "multipleOf", "it takes more than a look at the last digits")
        if step is not None and step == step.to_integral_value():
            integer = True
        yield Number(integer, low, high, above, below, None if step == 1 else step)

    def _bound(self, node: dict[str, Any], key: str) -> Decimal | None:
        bound = Decimal(str(node[key])) if key in node else None
        if bound is not None and len(f"{bound:f}") > MAX_BOUND_DIGITS:
            self.relax(node, key, f"it has more than {MAX_BOUND_DIGITS} digits")
            return None
        return bound

    def _listed(self, flat: _Flat, numbers: list[Decimal], *, integer: bool) -> Iterator[Shape]:
        plain = [int(n) if integer else float(n) for n in numbers if not integer or n % 1 == 0]
        if found := tuple(value for value in plain if self._holds(flat, value)):
            yield Values(found)

    def _array(self, flat: _Flat) -> Iterator[Shape]:
        nodes = flat.nodes
        low = max((node.get("minItems", 0) for node in nodes), default=0)
        highs = [node["maxItems"] for node in nodes if "maxItems" in node]
        for node in nodes:
            if "contains" in node:
                low = max(low, node.get("minContains", 1))
                if node.get("minContains", 1) or "maxContains" in node:
                    self.relax(node, "contains", "it may be any element")
            if node.get("uniqueItems") and min(highs, default=2) > 1:
                self.relax(node, "uniqueItems", "a grammar does not compare values")
        tails = [node["items"] for node in nodes if "items" in node]
        unevaluated = [node for node in nodes if "unevaluatedItems" in node]
        for node in unevaluated:
            if _unsure(flat) or node is not nodes[0]:
                self.relax(node, "unevaluatedItems", _DEPENDS)
            if _unsure(flat) or len(unevaluated) > 1:
                continue
            if not tails:
                tails.append(node["unevaluatedItems"])
        longest = max((len(node.get("prefixItems", ())) for node in nodes), default=0)
        prefix = [_conjunction(_at(node, index) for node in nodes) for index in range(longest)]
        rest = _conjunction(tails)
        high = min(highs) if highs else None
        if False in rest:
            high = min(longest, longest if high is None else high)
        for index, part in enumerate(prefix):
            if False in part:
                high, prefix = min(index, index if high is None else high), prefix[:index]
                break
        if high is None or low <= high:
            yield Array(tuple(prefix), None if False in rest else rest, int(low), _int(high))

    def _object(self, flat: _Flat) -> Iterator[Shape]:
        nodes = flat.nodes
        required = [name for node in nodes for name in node.get("required", ())]
        declared = dict.fromkeys(name for node in nodes for name in node.get("properties", {}))
        extra, closed = self._extra(flat)
        properties: dict[str, Conjunction] = {}
        names = [node for node in nodes if "propertyNames" in node]
        forbidden = set()
        for name in dict.fromkeys([*declared, *required]):
            part = _conjunction(schema for node in nodes for schema in _property(node, name))
            fits = all(
                check(self._document, name, node["propertyNames"]) is None
                if isinstance(node["propertyNames"], dict)
                else node["propertyNames"]
                for node in names
            )
            if False in part or not fits:
                if name in required:
                    return
                forbidden.add(name)
            else:
                properties[name] = part
        patterned = []
        num_patterns = 0
        for node in nodes:
            for pattern, schema in node.get("patternProperties", {}).items():
                num_patterns += 1
                beside = [n for n in nodes if n is not node and _closes(n, pattern)]
                part = _conjunction([schema, *(n["additionalProperties"] for n in beside)])
                if False not in part:
                    text = self._strings.of([self._keys(node, pattern)])
                    patterned.append((text, part))
        if num_patterns > 1 or (num_patterns and extra is not None):
            node = next(node for node in nodes if "patternProperties" in node)
            self.relax(node, "patternProperties", "a key may match in more than one way")
        low = max((node.get("minProperties", 0) for node in nodes), default=0)
        highs = [node["maxProperties"] for node in nodes if "maxProperties" in node]
        high = _int(min(highs)) if highs else None
        if closed and not patterned and low > len(properties):
            if any(_says_closed(node) for node in nodes):
                return
            extra = ANYTHING
        if high is None or max(low, len(set(required))) <= high:
            shape = self._names(flat, names)
            if shape == Values(()):
                extra, patterned, shape = None, [], None
            yield Object(
                properties,
                frozenset(required),
                tuple(patterned),
                extra,
                shape,
                frozenset(forbidden),
                int(low),
                high,
            )

    def _extra(self, flat: _Flat) -> tuple[Conjunction | None, bool]:
        """What properties beyond the declared ones hold; None: there are none. Where nobody says,
        a schema that declares some allows no others: models make them up."""
        said = [n["additionalProperties"] for n in flat.nodes if "additionalProperties" in n]
        unevaluated = [node for node in flat.nodes if "unevaluatedProperties" in node]
        for node in unevaluated if not said else ():
            value = node["unevaluatedProperties"]
            if _unsure(flat) or node is not flat.nodes[0]:
                self.relax(node, "unevaluatedProperties", _DEPENDS)
            if not _unsure(flat) or value is True:
                said.append(value)
        if True in said and len(unevaluated) > 1:
            said = [True]
        parts = [part for node in flat.nodes for part in node.get("properties", {}).values()]
        forbids = bool(parts) and all(part is False for part in parts)
        declares = any("properties" in node for node in flat.nodes) and not forbids
        declares = declares or any("patternProperties" in node for node in flat.nodes)
        if not said and declares and not flat.opaque:
            return None, True
        extra = _conjunction(said)
        return (None, True) if False in extra else (extra, False)

    def _names(self, flat: _Flat, nodes: list[dict[str, Any]]) -> Values | String | None:
        """What the names of further properties may be; None: anything."""
        if not nodes:
            return None
        text = self._new(nodes[0], "propertyNames", {"type": "string"})
        shapes = self.of((*(node["propertyNames"] for node in nodes), text))
        if not shapes:
            return Values(())
        listed = [shape for shape in shapes if isinstance(shape, Values)]
        if len(listed) == len(shapes):
            return Values(tuple(value for shape in listed for value in shape.values))
        if len(shapes) == 1 and isinstance(shapes[0], String):
            return shapes[0]
        self.relax(nodes[0], "propertyNames", "names may have more than one form")
        return None

    def _keys(self, node: Mapping[str, Any], pattern: str) -> dict[str, Any]:
        return self._new(node, "patternProperties", {"pattern": pattern})


def _kinds(flat: _Flat) -> set[str]:
    kinds = {*_KINDS, "integer"}
    for node in flat.nodes:
        if "type" in node:
            given = {node["type"]} if isinstance(node["type"], str) else set(node["type"])
            kinds &= given | ({"integer"} if "number" in given else set())
    if "number" in flat.excluded:
        kinds -= {"integer"}
    if "integer" in flat.excluded and "number" in kinds:
        return kinds - (flat.excluded - {"integer"})  # a fraction is what would be left
    return kinds - flat.excluded


def _types(node: Mapping[str, Any]) -> set[object] | None:
    if "type" not in node:
        return None
    given = {node["type"]} if isinstance(node["type"], str) else set(node["type"])
    return given | ({"integer"} if "number" in given else set())


def _listed(node: Mapping[str, Any]) -> set[object] | None:
    """The values it lists; None: it does not."""
    if "const" in node:
        return {identity(node["const"])}
    return set(map(identity, node["enum"])) if "enum" in node else None


def _disjoint(sets: Iterable[set[object] | None]) -> bool:
    seen: set[object] = set()
    for members in sets:
        if members is None or seen & members:
            return False
        seen |= members
    return True


def _conjunction(nodes: Any) -> Conjunction:
    """In order, each once; just False where one is."""
    found: list[Any] = []
    for node in nodes:
        if node is False:
            return (False,)
        if node is not True and not any(node is other for other in found):
            found.append(node)
    return tuple(found)


def _at(node: Mapping[str, Any], index: int) -> Any:
    prefix = node.get("prefixItems", ())
    return prefix[index] if index < len(prefix) else node.get("items", True)


def _property(node: Mapping[str, Any], name: str) -> Iterator[Any]:
    """What one subschema says of the property."""
    known = [node["properties"][name]] if name in node.get("properties", {}) else []
    patterns = node.get("patternProperties", {})
    known += [schema for pattern, schema in patterns.items() if matches(pattern, name)]
    yield from known or [node.get("additionalProperties", True)]


def _closes(node: Mapping[str, Any], pattern: str) -> bool:
    return "additionalProperties" in node and pattern not in node.get("patternProperties", {})


def _unsure(flat: _Flat) -> bool:
    """Whether what is evaluated depends on more than the keywords in `flat`."""
    others = ("contains", "if", "not", "$dynamicRef", "dependentSchemas")
    return flat.branched or not flat.alone or any(k in n for n in flat.nodes for k in others)


def _says_closed(node: Mapping[str, Any]) -> bool:
    return False in (node.get("additionalProperties"), node.get("unevaluatedProperties"))


def _whole(bound: Decimal | None, strict: bool, *, up: bool) -> Decimal | None:
    """The nearest integer inside the bound."""
    if bound is None:
        return None
    whole = bound.to_integral_value("ROUND_CEILING" if up else "ROUND_FLOOR")
    return whole + (1 if up else -1) if strict and whole == bound else whole


def _by_last_digits(size: Decimal, integer: bool) -> bool:
    """Whether the last two digits, or those behind the point, tell multiples."""
    if size == size.to_integral_value():
        return 100 % int(size) == 0 if size <= 100 else False
    power = size.normalize()
    return not integer and power.as_tuple().digits == (1,) and is_multiple(1, float(size))


def _int(value: Any) -> int | None:
    return None if value is None else int(value)
