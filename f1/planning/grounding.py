"""Tells a call that can run from one whose numbers the model has made up.

Asked for something that takes two steps, small models write the second step's call at once, with
invented results of the first. A number that was said nowhere (not by the user, a tool, or a
schema) is the mark of it. Such a call waits: the others run, and the model makes it anew once it
has seen their results. (A number worked out in the head waits too: a step lost, never a call.)

Most of the values that calls need are copied: 81 to 92 % in BFCL's live_multiple and multiple.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Set

from f1.types import Message, Tool, ToolCall

_NUMBER = re.compile(r"\d+(?:[,_ ]\d{3})*(?:\.\d+)?")
_SMALL = 10  # counts up to here are said in many ways: "a night", "twice", "a dozen less two"
_WORDS = {
    "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20, "thirty": 30, "forty": 40,
    "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90, "hundred": 100,
    "thousand": 1000, "million": 1_000_000,
}  # fmt: skip


def numbers_said(messages: Iterable[Message], tools: Iterable[Tool]) -> frozenset[float]:
    """By the user, a tool, or a schema."""
    texts = [message.content for message in messages]
    texts += [json.dumps([tool.description, dict(tool.parameters)]) for tool in tools]
    return frozenset(number for text in texts for number in _numbers_in(text.lower()))


def is_guess(call: ToolCall, said: Set[float]) -> bool:
    """Whether the call holds a number that is none of those that were `said`."""
    return not set(_numbers_of(json.loads(call.arguments))) <= said


def _numbers_in(text: str) -> Iterator[float]:
    for match in _NUMBER.finditer(text):
        yield float(re.sub(r"[,_ ]", "", match.group()))
        yield from (float(part) for part in re.findall(r"\d+(?:\.\d+)?", match.group()))
    yield from (float(value) for word, value in _WORDS.items() if word in text)


def _numbers_of(value: object) -> Iterator[float]:
    """The numbers in arguments, small counts aside, by size: -5 is said as "5 below zero"."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from _numbers_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers_of(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        is_small_count = float(value).is_integer() and abs(value) <= _SMALL
        if not is_small_count:
            yield abs(float(value))
