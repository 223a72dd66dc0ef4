"""What JSON a body may hold: kinds of values and their bounds.

    Record({"n": Integer(1, 32), "stop": Either((Text(1, 256), Items(Text(1, 256), 1, 4)))})

One description checks what comes in (`check`, which raises InvalidRequest naming the field), is
published (`schema`: JSON Schema 2020-12), and tells the tests where the edges are. A field of a
record that is null counts as absent.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from f1.errors import InvalidRequest
from f1.serve.wire.fields import describe, refuse

JsonSchema = dict[str, Any]
Types = tuple[type, ...]


class Shape(ABC):
    __slots__ = ()
    # Values of these types are judged by this shape, where several could be meant.
    takes: ClassVar[Types]

    @property
    @abstractmethod
    def words(self) -> str:
        """What is expected, as in "must be …"."""

    @abstractmethod
    def check(self, value: object, path: str) -> None: ...

    @abstractmethod
    def schema(self) -> JsonSchema: ...

    def wrong(self, value: object, path: str) -> InvalidRequest:
        return refuse(path or "body", f"must be {self.words}, not {describe(value)}")


@dataclass(frozen=True, slots=True)
class Flag(Shape):
    takes: ClassVar[Types] = (bool,)
    words = "a boolean"

    def check(self, value: object, path: str) -> None:
        if not isinstance(value, bool):
            raise self.wrong(value, path)

    def schema(self) -> JsonSchema:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Number(Shape):
    low: float
    high: float
    takes: ClassVar[Types] = (int, float)

    @property
    def words(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}"

    def check(self, value: object, path: str) -> None:
        # NaN compares false with everything, so it fails here like any number out of range.
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not self.low <= value <= self.high:  # type: ignore[operator]
            raise self.wrong(value, path)

    def schema(self) -> JsonSchema:
        return {"type": "number", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True, slots=True)
class Integer(Shape):
    low: int
    high: int
    takes: ClassVar[Types] = (int, float)

    @property
    def words(self) -> str:
        return f"an integer from {self.low} to {self.high}"

    def check(self, value: object, path: str) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.wrong(value, path)
        if not self.low <= value <= self.high:
            raise self.wrong(value, path)

    def schema(self) -> JsonSchema:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True, slots=True)
class Text(Shape):
    """A string, its length in characters. Without `at_most` the limit on bodies bounds it.
    `pattern` is matched in full; `like` says it in words."""

    at_least: int = 0
    at_most: int | None = None
    pattern: str | None = None
    like: str = ""
    takes: ClassVar[Types] = (str,)

    @property
    def words(self) -> str:
        if self.like:
            return self.like
        if self.at_most is None:
            return "a string that is not empty" if self.at_least else "a string"
        return f"a string of {self.at_least} to {self.at_most} characters"

    def check(self, value: object, path: str) -> None:
        if not isinstance(value, str) or len(value) < self.at_least:
            raise self.wrong(value, path)
        if self.at_most is not None and len(value) > self.at_most:
            raise self.wrong(value, path)
        if self.pattern is not None and not re.fullmatch(self.pattern, value):
            raise self.wrong(value, path)

    def schema(self) -> JsonSchema:
        schema: JsonSchema = {"type": "string"}
        if self.at_least:
            schema["minLength"] = self.at_least
        if self.at_most is not None:
            schema["maxLength"] = self.at_most
        if self.pattern is not None:
            schema["pattern"] = f"^(?:{self.pattern})$"
        return schema


@dataclass(frozen=True, slots=True)
class Word(Shape):
    """One of a few strings."""

    options: tuple[str, ...]
    takes: ClassVar[Types] = (str,)

    @property
    def words(self) -> str:
        quoted = ", ".join(f"'{option}'" for option in self.options)
        return quoted if len(self.options) == 1 else f"one of {quoted}"

    def check(self, value: object, path: str) -> None:
        if not isinstance(value, str) or value not in self.options:
            raise self.wrong(value, path)

    def schema(self) -> JsonSchema:
        return {"type": "string", "enum": list(self.options)}


@dataclass(frozen=True, slots=True)
class Free(Shape):
    """Any object. Its depth is bounded with that of the whole body."""

    takes: ClassVar[Types] = (Mapping,)
    words = "an object"

    def check(self, value: object, path: str) -> None:
        if not isinstance(value, Mapping):
            raise self.wrong(value, path)

    def schema(self) -> JsonSchema:
        return {"type": "object"}


@dataclass(frozen=True, slots=True)
class Unsupported(Shape):
    """A field of the API's that is not offered here: null passes, the rest is refused by name."""

    takes: ClassVar[Types] = ()
    words = "null"

    def check(self, value: object, path: str) -> None:
        raise refuse(path, "is not supported by this server", code="unsupported_field")

    def schema(self) -> JsonSchema:
        return {"type": "null"}


@dataclass(frozen=True, slots=True)
class Items(Shape):
    """An array."""

    of: Shape
    at_least: int
    at_most: int
    takes: ClassVar[Types] = (list, tuple)
    words = "an array"

    def check(self, value: object, path: str) -> None:
        if not isinstance(value, list | tuple):
            raise self.wrong(value, path)
        if len(value) < self.at_least:
            raise refuse(path, f"must hold at least {self.at_least} items, not {len(value)}")
        if len(value) > self.at_most:
            raise refuse(path, f"may hold at most {self.at_most} items, not {len(value)}")
        for index, item in enumerate(value):
            self.of.check(item, f"{path}[{index}]")

    def schema(self) -> JsonSchema:
        items = {"type": "array", "items": self.of.schema(), "maxItems": self.at_most}
        return items | ({"minItems": self.at_least} if self.at_least else {})


@dataclass(frozen=True, slots=True)
class Keyed(Shape):
    """An object whose keys are the client's own."""

    keys: Text
    of: Shape
    at_most: int
    takes: ClassVar[Types] = (Mapping,)

    @property
    def words(self) -> str:
        return f"an object, its keys {self.keys.words}"

    def check(self, value: object, path: str) -> None:
        if not isinstance(value, Mapping):
            raise self.wrong(value, path)
        if len(value) > self.at_most:
            raise refuse(path, f"may hold at most {self.at_most} keys, not {len(value)}")
        for key, item in value.items():
            self.keys.check(key, path)
            if item is not None:
                self.of.check(item, f"{path}.{key}")

    def schema(self) -> JsonSchema:
        return {
            "type": "object",
            "propertyNames": self.keys.schema(),
            "additionalProperties": _or_null(self.of.schema()),
            "maxProperties": self.at_most,
        }


@dataclass(frozen=True, slots=True)
class Record(Shape):
    """An object with fields of ours. Unknown ones are errors, for a misspelt one must not be
    silently without effect; where clients send back what other servers added, it is `open`."""

    fields: dict[str, Shape]
    required: tuple[str, ...] = ()
    open: bool = False
    takes: ClassVar[Types] = (Mapping,)
    words = "an object"

    def check(self, value: object, path: str) -> None:
        if not isinstance(value, Mapping):
            raise self.wrong(value, path)
        prefix = f"{path}." if path else ""
        for name, item in value.items():
            shape = self.fields.get(name)
            if shape is None:
                if not self.open:
                    told = prefix + str(name)[:100]
                    raise refuse(told, "is not a known field", code="unknown_field")
            elif item is not None:
                shape.check(item, prefix + name)
        for name in self.required:
            if value.get(name) is None:
                raise self.fields[name].wrong(None, prefix + name)

    def schema(self) -> JsonSchema:
        properties = {
            name: shape.schema() if name in self.required else _or_null(shape.schema())
            for name, shape in self.fields.items()
        }
        schema: JsonSchema = {"type": "object", "properties": properties}
        if self.required:
            schema["required"] = list(self.required)
        return schema | ({} if self.open else {"additionalProperties": False})


@dataclass(frozen=True, slots=True)
class Tagged(Shape):
    """One of several records, told apart by the word in the field `tag`, which each of them has.
    `otherwise` is the one that leaves it out."""

    tag: str
    records: Mapping[str, Record]
    otherwise: Record | None = None
    takes: ClassVar[Types] = (Mapping,)
    words = "an object"

    def check(self, value: object, path: str) -> None:
        if not isinstance(value, Mapping):
            raise self.wrong(value, path)
        word = value.get(self.tag)
        record = self.records.get(word) if isinstance(word, str) else None
        if word is None:
            record = self.otherwise
        if record is None:
            known = Word(tuple(self.records))
            raise known.wrong(word, f"{path}.{self.tag}" if path else self.tag)
        record.check(value, path)

    def schema(self) -> JsonSchema:
        records = [*self.records.values(), *([self.otherwise] if self.otherwise else [])]
        return {"oneOf": [record.schema() for record in records]}


def tagged(tag: str, records: Mapping[str, Record], otherwise: Record | None = None) -> Tagged:
    """The records, each with its tag."""
    with_tags = {
        word: Record({tag: Word((word,))} | record.fields, (tag, *record.required), record.open)
        for word, record in records.items()
    }
    if otherwise is not None:
        fields = {tag: Unsupported()} | otherwise.fields
        otherwise = Record(fields, otherwise.required, otherwise.open)
    return Tagged(tag, with_tags, otherwise)


@dataclass(frozen=True, slots=True)
class Either(Shape):
    """One of several shapes that take different JSON types."""

    shapes: tuple[Shape, ...]

    @property
    def words(self) -> str:
        return " or ".join(shape.words for shape in self.shapes)

    def check(self, value: object, path: str) -> None:
        for shape in self.shapes:
            if isinstance(value, shape.takes):
                shape.check(value, path)
                return
        raise self.wrong(value, path)

    def schema(self) -> JsonSchema:
        return {"anyOf": [shape.schema() for shape in self.shapes]}


def _or_null(schema: JsonSchema) -> JsonSchema:
    """What a field may hold that can be left out."""
    kind = schema.get("type")
    if kind == "null":
        return schema
    if isinstance(kind, str) and "enum" not in schema and "const" not in schema:
        return schema | {"type": [kind, "null"]}
    return {"anyOf": [schema, {"type": "null"}]}
