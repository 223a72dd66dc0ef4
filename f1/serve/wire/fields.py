"""Reading JSON, field by field; every error names the field and says what was expected."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import orjson

from f1.errors import InvalidRequest

MAX_VALUES = 400_000  # in a body; nobody else is served while they are made, some 0.1 s
MAX_DEPTH = 128  # levels of a body; what reads it goes down with Python's stack


def parse_json(body: bytes) -> object:
    """JSON, or InvalidRequest. NaN, numbers past float64, lone surrogates, nesting beyond
    MAX_DEPTH, objects that hold a key twice and more than MAX_VALUES values are refused."""
    if len(body) > MAX_VALUES and sum(map(body.count, (b",", b"[", b"{"))) > MAX_VALUES:
        told = f"the body holds more than {MAX_VALUES} values, or commas"
        raise InvalidRequest(told, code="invalid_json")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}", code="invalid_json") from None
    if isinstance(value, dict):
        for name, field in value.items():
            _check_depth(field, MAX_DEPTH - 1, name[:100])
    else:
        _check_depth(value, MAX_DEPTH, "body")
    _refuse_twins(body)
    return value


def _check_depth(value: object, at_most: int, path: str) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(at_most):
        if not level:
            return
        inner: list[Any] = []
        for item in level:
            inner += item.values() if isinstance(item, dict) else item
        level = [item for item in inner if isinstance(item, dict | list)]
    if level:
        raise refuse(path, f"is nested deeper than {MAX_DEPTH} levels", code="invalid_json")


def _refuse_twins(body: bytes) -> None:
    """Readers differ in which of two equal keys they take: a guard before this server may have
    judged the other one. The fast parser does not tell, so a second one looks at the keys."""

    def check(pairs: list[tuple[str, object]]) -> None:
        names = [name for name, _ in pairs]
        if len(names) != len(set(names)):
            ((twin, _),) = Counter(names).most_common(1)
            raise refuse(twin[:100], "is given twice in one object", code="invalid_json")

    json.JSONDecoder(object_pairs_hook=check).decode(body.decode())


def refuse(path: str, expected: str, *, code: str | None = None) -> InvalidRequest:
    return InvalidRequest(f"'{path}' {expected}", param=path, code=code)


@contextmanager
def renamed(names: Mapping[str, str]) -> Iterator[None]:
    """Errors name a field as the API that was asked does; `names` has what others call it."""
    try:
        yield
    except InvalidRequest as error:
        for there, here in names.items():
            if error.param is not None and error.param.startswith(there):
                error.param = here + error.param.removeprefix(there)
            for quote in ("'", ""):
                if error.message.startswith(quote + there):
                    error.message = quote + here + error.message.removeprefix(quote + there)
        raise


def describe(value: object) -> str:
    """A value as an error message may show it: its JSON type, and itself when short."""
    names = {type(None): "null", bool: "a boolean", list: "an array"}
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "a huge number" if abs(value) >= 1e21 else repr(value)
    if isinstance(value, str):
        return repr(value) if len(value) <= 40 else f"a string of {len(value)} characters"
    return names.get(type(value), "an object" if isinstance(value, Mapping) else "something else")


class Fields:
    """One JSON object and its path in a body. What it may hold was checked against the body's shape
    (wire/bodies.py) before; here it is read. A field that is null counts as absent."""

    def __init__(self, value: object, path: str = ""):
        if not isinstance(value, Mapping):
            raise refuse(path or "body", f"must be an object, not {describe(value)}")
        self.value: Mapping[str, Any] = value
        self.path = path

    def name_of(self, field: str) -> str:
        return f"{self.path}.{field}" if self.path else field

    def get(self, field: str) -> Any:
        return self.value.get(field)

    def has(self, field: str) -> bool:
        return self.value.get(field) is not None

    def refuse(self, field: str, expected: str, *, code: str | None = None) -> InvalidRequest:
        return refuse(self.name_of(field), expected, code=code)

    def _wrong(self, field: str, expected: str) -> InvalidRequest:
        return self.refuse(field, f"must be {expected}, not {describe(self.get(field))}")

    def only(self, known: frozenset[str]) -> None:
        """Unknown options are errors: a misspelt one must not be silently without effect."""
        for field in self.value:
            if field not in known:
                raise self.refuse(str(field)[:100], "is not a known field", code="unknown_field")

    def number(self, field: str) -> float | None:
        value = self.get(field)
        return None if value is None else float(value)

    def integer(self, field: str) -> int | None:
        value: int | None = self.get(field)
        return value

    def boolean(self, field: str) -> bool | None:
        value = self.get(field)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(field, "a boolean")
        return value

    def string(self, field: str) -> str | None:
        value = self.get(field)
        if value is not None and not isinstance(value, str):
            raise self._wrong(field, "a string")
        return value

    def required_string(self, field: str) -> str:
        value = self.string(field)
        if not value:
            raise self._wrong(field, "a string that is not empty")
        return value

    def one_of(self, field: str, options: tuple[str, ...]) -> str | None:
        value = self.get(field)
        if value is not None and value not in options:
            raise self._wrong(field, "one of " + ", ".join(f"'{option}'" for option in options))
        return None if value is None else str(value)

    def object(self, field: str) -> Fields | None:
        return Fields(self.get(field), self.name_of(field)) if self.has(field) else None

    def required_object(self, field: str) -> Fields:
        return Fields(self.get(field), self.name_of(field))

    def array(self, field: str, at_most: int) -> list[Any]:
        """The items; [] when absent."""
        value = self.get(field)
        if value is None:
            return []
        if not isinstance(value, list | tuple):
            raise self._wrong(field, "an array")
        if len(value) > at_most:
            raise self.refuse(field, f"may hold at most {at_most} items, not {len(value)}")
        return list(value)

    def objects(self, field: str, at_most: int) -> Iterator[Fields]:
        for index, item in enumerate(self.array(field, at_most)):
            yield Fields(item, f"{self.name_of(field)}[{index}]")
