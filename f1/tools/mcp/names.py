"""A server's names as OpenAI's API takes them, and back: by a table, never by taking them apart.

github, "search"              →  github__search
github, "repos.list/all"      →  github__repos_list_all_1f3a9c07      (what does not fit is
github, 128 characters        →  github__aaaa…_5be2d0c4                replaced, and told apart)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256

_MAX = 64
_FITTING = re.compile(r"[A-Za-z0-9_-]+\Z")
_UNFIT = re.compile(r"[^A-Za-z0-9_-]")


def public_name(server: str, tool: str) -> str:
    """1 to 64 of A-Z, a-z, 0-9, "_" and "-"; the same for the same pair, whatever else there is."""
    head = f"{server}__"
    if _FITTING.match(tool) and len(head) + len(tool) <= _MAX:
        return head + tool
    mark = f"_{sha256(tool.encode(errors='surrogatepass')).hexdigest()[:8]}"
    return head + _UNFIT.sub("_", tool)[: _MAX - len(head) - len(mark)] + mark


def public_names(server: str, tools: Iterable[str]) -> dict[str, str]:
    """The server's name by the public one. What two tools would be called neither is: a name that
    stands for one of them today may stand for the other tomorrow."""
    found: dict[str, list[str]] = {}
    for tool in tools:
        found.setdefault(public_name(server, tool), []).append(tool)
    return {public: same[0] for public, same in found.items() if len(same) == 1}
