"""Scores of tools for a question, by words and, where it can be had, by meaning."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from f1.errors import F1Error
from f1.tools.lexical import Entry, LexicalIndex, Matched, read_tool
from f1.tools.spec import ToolSpec
from f1.tools.vectors import ToolVectors

_WISHES, _MEANING = 0.6, 2.0  # what clauses and meaning count beside the words of the whole
_NEAR = 0.55  # of the best score: what is close to it
_WISHED = 0.999  # of the best for a clause, which is 1
_NOTHING = 0.05  # a score that says nothing
_RANKED = 64  # tools of a question that are remembered
_QUESTIONS = 1024  # of an index that are remembered: some 5 MB
_INDEXED = 40_000  # tools in all indices that are kept
_LATEST = 16  # tuples of tools that are known at once


@dataclass(frozen=True, slots=True)
class Ranked:
    """The best of all tools, by their places, with descending scores; those `close` to the very
    best, or to what a clause asks for; and whether their meaning was looked at, or words alone."""

    best: Mapping[int, float]
    close: tuple[int, ...]
    by_meaning: bool


@dataclass(slots=True, eq=False)
class Index:
    """Of a tuple of tools. `matrix` [N, D] is there once all their vectors are."""

    places: Mapping[str, int]  # by name
    texts: tuple[str, ...]
    lexical: LexicalIndex
    matrix: np.ndarray | None = None
    ranked: OrderedDict[str, Ranked] = field(default_factory=OrderedDict)


class Ranker:
    """Thread-safe. Indices are kept for those who come with the same tools."""

    def __init__(self, vectors: ToolVectors | None = None):
        self._vectors = vectors
        self._lock = threading.Lock()
        self._read: OrderedDict[int, tuple[ToolSpec, Entry]] = OrderedDict()  # by identity
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()  # by what the tool says
        self._indices: OrderedDict[tuple[bytes, ...], Index] = OrderedDict()
        self._latest: OrderedDict[int, tuple[Sequence[ToolSpec], Index]] = OrderedDict()

    def find(self, specs: Sequence[ToolSpec]) -> Index | None:
        """The index of this very object; None where it was not asked for lately."""
        known = self._latest.get(id(specs))
        return known[1] if known is not None and known[0] is specs else None

    def index(self, specs: Sequence[ToolSpec]) -> Index:
        """Made in some 5 µs a tool that was seen before, and 100 µs for another; found in less."""
        index = self._index(specs)
        if isinstance(specs, tuple):
            with self._lock:
                self._latest[id(specs)] = specs, index
                if len(self._latest) > _LATEST:
                    self._latest.popitem(last=False)
        return index

    def _index(self, specs: Sequence[ToolSpec]) -> Index:
        with self._lock:
            known = [self._read.get(id(spec)) for spec in specs]
        entries = [
            one[1] if one is not None and one[0] is spec else self._entry(spec)
            for spec, one in zip(specs, known, strict=True)
        ]
        key = tuple(entry.key for entry in entries)
        with self._lock:
            if (found := self._indices.get(key)) is not None:
                self._indices.move_to_end(key)
                return found
        places = {spec.name: place for place, spec in enumerate(specs)}
        index = Index(places, tuple(entry.text for entry in entries), LexicalIndex(entries))
        self.meanings(index)  # what is missing is made from now on
        with self._lock:
            self._indices[key] = index
            num_tools = sum(map(len, self._indices))
            while num_tools > _INDEXED and len(self._indices) > 1:
                oldest, _ = self._indices.popitem(last=False)
                num_tools -= len(oldest)
        return index

    async def rank(self, index: Index, question: str, *, is_new: bool) -> Ranked:
        """A question that was ranked before is not ranked again: what was shown then is part of the
        prompt. One that is new is, where meaning can be looked at by now."""
        meanings = self.meanings(index)
        with self._lock:
            known = index.ranked.get(question)
        if known is not None and (known.by_meaning or meanings is None or not is_new):
            return known
        alike: np.ndarray | None = None
        if meanings is not None and self._vectors is not None:
            with suppress(F1Error):  # its files are gone: words do
                alike = meanings @ await self._vectors.embedder.sense(question)
        ranked = ranked_by(index.lexical.match(question), alike)
        with self._lock:
            index.ranked[question] = ranked
            if len(index.ranked) > _QUESTIONS:
                index.ranked.popitem(last=False)
        return ranked

    def notes(self, index: Index, ranked: Ranked) -> tuple[str, ...]:
        """What of the ranking is less than it could be, for a person."""
        if ranked.by_meaning:
            return ()
        if self._vectors is None:
            return ("tools were selected by words alone: there is no embedding model",)
        why = self._vectors.failure
        if why is None:
            missing = self._vectors.num_missing(index.texts)
            why = f"{missing} of {len(index.texts)} are not embedded yet"
        return (f"tools were selected by words alone: {why}",)

    def meanings(self, index: Index) -> np.ndarray | None:
        """[N, D] float32, each of length 1; None as long as any is missing."""
        if index.matrix is None and self._vectors is not None:
            index.matrix = self._vectors.matrix(index.texts)
        return index.matrix

    def _entry(self, spec: ToolSpec) -> Entry:
        key = content_key(spec)
        with self._lock:
            entry = self._entries.get(key)
        if entry is None:
            entry = read_tool(spec, key)
        with self._lock:
            self._read[id(spec)] = spec, entry
            self._entries[key] = entry
            for kept in (self._read, self._entries):
                if len(kept) > _INDEXED:
                    kept.popitem(last=False)
        return entry


def combined(matched: Matched, alike: np.ndarray | None) -> np.ndarray:
    """[N] float32 from what the words say and, with `alike` [N], how close in meaning each is."""
    best = max(float(matched.whole.max()), 1e-9)
    scores: np.ndarray = matched.whole / best + _WISHES * matched.wishes
    return scores if alike is None else scores + _MEANING * alike


def ranked_by(matched: Matched, alike: np.ndarray | None) -> Ranked:
    scores = combined(matched, alike)
    order = np.argsort(-scores, kind="stable")[:_RANKED].tolist()
    best = {place: round(float(scores[place]), 4) for place in order}
    least = max(_NEAR * best[order[0]], _NOTHING)
    close = [p for p in order if best[p] >= least or matched.wishes[p] >= _WISHED]
    return Ranked(best, tuple(close), alike is not None)


def content_key(spec: ToolSpec) -> bytes:
    """The same for tools that say the same."""
    tool = spec.tool
    said = json.dumps([tool.name, tool.description, tool.parameters, spec.examples])
    return hashlib.sha256(said.encode()).digest()
