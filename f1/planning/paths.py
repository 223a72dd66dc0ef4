"""Ways into a JSON value, as people and models write them: `items[0].price`, `["a key"].x`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

Key = str | int

MAX_PATH_CHARS = 512
_NAME = re.compile(r'[^.\[\]"\x00-\x1f]+')
_INDEX = re.compile(r"\[(0|[1-9]\d{0,8})\]")
_QUOTED = re.compile(r'\[("(?:[^"\\\x00-\x1f]|\\.)*")\]')


class NoSuchPart(Exception):
    """A value has nothing at a path; the message says where, and what is there instead."""


def parse_path(text: str) -> tuple[Key, ...]:
    """The keys, outermost first; none for "". Raises ValueError."""
    if len(text) > MAX_PATH_CHARS:
        raise ValueError(f"at most {MAX_PATH_CHARS} characters")
    keys: list[Key] = []
    at = 0
    while at < len(text):
        if match := _INDEX.match(text, at):
            keys.append(int(match[1]))
        elif match := _QUOTED.match(text, at):
            keys.append(_unquote(match[1]))
        else:
            dotted = text[at] == "."
            match = _NAME.match(text, at + dotted)
            if match is None or dotted != bool(keys):
                raise ValueError(f"names, [0] and .names, not {text[at:][:40]!r} at {at}")
            keys.append(match[0])
        at = match.end()
    return tuple(keys)


def write_path(keys: Sequence[Key]) -> str:
    """Its text, which reads as these keys."""
    text = ""
    for key in keys:
        if isinstance(key, int):
            text += f"[{key}]"
        elif _NAME.fullmatch(key):
            text += f".{key}" if text else key
        else:
            text += f"[{json.dumps(key, ensure_ascii=False)}]"
    return text


def part_at(value: Any, path: str) -> Any:
    """What stands there. Raises NoSuchPart."""
    keys = parse_path(path)
    for index, key in enumerate(keys):
        if isinstance(key, int):
            found = isinstance(value, list) and key < len(value)
        else:
            found = isinstance(value, dict) and key in value
        if not found:
            where = write_path(keys[:index]) or "the result"
            raise NoSuchPart(f"{where} has no {write_path([key])}: it is {_describe(value)}")
        value = value[key]
    return value


def _unquote(text: str) -> str:
    try:
        return str(json.loads(text))
    except json.JSONDecodeError as error:
        raise ValueError(f"{text[:40]} is no JSON string: {error}") from None


def _describe(value: Any) -> str:
    match value:
        case dict():
            names = ", ".join(map(str, value))
            shown = names if len(names) <= 200 else f"{names[:200]}…"
            return f"an object with {shown}" if value else "an object without fields"
        case list():
            return f"an array of {len(value)}"
        case str():
            return "text"
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case _:
            return f"the number {value}"
