"""What a string's keywords say together, as one expression."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from f1.calling.formats import FORMATS
from f1.calling.patterns import ANYTHING, Node, Unknown, limited, parse, spell, states

# States from which a large vocabulary branches widely, of one string and of all in one schema: each
# takes 8 to 20 ms to compile (for 49 and 152 thousand tokens).
MAX_STATES = 64
MAX_ALL_STATES = 64

Relax = Callable[[Any, str, str], None]


class Strings:
    """Of one schema. What does not go into an expression is told to `relax`: node, keyword, why."""

    def __init__(self, relax: Relax):
        self._relax = relax
        self._states: dict[Node, float] = {}

    def of(self, nodes: Sequence[dict[str, Any]]) -> Node | None:
        """One expression for all the nodes say of strings; None: any text."""
        text: Node | None = None
        for node, keyword, pattern in _patterns(nodes):
            try:
                found = read(pattern)
                if text is not None and found != text:
                    raise Unknown("there is another pattern or format")
                text = found if keyword == "format" else self._afford(found)  # those are cheap
            except Unknown as error:
                self._relax(node, keyword, str(error))
        lowest = max(nodes, key=lambda node: node.get("minLength", 0), default={})
        if lowest.get("minLength", 0) > 0:
            text = self._limited(text, lowest, "minLength", (int(lowest["minLength"]), None))
        bounded = [node for node in nodes if "maxLength" in node]
        if bounded:
            highest = min(bounded, key=lambda node: node["maxLength"])
            text = self._limited(text, highest, "maxLength", (0, int(highest["maxLength"])))
        if text is not None:
            self._states[text] = states(text)
        return text

    def _limited(
        self, text: Node | None, node: Any, keyword: str, bounds: tuple[int, int | None]
    ) -> Node | None:
        try:
            return self._afford(limited(ANYTHING if text is None else text, *bounds))
        except Unknown as error:
            self._relax(node, keyword, str(error))
        return text

    def _afford(self, text: Node) -> Node:
        spelled(text)
        if text not in self._states:
            found, others = states(text), sum(self._states.values())
            if found > MAX_STATES or found + others > MAX_ALL_STATES:
                limit = f"{MAX_STATES} in one string, {MAX_ALL_STATES} in all"
                raise Unknown(f"its grammar has {found:.0f} large states, the limit is {limit}")
        return text


@lru_cache(maxsize=1024)
def read(pattern: str) -> Node:
    """The pattern's expression. Raises Unknown."""
    return parse(pattern)


@lru_cache(maxsize=1024)
def spelled(text: Node) -> str:
    """As JSON has it between quotes. Raises Unknown."""
    return spell(text)


def _patterns(nodes: Sequence[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str, str]]:
    for node in nodes:
        if "pattern" in node:
            yield node, "pattern", node["pattern"]
    for node in nodes:
        if isinstance(form := node.get("format"), str) and form in FORMATS:
            yield node, "format", FORMATS[form]
