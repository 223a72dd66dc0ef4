"""Runs and conversations that outlive the process. What entries say is not the store's business: to
it they are JSON, in order.

    runs        one row each: whose, how it stands, a summary for lists
    entries     what happened in it, numbered from 0
    sessions    conversations, message by message
    waiting     runs that wait for their caller, by what it will come back with
    approvals   calls that wait for a person; each is decided once
    pins        digests of definitions that a person has approved
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from f1.settings import Settings

Json = dict[str, Any]
Status = Literal[
    "running",  # in the process `owner`; where that is gone, it was interrupted
    "waiting",  # for its caller, or for a person
    "ended",
]


@dataclass(frozen=True, slots=True)
class RunRow:
    """`about` is for lists: what was asked, the model, the ending, counts."""

    id: str
    tenant: str
    status: Status = "running"
    session_id: str = ""
    began: float = 0.0  # seconds since 1970
    changed: float = 0.0
    num_entries: int = 0
    about: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EntryRow:
    seq: int
    at: float
    kind: str
    body: Json


@dataclass(frozen=True, slots=True)
class ApprovalRow:
    """`decided`: the verdict, once there is one."""

    id: str
    tenant: str
    run_id: str
    expires: float
    body: Json
    decided: Json | None = None


@dataclass(frozen=True, slots=True)
class Write:
    """What changes together: entries at the end of a run, and how it stands then (None: as before).
    `asked` are approvals of it; `messages` are appended to its session, which must have `known`
    messages then. `waits` hold until the next entry.

    A write may be repeated, with more behind it: who was interrupted does not know whether it was
    done. What is there already, and just the same, is not written again."""

    run_id: str
    tenant: str
    entries: Sequence[EntryRow] = ()
    status: Status | None = None
    about: Json | None = None
    asked: Sequence[ApprovalRow] = ()
    waits: Sequence[tuple[bytes, Json]] = ()  # keys under which its caller finds it
    messages: Sequence[Json] = ()
    known: int = 0


class Conflict(Exception):
    """Somebody else was first: other entries of these numbers, or other messages behind the known
    ones, are there already; or the run is gone, or another process has taken it."""


class SessionTaken(Conflict):
    """A run of this session goes on in a process that lives."""


class RunStore(Protocol):
    """Everything is kept when a method returns, also if the process is killed then. All raise
    NotStored where the database cannot be used now; the next call may succeed."""

    async def begin(self, run: RunRow, entries: Sequence[EntryRow]) -> bool:
        """A new run of this process. False: this tenant has one of that id. Raises SessionTaken
        where another run of its session is running; of two at a time one begins."""

    async def write(self, *writes: Write) -> None:
        """All, or none. Raises Conflict."""

    async def run(self, tenant: str, run_id: str) -> RunRow | None: ...
    async def entries(self, tenant: str, run_id: str) -> list[EntryRow]:
        """[] where there is no such run of this tenant. One that is broken has no kind and no body,
        and is in its place; so is the first of those that are missing."""

    async def runs(
        self,
        tenant: str | None,
        *,
        limit: int = 50,
        before: float | None = None,
        session_id: str | None = None,
        status: Status | None = None,
    ) -> list[RunRow]:
        """Those that began last first; None: of all tenants. `before`: seconds since 1970."""

    async def take(self, tenant: str, run_id: str) -> bool:
        """This process goes on with a run that waits, or whose process is gone. False: it ended, or
        another process is at it."""

    async def orphans(self) -> list[RunRow]:
        """Runs that were running in processes that are gone."""

    async def delete(self, tenant: str, run_id: str) -> bool:
        """False: there is none. Raises Conflict where it is running in a process that lives."""

    async def waiting(self, tenant: str, keys: Sequence[bytes]) -> dict[bytes, tuple[str, Json]]:
        """Of runs that wait for their caller, or did when their process went: the id, and what was
        kept with the key."""

    async def approvals(self, tenant: str | None) -> list[ApprovalRow]:
        """Those that nobody has decided, also where they have expired."""

    async def approval(self, tenant: str, approval_id: str) -> ApprovalRow | None: ...
    async def decide(self, tenant: str, approval_id: str, verdict: Json) -> bool:
        """False: it is decided already, or not there. Of two at a time one gets True."""

    async def messages(self, tenant: str, session_id: str) -> list[Json] | None:
        """None where there is no such session of this tenant."""

    async def session(self, tenant: str, session_id: str) -> Json | None:
        """As in the list."""

    async def sessions(
        self, tenant: str, *, limit: int = 50, after: str | None = None
    ) -> list[Json]:
        """`id`, `messages`, `began`, `used`; the last used first, or those behind the one of the id
        `after`."""

    async def delete_session(self, tenant: str, session_id: str) -> bool:
        """The conversation; traces of its runs stay as long as others."""

    async def pin(self, name: str, digest: str | None) -> None:
        """The definition that is approved under this name; None: none any more."""

    async def pins(self) -> dict[str, str]: ...
    async def close(self) -> None: ...


def open_runs(settings: Settings) -> RunStore | None:
    """Of this process; it needs no other thread's care but `close`. None: nothing is to be kept.
    Raises InvalidRequest where `runs_url` is none."""
    if not settings.runs_disk:
        return None
    from f1.store.places import PostgresServer, SqliteFile  # SQLAlchemy takes 0.2 s
    from f1.store.sql_runs import SqlRuns

    url = settings.runs_url
    place = PostgresServer(url) if url else SqliteFile(settings.runs_file)
    return SqlRuns(place, settings.runs_disk, settings.runs_days * 86_400.0)
