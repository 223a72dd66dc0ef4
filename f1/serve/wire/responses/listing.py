"""A page of items, as OpenAI's lists are read: by cursor, the latest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from f1.serve.wire.fields import Fields, refuse

Json = dict[str, Any]
_KNOWN = frozenset({"after", "include", "include[]", "limit", "order"})


def list_items(items: Sequence[Json], query: Mapping[str, str]) -> Json:
    """`after` is the id of the last item of the page before. Raises InvalidRequest."""
    fields = Fields(dict(query))
    fields.only(_KNOWN)
    order = fields.one_of("order", ("asc", "desc")) or "desc"
    limit = parse_limit(query.get("limit", "20"))
    ordered = list(items) if order == "asc" else list(items)[::-1]
    if "after" in query:
        ids = [item["id"] for item in ordered]
        if query["after"] not in ids:
            raise refuse("after", "must be the id of one of the items")
        ordered = ordered[ids.index(query["after"]) + 1 :]
    page = ordered[:limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(ordered) > limit,
    }


def parse_limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= 100):
        raise refuse("limit", "must be an integer from 1 to 100")
    return int(text)
