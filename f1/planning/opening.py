"""Where a request finds its run: a new one, one that waits for what it brings, one that broke off.

request ─┬─ `run_id` of a run that is there ──▶ decided all over again, then on
         ├─ results of calls that were handed over ──▶ the run that waits for them
         └─ anything else ──▶ a new run, behind what its session holds
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from f1 import __version__
from f1.errors import F1Error, InvalidRequest
from f1.planning.approvals import check_known
from f1.planning.guard import Guard
from f1.planning.journal import Journal, segments
from f1.planning.outcome import CallTools
from f1.planning.pending import Waiting
from f1.planning.summary import about
from f1.planning.tape import Diverged
from f1.store.database import NotStored
from f1.store.runs import Conflict
from f1.trace.entries import CODEC, Began, Ended, Entry, HandedOver
from f1.trace.recorder import Record, Recorder, RunGone
from f1.types import GenerateRequest, Message, ToolResult, Usage

if TYPE_CHECKING:
    from f1.planning.orchestrator import System


log = logging.getLogger("f1.runs")
_PASSING = (408, 409, 429)  # statuses of what may go better another time
_MAX_DELAY = 30.0  # seconds between tries to write that a run broke off


class RunBusy(F1Error):
    """Another request, here or in another process, is at this run. Clients try again."""

    status = 409
    type = "invalid_request_error"
    code = "run_busy"


class SessionBusy(F1Error):
    """Another request goes on with this conversation. Clients try again."""

    status = 409
    type = "invalid_request_error"
    code = "session_busy"

    def __init__(self, session_id: str):
        told = f"f1.session_id: another request goes on with '{session_id}'"
        super().__init__(told, param="f1.session_id", retry_after=1.0)


@dataclass(slots=True)
class Opened:
    """`requests`: all that the run was asked with, one after the other; the last is to be answered
    now. `waiting`: where it goes on, if that is still known. `returns`: it brings results of calls
    that were handed over, and nothing else where it is `behind` what was said before. `known`:
    messages of the session before the run."""

    guard: Guard
    requests: Sequence[GenerateRequest]
    waiting: Waiting | None = None
    returns: bool = False
    behind: bool = False
    asked_with: tuple[Message, ...] = ()  # the conversation as the caller has it
    known: int = 0
    over: bool = False  # how it ended is written down

    async def handed_over(self, last: object) -> Waiting:
        """How a request before the last one ended once more. Raises Diverged."""
        if not isinstance(last, CallTools) or not isinstance(last.waiting, Waiting):
            run_id = self.guard.journal.run_id
            await self.put_back()
            raise Diverged(f"the run {run_id} does not come to hand over calls, as it did")
        return last.waiting

    async def take_back(self, request: GenerateRequest, waiting: Waiting | None) -> GenerateRequest:
        """The request with the whole conversation before it; it is written down."""
        if self.behind and waiting is not None:
            before = (*self.requests[-2].messages, *waiting.messages)
            request = replace(request, messages=(*before, *request.messages))
        try:
            await self.guard.journal.take_back(request)
        except BaseException:
            await self.put_back()
            raise
        return request

    async def leave(self, error: BaseException) -> None:
        """A run that its caller has left, or that fails for a while only, can go on: that is
        written down, once the calls have ended that go on without it. Until then the run counts as
        under way, and nobody else can take it."""
        if self.over:
            return
        fails = isinstance(error, F1Error) and error.status < 500 and error.status not in _PASSING
        told = str(error) if isinstance(error, F1Error) else type(error).__name__
        record = self.guard.journal.record
        if not fails and record is not None and record.parking:
            return  # it stays under way, and is found as one that broke off
        ended = Ended("failed" if fails else "left", "", Usage(0, 0), 0.0, told)
        await self._let_go(lambda: self.guard.journal.end(ended, None))

    async def put_back(self) -> None:
        """It waits as before: nothing was done with it."""
        await self._let_go(self.guard.journal.let_go)

    async def _let_go(self, write: Callable[[], Awaitable[None]]) -> None:
        record, finishing = self.guard.journal.record, self.guard.finishing
        if record is not None and (finishing or not await asyncio.shield(self._written(write))):
            record.soon(self._let_go_later(record, finishing, write))

    async def _let_go_later(
        self,
        record: Record,
        finishing: set[asyncio.Task[ToolResult]],
        write: Callable[[], Awaitable[None]],
    ) -> None:
        if finishing:
            await asyncio.wait(finishing)
        delay = 0.5
        while not await self._written(write) and not record.closed:
            await asyncio.sleep(delay)
            delay = min(2 * delay, _MAX_DELAY)

    async def _written(self, write: Callable[[], Awaitable[None]]) -> bool:
        try:
            await write()
        except NotStored as broken:
            log.warning("run %s: %s", self.guard.journal.run_id, broken)
            return False
        except (Conflict, RunGone) as broken:  # it went on elsewhere
            log.warning("run %s: %s", self.guard.journal.run_id, broken)
        except Exception:
            log.exception("run %s could not be put back", self.guard.journal.run_id)
            return False
        return True


@dataclass(frozen=True, slots=True)
class NewRun:
    """`id`: where the request does not name one; `models`: by role."""

    id: str
    models: Mapping[str, str]


def new_run_id() -> str:
    return f"run_{secrets.token_hex(12)}"


def model_of(engine: object) -> str:
    """For people, and to know whether two roles are one model's."""
    for name in ("model_id", "name", "model"):
        if isinstance(found := getattr(engine, name, None), str):
            return found
    return type(engine).__name__


async def open_run(system: System, tenant: str, request: GenerateRequest, new: NewRun) -> Opened:
    """Raises InvalidRequest, RunBusy, NotStored."""
    recorder, asked_with = system.recorder, request.messages
    if recorder is None:
        _refuse_kept(request)
        messages, waiting = system.pending.resume(tenant, request.messages)
        guard = waiting.guard if waiting is not None else None
        request = replace(request, messages=messages)
        guard = guard or _guard(system, tenant, Journal(new.id))
        return Opened(guard, [request], waiting, asked_with=asked_with)
    opened = await _named(system, recorder, tenant, request)
    if opened is None and request.run.session_id:
        opened = await _of_session(system, recorder, tenant, request)
    if opened is None:
        request, waiting = await _restored(system, recorder, tenant, request)
        if waiting is not None:
            opened = await _of_caller(system, recorder, tenant, request, waiting)
    if opened is None:
        opened = await _new(system, recorder, tenant, request, new)
    opened.asked_with = opened.asked_with or asked_with
    return opened


def _refuse_kept(request: GenerateRequest) -> None:
    for name in ("run_id", "session_id", "verdicts"):
        if getattr(request.run, name):
            told = f"f1.{name}: runs are not kept here (F1_RUNS_DISK)"
            raise InvalidRequest(told, param=f"f1.{name}")


async def _new(
    system: System, recorder: Recorder, tenant: str, request: GenerateRequest, new: NewRun
) -> Opened:
    run_id, session_id, known = request.run.run_id or new.id, request.run.session_id, 0
    if not request.messages:
        told = f"f1.run_id: there is no run '{run_id}', and nothing is asked"
        raise InvalidRequest(told, param="f1.run_id", code="run_not_found")
    check_known(request.run.verdicts, ())
    if session_id:
        kept = await recorder.store.messages(tenant, session_id) or []
        before = tuple(CODEC.decode(Message, message) for message in kept)
        known = len(before)
        request = replace(request, messages=(*before, *request.messages))
    record = recorder.record(tenant, run_id, session_id)
    began = Began(request, new.models, __version__, known)
    try:
        begun = await record.begin(began, about=about(request))
    except Conflict as error:
        raise SessionBusy(session_id) from error
    if not begun:
        told = f"the run '{run_id}' has just begun"
        raise RunBusy(told, param="f1.run_id", retry_after=1.0)
    return Opened(_guard(system, tenant, Journal(run_id, record)), [request], known=known)


async def _named(
    system: System, recorder: Recorder, tenant: str, request: GenerateRequest
) -> Opened | None:
    """A run that is there: it ended, waits for a person, or broke off."""
    run_id = request.run.run_id
    found = await recorder.read(tenant, run_id) if run_id else None
    if found is None:
        return None
    requests = list(segments(found.entries))
    if not requests:
        told = f"f1.run_id: of the run '{run_id}' nothing can be read"
        raise InvalidRequest(told, param="f1.run_id")
    first = found.entries[0]
    known = first.session if isinstance(first, Began) else 0
    new, asked = request.messages, requests[0].messages[known:]
    if not _same(found, request, replace(requests[0], messages=asked)):
        told = f"f1.run_id: there is a run '{run_id}', and it was asked something else"
        raise InvalidRequest(told, param="f1.run_id", code="run_id_taken")
    if len(new) == len(asked):  # as it came, for what is secret in it is not kept
        requests[0] = replace(requests[0], messages=(*requests[0].messages[:known], *new))
    options = replace(requests[-1].run, progress=request.run.progress)
    requests[-1] = replace(requests[-1], run=options)
    if found.row.status == "ended":
        journal = Journal(run_id, found, found.entries, live=False)
        return Opened(_guard(system, tenant, journal), requests, asked_with=asked, known=known)
    if isinstance(_last(found), HandedOver):  # its calls once more
        journal = Journal(run_id, found, found.entries, live=False)
        return Opened(_guard(system, tenant, journal), requests, asked_with=asked, known=known)
    record = await _take(recorder, tenant, run_id)
    past = [entry for entry in record.entries if not isinstance(entry, Ended)]
    guard = _guard(system, tenant, Journal(run_id, record, past))
    opened = Opened(guard, requests, asked_with=requests[-1].messages[known:], known=known)
    await _check_session(recorder, opened)
    return opened


def _same(record: Record, a: GenerateRequest, b: GenerateRequest) -> bool:
    """Whether they ask the same, as far as it is kept: `a` may go without messages, or bring what
    tools have returned since."""

    def said(request: GenerateRequest) -> list[Any]:
        words = [m for m in request.messages if m.role in ("user", "system")]
        return [record.hides(message) for message in words]

    plan = a.run.plan is None or record.hides(a.run.plan) == record.hides(b.run.plan)
    return plan and (not a.messages or said(a) == said(b))


def _last(record: Record) -> Entry:
    """What happened last, whoever has left since."""
    return [entry for entry in record.entries if not isinstance(entry, Ended)][-1]


async def _check_session(recorder: Recorder, opened: Opened) -> None:
    """A conversation that went on without the run does not take it back. Raises InvalidRequest."""
    record = opened.guard.journal.record
    if record is None or not record.row.session_id:
        return
    try:
        kept = await recorder.store.messages(record.row.tenant, record.row.session_id) or []
        if len(kept) != opened.known:
            told = f"the conversation '{record.row.session_id}' has gone on without this run"
            raise InvalidRequest(told, param="f1.session_id", code="session_gone_on")
    except BaseException:
        await opened.put_back()
        raise


async def _of_session(
    system: System, recorder: Recorder, tenant: str, request: GenerateRequest
) -> Opened | None:
    """The session's run that waits for the results that the request brings, and nothing else."""
    if not request.messages or any(message.role != "tool" for message in request.messages):
        return None
    session_id = request.run.session_id
    brought = {message.tool_call_id or "" for message in request.messages}
    for row in await recorder.store.runs(tenant, session_id=session_id, status="waiting", limit=1):
        record = await recorder.take(tenant, row.id, lambda record: _waits_for(record, brought))
        if record is not None:
            opened = _goes_on(system, record, request, behind=True)
            await _check_session(recorder, opened)
            return opened
    told = f"messages: no call of the session '{session_id}' waits for a result"
    raise InvalidRequest(told, param="messages")


async def _restored(
    system: System, recorder: Recorder, tenant: str, request: GenerateRequest
) -> tuple[GenerateRequest, Waiting | None]:
    """With what was done in earlier turns, and the caller has not seen, back in the conversation;
    the run that its last results belong to."""
    pending = system.pending
    if keys := pending.unknown(tenant, request.messages):
        for key, (run_id, kept) in (await recorder.store.waiting(tenant, keys)).items():
            added = tuple(CODEC.decode(Message, message) for message in kept["added"])
            pending.put(tenant, key, Waiting(added, run_id=run_id))
    messages, waiting = pending.resume(tenant, request.messages)
    return replace(request, messages=messages), waiting


def _waits_for(record: Record, calls: set[str]) -> bool:
    end = _last(record)
    return isinstance(end, HandedOver) and {call.id for call in end.calls} <= calls


async def _of_caller(
    system: System, recorder: Recorder, tenant: str, request: GenerateRequest, waiting: Waiting
) -> Opened | None:
    """The run that waits for the caller. None: it has gone on since, or is gone."""
    last = [message for message in request.messages if message.tool_calls][-1]
    calls = {call.id for call in last.tool_calls}
    record = await recorder.take(tenant, waiting.run_id, lambda record: _waits_for(record, calls))
    if record is None:
        return None
    if (guard := waiting.guard) is not None and guard.journal.record is not None:
        guard.journal.record.follow(record)
        return Opened(guard, [request], waiting, returns=True)
    return _goes_on(system, record, request)


def _goes_on(
    system: System, record: Record, request: GenerateRequest, *, behind: bool = False
) -> Opened:
    first = record.entries[0]
    known = first.session if isinstance(first, Began) else 0
    guard = _guard(system, record.row.tenant, Journal(record.row.id, record, record.entries))
    requests = [*segments(record.entries), request]
    return Opened(guard, requests, returns=True, behind=behind, known=known)


def _guard(system: System, tenant: str, journal: Journal) -> Guard:
    return Guard(journal, system.policy, tenant, system.approvers, system.approval_seconds)


async def _take(recorder: Recorder, tenant: str, run_id: str) -> Record:
    record = await recorder.take(tenant, run_id)
    if record is None:
        told = f"the run '{run_id}' is under way"
        raise RunBusy(told, param="f1.run_id", retry_after=1.0)
    return record
