"""What breaks its schema where no mask could tell is asked for once more; what the limit cuts is
counted to its end."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kit import Kit, is_legal, make_kit

from f1.calling.family import Family, families, family_for
from f1.calling.schema import validate
from f1.calling.turn import Turn, TurnEvent
from f1.choices import Choice
from f1.engine import AsyncEngine
from f1.errors import ConstraintError, EngineStopped
from f1.planning.collect import gather
from f1.settings import Settings
from f1.types import (
    CallDelta,
    Completion,
    Finished,
    GenerateRequest,
    Message,
    ResponseFormat,
    SamplingParams,
    TextDelta,
    Tool,
    ToolCall,
    ToolChoice,
)

# The grammar leaves it to validation that a property's value is not among some.
COLOR: dict[str, Any] = {
    "type": "object",
    "properties": {
        "color": {"enum": ["Red", "red", "Blue", "blue"]},
    },
    "not": {"properties": {"color": {"pattern": "^[A-Z]"}}},
    "required": ["color"],
    "additionalProperties": False,
}
PAINT = Tool("paint", "Paint in a color.", COLOR)
TIME = Tool("get_time", "What time it is.")
ASK = GenerateRequest(
    (Message("user", "Which color do you like?"),),
    (PAINT, TIME),
    tool_choice=ToolChoice("named", "paint"),
    max_tokens=100,
)
ANSWER = replace(ASK, tool_choice=ToolChoice(), tools=(), response_format=ResponseFormat())


@pytest.fixture(scope="module")
def kit(smollm_path: Path) -> Kit:
    return make_kit(smollm_path)


@pytest.fixture(scope="module")
def engine(smollm_path: Path) -> Iterator[AsyncEngine]:
    started = AsyncEngine.start(str(smollm_path), Settings(max_sequences=32))
    yield started
    started.close()


Outcome = Completion | str  # the code of its error


async def outcome(engine: AsyncEngine, request: GenerateRequest) -> Outcome:
    try:
        (completion,) = await gather(engine.generate(request), 1)
    except ConstraintError as error:
        return str(error.code)
    return completion


def seeded(request: GenerateRequest, seed: int) -> GenerateRequest:
    return replace(request, sampling=SamplingParams(temperature=2.0, seed=seed))


def essence(found: Outcome) -> object:
    """Without what is random by design."""
    if isinstance(found, str):
        return found
    calls = [(call.name, call.arguments) for call in found.message.tool_calls]
    tokens = found.usage.completion_tokens
    return calls, found.message.content, found.reason, tokens, found.report


@pytest.mark.parametrize("kind", ["call", "content"])
async def test_the_model_is_asked_again(engine: AsyncEngine, kind: str) -> None:
    """Whatever comes is valid, or the error says so; what was asked again says so; and each is the
    same in company."""
    if kind == "content":
        request = replace(ANSWER, response_format=ResponseFormat("json_schema", COLOR))
    else:
        request = ASK
    requests = [seeded(request, seed) for seed in range(24)]
    alone = [await outcome(engine, request) for request in requests]
    mended = 0
    for found in alone:
        if isinstance(found, str):
            assert found == f"invalid_{'tool_call' if kind == 'call' else kind}"
        elif found.reason != "length":
            assert found.report.relaxed
            said = (
                found.message.content
                if kind == "content"
                else found.message.tool_calls[0].arguments
            )
            assert validate(COLOR, json.loads(said)) is None
            mended += found.report.asked_again
            assert found.usage.completion_tokens <= 100
    assert mended > 0
    together = await asyncio.gather(*(outcome(engine, request) for request in requests))
    assert list(map(essence, together)) == list(map(essence, alone))


@pytest.mark.parametrize("switched_off", ["", "forced_text", "speculation"])
async def test_the_same_in_any_company(smollm_path: Path, switched_off: str) -> None:
    """Several choices, calls of two tools, and what is asked again among them."""
    switches = {switched_off: False} if switched_off else {}
    engine = AsyncEngine.start(str(smollm_path), Settings(max_sequences=16, **switches))
    required = replace(ASK, tool_choice=ToolChoice("required"))
    several = [seeded(replace(required, n=3, max_tokens=40), seed) for seed in range(3)]
    requests = [*several, *(seeded(ASK, seed) for seed in range(5))]

    async def outcomes(request: GenerateRequest) -> list[object]:
        try:
            return [essence(each) for each in await gather(engine.generate(request), request.n)]
        except ConstraintError as error:
            return [error.code]

    try:
        alone = [await outcomes(request) for request in requests]
        together = await asyncio.gather(*map(outcomes, requests), *map(outcomes, requests[::-1]))
    finally:
        engine.close()
    # Which choice of a request fails first is a matter of steps; that one does is not.
    assert together == alone + alone[::-1]


async def test_streams_show_what_is_valid_only(engine: AsyncEngine) -> None:
    """Of an invalid answer nothing is shown, so that a stream adds up to what is not streamed."""
    format = ResponseFormat("json_schema", COLOR)
    for seed in range(6):
        shown, finished = "", False
        try:
            async for event in engine.generate(
                seeded(replace(ANSWER, response_format=format), seed)
            ):
                shown += event.text if isinstance(event, TextDelta) else ""
                finished = finished or isinstance(event, Finished)
        except ConstraintError:
            assert shown == ""
        assert finished == bool(shown)


async def test_the_prompt_is_counted_once(engine: AsyncEngine) -> None:
    found = [await outcome(engine, seeded(ASK, seed)) for seed in range(24)]
    done = [completion for completion in found if isinstance(completion, Completion)]
    assert {completion.report.asked_again for completion in done} == {0, 1}
    assert len({completion.usage.prompt_tokens for completion in done}) == 1
    for completion in done:
        assert completion.usage.cached_tokens <= completion.usage.prompt_tokens
    tokens = {c.report.asked_again: c.usage.completion_tokens for c in done}
    assert tokens[1] > tokens[0]


class TestAside:
    """What happens to a choice while somebody sees to it aside."""

    CUT = replace(ASK, max_tokens=14)

    @pytest.fixture
    def held(
        self, smollm_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[tuple[AsyncEngine, threading.Event, threading.Event]]:
        """An engine that does not go on there until it is let: it, that it is there, the leave."""
        engine = AsyncEngine.start(str(smollm_path), Settings(max_sequences=4))
        there, leave = threading.Event(), threading.Event()
        settle = engine._preparation.settle

        def wait(choice: Choice) -> Choice | None:
            there.set()
            leave.wait(60)
            return settle(choice)

        monkeypatch.setattr(engine._preparation, "settle", wait)
        yield engine, there, leave
        leave.set()
        engine.close()

    async def test_others_go_on(self, held: Any) -> None:
        engine, there, leave = held
        cut = asyncio.ensure_future(outcome(engine, self.CUT))
        assert await asyncio.to_thread(there.wait, 60)
        other = await outcome(engine, replace(ANSWER, max_tokens=8))
        assert isinstance(other, Completion)
        assert not cut.done()
        leave.set()
        found = await cut
        assert isinstance(found, Completion)
        assert found.report.needed_tokens is not None

    async def test_who_left_is_not_asked_for_again(self, held: Any) -> None:
        engine, there, leave = held
        lines = {"type": "array", "items": COLOR | {"properties": {"color": {"enum": ["Red"]}}}}
        lines |= {"minItems": 2, "maxItems": 2}
        paint = Tool("paint", "", {"properties": {"lines": lines}, "required": ["lines"]})
        stream = engine.generate(replace(ASK, tools=(paint,), max_tokens=1000))
        first = asyncio.ensure_future(anext(stream))
        assert await asyncio.to_thread(there.wait, 60)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await stream.aclose()
        leave.set()
        await asyncio.wrap_future(engine._settling.submit(int))  # what was held is settled
        assert isinstance(await outcome(engine, replace(ANSWER, max_tokens=2)), Completion)
        assert not engine._stepper._aside
        assert not engine._stepper.running

    async def test_an_engine_that_closes_says_so(self, held: Any) -> None:
        engine, there, leave = held
        cut = asyncio.ensure_future(gather(engine.generate(self.CUT), 1))
        assert await asyncio.to_thread(there.wait, 60)
        await asyncio.to_thread(engine.close)
        with pytest.raises(EngineStopped):
            await cut
        leave.set()
        with pytest.raises(EngineStopped):
            await gather(engine.generate(self.CUT), 1)


def behind(turn: Turn, written: str) -> str:
    """What follows the turn's prefix where it is to write so."""
    return written[len(turn.prefix[turn.prefix.find(written[:8]) :]) if turn.prefix else 0 :]


class TestTheSecondTurn:
    """The machine alone: what was released stays, what was wrong is written anew."""

    BAD = ToolCall("2", "paint", '{"color": "Red"}')
    GOOD = ToolCall("2", "paint", '{"color": "red"}')

    def broken(self, kit: Kit, family: Family) -> tuple[Turn, list[TurnEvent]]:
        request = replace(ASK, tool_choice=ToolChoice())
        turn = kit.turn(request, family)
        lead = "" if family.form.only_at_start else "I look.\n"
        written = lead + family.write_calls([ToolCall("1", "get_time", "{}"), self.BAD])
        return turn, list(kit.follow(turn, written))

    @pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
    def test_goes_on_from_what_was_released(self, kit: Kit, family: Family) -> None:
        turn, events = self.broken(kit, family)
        assert turn.ended
        assert turn.unsettled
        assert [e.index for e in events if isinstance(e, CallDelta)] == [0]
        broken = turn.broken
        assert broken is not None
        again = kit.turn(replace(ASK, tool_choice=ToolChoice()), family, after=broken)
        assert again.prefix.endswith(family.form.arguments)
        rest = behind(again, family.write_calls([self.GOOD, self.GOOD]))
        more = list(kit.follow(again, rest))
        assert [(e.index, e.call.arguments) for e in more if isinstance(e, CallDelta)] == [
            (1, self.GOOD.arguments)
        ]
        assert again.report().asked_again == 1
        assert again.broken is None

    def test_fails_for_good(self, kit: Kit) -> None:
        family = family_for("hermes")
        broken = self.broken(kit, family)[0].broken
        again = kit.turn(replace(ASK, tool_choice=ToolChoice()), family, after=broken)
        rest = behind(again, family.write_calls([self.BAD]))
        with pytest.raises(ConstraintError) as caught:
            list(kit.follow(again, rest))
        assert caught.value.code == "invalid_tool_call"

    def test_is_told_what_is_wrong_and_what_there_is(self, kit: Kit) -> None:
        broken = self.broken(kit, family_for("hermes"))[0].broken
        assert broken is not None
        assistant, *results = broken.messages()
        assert assistant.content == "I look."
        assert [call.name for call in assistant.tool_calls] == ["get_time", "paint"]
        assert [m.tool_call_id for m in results] == [call.id for call in assistant.tool_calls]
        assert "should not be valid" in results[-1].content
        assert "properties are: color" in results[-1].content


class TestCut:
    """A budget that is too small is said to be, with the one that does."""

    CALL = ToolCall(
        "1",
        "plan",
        '{"from": "Oslo", "when": {"day": 24, "exact": true}, "by": "rail", "code": "OS-123"}',
    )
    PLAN = Tool(
        "plan",
        "",
        {
            "properties": {
                "from": {"type": "string"},
                "when": {
                    "type": "object",
                    "properties": {"day": {"type": "integer"}, "exact": {"type": "boolean"}},
                    "required": ["day", "exact"],
                },
                "by": {"enum": ["rail", "road"]},
                "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
            },
            "required": ["from", "when", "by", "code"],
        },
    )

    @pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
    @pytest.mark.parametrize("mode", ["auto", "named"])
    def test_needed_tokens_do(
        self, kit: Kit, family: Family, mode: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Cut anywhere, the call has an end with so many tokens in all, each of them legal."""
        choice = ToolChoice("named", "plan") if mode == "named" else ToolChoice()
        request = replace(ASK, tools=(self.PLAN, TIME), tool_choice=choice)
        turn = kit.turn(request, family)
        text = turn.prefix + behind(turn, family.write_calls([self.CALL]))
        whole = kit.tokenizer.encode_prompt(text)
        prefix = len(kit.tokenizer.encode_prompt(turn.prefix))
        told, walked, take = 0, list[int](), Turn._take
        monkeypatch.setattr(Turn, "_take", lambda t, i: (walked.append(i), take(t, i))[1])
        for end in range(prefix, len(whole)):
            turn = kit.turn(request, family, max_tokens=end)
            turn.spend_prefix(prefix)
            for token_id in whole[prefix:end]:
                turn.accept(token_id)
            if turn.ended:
                break
            turn.finish(cut=True)
            if not turn.unsettled:
                continue
            walked.clear()
            needed = turn.report().needed_tokens
            assert needed is not None
            self.follow(kit, request, family, whole[:end] + walked, prefix, needed)
            assert end < needed <= max(end, len(whole)) + 5
            told += 1
        assert told > 20

    def follow(
        self,
        kit: Kit,
        request: GenerateRequest,
        family: Family,
        token_ids: list[int],
        prefix: int,
        needed: int,
    ) -> None:
        """With a budget of `needed`, these are legal, make the call, and leave room for the end."""
        turn = kit.turn(request, family, max_tokens=needed)
        turn.spend_prefix(prefix)
        events: list[TurnEvent] = []
        for token_id in token_ids[prefix:]:
            assert is_legal(turn, token_id)
            events += turn.accept(token_id)
        assert [type(event) for event in events] == [CallDelta]
        if turn.ended:
            assert needed == len(token_ids)
        else:
            assert needed == len(token_ids) + 1
            assert any(is_legal(turn, stop) for stop in kit.tokenizer.stop_token_ids)

    async def test_with_so_many_it_is_complete(self, engine: AsyncEngine) -> None:
        request = replace(ASK, tools=(self.PLAN,), tool_choice=ToolChoice("named", "plan"))
        for budget in (1, 8, 14, 20):
            cut = await outcome(engine, replace(request, max_tokens=budget))
            assert isinstance(cut, Completion)
            assert (cut.reason, cut.message.tool_calls) == ("length", ())
            needed = cut.report.needed_tokens
            assert needed is not None
            assert needed > budget
            done = await outcome(engine, replace(request, max_tokens=needed + 30))
            assert isinstance(done, Completion)
            assert done.reason == "tool_calls"
            assert done.report.needed_tokens is None


def test_a_number_that_a_limit_ended_is_told(kit: Kit) -> None:
    count = Tool("count", "", {"properties": {"to": {"type": "integer"}}, "required": ["to"]})
    turn = kit.turn(
        replace(ASK, tools=(count,), tool_choice=ToolChoice("named", "count")), family_for("hermes")
    )
    (one,) = kit.tokenizer.encode("1")
    events: list[TurnEvent] = []
    for token_id in kit.tokenizer.encode(' {"to":'):
        events += turn.accept(token_id)
    events += turn.accept(kit.tokenizer.encode(" ")[0])
    for _ in range(30):
        if not is_legal(turn, one):
            break
        events += turn.accept(one)
    for token_id in kit.tokenizer.encode("}}\n</tool_call>"):
        events += turn.accept(token_id)
    (call,) = [event for event in events if isinstance(event, CallDelta)]
    assert call.call.arguments == f'{{"to": {"1" * 24}}}'
    assert call.bounded
    assert turn.report().bounded == (0,)
