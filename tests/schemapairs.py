"""Random (schema, valid value) pairs: the value is drawn first, then what is said of it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

_WORDS = "a bc kind name x-y öl 漢 q"
_NAMES = ["", 'sa"y', "ba\\ck", "a b", *_WORDS.split()]
_TEXTS = [
    "",
    "abc",
    'say "hi"',
    "back\\slash",
    "line\nbreak",
    "naïve",
    "漢字",
    "😀",
    "2024-02-29",
    "42",
]
_PATTERNS = ["^[a-z]+$", "b", "^[^x]*$", "^.*$", r"^\d+$", "^(say|back)", "[^\\x00-\\x7f]", "\\\\"]


class Pairs:
    """Pairs for one seed."""

    def __init__(self, seed: int):
        self._draw = random.Random(seed)
        self._definitions: dict[str, Any] = {}

    def tool(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The parameters of a tool, and arguments that satisfy them."""
        value = self._object(depth=0)
        schema = self._of_object(value, 0) | {"type": "object"}
        if self._definitions:
            schema["$defs"] = self._definitions
        return schema, value

    # --- values --------------------------------------------------------------------------------

    def _value(self, depth: int) -> Any:
        kinds: list[Callable[[], Any]] = [
            lambda: self._draw.choice(_TEXTS),
            lambda: self._draw.randrange(-200, 200),
            lambda: round(self._draw.uniform(-20, 20), self._draw.randrange(1, 4)),
            lambda: self._draw.choice([True, False, None]),
        ]
        if depth < 3:
            kinds += [lambda: self._object(depth + 1), lambda: self._array(depth + 1)]
        return self._draw.choice(kinds)()

    def _object(self, depth: int) -> dict[str, Any]:
        names = self._draw.sample(_NAMES, self._draw.randrange(0, 4))
        return {name: self._value(depth) for name in names}

    def _array(self, depth: int) -> list[Any]:
        return [self._value(depth) for _ in range(self._draw.randrange(0, 4))]

    # --- what is said of them ------------------------------------------------------------------

    def _of(self, value: Any, depth: int) -> Any:
        """A schema that `value` satisfies."""
        schema = self._plain(value, depth)
        if depth < 4 and self._draw.random() < 0.35:
            schema = self._draw.choice(
                [self._any_of, self._one_of, self._all_of, self._not, self._ref, self._if]
            )(schema, value, depth)
        return schema

    def _plain(self, value: Any, depth: int) -> dict[str, Any]:
        if self._draw.random() < 0.15:
            others = [self._draw.choice(_TEXTS), self._draw.randrange(9), None, value]
            listed = {"enum": list({json.dumps(other): other for other in others}.values())}
            return self._draw.choice([{"const": value}, listed])
        if self._draw.random() < 0.05:
            return {}
        match value:
            case bool():
                return {"type": "boolean"}
            case None:
                return {"type": self._draw.choice(["null", ["null", "string"]])}
            case str():
                return self._of_string(value)
            case int() | float():
                return self._of_number(value)
            case list():
                return self._of_array(value, depth)
        return self._of_object(value, depth)

    def _of_string(self, value: str) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "string"} if self._draw.random() < 0.8 else {}
        if self._draw.random() < 0.3:
            schema["minLength"] = self._draw.randrange(0, len(value) + 1)
        if self._draw.random() < 0.3:
            schema["maxLength"] = len(value) + self._draw.choice([0, 1, 5, 200])
        matching = [pattern for pattern in _PATTERNS if _matches(pattern, value)]
        if matching and self._draw.random() < 0.4:
            schema["pattern"] = self._draw.choice(matching)
        if value == "2024-02-29" and self._draw.random() < 0.5:
            schema["format"] = "date"
        return schema

    def _of_number(self, value: float) -> dict[str, Any]:
        kinds = ["number", "integer"] if isinstance(value, int) else ["number"]
        schema: dict[str, Any] = {"type": self._draw.choice([*kinds, ["null", kinds[-1]]])}
        step = self._draw.choice([0, 1, 0.5, 30])
        if self._draw.random() < 0.4:
            schema["minimum"] = value - step
        elif self._draw.random() < 0.3:
            schema["exclusiveMinimum"] = value - step - 1
        if self._draw.random() < 0.4:
            schema["maximum"] = value + step
        elif self._draw.random() < 0.3:
            schema["exclusiveMaximum"] = value + step + 0.25
        divisors = [n for n in (1, 2, 3, 5, 7, 10) if isinstance(value, int) and value % n == 0]
        if divisors and self._draw.random() < 0.3:
            schema["multipleOf"] = self._draw.choice(divisors)
        return schema

    def _of_array(self, value: list[Any], depth: int) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "array"}
        if self._draw.random() < 0.5:
            count = self._draw.randrange(0, len(value) + 1)
            schema["prefixItems"] = [self._of(item, depth + 1) for item in value[:count]]
            if not schema["prefixItems"]:
                del schema["prefixItems"]
            rest = value[count:]
        else:
            rest = value
        if rest and self._draw.random() < 0.7:
            schema["items"] = {"anyOf": [self._of(item, depth + 1) for item in rest]}
        elif not rest and self._draw.random() < 0.3:
            schema["items"] = False
        if self._draw.random() < 0.3:
            schema["minItems"] = self._draw.randrange(0, len(value) + 1)
        if self._draw.random() < 0.3:
            schema["maxItems"] = len(value) + self._draw.randrange(0, 3)
        if value and self._draw.random() < 0.2:
            schema["contains"] = self._of(self._draw.choice(value), depth + 1)
        if len({json.dumps(item) for item in value}) == len(value) and self._draw.random() < 0.2:
            schema["uniqueItems"] = len(set(map(repr, value))) == len(value)
        return schema

    def _of_object(self, value: dict[str, Any], depth: int) -> dict[str, Any]:
        properties = {name: self._of(part, depth + 1) for name, part in value.items()}
        for name in _NAMES:
            if name not in value and self._draw.random() < 0.1:
                properties[name] = self._of(self._value(4), depth + 4)
        schema: dict[str, Any] = {"type": "object", "properties": properties}
        present = list(value)
        schema["required"] = [name for name in present if self._draw.random() < 0.5]
        if self._draw.random() < 0.3:
            schema["additionalProperties"] = self._draw.choice([False, True, {"type": "integer"}])
        if self._draw.random() < 0.15:
            schema["minProperties"] = self._draw.randrange(0, len(value) + 1)
        if self._draw.random() < 0.15:
            schema["maxProperties"] = len(value) + self._draw.randrange(0, 2)
        if len(present) > 1 and self._draw.random() < 0.2:
            schema["dependentRequired"] = {present[0]: [present[1]]}
        return schema

    # --- around it -----------------------------------------------------------------------------

    def _other(self, depth: int) -> Any:
        return self._of(self._value(3), depth + 2)

    def _any_of(self, schema: Any, value: Any, depth: int) -> dict[str, Any]:
        options = [schema, self._other(depth)]
        self._draw.shuffle(options)
        return {"anyOf": options}

    def _one_of(self, schema: Any, value: Any, depth: int) -> dict[str, Any]:
        if isinstance(value, str):
            return {"oneOf": [{"type": "integer"}, {"type": "string", **schema}]}
        return {"oneOf": [schema]}

    def _all_of(self, schema: Any, value: Any, depth: int) -> dict[str, Any]:
        return {"allOf": [schema, self._plain(value, depth + 1)]}

    def _not(self, schema: Any, value: Any, depth: int) -> dict[str, Any]:
        return {**schema, "not": {"const": "never" if value != "never" else 0}}

    def _ref(self, schema: Any, value: Any, depth: int) -> dict[str, Any]:
        name = f"d{len(self._definitions)}"
        self._definitions[name] = schema
        return {"$ref": f"#/$defs/{name}"}

    def _if(self, schema: Any, value: Any, depth: int) -> dict[str, Any]:
        return {"if": {"const": value}, "then": schema, "else": self._other(depth)}


def _matches(pattern: str, text: str) -> bool:
    import re2

    return re2.search(pattern, text) is not None
