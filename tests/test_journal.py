"""Runs that are written down: told again token by token, gone on with after a process has died,
stopped for a person, handed over and returned, kept as a session."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from memory_runs import Disk, MemoryRuns
from scripted import ScriptedEngine, call

from f1.errors import EngineStopped, F1Error, InvalidRequest, Overloaded
from f1.planning.opening import RunBusy, SessionBusy
from f1.planning.orchestrator import Orchestrator, System
from f1.planning.outcome import CallTools, NeedsApproval, Outcome, Reply
from f1.planning.replay import Change, fork, replay
from f1.planning.tape import Diverged
from f1.store.database import NotStored
from f1.supervised import supervised
from f1.tools.policy import Rule, Rules
from f1.tools.spec import INVOCATION, Annotations, CallLimits, Output, ToolSpec
from f1.trace.entries import Began, Done, HandedOver, Launched, Turned
from f1.trace.recorder import Recorder
from f1.trace.redaction import Redaction
from f1.types import (
    GenerateRequest,
    Message,
    Node,
    Note,
    Plan,
    RunOptions,
    Started,
    StrategyName,
    TextDelta,
    Tool,
    ToolCall,
    ToolResult,
    Verdict,
)

TEXT = {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}


@dataclass
class Effects:
    """A tool that does something in the world; `hang` never returns."""

    calls: list[tuple[str, str]] = field(default_factory=list)
    hang: Callable[[str], bool] = lambda x: False

    async def call(self, arguments: Any, limits: CallLimits) -> Output:
        invocation = INVOCATION.get()
        assert invocation is not None
        self.calls.append((arguments["x"], invocation.key))
        if self.hang(arguments["x"]):
            await asyncio.Event().wait()
        return Output({"did": arguments["x"]})


def spec(name: str, runner: Effects | None, **says: bool) -> ToolSpec:
    return ToolSpec(Tool(name, f"{name}.", TEXT), runner, annotations=Annotations(**says))


def system(disk: Disk, engine: ScriptedEngine, **more: Any) -> System:
    return replace(System.of(engine), recorder=Recorder(MemoryRuns(disk)), **more)


def asked(text: str = "do it with a and b", **options: Any) -> GenerateRequest:
    return GenerateRequest((Message("user", text),), run=RunOptions(**options))


async def outcome(items: AsyncGenerator[Any]) -> Outcome:
    return [item async for item in items][-1]


TURNS = ([call("do", "c1", x="a"), call("do", "c2", x="b")], "done: a and b")


async def test_a_run_is_told_again_event_by_event_and_nothing_runs() -> None:
    disk, effects = Disk(), Effects()
    tools = [spec("do", effects)]
    first = Orchestrator(system(disk, ScriptedEngine(*TURNS)), tools)
    events = [item async for item in first.run(asked(run_id="r1"))]
    assert isinstance(events[-1], Reply)
    assert events[-1].completion.report.run.run_id == "r1"
    nobody = ScriptedEngine("never asked")
    again = Orchestrator(system(disk, nobody), tools)
    told = [item async for item in again.run(asked(run_id="r1"))]
    assert nobody.requests == []
    assert len(effects.calls) == 2
    for kinds in (TextDelta | Node | Note, Started, ToolResult, Reply):  # each in its order
        assert [_plain(item) for item in told if isinstance(item, kinds)] == [
            _plain(item) for item in events if isinstance(item, kinds)
        ]


def _plain(item: Any) -> Any:
    """Without times."""
    match item:
        case Started():
            return (item.node, item.call)
        case ToolResult():
            return replace(item, started=0.0, seconds=0.0)
        case Reply():
            return item.completion.message, item.completion.usage
    return item


@pytest.mark.parametrize("says", [{}, {"idempotent": True}, {"read_only": True}])
async def test_after_a_death_in_two_calls_what_may_not_run_twice_does_not(
    says: dict[str, bool],
) -> None:
    disk, effects = Disk(), Effects(hang=lambda x: x == "b")
    tools = [spec("do", effects, **says)]
    first = system(disk, ScriptedEngine(*TURNS))
    running = Orchestrator(first, tools).run(asked(run_id="r1"))
    async for item in running:
        if isinstance(item, ToolResult):
            break  # a is done, b hangs
    assert [x for x, _ in effects.calls] == ["a", "b"]
    first.recorder.store.dead = True  # type: ignore[union-attr]
    await asyncio.wait_for(running.aclose(), 5)
    assert [row.id for row in await MemoryRuns(disk).orphans()] == ["r1"]

    effects.hang = lambda x: False
    engine = ScriptedEngine(TURNS[1])
    if says.get("read_only"):  # nothing has changed: the turn need not be known
        engine = ScriptedEngine(*TURNS)
    end = await outcome(Orchestrator(system(disk, engine), tools).run(asked(run_id="r1")))
    assert isinstance(end, Reply)
    results = {r.call.arguments: r for r in end.completion.report.run.results}
    assert results['{"x": "a"}'].failed is None
    made = [x for x, _ in effects.calls]
    assert made.count("a") == 1
    if says:
        assert results['{"x": "b"}'].failed is None
        assert made.count("b") == 2
        assert len({key for x, key in effects.calls if x == "b"}) == 1  # the same key
    else:
        assert results['{"x": "b"}'].failed == "unknown"
        assert made.count("b") == 1
        assert "unknown" in engine.requests[0].messages[-1].content


async def test_a_run_that_is_under_way_is_left_alone() -> None:
    disk = Disk()
    tools = [spec("do", Effects(hang=lambda x: True))]
    running = Orchestrator(system(disk, ScriptedEngine(*TURNS)), tools).run(asked(run_id="r1"))
    await anext(running)
    with pytest.raises(RunBusy):
        await outcome(
            Orchestrator(system(disk, ScriptedEngine("x")), tools).run(asked(run_id="r1"))
        )
    await running.aclose()


async def test_what_a_caller_left_goes_on() -> None:
    disk, effects = Disk(), Effects()
    tools = [spec("do", effects)]
    first = system(disk, ScriptedEngine(*TURNS))
    running = Orchestrator(first, tools).run(asked(run_id="r1"))
    async for item in running:
        if isinstance(item, ToolResult) and len(effects.calls) == 2:
            break
    await running.aclose()
    assert first.recorder is not None
    await first.recorder.close()
    end = await outcome(
        Orchestrator(system(disk, ScriptedEngine(TURNS[1])), tools).run(asked(run_id="r1"))
    )
    assert isinstance(end, Reply)
    assert end.completion.message.content.strip() == TURNS[1]
    assert len(effects.calls) == 2


async def test_what_may_change_something_goes_on_when_its_caller_leaves() -> None:
    disk, go, made = Disk(), asyncio.Event(), []

    class Slow(Effects):
        async def call(self, arguments: Any, limits: CallLimits) -> Output:
            try:
                await go.wait()
            except asyncio.CancelledError:
                made.append("called off")
                raise
            made.append(arguments["x"])
            return Output("done")

    engine = ScriptedEngine([call("do", "c1", x="a"), call("look", "c2", x="b")], "x")
    tools = [spec("do", Slow()), spec("look", Slow(), read_only=True)]
    first = system(disk, engine)
    running = Orchestrator(first, tools).run(asked(run_id="r1"))
    started = 0
    async for item in running:
        started += isinstance(item, Started)
        if started == 2:
            break
    await running.aclose()
    assert made == ["called off"]  # what only looks
    with pytest.raises(RunBusy):
        await outcome(Orchestrator(first, tools).run(asked(run_id="r1")))
    go.set()
    assert first.recorder is not None
    await first.recorder.close()
    assert made == ["called off", "a"]
    later = system(disk, ScriptedEngine("all is known"))
    end = await outcome(Orchestrator(later, tools).run(asked(run_id="r1")))
    assert isinstance(end, Reply)
    assert [r.failed for r in end.completion.report.run.results] == [None, None]
    assert made == ["called off", "a", "b"]


@pytest.mark.parametrize(
    ("error", "status"),
    [(EngineStopped("it died"), "waiting"), (Overloaded("full"), "waiting"),
     (InvalidRequest("no such"), "ended")],
)  # fmt: skip
async def test_what_fails_for_a_while_can_go_on(error: F1Error, status: str) -> None:
    disk = Disk()

    def fail(request: GenerateRequest) -> str:
        raise error

    first = Orchestrator(system(disk, ScriptedEngine(fail)), [spec("do", Effects())])
    with pytest.raises(type(error)):
        await outcome(first.run(asked(run_id="r1")))
    assert disk.runs["", "r1"].status == status
    if status == "waiting":
        again = Orchestrator(system(disk, ScriptedEngine("done")), [spec("do", Effects())])
        assert isinstance(await outcome(again.run(asked(run_id="r1"))), Reply)


async def test_what_a_shutdown_cuts_the_next_process_goes_on_with() -> None:
    disk, effects = Disk(), Effects(hang=lambda x: x == "b")
    first = system(disk, ScriptedEngine(*TURNS))
    tools = [spec("do", effects, read_only=True)]
    running = Orchestrator(first, tools).run(asked(run_id="r1"))
    async for item in running:
        if isinstance(item, ToolResult):
            break
    assert first.recorder is not None
    first.recorder.parking = True
    await running.aclose()
    await first.recorder.close()
    assert [row.id for row in await MemoryRuns(disk).orphans()] == ["r1"]


async def test_a_run_that_would_do_something_else_is_not_gone_on_with() -> None:
    disk, effects = Disk(), Effects(hang=lambda x: x == "b")
    first = system(disk, ScriptedEngine(*TURNS))
    running = Orchestrator(first, [spec("do", effects)]).run(asked(run_id="r1"))
    async for item in running:
        if isinstance(item, ToolResult):
            break
    first.recorder.store.dead = True  # type: ignore[union-attr]
    await running.aclose()
    other = Orchestrator(system(disk, ScriptedEngine("x")), [spec("other", effects)])
    with pytest.raises(Diverged):
        await outcome(other.run(asked(run_id="r1")))
    assert len(effects.calls) == 2


async def test_a_record_is_replayed_without_models_or_tools() -> None:
    disk, effects = Disk(), Effects()
    first = Orchestrator(system(disk, ScriptedEngine(*TURNS)), [spec("do", effects)])
    events = [item async for item in first.run(asked(run_id="r1"))]
    record = await Recorder(MemoryRuns(disk)).read("", "r1")
    assert record is not None
    told = [item async for item in replay("r1", record.entries)]
    assert len(effects.calls) == 2
    for kinds in (TextDelta | Node | Note, Started, ToolResult, Reply):
        assert [_plain(item) for item in told if isinstance(item, kinds)] == [
            _plain(item) for item in events if isinstance(item, kinds)
        ]


async def test_a_fork_goes_another_way_from_a_result_on() -> None:
    disk, effects = Disk(), Effects()
    turns = ([call("do", "c1", x="a")], [call("do", "c2", x="b")], "done")
    tools = [spec("do", effects)]
    await outcome(Orchestrator(system(disk, ScriptedEngine(*turns)), tools).run(asked(run_id="r1")))
    record = await Recorder(MemoryRuns(disk)).read("", "r1")
    assert record is not None
    engine = ScriptedEngine([call("do", "c3", x="c")], "otherwise")
    other = Orchestrator(system(disk, engine), tools, run_id="r2")
    change = Change(node="1", result='{"did": "not"}')
    end = await outcome(fork(other, "r1", record.entries, change))
    assert isinstance(end, Reply)
    assert engine.requests[0].messages[-1].content == '{"did": "not"}'
    assert [x for x, _ in effects.calls] == ["a", "b", "c"]  # a was not called again
    forked = await Recorder(MemoryRuns(disk)).read("", "r2")
    assert forked is not None
    assert isinstance(forked.entries[0], Began)
    assert forked.entries[0].forked_from.startswith("r1#")
    told = [item async for item in replay("r2", forked.entries)]
    assert _plain(told[-1]) == _plain(end)


async def test_a_turn_that_is_all_there_is_is_kept_too() -> None:
    disk = Disk()
    first = Orchestrator(system(disk, ScriptedEngine("hello there")), run_id="r1")
    events = [event async for event in first.generate(asked("hi"))]
    assert first.system.recorder is not None
    await first.system.recorder.close()
    record = await Recorder(MemoryRuns(disk)).read("", "r1")
    assert record is not None
    (turn,) = [entry for entry in record.entries if isinstance(entry, Turned)]
    assert turn.events == tuple(events)
    assert record.row.status == "ended"
    *_, end = [item async for item in replay("r1", record.entries)]
    assert isinstance(end, Reply)
    assert end.completion.message.content == "hello there "


# --- persons -------------------------------------------------------------------------------------


ASK = Rules((Rule("ask", "ask", tools=("do",)),))


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize(
    ("verdict", "made", "failed"),
    [
        (Verdict("approve"), ["a"], None),
        (Verdict("edit", '{"x": "other"}'), ["other"], None),
        (Verdict("reject", reason="not today"), [], "rejected"),
    ],
)
async def test_a_person_is_asked(
    verdict: Verdict, made: list[str], failed: str | None, restart: bool
) -> None:
    disk, effects = Disk(), Effects()
    engine = ScriptedEngine([call("do", "c1", x="a")], "all done")
    first = system(disk, engine, policy=ASK)
    tools = [spec("do", effects)]
    stopped = await outcome(Orchestrator(first, tools).run(asked(run_id="r1")))
    assert isinstance(stopped, NeedsApproval)
    (approval,) = stopped.approvals
    assert approval.call.arguments == '{"x": "a"}'
    assert effects.calls == []
    again = system(disk, ScriptedEngine("all done"), policy=ASK) if restart else first
    unsaid = await outcome(Orchestrator(again, tools).run(asked(run_id="r1")))
    assert isinstance(unsaid, NeedsApproval)
    assert unsaid.approvals == (approval,)
    said = GenerateRequest((), run=RunOptions(run_id="r1", verdicts={approval.id: verdict}))
    end = await outcome(Orchestrator(again, tools).run(said))
    assert isinstance(end, Reply)
    assert end.completion.message.content.strip() == "all done"
    (result,) = end.completion.report.run.results
    assert result.failed == failed
    assert [x for x, _ in effects.calls] == made
    if failed:
        assert "not today" in result.content
    # Told once more, nothing runs.
    told = await outcome(Orchestrator(again, tools).run(replace(said, run=RunOptions(run_id="r1"))))
    assert isinstance(told, Reply)
    assert [x for x, _ in effects.calls] == made


# --- the caller's calls --------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [65, 400, 100_000])
@pytest.mark.parametrize("strategy", ["direct", "react", "plan"])
@pytest.mark.parametrize("ours", [False, True])
async def test_a_call_that_nests_too_deep_is_a_result(
    levels: int, strategy: StrategyName, ours: bool
) -> None:
    deep = '{"x":' * (levels - 1) + '{"password": "hunter-77"}' + "}" * (levels - 1)
    disk, effects = Disk(), Effects()
    engine = ScriptedEngine([ToolCall("c1", "do", deep)], "That was too much.")
    recorder = Recorder(MemoryRuns(disk), Redaction(bytes(32)))
    tools = [ToolSpec(Tool("do", "Does.", {"type": "object"}), effects)] if ours else []
    theirs = () if ours else (Tool("do", "Does.", {"type": "object"}, strict=False),)
    request = replace(asked(run_id="r1", strategy=strategy), tools=theirs)
    for each in (engine, nobody := ScriptedEngine("nobody asked")):
        orchestrator = Orchestrator(replace(System.of(each), recorder=recorder), tools)
        end = await outcome(orchestrator.run(request))
        assert isinstance(end, Reply)
        (result,) = end.completion.report.run.results
        assert (result.failed, result.tries) == ("invalid_arguments", 0)
        assert end.completion.message.content.strip() == "That was too much."
    assert effects.calls == []
    assert nobody.requests == []
    assert not any(b"hunter-77" in row for rows in disk.entries.values() for row in rows)


@pytest.mark.parametrize(
    ("size", "kept", "live"), [(500_000, True, False), (500_000, False, True), (100, True, True)]
)
async def test_what_waits_with_a_large_conversation_is_counted_or_rebuilt(
    size: int, kept: bool, live: bool
) -> None:
    """It stays in memory where it is nowhere else."""
    effects = Effects()
    engine = ScriptedEngine([call("do", "c1", x="a"), call("theirs", "c2", x="b")], "ok")
    owner = system(Disk(), engine)
    owner = owner if kept else replace(owner, recorder=None)
    runs = Orchestrator(owner, [spec("do", effects)])
    text = "do it with a and b " + "x" * size
    request = replace(asked(text), tools=(Tool("theirs", "Theirs.", TEXT),))
    handed = await outcome(runs.run(request))
    assert isinstance(handed, CallTools)
    (held,) = owner.pending._kept.values()
    assert (held.waiting.guard is not None) == (held.waiting.strategy is not None) == live
    assert (size < held.num_bytes) == live
    made = Message("assistant", tool_calls=tuple(handed.calls))
    said = Message("tool", '"theirs did b"', tool_call_id=handed.calls[0].id)
    end = await outcome(runs.run(replace(request, messages=(*request.messages, made, said))))
    assert isinstance(end, Reply)
    assert end.completion.message.content.strip() == "ok"
    assert len(effects.calls) == 1
    assert [m.role for m in engine.requests[-1].messages] == ["user", "assistant", "tool", "tool"]


@pytest.mark.parametrize("restart", [False, True])
async def test_a_run_waits_for_its_caller_across_a_restart(restart: bool) -> None:
    disk, effects = Disk(), Effects()
    engine = ScriptedEngine([call("do", "c1", x="a"), call("theirs", "c2", x="b")], "both done")
    first = system(disk, engine)
    tools = [spec("do", effects)]
    theirs = Tool("theirs", "Theirs.", TEXT)
    request = replace(asked(), tools=(theirs,))
    handed = await outcome(Orchestrator(first, tools).run(request))
    assert isinstance(handed, CallTools)
    (made,) = handed.calls
    again = system(disk, ScriptedEngine("both done")) if restart else first
    back = replace(
        request,
        messages=(
            *request.messages,
            Message("assistant", tool_calls=(made,)),
            Message("tool", '"theirs did b"', tool_call_id=made.id),
        ),
    )
    end = await outcome(Orchestrator(again, tools).run(back))
    assert isinstance(end, Reply)
    assert len(effects.calls) == 1
    seen = again.engines({})["caller"].requests[-1].messages  # type: ignore[attr-defined]
    assert [m.role for m in seen] == ["user", "assistant", "tool", "tool"]
    assert {call.name for call in seen[1].tool_calls} == {"do", "theirs"}
    # The same results once more: the run has gone on, so this is another.
    other = await outcome(Orchestrator(system(disk, ScriptedEngine("once more")), tools).run(back))
    assert isinstance(other, Reply)
    assert other.completion.report.run.run_id != end.completion.report.run.run_id
    assert len(effects.calls) == 1


async def test_a_caller_who_stops_listening_at_the_end_has_not_left() -> None:
    disk = Disk()
    theirs = Tool("theirs", "Theirs.", TEXT)
    options = RunOptions(run_id="r1", strategy="react")
    request = replace(asked(), tools=(theirs,), run=options)
    running = Orchestrator(system(disk, ScriptedEngine([call("theirs", "c1", x="b")]))).run(request)
    async for item in running:
        if isinstance(item, CallTools):
            break
    await running.aclose()
    record = await Recorder(MemoryRuns(disk)).read("", "r1")
    assert record is not None
    assert isinstance(record.entries[-1], HandedOver)


async def test_what_is_not_for_a_run_that_waits_leaves_it_waiting() -> None:
    disk, effects = Disk(), Effects()
    engine = ScriptedEngine([call("do", "c1", x="a")], "done")
    first = system(disk, engine, policy=ASK)
    tools = [spec("do", effects)]
    request = asked(run_id="r1", session_id="s")
    assert isinstance(await outcome(Orchestrator(first, tools).run(request)), NeedsApproval)
    stray = GenerateRequest(
        (Message("tool", "x", tool_call_id="c9"),), run=RunOptions(session_id="s")
    )
    with pytest.raises(InvalidRequest, match="waits for a result"):
        await outcome(Orchestrator(first, tools).run(stray))
    assert disk.runs["", "r1"].status == "waiting"


async def test_a_store_that_fails_while_a_caller_returns_leaves_the_run_waiting() -> None:
    disk, effects = Disk(), Effects()
    theirs = Tool("theirs", "Theirs.", TEXT)
    request = replace(asked(run_id=""), tools=(theirs,))
    tools = [spec("do", effects)]
    turns = ([call("do", "c1", x="a"), call("theirs", "c2", x="b")], "both done")
    first = system(disk, ScriptedEngine(*turns))
    handed = await outcome(Orchestrator(first, tools).run(request))
    assert isinstance(handed, CallTools)
    result = Message("tool", '"ok"', tool_call_id=handed.calls[0].id)
    said = Message("assistant", tool_calls=handed.calls)
    back = replace(request, messages=(*request.messages, said, result))
    store = first.recorder.store  # type: ignore[union-attr]

    def fail_once(number: int) -> None:
        if store.num_writes == count + 2:  # the one behind the taking
            raise NotStored("the disk is full")

    count, store.before = store.num_writes, fail_once
    with pytest.raises(NotStored):
        await outcome(Orchestrator(first, tools).run(back))
    (row,) = disk.runs.values()
    assert row.status == "waiting"
    end = await outcome(Orchestrator(first, tools).run(back))
    assert isinstance(end, Reply)
    assert end.completion.report.run.run_id == row.id
    assert len(effects.calls) == 1


async def test_a_named_run_that_handed_calls_over_tells_them_again() -> None:
    disk = Disk()
    theirs = Tool("theirs", "Theirs.", TEXT)
    request = replace(asked(run_id="r1", strategy="react"), tools=(theirs,))
    first = system(disk, ScriptedEngine([call("theirs", "c1", x="b")]))
    handed = await outcome(Orchestrator(first).run(request))
    again = await outcome(Orchestrator(system(disk, ScriptedEngine("x"))).run(request))
    assert isinstance(handed, CallTools)
    assert isinstance(again, CallTools)
    assert again.calls == handed.calls
    assert disk.runs["", "r1"].status == "waiting"


async def test_a_run_is_known_by_its_plan_too() -> None:
    disk, effects = Disk(), Effects()
    tools = [spec("do", effects)]
    first = Orchestrator(system(disk, ScriptedEngine("done")), tools)

    def planned(x: str) -> GenerateRequest:
        return asked("Do it.", run_id="r1", plan=Plan((Node("1", "do", {"x": x}),)))

    await outcome(first.run(planned("a")))
    with pytest.raises(InvalidRequest, match="something else"):
        await outcome(first.run(planned("b")))
    assert isinstance(await outcome(first.run(planned("a"))), Reply)
    assert [x for x, _ in effects.calls] == ["a"]


async def test_a_person_is_asked_behind_the_callers_part() -> None:
    disk, effects = Disk(), Effects()
    theirs = Tool("theirs", "Theirs.", TEXT)
    request = replace(asked(), tools=(theirs,))
    turns = ([call("theirs", "c1", x="b")], [call("do", "c2", x="a")], "done")
    first = Orchestrator(system(disk, ScriptedEngine(*turns), policy=ASK), [spec("do", effects)])
    handed = await outcome(first.run(request))
    assert isinstance(handed, CallTools)
    result = Message("tool", '"ok"', tool_call_id=handed.calls[0].id)
    said = Message("assistant", tool_calls=handed.calls)
    back = replace(request, messages=(*request.messages, said, result))
    end = await outcome(supervised(first, back, lambda approval: True))
    assert isinstance(end, Reply)
    assert [x for x, _ in effects.calls] == ["a"]


async def test_verdicts_on_nothing_begin_no_run() -> None:
    disk = Disk()
    first = Orchestrator(system(disk, ScriptedEngine("x")))
    with pytest.raises(InvalidRequest):
        await outcome(first.run(asked(run_id="r1", verdicts={"apr_x": Verdict("approve")})))
    assert disk.runs == {}


# --- sessions ------------------------------------------------------------------------------------


async def test_a_session_keeps_what_was_said_and_done() -> None:
    disk, effects = Disk(), Effects()
    tools = [spec("do", effects)]
    first = Orchestrator(system(disk, ScriptedEngine([call("do", "c1", x="a")], "done")), tools)
    await outcome(first.run(asked("do a", session_id="s")))
    engine = ScriptedEngine("you said: do a")
    await outcome(
        Orchestrator(system(disk, engine), tools).run(asked("what did I say?", session_id="s"))
    )
    (request,) = engine.requests
    said = [(m.role, m.content) for m in request.messages]
    assert said == [
        ("user", "do a"),
        ("assistant", ""),
        ("tool", '{"did":"a"}'),
        ("assistant", "done "),
        ("user", "what did I say?"),
    ]


async def test_one_request_at_a_time_goes_on_with_a_session() -> None:
    disk = Disk()
    tools = [spec("do", Effects(hang=lambda x: True))]
    first = system(disk, ScriptedEngine([call("do", "c1", x="a")]))
    running = Orchestrator(first, tools).run(asked("do a", session_id="s"))
    await anext(running)
    hello = Orchestrator(system(disk, ScriptedEngine("hello")), tools)
    with pytest.raises(SessionBusy):
        await outcome(hello.run(asked("hello", session_id="s")))
    first.recorder.store.dead = True  # type: ignore[union-attr]
    await running.aclose()
    assert isinstance(await outcome(hello.run(asked("hello", session_id="s"))), Reply)


async def test_a_session_that_has_gone_on_does_not_take_a_run_back() -> None:
    disk, effects = Disk(), Effects()
    tools = [spec("do", effects)]
    turns = ([call("do", "c1", x="a")], "hello")
    first = Orchestrator(system(disk, ScriptedEngine(*turns), policy=ASK), tools)
    stopped = await outcome(first.run(asked(run_id="r1", session_id="s")))
    assert isinstance(stopped, NeedsApproval)
    assert isinstance(await outcome(first.run(asked("hello", session_id="s"))), Reply)
    verdicts = {stopped.approvals[0].id: Verdict("approve")}
    with pytest.raises(InvalidRequest, match="gone on"):
        await outcome(first.run(asked(run_id="r1", verdicts=verdicts)))
    assert effects.calls == []
    assert disk.runs["", "r1"].status == "waiting"


async def test_a_session_goes_on_with_its_callers_results() -> None:
    disk = Disk()
    theirs = Tool("theirs", "Theirs.", TEXT)
    options = RunOptions(session_id="s", strategy="react")
    ask = GenerateRequest((Message("user", "do b"),), tools=(theirs,), run=options)
    first = Orchestrator(system(disk, ScriptedEngine([call("theirs", "c1", x="b")])))
    handed = await outcome(first.run(ask))
    assert isinstance(handed, CallTools)
    engine = ScriptedEngine("done")
    back = replace(ask, messages=(Message("tool", '"ok"', tool_call_id=handed.calls[0].id),))
    end = await outcome(Orchestrator(system(disk, engine)).run(back))
    assert isinstance(end, Reply)
    assert [m.role for m in engine.requests[0].messages] == ["user", "assistant", "tool"]
    kept = await MemoryRuns(disk).messages("", "s")
    assert kept is not None
    assert [m["role"] for m in kept] == ["user", "assistant", "tool", "assistant"]


# --- what is written -----------------------------------------------------------------------------


async def test_nothing_starts_before_it_is_written_that_it_does() -> None:
    disk, seen = Disk(), []

    class Looking(Effects):
        async def call(self, arguments: Any, limits: CallLimits) -> Output:
            rows = disk.entries["", "r1"]
            seen.append([json.loads(row)["kind"] for row in rows])
            return await super().call(arguments, limits)

    first = Orchestrator(system(disk, ScriptedEngine(*TURNS)), [spec("do", Looking())])
    await outcome(first.run(asked(run_id="r1")))
    assert all(kinds[-1] in ("Launched", "Done") for kinds in seen)
    assert all({"Turned", "Launched"} <= set(kinds) for kinds in seen)
    record = await Recorder(MemoryRuns(disk)).read("", "r1")
    assert record is not None
    kinds = [type(entry) for entry in record.entries]
    assert kinds.count(Launched) == kinds.count(Done) == 2
    assert [e.whole for e in record.entries if isinstance(e, Turned)][-1]
