"""The words of F1 as JSON and back, for what is written down or crosses to another process.

Closed: only the dataclasses of `f1.types` and those that are named here are made, whatever a row or
a frame says; a field that is not known, or of another type, raises Malformed.

    ToolCall("a", "f", "{}")  ◀──▶  {"is": "ToolCall", "id": "a", "name": "f", "arguments": "{}"}

Fields at their defaults are left out. JSON of others that has the key `is` stays what it is:
{"is": "Ref"} ◀──▶ {"is": "", "json": {"is": "Ref"}}.
"""

from __future__ import annotations

import base64
import dataclasses
import types
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from f1 import types as words

T = TypeVar("T")
Read = Callable[[Any], Any]
_IS = "is"


class Malformed(ValueError):
    """This is not what encode() wrote."""


class Codec:
    """Of the dataclasses in `f1.types` and `more`."""

    def __init__(self, more: Iterable[type] = ()):
        known = [each for each in vars(words).values() if dataclasses.is_dataclass(each)]
        self._known: dict[str, type] = {cast(type, c).__name__: cast(type, c) for c in known}
        self._known |= {each.__name__: each for each in more}
        self._read: Callable[[Any], Read] = cache(self._reader)

    def encode(self, value: Any) -> Any:
        """As JSON: dicts, lists, texts, numbers."""
        if isinstance(value, str | int | float | bool | None):
            return value
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            written: dict[str, Any] = {_IS: type(value).__name__}
            for name, default in _fields(type(value)):
                inner = getattr(value, name)
                if inner is not default and inner != default:
                    written[name] = self.encode(inner)
            return written
        if isinstance(value, Mapping):
            plain = {str(key): self.encode(inner) for key, inner in value.items()}
            return {_IS: "", "json": plain} if _IS in plain else plain
        if isinstance(value, list | tuple):
            return [self.encode(inner) for inner in value]
        if isinstance(value, bytes):
            return base64.b64encode(value).decode()
        raise TypeError(f"{type(value).__name__} is no word of F1")

    def decode(self, kind: type[T], value: Any) -> T:
        """A dataclass that encode() wrote. Raises Malformed."""
        return cast(T, self._read(cast(Any, kind))(value))

    def decode_any(self, value: Any) -> Any:
        """A dataclass, whichever it says it is."""
        return self._read(self._class(value))(value)

    def _class(self, value: Any) -> type:
        name = value.get(_IS) if isinstance(value, dict) else None
        if not isinstance(name, str) or name not in self._known:
            raise Malformed(f"no word of F1: {str(name)[:100]!r}")
        return self._known[name]

    # --- one reader a type, made once ------------------------------------------------------------

    def _reader(self, hint: Any) -> Read:
        if hint is Any:
            return self._anything
        if dataclasses.is_dataclass(hint):
            return self._dataclass(cast(type, hint))
        origin, args = get_origin(hint), get_args(hint)
        if origin in (Union, types.UnionType):
            return self._union(args)
        if origin is Literal:
            return lambda value: value if value in args else _refuse(value, f"one of {args}")
        if origin is tuple:
            inner = [self._read(arg) for arg in args if arg is not ...]
            if args[-1:] == (...,):
                return lambda value: tuple(map(inner[0], _a(list, value)))
            return lambda value: tuple(
                read(each) for read, each in zip(inner, _a(list, value), strict=True)
            )
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return self._mapping(int if args[0] is int else str, self._read(args[1]))
        if hint is bytes:
            return _bytes
        if hint is float:
            return lambda value: (
                value if type(value) in (int, float) else _refuse(value, "a number")
            )
        if hint is types.NoneType:
            return lambda value: _a(types.NoneType, value)
        if hint in (str, int, bool):
            return lambda value: value if type(value) is hint else _refuse(value, hint.__name__)
        raise TypeError(f"{hint} is no type of a word of F1")

    def _dataclass(self, kind: type) -> Read:
        hints = get_type_hints(kind)

        def read(value: Any) -> Any:
            if self._class(value) is not kind:
                raise Malformed(f"a {value[_IS]} where a {kind.__name__} is expected")
            fields = {name: inner for name, inner in value.items() if name != _IS}
            if unknown := fields.keys() - hints.keys():
                raise Malformed(f"{kind.__name__} has no {min(unknown)[:100]!r}")
            try:
                return kind(**{n: self._read(hints[n])(inner) for n, inner in fields.items()})
            except (TypeError, ValueError) as error:
                raise Malformed(f"{kind.__name__}: {error}") from error

        return read

    def _mapping(self, keys: type, values: Read) -> Read:
        def read(value: Any) -> Any:
            given = _a(dict, value)
            if _IS in given:
                given = _a(dict, given.get("json"))
            return {keys(key): values(inner) for key, inner in given.items()}

        return read

    def _union(self, members: tuple[Any, ...]) -> Read:
        classes = {cast(type, m).__name__: m for m in members if dataclasses.is_dataclass(m)}
        others = [m for m in members if not dataclasses.is_dataclass(m)]

        def read(value: Any) -> Any:
            if isinstance(value, dict) and value.get(_IS) in classes:
                return self._read(classes[value[_IS]])(value)
            for other in others:
                try:
                    return self._read(other)(value)
                except Malformed:
                    continue
            return _refuse(value, " or ".join(getattr(m, "__name__", str(m)) for m in members))

        return read

    def _anything(self, value: Any) -> Any:
        """JSON, with words of F1 in it where it says so."""
        if isinstance(value, dict):
            if value.get(_IS) == "" and isinstance(value.get("json"), dict):
                return {key: self._anything(inner) for key, inner in value["json"].items()}
            if _IS in value:
                return self.decode_any(value)
            return {key: self._anything(inner) for key, inner in value.items()}
        return [self._anything(inner) for inner in value] if isinstance(value, list) else value


@cache
def _fields(kind: type) -> tuple[tuple[str, Any], ...]:
    """Names and defaults of those of a dataclass."""
    return tuple((field.name, _default(field)) for field in dataclasses.fields(kind))


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _bytes(value: Any) -> bytes:
    try:
        return base64.b64decode(_a(str, value), validate=True)
    except ValueError as error:
        raise Malformed(f"not base64: {error}") from error


def _a(kind: type, value: Any) -> Any:
    return value if isinstance(value, kind) else _refuse(value, kind.__name__)


def _refuse(value: Any, expected: str) -> Any:
    raise Malformed(f"{str(value)[:100]!r} is not {expected}")
