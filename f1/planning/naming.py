"""What the names of arguments, fields and tools have in common."""

from __future__ import annotations

import re

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")
_VERBS = frozenset("get list find search read open show look check fetch query of by for".split())


def related(argument: str, tool: str, field: str | None, producer: str) -> bool:
    """By their names: `event_id` is the `id` that find_event returns, `path` of read_file what
    search_files returns without a name."""
    wanted, source = words(argument), words(producer)
    if field is None:
        return bool((wanted | words(tool)) & source - _VERBS)
    given = words(field)
    return bool(wanted & given) and wanted <= given | source


def words(name: str) -> frozenset[str]:
    return frozenset(word.lower().removesuffix("s") for word in _WORD.findall(name))
