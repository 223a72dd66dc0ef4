"""A schema's regular expressions, as regular expressions over the JSON text of a string.

    ^a"[^x]$   ──parse──▶   Chars a, Chars ", Chars not x   ──spell──▶   a\\"(?:[^x"\\…]|\\["n…])

What stands between the quotes of a JSON string is not its text: a quote, a backslash and the
control characters have escapes. The syntax read is that of RE2, which validates; what is not
known here (boundaries, flags, Unicode classes) is left to validation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_REPEAT = 128  # xgrammar counts further at run time, a token at a time: seconds a mask
LAST = 0x10FFFF

Ranges = tuple[tuple[int, int], ...]  # inclusive, ascending, apart


class Unknown(ValueError):
    """No such expression can be written; the message says why."""


@dataclass(frozen=True, slots=True)
class Chars:
    """One character of the set."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Join:
    """All parts, one after another."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """One of the options."""

    options: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """`inner` at least `low` times and at most `high`; None: any number of times."""

    inner: Node
    low: int
    high: int | None


@dataclass(frozen=True, slots=True)
class Anchor:
    """The text's begin or end."""

    at_end: bool


Node = Chars | Join | Either | Repeat | Anchor

ANY = Chars(((0, LAST),))
ANYTHING = Repeat(ANY, 0, None)


def parse(pattern: str) -> Node:
    """The whole text that has a match of `pattern` in it, free of anchors. Raises Unknown."""
    return _whole(_Parser(pattern).parse())


def spell(node: Node) -> str:
    """The regular expression of the JSON texts of the strings `node` stands for, quotes apart."""
    match node:
        case Chars(ranges):
            return _spell_chars(ranges)
        case Join(parts):
            return "".join(map(spell, parts))
        case Either(options):
            return f"(?:{'|'.join(map(spell, options))})"
        case Repeat(inner, 0, 1):  # in xgrammar 0.2.8 (ba+)? matches "a", too
            return f"(?:|{spell(inner)})"
        case Repeat(inner, low, high):
            return f"(?:{spell(inner)}){_times(low, high)}"
        case Anchor():
            raise Unknown("an anchor inside")


def lengths(node: Node) -> tuple[int, int | None]:
    """The fewest and the most characters; None: without end."""
    match node:
        case Chars():
            return 1, 1
        case Join(parts):
            each = [lengths(part) for part in parts]
            most = [high for _, high in each if high is not None]
            return sum(low for low, _ in each), sum(most) if len(most) == len(each) else None
        case Either(options):
            each = [lengths(option) for option in options]
            most = [high for _, high in each if high is not None]
            return min(low for low, _ in each), max(most) if len(most) == len(each) else None
        case Repeat(inner, low, high):
            least, longest = lengths(inner)
            endless = longest is None or (high is None and longest > 0)
            return least * low, None if endless else (longest or 0) * (high or 0)
        case Anchor():
            return 0, 0


def states(node: Node) -> float:
    """What `node` costs to compile, in states after which a large vocabulary branches widely."""
    match node:
        case Chars(ranges):
            letters = sum(_overlap(ranges, *r) for r in ((0x20, 0x2F), (0x3A, 0x7E)))
            return 1.0 if letters > 60 else 0.25 if letters > 12 else 0.02
        case Join(parts):
            return sum(map(states, parts))
        case Either(options):
            return sum(map(states, options))
        case Repeat(inner, low, high):
            return states(inner) * max(low, high or 0, 1)
        case Anchor():
            return 0.0


def limited(node: Node, low: int, high: int | None) -> Node:
    """`node` held to `low` to `high` characters. Raises Unknown where that cannot be said."""
    least, most = lengths(node)
    if least >= low and (high is None or (most is not None and most <= high)):
        return node
    if isinstance(node, Join) and len(node.parts) == 1:
        return limited(node.parts[0], low, high)
    if not (isinstance(node, Repeat) and lengths(node.inner) == (1, 1)):
        raise Unknown("a length and a pattern cannot be counted together")
    bounds = [bound for bound in (node.high, high) if bound is not None]
    low, high = max(low, node.low), min(bounds) if bounds else None
    if high is not None and high < low:
        raise Unknown("no string is so short and so long")
    return Repeat(node.inner, low, high)


# --- anchors -----------------------------------------------------------------------------------


def _whole(node: Node) -> Node:
    """Anchors at the edges say where the text begins and ends; elsewhere there is more text."""
    if isinstance(node, Either):
        return Either(tuple(map(_whole, node.options)))
    parts = list(node.parts) if isinstance(node, Join) else [node]
    if len(parts) == 1 and isinstance(parts[0], Either):
        return _whole(parts[0])
    begins, ends = Anchor(at_end=False), Anchor(at_end=True)
    first, last = parts[:1] == [begins], parts[-1:] == [ends]
    while parts and parts[0] == begins:
        parts.pop(0)
    while parts and parts[-1] == ends:
        parts.pop()
    if len(parts) == 1 and isinstance(parts[0], Either) and first != last and _anchored(parts[0]):
        raise Unknown("an anchor inside")
    if any(map(_anchored, parts)):
        raise Unknown("an anchor inside")
    return Join((*(() if first else (ANYTHING,)), *parts, *(() if last else (ANYTHING,))))


def _anchored(node: Node) -> bool:
    match node:
        case Anchor():
            return True
        case Join(inner) | Either(inner):
            return any(map(_anchored, inner))
        case Repeat(inner):
            return _anchored(inner)
    return False


# --- spelling ----------------------------------------------------------------------------------

_SHORT = {0x22: '"', 0x5C: "\\", 0x2F: "/", 8: "b", 9: "t", 10: "n", 12: "f", 13: "r"}
_HEX = "[0-9a-fA-F]"
_BASIC = f"[0-9a-cA-CefEF]{_HEX}{{3}}|[dD][0-7]{_HEX}{{2}}"  # of four digits, no surrogate
_PAIR = f"[dD][89abAB]{_HEX}{{2}}\\\\u[dD][c-fC-F]{_HEX}{{2}}"
_BEYOND_ASCII = f"00[89a-fA-F]{_HEX}|0[1-9a-fA-F]{_HEX}{{2}}|[1-9a-cA-CefEF]{_HEX}{{3}}"


def _spell_chars(ranges: Ranges) -> str:
    options = list(plain(ranges))
    short = [char for code, char in _SHORT.items() if _overlap(ranges, code, code)]
    if short:
        options.append(r"\\" + _class(tuple((ord(char), ord(char)) for char in short)))
    codes = []
    if not without(((0, LAST),), ranges):
        codes = [_BASIC, _PAIR]
    else:
        codes = [f"00{code:02x}" for code in range(0x20) if _overlap(ranges, code, code)]
        if not without(((0x80, 0xFFFF),), ranges):
            codes += [_BEYOND_ASCII, rf"[dD][0-7]{_HEX}{{2}}"]
        if not without(((0x10000, LAST),), ranges):
            codes.append(_PAIR)
    if codes:
        options.append(rf"\\u(?:{'|'.join(codes)})")
    if not options:
        raise Unknown("no character can stand there")
    return options[0] if len(options) == 1 else f"(?:{'|'.join(options)})"


def plain(ranges: Ranges) -> Iterator[str]:
    """Classes of those characters that need no escape."""
    ranges = without(ranges, ((0, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0xD800, 0xDFFF)))
    # One for each length in UTF-8, from two bytes on: xgrammar 0.2.8 lets ranges over several of
    # them match bytes that are no characters.
    for low, high in ((0, 0x7FF), (0x800, 0xFFFF), (0x10000, LAST)):
        part = without(ranges, ((0, low - 1), (high + 1, LAST)))
        if part:
            yield _class(part)


def _class(ranges: Ranges) -> str:
    each = (_char(low) + (f"-{_char(high)}" if high > low else "") for low, high in ranges)
    return f"[{''.join(each)}]"


def _char(code: int) -> str:
    return chr(code) if chr(code).isalnum() and code < 128 else rf"\u{{{code:x}}}"


def _times(low: int, high: int | None) -> str:
    if low > MAX_REPEAT or (high or 0) > MAX_REPEAT:
        raise Unknown(f"a repeat beyond {MAX_REPEAT}")
    match low, high:
        case 0, None:
            return "*"
        case 1, None:
            return "+"
        case _, None:
            return f"{{{low},}}"
    return f"{{{low},{high}}}"


def without(ranges: Ranges, others: Ranges) -> Ranges:
    """The characters of `ranges` that are not in `others`."""
    for low, high in others:
        cut = []
        for first, last in ranges:
            cut += [(first, min(last, low - 1)), (max(first, high + 1), last)]
        ranges = tuple((first, last) for first, last in cut if first <= last)
    return ranges


def _overlap(ranges: Ranges, low: int, high: int) -> int:
    return sum(max(0, min(last, high) - max(first, low) + 1) for first, last in ranges)


# --- reading -----------------------------------------------------------------------------------

_DIGITS: Ranges = ((0x30, 0x39),)
_WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACE: Ranges = ((9, 10), (12, 13), (0x20, 0x20))
_ALL: Ranges = ((0, LAST),)
_CLASSES = {"d": _DIGITS, "w": _WORD, "s": _SPACE} | {
    name: without(_ALL, ranges) for name, ranges in (("D", _DIGITS), ("W", _WORD), ("S", _SPACE))
}
_CONTROLS = {"n": 10, "t": 9, "r": 13, "f": 12, "v": 11, "a": 7}
_COUNTS = re.compile(r"\{(\d+)(,?)(\d*)\}")
_GROUP = re.compile(r"\?(?::|P?<\w+>)")


class _Parser:
    """Reads one pattern that RE2 has accepted."""

    def __init__(self, pattern: str):
        self._text = pattern
        self._at = 0

    def parse(self) -> Node:
        node = self._either()
        if self._at < len(self._text):
            raise Unknown(f"{self._text[self._at :]!r} is not understood")
        return node

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        self._at += 1
        return self._text[self._at - 1 : self._at]

    def _either(self) -> Node:
        options = [self._join()]
        while self._peek() == "|":
            self._at += 1
            options.append(self._join())
        return options[0] if len(options) == 1 else Either(tuple(options))

    def _join(self) -> Node:
        parts: list[Node] = []
        while self._peek() not in ("", "|", ")"):
            part = self._repeated(self._atom())
            parts += part.parts if isinstance(part, Join) else [part]
        return parts[0] if len(parts) == 1 else Join(tuple(parts))

    def _repeated(self, node: Node) -> Node:
        while True:
            low, high = 1, None
            if (sign := self._peek()) and sign in "*+?":
                self._at += 1
                low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
            elif counts := _COUNTS.match(self._text, self._at):
                self._at = counts.end()
                low = int(counts[1])
                high = int(counts[3]) if counts[3] else None if counts[2] else low
            else:
                return node
            if self._peek() == "?":  # how it is searched for makes no difference
                self._at += 1
            node = _collapsed(node, low, high)

    def _atom(self) -> Node:
        match char := self._next():
            case "(":
                return self._group()
            case "[":
                return Chars(self._class())
            case ".":
                return Chars(without(_ALL, ((10, 10),)))
            case "^":
                return Anchor(at_end=False)
            case "$":
                return Anchor(at_end=True)
            case "\\":
                if self._peek() in ("A", "z"):
                    return Anchor(at_end=self._next() == "z")
                return Chars(self._escape())
        return Chars(((ord(char), ord(char)),))

    def _group(self) -> Node:
        if self._peek() == "?":
            opened = _GROUP.match(self._text, self._at)
            if opened is None:
                raise Unknown("it has flags")
            self._at = opened.end()
        node = self._either()
        if self._next() != ")":
            raise Unknown("a group without an end")
        return node

    def _class(self) -> Ranges:
        negated = self._peek() == "^"
        self._at += negated
        found: list[tuple[int, int]] = []
        first = True
        while first or self._peek() != "]":
            first = False
            if self._text.startswith("[:", self._at) or not self._peek():
                raise Unknown("it names a class of characters")
            low = self._in_class()
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                found.append((low[0][0], self._in_class()[-1][1]))
            else:
                found += low
        self._at += 1
        return without(_ALL, tuple(found)) if negated else _sorted(found)

    def _in_class(self) -> Ranges:
        char = self._next()
        return self._escape() if char == "\\" else ((ord(char), ord(char)),)

    def _escape(self) -> Ranges:
        char = self._next()
        if char in _CLASSES:
            return _CLASSES[char]
        if char == "x":
            found = re.compile(r"\{([0-9a-fA-F]+)\}|([0-9a-fA-F]{2})").match(self._text, self._at)
            if found is None:
                raise Unknown("\\x without digits")
            self._at = found.end()
            code = int(found[1] or found[2], 16)
        elif char in _CONTROLS:
            code = _CONTROLS[char]
        elif char.isalnum() or not char:
            raise Unknown(f"\\{char} is not understood")
        else:
            code = ord(char)
        return ((code, code),)


def _collapsed(node: Node, low: int, high: int | None) -> Node:
    """`(x*)*` is `x*`: nested repeats would cost what they do not say."""
    if isinstance(node, Repeat) and node.high is None and node.low <= 1 and low <= 1:
        return Repeat(node.inner, node.low * low, None)
    return Repeat(node, low, high)


def _sorted(found: list[tuple[int, int]]) -> Ranges:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(found):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return tuple(merged)
