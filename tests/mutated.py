"""Model files with something wrong in them: taken apart, changed, put together again."""

from __future__ import annotations

import copy
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

EDGES = [0, 1, 2, 3, 7, 8, 31, 32, 33, 255, 256, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32]
EDGES += [2**40, 2**42 + 1, 2**61, 2**62, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 1]
ODD_TEXT = [b"", b"\x00", b"\xff\xfe", b"general.alignment", b"../../etc/passwd", b"x" * 5000]
ODD_TEXT += [b"token_embd.weight", b"blk.0.attn_q.weight", b"blk.-1.attn_q.weight", b"\n\x1b[31m"]
ODD_TEXT += [b"blk.99999999999999999999.attn_q.weight", b"general.architecture", b"<0x-1>"]
STRING, ARRAY = 8, 9
_NUMBERS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}


@dataclass(frozen=True, slots=True)
class Field:
    """`code` is struct's, or "s" for bytes whose length stands in the field before."""

    code: str
    value: bytes

    @property
    def number(self) -> int:
        return int.from_bytes(self.value, "little")

    def holding(self, number: int) -> Field:
        size = len(self.value)
        return replace(self, value=(number % 2 ** (8 * size)).to_bytes(size, "little"))


def fields_of_gguf(raw: bytes) -> list[Field]:
    """All of a whole file: header, metadata, tensor table, and the rest as one."""
    fields: list[Field] = []
    offset = 0

    def take(code: str, size: int | None = None) -> int:
        nonlocal offset
        size = struct.calcsize(f"<{code}") if size is None else size
        fields.append(Field(code, raw[offset : offset + size]))
        offset += size
        return fields[-1].number

    def text() -> None:
        take("s", take("Q"))

    def scalar(kind: int) -> None:
        text() if kind == STRING else take(_NUMBERS[kind])

    take("I")
    take("I")
    num_tensors, num_entries = take("Q"), take("Q")
    for _ in range(num_entries):
        text()
        if (kind := take("I")) == ARRAY:
            kind, count = take("I"), take("Q")
            for _ in range(count):
                scalar(kind)
        else:
            scalar(kind)
    for _ in range(num_tensors):
        text()
        for _ in range(take("I")):
            take("Q")
        take("I")
        take("Q")
    take("rest", len(raw) - offset)
    return fields


def mutated(draw: random.Random, fields: Sequence[Field]) -> bytes:
    """One to four changes, and now and then the file is cut short or made longer."""
    changed = list(fields)
    # Most fields are tokens of the vocabulary: half of the changes are for the others.
    for _ in range(draw.choice([1, 1, 1, 2, 3, 4])):
        rare = [n for n, field in enumerate(changed) if field.code in "IQf"]
        at = draw.choice(rare) if draw.random() < 0.7 else draw.randrange(len(changed))
        changed = draw.choice(_CHANGES)(draw, changed, at)
    raw = b"".join(field.value for field in changed)
    if draw.random() < 0.1:
        raw = raw[: draw.randrange(len(raw) + 1)]
    if draw.random() < 0.05:
        raw += draw.randbytes(draw.choice([1, 31, 5000]))
    return raw


def _edge(draw: random.Random, fields: list[Field], at: int) -> list[Field]:
    number = draw.choice([*EDGES, fields[at].number + draw.choice([-33, -1, 1, 32])])
    return [*fields[:at], fields[at].holding(number), *fields[at + 1 :]]


def _bits(draw: random.Random, fields: list[Field], at: int) -> list[Field]:
    number = fields[at].number ^ 1 << draw.randrange(max(8 * len(fields[at].value), 1))
    return [*fields[:at], fields[at].holding(number), *fields[at + 1 :]]


def _word(draw: random.Random, fields: list[Field], at: int) -> list[Field]:
    """Another text, with its right length."""
    texts = [n for n, field in enumerate(fields) if field.code == "s"]
    at = draw.choice(texts)
    word = draw.choice([*ODD_TEXT, fields[draw.choice(texts)].value, draw.randbytes(9)])
    return [*fields[: at - 1], Field("Q", struct.pack("<Q", len(word))), Field("s", word),
            *fields[at + 1 :]]  # fmt: skip


def _drop(draw: random.Random, fields: list[Field], at: int) -> list[Field]:
    return [*fields[:at], *fields[at + draw.randrange(1, 9) :]] if len(fields) > 20 else fields


def _repeat(draw: random.Random, fields: list[Field], at: int) -> list[Field]:
    end = at + draw.randrange(1, 9)
    return [*fields[:end], *fields[at:end], *fields[end:]]


def _swap(draw: random.Random, fields: list[Field], at: int) -> list[Field]:
    other = draw.randrange(len(fields))
    swapped = list(fields)
    swapped[at], swapped[other] = swapped[other], swapped[at]
    return swapped


_CHANGES: list[Callable[[random.Random, list[Field], int], list[Field]]]
_CHANGES = [_edge, _edge, _edge, _bits, _word, _drop, _repeat, _swap]


def files(raw: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """`count` broken relatives of a GGUF file."""
    draw = random.Random(seed)
    fields = fields_of_gguf(raw)
    for _ in range(count):
        yield mutated(draw, fields)


# --- JSON ----------------------------------------------------------------------------------------

ODD_VALUES: list[Any] = [None, True, 0, -1, 1, 2**31, 2**53, 2**63, 1.5, 1e308, [], {}, [[]], [1]]
ODD_VALUES += ["", "x", "<0x-1>", "\x00", "a" * 300, "\u2581", "\u0120", "\ud7ff", {"x": 1}]
ODD_VALUES += [{"type": "ByteLevel"}, ["a", "b"], [2**63, 2**64], [0, 0], [16, 0], "F64"]


def json_value(draw: random.Random, value: Any) -> Any:
    """A JSON value with one to three of its parts replaced, dropped, repeated or put elsewhere."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice([1, 1, 2, 3])):
        places = list(_places(draw, value))
        if not places:
            break
        parent, key = draw.choice(places)
        other, other_key = draw.choice(places)
        kind = draw.randrange(5)
        if kind < 2:
            parent[key] = copy.deepcopy(draw.choice(ODD_VALUES))
        elif kind == 2:
            del parent[key]
        elif kind == 3:
            parent[key] = [parent[key]] * draw.choice([1, 2, 3])
        else:
            parent[key] = copy.deepcopy(other[other_key])
    return value


def _places(draw: random.Random, node: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of all that is in it; of what holds very much, of some."""
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    for key in keys if len(keys) < 60 else draw.sample(keys, 30):
        yield node, key
        if isinstance(node[key], dict | list):
            yield from _places(draw, node[key])
