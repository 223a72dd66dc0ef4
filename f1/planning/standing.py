"""Where a value stands in a text: whole, however it is spelled, or loosely.

    1200      "1,200 euros", "twelve hundred" ✗     whole: the number, and not a part of another
    "LH123"   "flight lh 123"                       whole: letters and digits in their order
    "x.org"   "ann@x.org"                           loosely: a part of something else
    "Ann Lee" "ask Ann"                             loosely: a part of it

What is said of numbers, days and names is f1.planning.grounding's.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from f1.calling.latest import latest
from f1.planning.grounding import (
    CODE,
    DATE,
    MAX_NAME_TOKENS,
    MIN_STEM,
    NUMBER,
    NUMBER_WORDS,
    TIME,
    TOKEN,
    WHEN,
)
from f1.tools.words import COMMON, parts

Span = tuple[int, int]
Scalar = str | int | float

_COUNTS = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
    "nine": 9, "ten": 10, "once": 1, "twice": 2, "both": 2, "couple": 2, "pair": 2, "dozen": 12,
}  # fmt: skip
_WORDS_FOR: dict[float, list[str]] = {
    float(number): [word for word, n in (_COUNTS | NUMBER_WORDS).items() if n == number]
    for number in {*_COUNTS.values(), *NUMBER_WORDS.values()}
}
_LARGEST = 1e300  # numbers from here on are not looked for
_JOINTS = "@./\\_-:"  # with letters or digits on both sides they are inside of one thing
_UNSPACED = "\u0e00"  # scripts from here on put no space between words
_ADDRESS = frozenset("@./\\")
_MAX_READ = 1 << 16  # characters of a text that are taken apart
_MAX_TOKENS = 400  # of a value
_MAX_PLACES = 64  # of a text in another that are looked at
_SHORT = 3  # letters of a word that is told from others
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_UNIT = 3  # letters that may stand right behind a number: "10km"


@latest(16 << 20, lambda text, content: 40 * len(content) + 1000)
def text_of(content: str) -> Text:
    return Text(content)


@dataclass(frozen=True)
class Text:
    """What is known of it is worked out when it is asked for, and kept."""

    content: str

    @cached_property
    def folded(self) -> str:
        return fold(self.content)

    def whole(self, value: Scalar) -> Span | None:
        """The value, and nothing but it."""
        if not isinstance(value, str):
            return self._number(value)
        text = value.strip()
        if not text:
            return None
        found = _alone(self.content, text) or _alone(self.folded, fold(text))
        if found is None and (number := number_of(text)) is not None:
            found = self._number(number)
        return found or self._squashed(text)

    def loosely(self, value: Scalar, without: Collection[str] = ()) -> Span | None:
        """Something that may have become the value, or a part of it. `without`: tokens that are no
        sign of it by themselves."""
        if not isinstance(value, str):
            return self._number(abs(value))
        folded = fold(value.strip())
        if not without:
            if len(folded) >= MIN_STEM and (start := self.folded.find(folded)) >= 0:
                return start, start + len(folded)
            if found := self.day(value):
                return found
        tokens = TOKEN.findall(folded)[:_MAX_TOKENS]
        if len(tokens) > MAX_NAME_TOKENS or without:
            return self._run(tokens, without)
        if CODE.search(folded):  # nothing of it can be left to chance
            spans = [self._token(token, exactly=True) for token in tokens]
            return max(filter(None, spans), key=length) if spans and all(spans) else None
        spans = [self._token(token) for token in tokens if token not in COMMON]
        return max(filter(None, spans), key=length, default=None)

    @cached_property
    def tokens(self) -> dict[str, list[int]]:
        """Where each word begins, by number."""
        places: dict[str, list[int]] = {}
        for index, (start, end) in enumerate(self._spans):
            places.setdefault(self.folded[start:end], []).append(index)
        return places

    # --- numbers, days ---------------------------------------------------------------------------

    def may_have(self, value: Scalar) -> bool:
        """Whether a field of this JSON may be the value: cheaper than to look for it."""
        if isinstance(value, str):
            return fold(value.strip()) in self.folded or "\\" in self.content
        return abs(value) < _LARGEST and _digits(value) in self.content

    def _number(self, value: int | float) -> Span | None:
        if not abs(value) < _LARGEST:  # nor is what is no number
            return None
        for spelled in _spellings(value):
            if found := _alone(self.content, spelled, number=True):
                return found
        for word in _WORDS_FOR.get(value, ()):
            if found := _alone(self.folded, word):
                return found
        if _digits(value) not in self.content:
            return None
        return next(((start, end) for n, start, end in self._numbers if n == value), None)

    @cached_property
    def _numbers(self) -> list[tuple[float, int, int]]:
        """In digits, those that are no part of another."""
        text = self.content[:_MAX_READ]
        found = []
        for match in NUMBER.finditer(text):
            if _stands_alone(text, match.start(), match.end(), number=True):
                digits = "".join(c for c in match[0] if c not in ",_ ")
                found.append((float(digits), match.start(), match.end()))
        return found

    def day(self, value: Scalar) -> Span | None:
        """Of a date or a time the number of the day or hour, or a word like "tomorrow"."""
        match = DATE.search(value) or TIME.search(value) if isinstance(value, str) else None
        if match is None:
            return None
        wanted = (float(match[1]), float(match[1]) - 12)
        for number, start, end in self._numbers:
            if number in wanted:
                return start, end
        for found in NUMBER.finditer(self.folded[:_MAX_READ]):
            if found[0].isdecimal() and float(found[0]) in wanted:
                return found.span()
        word = WHEN.search(self.folded[:_MAX_READ])
        return word.span() if word else None

    # --- words -----------------------------------------------------------------------------------

    @cached_property
    def _spans(self) -> list[Span]:
        return [match.span() for match in TOKEN.finditer(self.folded[:_MAX_READ])]

    @cached_property
    def _joined(self) -> tuple[str, list[int]]:
        """All words without what is between them, and where each begins there."""
        starts, at = [], 0
        for start, end in self._spans:
            starts.append(at)
            at += end - start
        return "".join(self.folded[start:end] for start, end in self._spans), starts

    def _squashed(self, text: str) -> Span | None:
        """Of names and codes, however they are spaced; of addresses each sign counts."""
        wanted = "".join(TOKEN.findall(fold(text[:_MAX_READ])))
        if len(wanted) < _SHORT or not _ADDRESS.isdisjoint(text):
            return None
        pieces = [fold(piece) for piece in parts(text[:_MAX_READ])]
        if len(pieces) < 2 or not all(piece in self.folded for piece in pieces):
            return None
        joined, starts = self._joined
        at = joined.find(wanted)
        for _ in range(_MAX_PLACES):
            if at < 0:
                return None
            first = bisect_right(starts, at) - 1
            behind = bisect_right(starts, at + len(wanted) - 1)
            edges = [*starts[behind : behind + 1], len(joined)]
            start, end = self._spans[first][0], self._spans[behind - 1][1]
            whole = starts[first] == at and edges[0] == at + len(wanted)
            if whole and _stands_alone(self.folded, start, end):
                return start, end
            at = joined.find(wanted, at + 1)
        return None

    def _token(self, token: str, *, exactly: bool = False) -> Span | None:
        if token in self.tokens:
            return self._spans[self.tokens[token][0]]
        if exactly:
            return None
        stem = token[: max(len(token) - 2, MIN_STEM)]
        if len(token) > MIN_STEM and (at := self.folded.find(stem, 0, _MAX_READ)) >= 0:
            index = bisect_right(self._spans, (at, len(self.folded))) - 1
            if self._spans[index][0] == at:
                return self._spans[index]
        return None

    def _run(self, tokens: Sequence[str], without: Collection[str]) -> Span | None:
        """The run of the value's words that stands here with most that tell something: two of them,
        or half of all there are; beside those `without` one is enough."""
        telling = {token for token in tokens if token not in without and _tells(token)}
        if not any(token in self.folded for token in telling):
            return None
        best, least = (0, 0, 0), 1 if without else min(2, (len(telling) + 1) // 2)
        for i, token in enumerate(tokens):
            for at in self.tokens.get(token, ())[:_MAX_PLACES]:
                if i and at and self._word(at - 1) == tokens[i - 1]:
                    continue  # inside a run that was seen
                length = 1
                while i + length < len(tokens) and self._word(at + length) == tokens[i + length]:
                    length += 1
                worth = sum(each in telling for each in tokens[i : i + length])
                best = max(best, (worth, at, at + length - 1), key=lambda run: run[0])
        worth, first, last = best
        return (self._spans[first][0], self._spans[last][1]) if worth >= least else None

    def _word(self, index: int) -> str:
        if index >= len(self._spans):
            return ""
        start, end = self._spans[index]
        return self.folded[start:end]


def fold(text: str) -> str:
    """In one case, character by character: what stands at a place still does."""
    folded = text.casefold()
    if len(folded) == len(text):
        return folded
    return "".join(f if len(f := c.casefold()) == 1 else c for c in text)


def number_of(text: str) -> int | float | None:
    """Of a text that is a number and nothing else."""
    digits = text.removeprefix("-").replace(".", "", 1)
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > 20:
        return None
    return float(text) if "." in text else int(text)


def _spellings(value: int | float) -> Iterator[str]:
    if isinstance(value, int):
        yield str(value)
    else:
        yield repr(value)
        if value.is_integer() and abs(value) < 1e15:
            yield str(int(value))


def _digits(value: int | float) -> str:
    """That stand in it however it is written, but for exponents."""
    whole = abs(int(value))
    return str(whole if whole < 1000 else 1000 + whole % 1000)[-3:]


def _alone(text: str, needle: str, *, number: bool = False) -> Span | None:
    at = text.find(needle)
    for _ in range(_MAX_PLACES):
        if at < 0:
            return None
        if _stands_alone(text, at, at + len(needle), number=number):
            return at, at + len(needle)
        at = text.find(needle, at + 1)
    return None


def _stands_alone(text: str, start: int, end: int, *, number: bool = False) -> bool:
    """It is no part of a longer word, address, path or number."""
    before, behind = text[max(start - 2, 0) : start][::-1], text[end : end + _UNIT + 2]
    if number:
        if before[:1] == "-" and not _is_word(before[1:]):
            return False  # another number: that is below zero
        unit = len(behind) - len(behind.lstrip(_LETTERS))
        behind = behind[unit:] if unit <= _UNIT else behind
        if behind[:1] == "," and behind[1:2].isdecimal():
            return False
    left = _is_word(text[start]) and _goes_on(before)
    return not left and not (_is_word(text[end - 1]) and _goes_on(behind))


def _goes_on(beside: str) -> bool:
    """`beside`: what is next to something, the nearest first."""
    return _is_word(beside[:1]) or (beside[:1] in _JOINTS and _is_word(beside[1:2]))


def _is_word(char: str) -> bool:
    return char == "_" or (char.isalnum() and char < _UNSPACED)


def _tells(token: str) -> bool:
    """It is not in every text."""
    return token not in COMMON and (len(token) >= _SHORT or not token.isalpha())


def length(span: Span | None) -> int:
    return 0 if span is None else span[1] - span[0]
