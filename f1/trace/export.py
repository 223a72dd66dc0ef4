"""A run as JSON, for files and for HTTP: what stands in the store, as it stands there.

{"id": "run_7f", "object": "trace", "status": "ended", …}     how it stands
{"seq": 0, "at": 1795446351.2, "entry": {"is": "Began", …}}   what happened, line by line
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from f1.errors import InvalidRequest
from f1.store.runs import EntryRow, RunRow, Status

Json = dict[str, Any]
_OWN: Mapping[str, type | tuple[type, ...]] = {
    "id": str,
    "status": str,
    "session_id": str,
    "began": (int, float),
    "changed": (int, float),
    "num_entries": int,
}
_STATUSES: tuple[Status, ...] = ("running", "waiting", "ended")


def write_run(row: RunRow) -> Json:
    """Without whose it is."""
    return {name: getattr(row, name) for name in _OWN} | {"object": "trace", "about": row.about}


def write_entry(row: EntryRow) -> Json:
    """`entry` is null where what was written could not be read."""
    return {"seq": row.seq, "at": row.at, "entry": row.body if row.kind else None}


def read_run(told: Mapping[str, Any]) -> RunRow:
    """What `write_run` wrote. Raises InvalidRequest."""
    wrong = [name for name, kind in _OWN.items() if not isinstance(told.get(name), kind)]
    about = told.get("about")
    if wrong or told["status"] not in _STATUSES or not isinstance(about, dict):
        raise InvalidRequest(f"this is no run: '{(wrong or ['status or about'])[0]}' is wrong")
    own = {name: told[name] for name in _OWN}
    return RunRow(tenant="", about=about, **cast(Any, own))


def read_entry(told: Mapping[str, Any]) -> EntryRow:
    """What `write_entry` wrote. Raises InvalidRequest."""
    seq, at, body = told.get("seq"), told.get("at"), told.get("entry")
    if not isinstance(seq, int) or not isinstance(at, int | float):
        raise InvalidRequest("this is no entry of a run: it has no `seq`, or no `at`")
    body = body if isinstance(body, dict) else {}
    return EntryRow(seq, at, str(body.get("is", "")), body)


def lines(row: RunRow, entries: Sequence[EntryRow]) -> Iterator[str]:
    """The run as JSON lines: how it stands, then its entries."""
    yield json.dumps(write_run(row), ensure_ascii=False)
    for entry in entries:
        yield json.dumps(write_entry(entry), ensure_ascii=False)
