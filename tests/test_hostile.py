"""What would take for ever to compile, or every step a little longer, harms its own request."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import hostile
import pytest

from f1.calling.judge import Judge, Verdict
from f1.calling.lowering import lower
from f1.calling.source import Source
from f1.calling.verdicts import Subject, Verdicts
from f1.engine import AsyncEngine
from f1.errors import ConstraintError, F1Error, InvalidRequest, InvalidSchema, Overloaded
from f1.models.load import load_checkpoint
from f1.planning.collect import gather
from f1.settings import Settings
from f1.types import (
    Completion,
    GenerateRequest,
    Message,
    ResponseFormat,
    SamplingParams,
    Tool,
    ToolChoice,
)

OUTCOMES = {"answered", "refused", "overloaded", "constraint_error", "mask_budget"}
CI_SIZES = (150,)
FULL_SIZES = (1, 3, 20, 60, 127, 128, 129, 200, 400, 700, 1000, 3000)


def ask(text: str = "Go on.", **fields: Any) -> GenerateRequest:
    return GenerateRequest((Message("user", text),), **fields)


async def complete(engine: AsyncEngine, request: GenerateRequest) -> Completion:
    (completion,) = await gather(engine.generate(request), 1)
    return completion


@pytest.fixture(scope="module")
def engine(smollm_path: Path) -> Iterator[AsyncEngine]:
    started = AsyncEngine.start(str(smollm_path), Settings(max_sequences=8, snapshot_disk=0))
    yield started
    judge = started._grammars._judge
    started.close()
    assert judge is not None
    if judge.process_id is not None:
        with pytest.raises(ProcessLookupError):  # of its group nothing is left
            os.killpg(judge.process_id, 0)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of processor time hold; how long that takes is this machine's affair."""
    monkeypatch.setattr("f1.calling.verdicts.REQUEST_SECONDS", 120.0)


async def outcome(engine: AsyncEngine, request: GenerateRequest) -> str:
    """What became of a hostile request. Raises what must not become of it."""
    try:
        await complete(engine, request)
    except InvalidRequest:
        return "refused"
    except Overloaded:  # this machine, by others
        return "overloaded"
    except ConstraintError as error:
        return error.code or ""
    return "answered"


async def attack(engine: AsyncEngine, sizes: tuple[int, ...]) -> dict[str, list[float]]:
    """Seconds that each took, by outcome."""
    requests = [
        (name, ask(tools=(tool,), tool_choice=ToolChoice("named", "t"), max_tokens=4))
        for name, tool in hostile.tools(sizes)
    ]
    requests += [
        (name, ask(response_format=format, max_tokens=4)) for name, format in hostile.formats(sizes)
    ]
    took: dict[str, list[float]] = {}
    for name, request in requests:
        begin = time.monotonic()
        found = await outcome(engine, request)
        seconds = time.monotonic() - begin
        took.setdefault(found, []).append(seconds)
        if seconds > 2:
            print(f"{name}: {found} after {seconds:.1f} s")
    return took


async def test_hostile_schemas_and_grammars(engine: AsyncEngine) -> None:
    took = await attack(engine, CI_SIZES)
    assert set(took) <= OUTCOMES
    assert len(took["refused"]) > 20
    assert len(took["answered"]) > 20
    assert (await complete(engine, ask(max_tokens=3))).usage.completion_tokens == 3


async def test_hostile_tools_cannot_be_registered(engine: AsyncEngine) -> None:
    for name in ("never", "cycle", "odd types", "long values"):
        tool = Tool("t", "Does something.", hostile.SCHEMAS[name](400))
        with pytest.raises(F1Error):
            await engine.register_tools([tool])


@pytest.mark.full
async def test_a_thousand_hostile_requests(engine: AsyncEngine) -> None:
    """And what a neighbour has of them: its time per token, against before and after."""
    stop = asyncio.Event()
    gaps: list[float] = []

    async def neighbour(until: asyncio.Event) -> None:
        while not until.is_set():
            last = time.monotonic()
            async for _ in engine.generate(ask("Tell me a long story.", max_tokens=100)):
                gaps.append(time.monotonic() - last)
                last = time.monotonic()

    alone = asyncio.Event()
    before = asyncio.create_task(neighbour(alone))
    await asyncio.sleep(20)
    alone.set()
    await before
    quiet, gaps = sorted(gaps), []
    running = asyncio.create_task(neighbour(stop))
    took = await attack(engine, FULL_SIZES)
    stop.set()
    await running
    gaps.sort()
    seconds = [s for found in took.values() for s in found]
    p99 = [sorted_gaps[len(sorted_gaps) * 99 // 100] for sorted_gaps in (quiet, gaps)]
    print({found: len(times) for found, times in took.items()}, f"longest {max(seconds):.2f} s")
    print(f"median {statistics.median(seconds):.3f} s; p99 of a neighbour's gap {p99}")
    assert len(seconds) >= 900
    assert set(took) <= OUTCOMES
    assert (await complete(engine, ask(max_tokens=3))).usage.completion_tokens == 3


async def test_an_error_names_tool_path_and_keyword(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("f1.calling.verdicts.TRIAL_SECONDS", 0.02)
    tool = Tool("find", "Finds.", hostile.SCHEMAS["long values"](91))
    with pytest.raises(InvalidSchema, match=r"too much time; .* properties\.x\.enum") as caught:
        await complete(engine, ask(tools=(tool,)))
    assert caught.value.param == "tools.find.parameters"


async def test_a_keyword_that_takes_too_long_is_left_to_validation(engine: AsyncEngine) -> None:
    schema = hostile.of({"type": "string", "pattern": "^((a+)+)+b$"}) | {
        "properties": {"x": {"type": "string", "pattern": "^([^x]*a[^x]{30}){30}$"}}
    }
    request = ask(
        tools=(Tool("t", "Does something.", schema),),
        tool_choice=ToolChoice("named", "t"),
        max_tokens=4,
    )
    completion = await complete(engine, request)
    assert [(r.where, r.keyword) for r in completion.report.relaxed] == [("t", "pattern")]


# --- the process that judges ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge(smollm_path: Path) -> Iterator[Judge]:
    tokenizer = load_checkpoint(str(smollm_path)).tokenizer
    stops = sorted(tokenizer.stop_token_ids)
    found = Judge(tokenizer.vocabulary(), tokenizer.vocab_size, stops, (), max_bytes=64 << 20)
    yield found
    found.close()


def test_the_judge_outlives_what_it_ends(judge: Judge) -> None:
    good = Source("regex", "[a-z]{1,3}")
    slow = Source("ebnf", 'root ::= "<" [^<>]{0,120} ">"')
    large = Source("ebnf", "root ::= " + '("a" | "b" [a-z]*) ' * 60_000)
    wrong = Source("ebnf", "root ::= ")
    verdicts = judge.ask([good, slow, good, wrong, good], cpu_seconds=0.1, seconds=60)
    first = judge.process_id
    assert [v.ended for v in verdicts] == ["", "time", "", "", ""]
    assert verdicts[3].error
    assert [v.ended for v in judge.ask([large, good], cpu_seconds=60, seconds=60)] == ["memory", ""]
    assert judge.process_id == first


def test_a_judge_that_is_gone_is_replaced(judge: Judge) -> None:
    good = Source("regex", "[a-z]{1,3}")
    judge.ask([good], cpu_seconds=1, seconds=60)
    assert judge.process_id is not None
    os.killpg(judge.process_id, 9)
    while not (found := judge.ask([good], cpu_seconds=1, seconds=60))[0].sure:
        pass  # at the first it finds that there is nobody
    assert found[0].error is None


def test_what_others_take_is_not_held_against_a_schema(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request's time is spent on its first schemas; the last is asked for again, alone."""
    slow = Source("ebnf", lower(hostile.SCHEMAS["long values"](600), "").ebnf)
    good = Source("regex", "[a-z]{1,3}")
    verdicts = judge.ask([slow, good], cpu_seconds=60, seconds=0.1)
    assert [(v.ended, v.sure) for v in verdicts] == [("time", False)] * 2

    class Late:
        """Has time for two."""

        def ask(self, sources: list[Source], **_: float) -> list[Verdict]:
            late = [Verdict(ended="time", sure=False)] * (len(sources) - 2)
            return [*[Verdict(ended="time", seconds=seconds) for seconds in (0.5, 1.4)], *late]

    pattern = {"type": "string", "pattern": "^(ab)+$"}  # there is something to leave out
    subjects = [
        Subject("json_schema", hostile.of(pattern) | {"title": name}, f"tools.{name}.parameters")
        for name in ("one", "two", "three")
    ]
    monkeypatch.setattr("f1.calling.verdicts.REQUEST_SECONDS", 3.0)
    found = Verdicts(cast(Judge, Late()))
    with pytest.raises(InvalidSchema, match=r"tools\.two\.parameters: .* too much time"):
        found.admit(subjects)
    assert [found.known(subject) for subject in subjects] == [None] * 3
    monkeypatch.setattr("f1.calling.verdicts.REQUEST_SECONDS", 60.0)
    assert Verdicts(judge).admit(subjects[2:])[0].refused is None


@pytest.mark.parametrize(
    ("text", "why"),
    [("((a+)+)+b", "takes too long"), ("(.*)*x", "takes too long"), ("a{2}", None)],
)
def test_what_gets_slower_token_by_token_is_found(judge: Judge, text: str, why: str | None) -> None:
    (verdict,) = judge.ask([Source("regex", text)], cpu_seconds=30, seconds=60)
    assert (why or "") in (verdict.error or "")
    assert (verdict.error is None) == (why is None)


def test_what_nothing_satisfies_is_refused(judge: Judge) -> None:
    (verdict,) = judge.ask([Source("ebnf", "root ::= root")], cpu_seconds=1, seconds=60)
    assert verdict.error == "no text satisfies it"


# --- while it is decoded --------------------------------------------------------------------------


def endless(engine: AsyncEngine) -> GenerateRequest:
    """Ever more of one letter, each slower than the last."""
    token_bytes = engine._preparation.vocabulary.token_bytes
    sampling = SamplingParams(
        logit_bias={i: -100.0 for i, data in enumerate(token_bytes) if b"b" in data}
    )
    format = ResponseFormat("regex", "((a+)+)+b")
    return ask(response_format=format, sampling=sampling, max_tokens=2000)


async def test_slow_masks_end_their_request_alone(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine._grammars._verdicts, "_judge", None)  # it would not let it pass
    slow = endless(engine)
    request = ask("Name three rivers.", max_tokens=60)
    alone = await complete(engine, request)
    failed, mate = await asyncio.gather(
        complete(engine, slow), complete(engine, request), return_exceptions=True
    )
    assert isinstance(failed, ConstraintError)
    assert failed.code == "mask_budget"
    assert "response_format" in failed.message
    assert isinstance(mate, Completion)
    assert mate.message == alone.message
    assert not engine._stepper.running


@pytest.mark.full
async def test_a_slow_neighbour_costs_little(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interleaved: the time of 200 tokens alone, and with neighbours one after another, whose
    grammar is a plain one or gets slower."""
    monkeypatch.setattr(engine._grammars._verdicts, "_judge", None)
    slow = endless(engine)
    plain = replace(slow, response_format=ResponseFormat("regex", "a+b"))
    request = ask("Tell me a long story.", max_tokens=200)

    async def neighbours(asked: GenerateRequest) -> None:
        while True:
            with suppress(ConstraintError):
                await complete(engine, asked)

    times: dict[str, list[float]] = {}
    for _ in range(5):
        for name, asked in (("alone", None), ("plain", plain), ("slow", slow)):
            running = asyncio.create_task(neighbours(asked)) if asked else None
            begin = time.monotonic()
            await complete(engine, request)
            times.setdefault(name, []).append(time.monotonic() - begin)
            if running is not None:
                running.cancel()
    print({name: round(statistics.median(found), 2) for name, found in times.items()}, "seconds")


async def test_who_waits_for_a_grammar_changes_nothing(engine: AsyncEngine) -> None:
    """The others go on meanwhile, and the tokens are those of one that did not wait."""
    held = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold() -> None:
        asyncio.run_coroutine_threadsafe(held.wait(), loop).result()

    compiler = engine._grammars._compiler
    for lane in (compiler._quick, compiler._slow):
        assert lane is not None
        lane.submit(hold)
    tools = tuple(
        Tool(name, "Books it.", hostile.of({"enum": ["one", "two", name]}) | {"title": name})
        for name in ("book_table", "book_room")
    )
    sampling = SamplingParams(temperature=0.9, seed=3, presence_penalty=0.7)
    request = ask(
        "Book a table.",
        tools=tools,
        tool_choice=ToolChoice("required"),
        sampling=sampling,
        max_tokens=60,
    )
    waiting = asyncio.create_task(complete(engine, request))
    while not engine._stepper._waiting:
        await asyncio.sleep(0)
    mate = await complete(engine, ask("Name three rivers.", max_tokens=20))
    assert mate.usage.completion_tokens > 0
    assert engine.healthy()
    assert not waiting.done()
    held.set()
    first, again = await waiting, await complete(engine, request)
    calls = [[(c.name, c.arguments) for c in one.message.tool_calls] for one in (first, again)]
    assert calls[0] == calls[1]
    assert calls[0]
