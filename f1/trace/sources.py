"""Where runs are read from: the store of this machine, or a server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterator
from typing import Any, Protocol, Self, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import httpx

from f1.errors import EngineStopped, F1Error, InvalidRequest, NotFound
from f1.settings import Settings
from f1.store.runs import Conflict, EntryRow, RunRow, RunStore, Status, open_runs
from f1.trace.export import read_entry, read_run
from f1.trace.visible import visible

T = TypeVar("T")
Json = dict[str, Any]
_PAGE = 100
_MOST = 10_000  # runs that are looked through for an id
LAST = "last"


class Source(Protocol):
    """Runs, those that began last first. `one_tenant`: of nobody else. All raise F1Error."""

    one_tenant: bool

    def page(
        self,
        limit: int,
        before: float | None = None,
        session_id: str | None = None,
        status: Status | None = None,
    ) -> list[RunRow]: ...
    def entries(self, run: RunRow) -> list[EntryRow]: ...
    def delete(self, run: RunRow) -> bool: ...
    def close(self) -> None: ...


def find(source: Source, name: str) -> RunRow:
    """The run of that id, or the only one whose id begins so; `last` is the latest. Two tenants may
    have runs of one id: `TENANT/ID` is that tenant's. Raises NotFound."""
    shown = visible(name[:100])
    tenant, slash, run_id = name.rpartition("/")
    exact: list[RunRow] = []
    begun: list[RunRow] = []
    for row in _all(source):
        if name == LAST:
            return row
        if slash and row.tenant != tenant:
            continue
        if row.id == run_id:
            exact.append(row)
            if source.one_tenant or slash:
                break
        elif run_id and row.id.startswith(run_id):
            begun.append(row)
    found = exact or begun
    if len(found) == 1:
        return found[0]
    if not found:
        raise NotFound(f"no run '{shown}' is kept", param="id")
    twice = len({row.id for row in found}) < len(found)
    names = (f"{row.tenant}/{row.id}" if twice else row.id for row in found[:5])
    some = ", ".join(map(visible, names))
    raise NotFound(f"'{shown}' may be any of {len(found)} runs: {some}", param="id")


def _all(source: Source) -> Iterator[RunRow]:
    """Each once, also where several began at the same time."""
    seen: set[tuple[str, str]] = set()
    before: float | None = None
    while len(seen) < _MOST:
        page = source.page(_PAGE, before)
        fresh = [row for row in page if (row.tenant, row.id) not in seen]
        yield from fresh
        seen |= {(row.tenant, row.id) for row in fresh}
        if len(page) < _PAGE or not fresh:
            return
        before = page[-1].began


class LocalRuns:
    """Of this machine's store, whosever they are."""

    one_tenant = False

    def __init__(self, store: RunStore):
        self.store = store
        self._loop = asyncio.Runner()

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Raises InvalidRequest where nothing is kept."""
        store = open_runs(settings)
        if store is None:
            raise InvalidRequest("runs are not kept: F1_RUNS_DISK is 0", param="runs_disk")
        return cls(store)

    def page(
        self,
        limit: int,
        before: float | None = None,
        session_id: str | None = None,
        status: Status | None = None,
    ) -> list[RunRow]:
        return self._do(
            self.store.runs(None, limit=limit, before=before, session_id=session_id, status=status)
        )

    def entries(self, run: RunRow) -> list[EntryRow]:
        return self._do(self.store.entries(run.tenant, run.id))

    def delete(self, run: RunRow) -> bool:
        try:
            return self._do(self.store.delete(run.tenant, run.id))
        except Conflict as error:
            raise F1Error(str(error)) from error

    def close(self) -> None:
        self._do(self.store.close())
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run(work)


class ServedRuns:
    """Of the server at `base_url`, as far as they are the key's."""

    one_tenant = True

    def __init__(self, base_url: str, api_key: str | None = None):
        base_url = base_url.rstrip("/")
        if urlsplit(base_url).path == "":
            base_url += "/v1"
        key = api_key or os.environ.get("F1_API_KEY")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(headers=headers, timeout=httpx.Timeout(60.0, connect=10.0))
        self._url = f"{base_url}/traces"

    def page(
        self,
        limit: int,
        before: float | None = None,
        session_id: str | None = None,
        status: Status | None = None,
    ) -> list[RunRow]:
        asked = {"limit": limit, "before": before, "session_id": session_id, "status": status}
        query = urlencode({name: value for name, value in asked.items() if value is not None})
        data = self._ask("GET", f"?{query}").get("data")
        return [read_run(each) for each in data] if isinstance(data, list) else []

    def entries(self, run: RunRow) -> list[EntryRow]:
        told = self._ask("GET", f"/{quote(run.id, safe='')}").get("entries")
        return [read_entry(each) for each in told] if isinstance(told, list) else []

    def delete(self, run: RunRow) -> bool:
        return bool(self._ask("DELETE", f"/{quote(run.id, safe='')}").get("deleted"))

    def close(self) -> None:
        self._http.close()

    def _ask(self, method: str, rest: str) -> Json:
        url = self._url + rest
        try:
            response = self._http.request(method, url)
            answer = response.json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise EngineStopped(f"{url}: {error or type(error).__name__}") from error
        if response.status_code == NotFound.status:
            raise NotFound(_message(answer))
        if response.status_code >= 400 or not isinstance(answer, dict):
            raise F1Error(_message(answer))
        return answer


def _message(answer: Any) -> str:
    """What a server says is wrong."""
    error = answer.get("error") if isinstance(answer, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return visible(str(message or "what answers there is no server of F1's"))
