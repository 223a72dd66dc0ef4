"""Random tools and requests, the same for the same seed."""

from __future__ import annotations

import random
from typing import Any

from f1.types import Tool

_WORDS = (
    "order city amount start end note tags owner color level enabled ratio items address email "
    "street window port title priority comment unit target source"
).split()
_VALUES = ["red", "green", "a b", 'say "hi"', "back\\slash", "naïve", "漢字", "", "42"]
_PATTERNS = ["^[a-z]+$", "^[A-Z]{2}-[0-9]{3}$", "^(a|bc)*$", r"^\d{4}$", "^.{1,12}$"]
_ASKS = (
    "Please {verb} the {noun} for me.",
    "Can you {verb} {number} {noun}s before Friday?",
    "{noun} {noun} {noun}!!!",
    "Ich möchte {noun} Nummer {number}.",
    "{verb}({number})",
)


def request(seed: int) -> tuple[Tool, str]:
    """A tool, and something a user might say to have it called."""
    draw = random.Random(seed)
    tool = Tool(f"{draw.choice(_WORDS)}_{seed}", "Does something.", _object(draw, depth=0))
    said = draw.choice(_ASKS).format(
        verb=draw.choice(["book", "find", "delete"]),
        noun=draw.choice(_WORDS),
        number=draw.randrange(1000),
    )
    return tool, said


def _object(draw: random.Random, depth: int) -> dict[str, Any]:
    names = draw.sample(_WORDS, draw.randrange(1, 5))
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: _value(draw, depth + 1) for name in names},
        "required": [name for name in names if draw.random() < 0.6],
    }
    if draw.random() < 0.3:
        schema["additionalProperties"] = False
    return schema


def _value(draw: random.Random, depth: int) -> dict[str, Any]:
    kinds = [_string, _string, _number, _choice, lambda draw, depth: {"type": "boolean"}]
    if depth < 3:
        kinds += [_array, _object, _nullable]
    return draw.choice(kinds)(draw, depth)


def _string(draw: random.Random, depth: int) -> dict[str, Any]:
    limits: list[dict[str, Any]] = [
        {},
        {"maxLength": draw.randrange(1, 40)},
        {"minLength": draw.randrange(1, 9)},
        {"pattern": draw.choice(_PATTERNS)},
        {"format": draw.choice(["date", "date-time", "uuid"])},
    ]
    return {"type": "string"} | draw.choice(limits)


def _number(draw: random.Random, depth: int) -> dict[str, Any]:
    low = draw.randrange(-50, 50)
    limits: list[dict[str, Any]] = [
        {},
        {"minimum": low},
        {"minimum": low, "maximum": low + draw.randrange(200)},
    ]
    return {"type": draw.choice(["integer", "number"])} | draw.choice(limits)


def _choice(draw: random.Random, depth: int) -> dict[str, Any]:
    return {"enum": draw.sample(_VALUES, draw.randrange(1, 5))}


def _array(draw: random.Random, depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "array", "items": _value(draw, depth + 1)}
    if draw.random() < 0.4:
        schema |= {"minItems": 1, "maxItems": draw.randrange(1, 5)}
    return schema


def _nullable(draw: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [_value(draw, depth + 1), {"type": "null"}]}
