"""Which few of thousands of tools a request is about.

    question ─▶ words ─▶ BM25 of the whole and of each clause ─┐
        │                                                      ├─▶ scores ─▶ the best, k at most
        └─▶ embedding, once there are those of the tools ──────┘

What a conversation was shown stays shown where it first was: prompts only grow at their end, and
what was computed of them is used again. So the selection is replayed, question by question.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from f1.tools.ranking import Index, Ranked, Ranker
from f1.tools.search import SEARCH_TOOL, found_in, search_spec
from f1.tools.spec import ToolSpec
from f1.types import Message, Selected

_FOUND = 3  # tools that a search tells of

Why = Literal["all", "matched", "used", "searched", "forced"]


@dataclass(frozen=True, slots=True)
class Selection:
    """What a model is shown of `num_tools` tools, and may call: `tools`, in the order in which they
    are given. `shown_at`: with which message each was first shown, as in GenerateRequest.
    `notes` are for a person."""

    tools: tuple[ToolSpec, ...]
    selected: tuple[Selected, ...]  # best first
    num_tools: int
    shown_at: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def with_search(self, spec: ToolSpec) -> Selection:
        """With a tool that finds those left out, where there are any and its name is free."""
        names = {tool.name for tool in self.tools}
        if not self.shown_at or spec.name in names:
            return self
        first, *_ = self.shown_at
        shown_at = {**self.shown_at, first: (*self.shown_at[first], spec.name)}
        return replace(self, tools=(*self.tools, spec), shown_at=shown_at)


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and what was done about it: names of tools that were called, or found by a
    search. `place` is that of its message."""

    place: int
    question: str
    called: tuple[str, ...]
    found: tuple[str, ...]
    is_new: bool  # nothing comes behind it


class Selector:
    """Shared by all requests; thread-safe."""

    def __init__(self, ranker: Ranker | None = None):
        """Without a ranker, by words alone."""
        self._ranker = ranker or Ranker()

    def prepare(self, specs: Sequence[ToolSpec]) -> None:
        """Does what the first request with these tools would wait for, and begins what it would do
        without. Blocks for a fifth of a millisecond a tool."""
        self._ranker.index(specs)

    async def select(
        self,
        specs: Sequence[ToolSpec],
        messages: Sequence[Message],
        k: int = 8,
        *,
        forced: str | None = None,
    ) -> Selection:
        """At most `k` tools at the first question; later ones may add some, and so do calls of
        others, searches, and a call that is `forced`."""
        turns = turns_of(messages)
        if len(specs) <= k:
            return _unranked(specs, len(specs))
        if not turns:  # nothing is asked: the first do, the one that is forced before others
            return _unranked(sorted(specs, key=lambda spec: spec.name != forced)[:k], len(specs))
        index = await self._index(specs)
        shown = Shown(specs, index.places, k)
        for turn in turns:
            ranked = await self._ranker.rank(index, turn.question, is_new=turn.is_new)
            shown.add(turn, ranked)
        if forced is not None:
            shown.also(turns[-1], (forced,), "forced")
        return shown.selection(ranked, self._ranker.notes(index, ranked))

    async def search(
        self, specs: Sequence[ToolSpec], query: str, k: int = _FOUND
    ) -> tuple[ToolSpec, ...]:
        """The `k` tools that fit best, best first."""
        index = await self._index(specs)
        ranked = await self._ranker.rank(index, query, is_new=True)
        return tuple(specs[place] for place in ranked.close[:k])

    async def _index(self, specs: Sequence[ToolSpec]) -> Index:
        found = self._ranker.find(specs)
        return found if found is not None else await asyncio.to_thread(self._ranker.index, specs)

    def search_tool(self, specs: Sequence[ToolSpec]) -> ToolSpec:
        """`search` as a tool, for Selection.with_search."""
        return search_spec(lambda query: self.search(specs, query))


class Shown:
    """What a conversation has been shown so far. Tools go by their places among all."""

    def __init__(self, specs: Sequence[ToolSpec], places: Mapping[str, int], k: int):
        self._specs = specs
        self._places = places
        self._k = k
        self._why: dict[int, Why] = {}  # in the order in which they were shown
        self._at: dict[int, list[str]] = {}

    def add(self, turn: Turn, ranked: Ranked) -> None:
        is_first = not self._why
        room = self._k if is_first else self._k // 2
        close = ranked.close[: self._k]
        if is_first and not close:  # it says nothing of any tool
            close = tuple(range(self._k))
        for place in [place for place in close if place not in self._why][:room]:
            self._show(turn, place, "matched")
        for name in turn.found:
            self._why.setdefault(self._places.get(name, -1), "searched")
        self.also(turn, turn.called, "used")

    def also(self, turn: Turn, names: Sequence[str], why: Why) -> None:
        for name in names:
            if (place := self._places.get(name)) is not None:
                if place not in self._why:
                    self._show(turn, place, why)
                self._why[place] = why

    def _show(self, turn: Turn, place: int, why: Why) -> None:
        self._why[place] = why
        self._at.setdefault(turn.place, []).append(self._specs[place].name)

    def selection(self, ranked: Ranked, notes: tuple[str, ...]) -> Selection:
        self._why.pop(-1, None)
        selected = [
            Selected(self._specs[place].name, ranked.best.get(place, 0.0), why)
            for place, why in self._why.items()
        ]
        return Selection(
            tuple(self._specs[place] for place in self._why),
            tuple(sorted(selected, key=lambda one: -one.score)),
            len(self._specs),
            {place: tuple(names) for place, names in self._at.items()},
            notes,
        )


def _unranked(specs: Sequence[ToolSpec], num_tools: int) -> Selection:
    selected = tuple(Selected(spec.name, 1.0, "all") for spec in specs)
    return Selection(tuple(specs), selected, num_tools)


def turns_of(messages: Sequence[Message]) -> list[Turn]:
    asked = [place for place, message in enumerate(messages) if message.role == "user"]
    turns = []
    for place, end in zip(asked, [*asked, len(messages)][1:], strict=True):
        calls = [call for message in messages[place:end] for call in message.tool_calls]
        searches = {call.id for call in calls if call.name == SEARCH_TOOL}
        results = [m for m in messages[place:end] if m.tool_call_id in searches]
        found = tuple(name for result in results for name in found_in(result))
        called = tuple(dict.fromkeys(call.name for call in calls))
        is_new = place == len(messages) - 1
        turns.append(Turn(place, messages[place].content, called, found, is_new))
    return turns
