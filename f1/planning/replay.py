"""Runs told again, and runs that go another way from some point on.

replay   nothing runs and no model is asked: the same strategy decides on what is written
fork     the same up to a point, then in earnest, with something changed there:

    step 1 ── step 2 ── node 3 ─▶ its result        the run as it was
                           └─▶ another result ─▶ …  a run of its own, written down like any
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from f1 import __version__
from f1.errors import F1Error, InvalidRequest
from f1.planning.collect import Collector
from f1.planning.guard import Guard
from f1.planning.journal import Journal, segments
from f1.planning.opening import Opened, model_of, new_run_id
from f1.planning.orchestrator import Orchestrator, System
from f1.planning.outcome import CallTools, Progress, Reply
from f1.planning.pending import value_of
from f1.planning.run import Role
from f1.planning.summary import about
from f1.tools.spec import Annotations, CallLimits, Output, ToolFailure, ToolSpec
from f1.trace.entries import (
    Began,
    Called,
    Defined,
    Done,
    Ended,
    Entry,
    Shown,
    Turned,
)
from f1.types import (
    Event,
    GenerateRequest,
    Message,
    ReasoningDelta,
    StrategyName,
    TextDelta,
)


@dataclass(frozen=True, slots=True)
class Absent:
    """A model that is not asked: two roles have the same where they had."""

    name: str

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        raise RuntimeError(f"{self.name} is not asked in a replay")
        yield


@dataclass(frozen=True, slots=True)
class NotRun:
    """What ran a tool, in a replay."""

    async def call(self, arguments: Mapping[str, Any], limits: CallLimits) -> Output:
        raise ToolFailure("no tool runs in a replay")


def replay(run_id: str, past: Sequence[Entry]) -> AsyncGenerator[Progress]:
    """What happened, as it happened, token by token; only times are those of now. Nothing runs, no
    model is there. The last item is the Outcome. Raises Diverged where this F1 would not do what
    the one did that wrote it down, F1Error where the run broke off."""
    began = _began(past)
    if began.kind == "turn":
        return _turn(past)
    models = began.models
    roles: dict[Role, Any] = {role: Absent(models.get(role, role)) for role in _ROLES}
    specs = tuple({defined.tool.name: _spec(defined) for defined in _defined(past)}.values())
    orchestrator = Orchestrator(System(lambda wishes: roles), specs)
    requests = list(segments(past))
    told = [entry for entry in past if not _is_left(entry)]
    guard = Guard(Journal(run_id, None, told, live=False))
    asked = began.request.messages[began.session :]
    return orchestrator.play(Opened(guard, requests, asked_with=asked, known=began.session))


async def _turn(past: Sequence[Entry]) -> AsyncGenerator[Progress]:
    """A run that was one turn, and nothing that decides."""
    turn = next((e for e in past if isinstance(e, Turned) and e.whole), None)
    if turn is None:
        raise F1Error("the run broke off", code="run_failed")
    collected = Collector()
    for event in turn.events:
        if event.choice == 0:
            collected.add(event)
            if isinstance(event, TextDelta | ReasoningDelta):
                yield event
    done = collected.completion()
    yield CallTools(done) if done.message.tool_calls else Reply(done)


@dataclass(frozen=True, slots=True)
class Change:
    """What is other than it was. `node`: whose `result` is this JSON (or text); without, all is
    decided anew from step `step` on, or from the beginning where `prompt` (the last thing the user
    said) or `strategy` is another. `roles`: models by role, from there on."""

    node: str | None = None
    result: str | None = None
    step: int = 1
    prompt: str | None = None
    strategy: StrategyName | None = None
    roles: Mapping[str, str] = field(default_factory=dict)


async def fork(
    orchestrator: Orchestrator, run_id: str, past: Sequence[Entry], change: Change
) -> AsyncGenerator[Progress]:
    """The run as it would have gone: what is kept is told again, then models are asked and tools
    run, under the same rules as always. Raises InvalidRequest, F1Error."""
    recorder, began = orchestrator.system.recorder, _began(past)
    if recorder is None:
        raise InvalidRequest("a fork is a run of its own, and runs are not kept here")
    kept = list(_kept(past, change))
    request = _changed(began.request, change)
    engines = orchestrator.system.engines(request.run.roles)
    first = replace(
        began,
        request=request,
        models={role: model_of(engine) for role, engine in engines.items()},
        version=__version__,
        session=0,
        forked_from=f"{run_id}#{len(kept)}",
        kind="run",
    )
    record = recorder.record(orchestrator.tenant, orchestrator.run_id or new_run_id())
    await record.begin(first, *kept[1:], about=about(first.request))
    journal = Journal(record.row.id, record, [first, *kept[1:]], named_after=run_id)
    system = orchestrator.system
    guard = Guard(
        journal, system.policy, orchestrator.tenant, system.approvers, system.approval_seconds
    )
    requests = [first.request, *list(segments(kept))[1:]]
    requests[-1] = _changed(requests[-1], change)
    async for item in orchestrator.play(Opened(guard, requests, asked_with=requests[0].messages)):
        yield item


def _kept(past: Sequence[Entry], change: Change) -> Iterator[Entry]:
    """What stays as it was, in order; the changed result among it."""
    step = _last_step(past, change)
    nodes = {e.node.id for e in past if isinstance(e, Called) and e.step <= step}
    for entry in past:
        match entry:
            case Shown() | Turned() | Called() if entry.step > step:
                return
            case Ended():
                continue
            case Done() if entry.result.node_id == change.node and change.result is not None:
                content, value = change.result, value_of(change.result)
                yield Done(
                    replace(entry.result, content=content, value=value, failed=None, whole=True)
                )
            case Done() if entry.result.node_id not in nodes:
                continue
            case _:
                yield entry


def _last_step(past: Sequence[Entry], change: Change) -> int:
    """The last that is kept."""
    if _began(past).kind == "turn":
        return 0
    if change.node is None:
        anew = change.prompt is not None or change.strategy is not None
        return 0 if anew else change.step - 1
    for entry in past:
        if isinstance(entry, Called) and entry.node.id == change.node:
            return entry.step
    nodes = ", ".join(entry.node.id for entry in past if isinstance(entry, Called))
    raise InvalidRequest(f"there is no node '{change.node}' in the run: it has {nodes or 'none'}")


def _changed(request: GenerateRequest, change: Change) -> GenerateRequest:
    messages = list(request.messages)
    if change.prompt is not None:
        last = max((i for i, m in enumerate(messages) if m.role == "user"), default=None)
        if last is None:
            raise InvalidRequest("the run has no words of a user to change", param="prompt")
        messages = [*messages[:last], Message("user", change.prompt)]
    options = replace(
        request.run,
        strategy=change.strategy or request.run.strategy,
        roles={**request.run.roles, **change.roles},
        run_id="",
        session_id="",
    )
    return replace(request, messages=tuple(messages), run=options)


_ROLES: tuple[Role, ...] = ("router", "caller", "writer", "verifier")


def _began(past: Sequence[Entry]) -> Began:
    if past and isinstance(past[0], Began):
        return past[0]
    raise InvalidRequest("the record of this run does not say how it began")


def _defined(past: Sequence[Entry]) -> Iterator[Defined]:
    for entry in past:
        if isinstance(entry, Shown):
            yield from entry.defined


def _spec(defined: Defined) -> ToolSpec:
    says = Annotations(defined.read_only, defined.destructive, defined.idempotent)
    runner = NotRun() if defined.runs_here else None
    return ToolSpec(defined.tool, runner, defined.output, annotations=says)


def _is_left(entry: Entry) -> bool:
    return isinstance(entry, Ended) and entry.ending == "left"
