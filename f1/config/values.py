"""Readers of single values: each returns what it takes, or raises Unfit with what that is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from f1.calling.validating import PatternError, matches
from f1.config.where import Reader, Table, Unfit
from f1.settings import parse_bytes


def text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise Unfit("a text")
    return value


def path(value: Any) -> Path:
    return Path(text(value))


def count(low: int, high: int) -> Reader:
    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise Unfit(f"an integer from {low} to {high}")
        return value

    return read


def seconds(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 86400:
        raise Unfit("a number of seconds up to 86400")
    return float(value)


def size(value: Any) -> int:
    try:
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        if isinstance(value, str) and (parsed := parse_bytes(value)) > 0:
            return parsed
    except ValueError:
        pass
    raise Unfit('a size in bytes such as "8GiB"')


def names(value: Any) -> tuple[str, ...]:
    """One, or several in order."""
    listed = [value] if isinstance(value, str) else value
    fine = isinstance(listed, list) and listed and all(isinstance(n, str) and n for n in listed)
    if not fine or len(set(listed)) < len(listed):
        raise Unfit("a name, or a list of different names")
    return tuple(listed)


def texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Unfit("a list of texts")
    return tuple(value)


def some_texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(v, str) and v for v in value):
        raise Unfit("a list of one text or more")
    return tuple(value)


def flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Unfit("true or false")
    return value


def scalar(value: Any) -> Any:
    if not isinstance(value, str | int | float | bool):
        raise Unfit("a text, a number, true or false")
    return value


def pattern(value: Any) -> str:
    """Of RE2, as `matches` takes it."""
    try:
        matches(text(value), "")
    except PatternError:
        raise Unfit("a pattern of RE2") from None
    return cast(str, value)


def word(*words: str) -> Reader:
    def read(value: Any) -> str:
        if value not in words:
            raise Unfit(f"one of {', '.join(words)}")
        return cast(str, value)

    return read


def any_table(value: Any) -> Table:
    if not isinstance(value, Mapping):
        raise Unfit("a table")
    return value


def url(value: Any) -> str:
    if not isinstance(value, str) or not re.match(r"https?://[^\s/]+", value):
        raise Unfit('an address like "https://host/v1"')
    return value


def setting(value: Any) -> str:
    if not isinstance(value, str | int):
        raise Unfit("a text, a number, or true or false")
    return ("on" if value else "off") if isinstance(value, bool) else str(value)
