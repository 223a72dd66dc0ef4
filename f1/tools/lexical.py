"""Tools found by the words of a request: BM25 (Robertson and Zaragoza 2009) over weighted fields.

A tool's words are counted once (`Entry`); an index of thousands is their arrays, put together and
sorted, so that one more toolset costs milliseconds.

    terms   ["area", "circl", …]   sorted, as 32-bit sums of the words
    starts  [0, 3, …]              where each term's postings begin
    tools   [0, 7, 9,  7, …]       which tools have it
    gains   [2.1, …]               and what each gains by it
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from f1.tools.spec import ToolSpec
from f1.tools.words import asked_words, clauses, parts, words

_NAME, _DESCRIPTION, _PARAMETER, _DETAIL = 2.0, 1.0, 0.5, 0.3  # what a word counts, by where it is
_SATURATION, _LENGTH = 1.2, 0.5  # BM25's k1 and b
_DEEPEST = 4  # levels of a schema that are read
_MOST_WORDS = 2000  # of one tool
_EMBEDDED = 1000  # characters of a description whose meaning counts
_LONGEST = 4000  # characters of a request that are read, from its end
_MOST_CLAUSES = 32
_CLAUSE_WORDS = 2  # fewer are no wish


@dataclass(frozen=True, slots=True)
class Entry:
    """The words of one tool: `terms` [n] uint32, each once, and what they count, `weights` [n]
    float32. `text` is what an embedding is made of; `key` tells the tool from others."""

    key: bytes
    text: str
    terms: np.ndarray
    weights: np.ndarray


def read_tool(spec: ToolSpec, key: bytes) -> Entry:
    counts: defaultdict[int, float] = defaultdict(float)
    left = _MOST_WORDS
    for text, weight in _fields(spec):
        found = words(text)[:left]
        left -= len(found)
        for word in found:
            counts[_sum(word)] += weight
    terms = np.fromiter(counts.keys(), np.uint32, len(counts))
    weights = np.fromiter(counts.values(), np.float32, len(counts))
    text = f"{' '.join(parts(spec.name))}: {spec.tool.description[:_EMBEDDED]}"
    return Entry(key, text, terms, weights)


def _fields(spec: ToolSpec) -> Iterator[tuple[str, float]]:
    yield spec.name, _NAME
    yield spec.tool.description, _DESCRIPTION
    yield from _of_schema(spec.tool.parameters, _DEEPEST)
    for example in spec.examples:
        for text in _texts(example, _DEEPEST):
            yield text, _DETAIL


def _of_schema(schema: object, depth: int) -> Iterator[tuple[str, float]]:
    """Names, descriptions and values of the parameters."""
    if not isinstance(schema, Mapping) or depth == 0:
        return
    properties = schema.get("properties")
    if isinstance(properties, Mapping):
        for name, inner in properties.items():
            yield str(name), _PARAMETER
            yield from _told(inner)
            yield from _of_schema(inner, depth - 1)
    if isinstance(items := schema.get("items"), Mapping):
        yield from _told(items)
        yield from _of_schema(items, depth - 1)


def _told(schema: object) -> Iterator[tuple[str, float]]:
    if isinstance(schema, Mapping):
        values = schema.get("enum")
        for text in (schema.get("description"), *(values if isinstance(values, list) else ())):
            if isinstance(text, str):
                yield text, _DETAIL


def _texts(value: object, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif depth and isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(inner, depth - 1)


def _sum(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "surrogatepass"))


@dataclass(frozen=True, slots=True)
class Matched:
    """How well each of N tools fits, [N] float32 each: the request as a whole, by its words'
    gains; and its clauses, the best of each being 1."""

    whole: np.ndarray
    wishes: np.ndarray


class LexicalIndex:
    """Of N tools; never changes."""

    def __init__(self, entries: Sequence[Entry]):
        self.num_tools = len(entries)
        sizes = [len(entry.terms) for entry in entries]
        terms = np.concatenate([np.zeros(0, np.uint32), *(entry.terms for entry in entries)])
        weights = np.concatenate([np.zeros(0, np.float32), *(e.weights for e in entries)])
        tools = np.repeat(np.arange(len(entries), dtype=np.int32), sizes)
        order = np.argsort(terms, kind="stable")
        self._terms, starts = np.unique(terms[order], return_index=True)
        self._starts = np.append(starts, len(terms))
        self._tools = tools[order]
        self._gains = self._weigh(weights, tools)[order] * np.repeat(
            self._rarity(), np.diff(self._starts)
        )

    def _weigh(self, weights: np.ndarray, tools: np.ndarray) -> np.ndarray:
        """What each word says of its tool: the more often the more, ever less so."""
        lengths = np.bincount(tools, weights, self.num_tools)
        norms = _SATURATION * (1 - _LENGTH + _LENGTH * lengths / max(lengths.mean(), 1e-9))
        gains: np.ndarray = weights * (_SATURATION + 1) / (weights + norms[tools])
        return gains.astype(np.float32)

    def _rarity(self) -> np.ndarray:
        """What each word says at all: the fewer tools have it the more."""
        counts = np.diff(self._starts)
        rarity: np.ndarray = np.log1p((self.num_tools - counts + 0.5) / (counts + 0.5))
        return rarity.astype(np.float32)

    def match(self, request: str) -> Matched:
        request = request[-_LONGEST:]
        rows: dict[int, int] = {}  # of the words that any tool has: which row of `gains`
        asked = [asked_words(part) for part in clauses(request)[-_MOST_CLAUSES:]]
        wanted = [self._rows(part, rows) for part in asked if len(part) >= _CLAUSE_WORDS]
        whole = self._rows(asked_words(request), rows)
        gains = np.zeros((len(rows), self.num_tools), np.float32)
        for term, row in rows.items():
            place = slice(self._starts[term], self._starts[term + 1])
            gains[row, self._tools[place]] = self._gains[place]
        wishes = np.zeros(self.num_tools, np.float32)
        for part in filter(None, wanted):
            scores = gains[part].sum(axis=0)
            np.maximum(wishes, scores / scores.max(), out=wishes)
        return Matched(gains[whole].sum(axis=0), wishes)

    def _rows(self, wanted: Sequence[str], rows: dict[int, int]) -> list[int]:
        """The rows of the words that any tool has, each once; new ones are added."""
        asked = np.array(sorted({_sum(word) for word in wanted}), np.uint32)
        if not len(self._terms) or not len(asked):
            return []
        places = np.searchsorted(self._terms, asked)
        places[places == len(self._terms)] = 0
        known = places[self._terms[places] == asked]
        return [rows.setdefault(int(term), len(rows)) for term in known]
