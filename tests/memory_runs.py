"""A RunStore in memory whose writer may die: what was written stays, its runs are orphans then. For
logic that no database has to be right for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import orjson

from f1.store.database import NotStored
from f1.store.runs import ApprovalRow, Conflict, EntryRow, Json, RunRow, SessionTaken, Status, Write

Key = tuple[str, str]


@dataclass
class Disk:
    """What outlives processes."""

    runs: dict[Key, RunRow] = field(default_factory=dict)
    entries: dict[Key, list[bytes]] = field(default_factory=dict)
    owners: dict[Key, MemoryRuns] = field(default_factory=dict)
    waits: dict[tuple[str, bytes], tuple[str, bytes]] = field(default_factory=dict)
    asked: dict[Key, ApprovalRow] = field(default_factory=dict)
    said: dict[Key, list[bytes]] = field(default_factory=dict)
    pinned: dict[str, str] = field(default_factory=dict)


class MemoryRuns:
    """Of one process. `before` is called with the number of each write before it is done, and may
    raise, or kill the process."""

    def __init__(self, disk: Disk | None = None, before: Callable[[int], None] | None = None):
        self.disk = disk or Disk()
        self.before = before
        self.num_writes = 0
        self.dead = False

    def _count(self) -> None:
        if self.dead:
            raise NotStored("this process is dead")
        self.num_writes += 1
        if self.before is not None:
            self.before(self.num_writes)

    async def begin(self, run: RunRow, entries: Sequence[EntryRow]) -> bool:
        self._count()
        key = (run.tenant, run.id)
        if key in self.disk.runs:
            return False
        for other, row in self.disk.runs.items():
            same = run.session_id and (row.tenant, row.session_id) == (run.tenant, run.session_id)
            if same and row.status == "running" and not self.disk.owners[other].dead:
                raise SessionTaken(f"another run of the session '{run.session_id}' goes on")
        self.disk.runs[key] = replace(run, num_entries=len(entries), changed=time.time())
        self.disk.owners[key] = self
        self.disk.entries[key] = [orjson.dumps(row) for row in entries]
        return True

    async def write(self, *writes: Write) -> None:
        self._count()
        for change in writes:
            key = (change.tenant, change.run_id)
            run, rows = self.disk.runs[key], self.disk.entries[key]
            said = self.disk.said.setdefault((change.tenant, run.session_id), [])
            if change.messages and len(said) != change.known:
                raise Conflict("the session has gone on")
            if change.entries and change.entries[0].seq != len(rows):
                raise Conflict(f"entry {change.entries[0].seq} behind {len(rows)}")
            rows += [orjson.dumps(row) for row in change.entries]
            said += [orjson.dumps(message) for message in change.messages]
            self.disk.runs[key] = replace(
                run,
                status=change.status or run.status,
                about=run.about if change.about is None else change.about,
                num_entries=len(rows),
            )
            for approval in change.asked:
                self.disk.asked[(change.tenant, approval.id)] = approval
            for found_by, body in change.waits:
                self.disk.waits[(change.tenant, found_by)] = (run.id, orjson.dumps(body))

    async def run(self, tenant: str, run_id: str) -> RunRow | None:
        return self.disk.runs.get((tenant, run_id))

    async def entries(self, tenant: str, run_id: str) -> list[EntryRow]:
        return [EntryRow(**orjson.loads(r)) for r in self.disk.entries.get((tenant, run_id), ())]

    async def runs(
        self,
        tenant: str | None,
        *,
        limit: int = 50,
        before: float | None = None,
        session_id: str | None = None,
        status: Status | None = None,
    ) -> list[RunRow]:
        found = [
            run
            for run in reversed(self.disk.runs.values())
            if tenant in (None, run.tenant)
            and session_id in (None, run.session_id)
            and status in (None, run.status)
        ]
        return found[:limit]

    async def take(self, tenant: str, run_id: str) -> bool:
        self._count()
        key = (tenant, run_id)
        run = self.disk.runs.get(key)
        if run is None or run.status == "ended":
            return False
        if run.status == "running" and not self.disk.owners[key].dead:
            return False
        self.disk.runs[key], self.disk.owners[key] = replace(run, status="running"), self
        return True

    async def orphans(self) -> list[RunRow]:
        runs = self.disk.runs.items()
        return [r for key, r in runs if r.status == "running" and self.disk.owners[key].dead]

    async def delete(self, tenant: str, run_id: str) -> bool:
        run = self.disk.runs.get((tenant, run_id))
        if run and run.status == "running" and not self.disk.owners[tenant, run_id].dead:
            raise Conflict(f"the run '{run_id}' is under way")
        return self.disk.runs.pop((tenant, run_id), None) is not None

    async def waiting(self, tenant: str, keys: Sequence[bytes]) -> dict[bytes, tuple[str, Json]]:
        found = {
            key: self.disk.waits[tenant, key] for key in keys if (tenant, key) in self.disk.waits
        }
        return {key: (run_id, orjson.loads(body)) for key, (run_id, body) in found.items()}

    async def approvals(self, tenant: str | None) -> list[ApprovalRow]:
        return [a for a in self.disk.asked.values() if a.decided is None]

    async def approval(self, tenant: str, approval_id: str) -> ApprovalRow | None:
        return self.disk.asked.get((tenant, approval_id))

    async def decide(self, tenant: str, approval_id: str, verdict: Json) -> bool:
        self._count()
        row = self.disk.asked.get((tenant, approval_id))
        if row is None or row.decided is not None:
            return False
        self.disk.asked[tenant, approval_id] = replace(row, decided=verdict)
        return True

    async def messages(self, tenant: str, session_id: str) -> list[Json] | None:
        rows = self.disk.said.get((tenant, session_id))
        return None if rows is None else [orjson.loads(row) for row in rows]

    async def sessions(self, tenant: str, *, limit: int = 50) -> list[Json]:
        return [{"id": key[1], "messages": len(rows)} for key, rows in self.disk.said.items()]

    async def delete_session(self, tenant: str, session_id: str) -> bool:
        return self.disk.said.pop((tenant, session_id), None) is not None

    async def pin(self, name: str, digest: str | None) -> None:
        self.disk.pinned[name] = digest or ""

    async def pins(self) -> dict[str, str]:
        return self.disk.pinned

    async def close(self) -> None:
        self.dead = True
