"""Tells values that were said from values that the model has made up.

Asked for something that takes two steps, small models write the second step's call at once, with
invented results of the first: a number, an id, a name that nobody said. Most of the values that
calls need are copied (81 to 92 % in BFCL's live_multiple and multiple), so a value that stands
nowhere, not in what the user said, what tools returned or what the schema allows, is a guess. What
is worked out in the head is taken for one, too: a step lost, never a call.

    number   is said in digits or in words; small counts are said in many ways, and pass
    day      its number is said, or a word like "tomorrow"
    id, name the text has it, however it is spaced and cased
    prose    passes, for it is written, not copied; but what a query compares with was said
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from f1.types import Message, Tool, ToolCall

NUMBER = re.compile(r"\d+(?:[,_ ]\d{3})*(?:\.\d+)?")
SMALL = 10  # counts up to here are said in many ways: "a night", "twice", "a dozen less two"
NUMBER_WORDS = {
    "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20, "thirty": 30, "forty": 40,
    "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90, "hundred": 100,
    "thousand": 1000, "million": 1_000_000,
}  # fmt: skip
DATE = re.compile(r"\d{4}-\d{2}-(\d{2})")
TIME = re.compile(r"(\d{1,2}):\d{2}")
WHEN = re.compile(
    r"\b(to(?:day|night|morrow)|yesterday|now|noon|midday|midnight|morning|afternoon|evening|week"
    r"|(?:mon|tues|wednes|thurs|fri|satur|sun)day|mon|tue|wed|thu|fri|sat|sun|half|quarter)s?\b"
)
TOKEN = re.compile(r"[^\W_]+")
ID = re.compile(r"(?:^|_)id$", re.IGNORECASE)
CODE = re.compile(r"\d|^[^\s]*[@._/][^\s]*$")
_QUOTED = re.compile(r"[=(,]\s*'([^']+)'")  # in a query
_COMPARED = re.compile(r"=\s*(\d+)\b")
MAX_NAME_TOKENS = 5  # longer texts are prose
MIN_STEM = 4


@dataclass(frozen=True)
class Said:
    """What stands in a conversation: what users said, what they were told before their last word,
    what tools returned. Of schemas the values that are `listed`; not their prose, for its examples
    are what models make things up from."""

    text: str
    listed: frozenset[str | float] = frozenset()

    @classmethod
    def in_(cls, messages: Sequence[Message], tools: Iterable[Tool]) -> Said:
        asked = max((i for i, m in enumerate(messages) if m.role == "user"), default=0)
        calls = {call.id: call for m in messages for call in m.tool_calls}
        texts = [
            _told(m, calls) if m.role == "tool" else m.content
            for i, m in enumerate(messages)
            if m.role != "assistant" or i < asked
        ]
        listed = frozenset(v for tool in tools for v in _listed(tool.parameters))
        return cls("\n".join(texts).casefold(), listed)

    @cached_property
    def numbers(self) -> frozenset[float]:
        return frozenset(_numbers_in(self.text))

    @cached_property
    def _tokens(self) -> frozenset[str]:
        return frozenset(TOKEN.findall(self.text))

    @cached_property
    def _squashed(self) -> str:
        return "".join(TOKEN.findall(self.text))

    def guesses(self, call: ToolCall) -> tuple[str, ...]:
        """Names of the arguments with a value that was said nowhere."""
        arguments = json.loads(call.arguments)
        return tuple(name for name, value in arguments.items() if not self._has(name, value))

    def _has(self, name: str, value: Any) -> bool:
        if isinstance(value, dict):
            return all(self._has(key, inner) for key, inner in value.items())
        if isinstance(value, list):
            return all(self._has(name, inner) for inner in value)
        if isinstance(value, str):
            return self._has_text(value)
        if isinstance(value, bool) or value is None or value in self.listed:
            return True
        counts = ID.search(name) is None and float(value).is_integer() and abs(value) <= SMALL
        return counts or abs(float(value)) in self.numbers  # -5 is said as "5 below zero"

    def _has_text(self, value: str) -> bool:
        folded = value.casefold().strip()
        if value in self.listed or folded in self.text:
            return True
        for pattern in (DATE, TIME):
            if match := pattern.search(folded):
                said = float(match[1]) in self.numbers or float(match[1]) - 12 in self.numbers
                return said or WHEN.search(self.text) is not None
        tokens = TOKEN.findall(folded)
        if not tokens or "".join(tokens) in self._squashed:
            return True
        if len(tokens) > MAX_NAME_TOKENS:
            return all(self._has_text(text) for text in _QUOTED.findall(folded)) and all(
                float(number) in self.numbers for number in _COMPARED.findall(folded)
            )
        is_code = CODE.search(folded) is not None  # nothing of it can be left to chance
        return (all if is_code else any)(map(self._has_token, tokens))

    def _has_token(self, token: str) -> bool:
        if token in self._tokens:
            return True
        stem = token[: max(len(token) - 2, MIN_STEM)]
        return len(token) > MIN_STEM and any(other.startswith(stem) for other in self._tokens)


def _told(result: Message, calls: Mapping[str, ToolCall]) -> str:
    """A result; of an error's, not what it only repeats of the call."""
    call = calls.get(result.tool_call_id or "")
    if call is None or not result.content.startswith('{"error"'):
        return result.content
    content = result.content
    for value in json.loads(call.arguments or "{}").values():
        if isinstance(value, str | int | float) and str(value):
            content = content.replace(str(value), " ")
    return content


def _numbers_in(text: str) -> Iterator[float]:
    for match in NUMBER.finditer(text):
        yield float(re.sub(r"[,_ ]", "", match.group()))
        yield from (float(part) for part in re.findall(r"\d+(?:\.\d+)?", match.group()))
    yield from (float(value) for word, value in NUMBER_WORDS.items() if word in text)


def _listed(schema: Any) -> Iterator[str | float]:
    """Strings and numbers that a schema allows by name."""
    if isinstance(schema, Mapping):
        for keyword, value in schema.items():
            if keyword in ("enum", "const", "default"):
                yield from (v for v in (value if isinstance(value, list) else [value])
                            if isinstance(v, str | int | float))  # fmt: skip
            else:
                yield from _listed(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _listed(value)
