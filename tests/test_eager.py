"""Calls told piece by piece, and calls of tools that hold no one to their schema."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from kit import Kit, is_legal, make_kit

from f1.calling.family import Family, families, family_for
from f1.calling.request import check_request
from f1.calling.turn import TurnEvent
from f1.errors import ConstraintError, InvalidSchema
from f1.types import (
    ArgumentsDelta,
    CallBegun,
    CallDelta,
    GenerateRequest,
    Message,
    Tool,
    ToolCall,
    ToolChoice,
)

NOTE = Tool(
    "write_note",
    "",
    {
        "properties": {"title": {"type": "string"}, "stars": {"type": "integer"}},
        "required": ["title"],
    },
)
LOOSE = Tool("loose", "", {"properties": {"n": {"type": "integer"}}, "required": ["n"]}, False)
ASK = GenerateRequest((Message("user", "?"),), (NOTE, LOOSE), eager_arguments=True)
MADE = [
    ToolCall("1", "write_note", '{"title": "Grüße 漢字 🎉 \\"{[\\"", "stars": 3}'),
    ToolCall("2", "write_note", '{"title": ""}'),
    ToolCall("3", "loose", "{}"),
]


@pytest.fixture(scope="module", params=[False, True], ids=["as written", "freely"])
def kit(smollm_path: Path, request: pytest.FixtureRequest) -> Kit:
    return make_kit(smollm_path, freely=request.param)


def check_pieces(events: Sequence[TurnEvent], *, num_cut: int = 0) -> list[str]:
    """Each call is begun, told in pieces and released, in this order; its pieces make it. The last
    `num_cut` are not released. Returns what was joined."""
    begun: list[CallBegun] = []
    joined: list[str] = []
    num_released = 0
    for event in events:
        match event:
            case CallBegun():
                assert event.index == len(begun)
                begun.append(event)
                joined.append("")
            case ArgumentsDelta():
                assert event.index == len(begun) - 1
                assert event.text
                joined[-1] += event.text
            case CallDelta():
                assert event.index == num_released == len(begun) - 1
                call = begun[-1]
                assert event.call == ToolCall(call.id, call.name, joined[-1])
                num_released += 1
    assert num_released == len(begun) - num_cut
    return joined


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_pieces_make_the_arguments(kit: Kit, family: Family) -> None:
    written = family.write_calls(MADE)
    events = list(kit.follow(kit.turn(ASK, family), written))
    assert check_pieces(events) == [call.arguments for call in MADE]
    assert len([event for event in events if isinstance(event, ArgumentsDelta)]) > 10
    quiet = list(kit.follow(kit.turn(replace(ASK, eager_arguments=False), family), written))
    calls = [event.call for event in quiet if isinstance(event, CallDelta)]
    assert len(calls) == len(quiet) == 3


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_a_cut_call_just_ends(kit: Kit, family: Family) -> None:
    token_ids = kit.tokenizer.encode_prompt(family.write_calls(MADE[:1]))
    for end in range(len(token_ids)):
        turn = kit.turn(ASK, family)
        events = [event for token_id in token_ids[:end] for event in turn.accept(token_id)]
        events += turn.finish()
        begun = sum(isinstance(event, CallBegun) for event in events)
        closed = sum(isinstance(event, CallDelta) for event in events)
        for joined in check_pieces(events, num_cut=begun - closed):
            assert MADE[0].arguments.startswith(joined)


def test_a_named_call_begins_before_anything_is_sampled(kit: Kit) -> None:
    asked = replace(ASK, tool_choice=ToolChoice("named", "write_note"))
    turn = kit.turn(asked, family_for("hermes"))
    _, events = turn.force()
    assert [type(event) for event in events] == [CallBegun]
    events += kit.follow(turn, f" {MADE[0].arguments}}}\n</tool_call>")
    assert check_pieces(events) == [MADE[0].arguments]


def test_a_repeated_call_was_told_of_and_is_the_last(kit: Kit) -> None:
    family = family_for("hermes")
    turn = kit.turn(ASK, family)
    events = list(kit.follow(turn, family.write_calls([MADE[1], MADE[1], MADE[0]])))
    assert check_pieces(events) == [MADE[1].arguments] * 2
    assert turn.ended


def test_an_invalid_call_ends_with_the_error(kit: Kit) -> None:
    family = family_for("hermes")
    numbers = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    turn = kit.turn(replace(ASK, tools=(Tool("f", "", {"properties": {"x": numbers}}),)), family)
    with pytest.raises(ConstraintError) as caught:
        list(kit.follow(turn, family.write_calls([ToolCall("1", "f", '{"x": [1, 1]}')])))
    assert caught.value.code == "invalid_tool_call"


class TestNotStrict:
    """Arguments are a JSON object, and nothing more is asked of them."""

    def test_any_object_is_released(self, kit: Kit) -> None:
        family = family_for("hermes")
        for arguments in ("{}", '{"n": "seven", "more": [1, {"a": null}]}'):
            turn = kit.turn(replace(ASK, eager_arguments=False), family)
            written = family.write_calls([ToolCall("1", "loose", arguments)])
            (event,) = kit.follow(turn, written)
            assert isinstance(event, CallDelta)
            assert json.loads(event.call.arguments) == json.loads(arguments)

    def test_nothing_but_an_object_is_legal(self, kit: Kit) -> None:
        named = replace(ASK, tool_choice=ToolChoice("named", "loose"))
        turn = kit.turn(named, family_for("hermes"))
        turn.accept(kit.tokenizer.encode(" ")[0])
        for text, expected in (("[", False), ("1", False), ('"', False), ("{", True)):
            assert is_legal(turn, kit.tokenizer.encode(text)[0]) == expected

    def test_a_schema_that_cannot_be_held_to_is_no_error(self) -> None:
        broken = {"properties": {"x": {"type": "string", "pattern": "(?!look)ahead"}}}
        check_request(replace(ASK, tools=(Tool("f", "", broken, strict=False),)))
        with pytest.raises(InvalidSchema):
            check_request(replace(ASK, tools=(Tool("f", "", broken),)))
