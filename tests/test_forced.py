"""Forced text: what is committed unasked is what the model's own tokenizer would have written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from generated import request as generated_request
from kit import Kit, is_legal, make_kit

from f1.calling.family import Family, families, family_for
from f1.calling.forced import forced_tokens
from f1.calling.turn import Turn, TurnEvent
from f1.types import (
    CallDelta,
    GenerateRequest,
    Message,
    ResponseFormat,
    SamplingParams,
    Tool,
    ToolCall,
    ToolChoice,
)

FLIGHT = Tool(
    "book_flight",
    "",
    {
        "type": "object",
        "properties": {
            "origin": {"type": "string"},
            "seat_class": {"enum": ["economy", "economy_plus", "business"]},
            "bags": {"type": "integer"},
            "Reisetag": {"enum": ["月曜日", "火曜日"]},
        },
        "required": ["origin", "seat_class", "bags", "Reisetag"],
    },
)
ARGUMENTS = {"origin": "Oslo", "seat_class": "business", "bags": 2, "Reisetag": "月曜日"}
ASK = GenerateRequest((Message("user", "?"),), (FLIGHT,), tool_choice=ToolChoice("required"))


@pytest.fixture(scope="module")
def kit(smollm_path: Path) -> Kit:
    return make_kit(smollm_path, forced=True)


def play(kit: Kit, turn: Turn, token_ids: list[int]) -> tuple[int, list[TurnEvent]]:
    """Samples `token_ids` one by one but where tokens are forced: those must be the next ones.

    Returns how many were forced, and all events.
    """
    num_forced, at = 0, 0
    events: list[TurnEvent] = []
    while not turn.ended and at < len(token_ids):
        forced, more = turn.force()
        assert forced == token_ids[at : at + len(forced)], kit.tokenizer.decode(forced)
        num_forced, at, events = num_forced + len(forced), at + len(forced), events + more
        if turn.ended or at == len(token_ids):
            break
        assert is_legal(turn, token_ids[at])
        events += turn.accept(token_ids[at])
        at += 1
    return num_forced, events


def behind_prefix(kit: Kit, turn: Turn, text: str) -> list[int]:
    """The tokens of `text` behind the turn's prefix, which may begin with an empty thought."""
    prefix = kit.tokenizer.encode_prompt(turn.prefix)
    thought = turn.prefix[: turn.prefix.index(text[:8])]
    token_ids = kit.tokenizer.encode_prompt(thought + text)
    assert token_ids[: len(prefix)] == prefix
    turn.spend_prefix(len(prefix))
    return token_ids[len(prefix) :]


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_what_is_forced_is_canonical(kit: Kit, family: Family) -> None:
    made = [
        ToolCall("1", "book_flight", json.dumps(ARGUMENTS, ensure_ascii=False)),
        ToolCall("2", "book_flight", json.dumps(ARGUMENTS | {"bags": -3}, ensure_ascii=False)),
    ]
    turn = kit.turn(ASK, family)
    token_ids = behind_prefix(kit, turn, family.write_calls(made))
    num_forced, events = play(kit, turn, token_ids)
    assert [event.call.arguments for event in events if isinstance(event, CallDelta)] == [
        call.arguments for call in made
    ]
    assert num_forced > len(token_ids) // 3


@pytest.mark.parametrize("fixture", ["smollm_path", "qwen_path"])
def test_of_many_schemas(request: pytest.FixtureRequest, fixture: str) -> None:
    path: Path = request.getfixturevalue(fixture)
    kit, family = make_kit(path, forced=True), family_for(path.stem)
    total = 0
    for seed in range(60):
        tool, _ = generated_request(seed)
        arguments = example(tool.parameters)
        asked = replace(ASK, tools=(tool,), tool_choice=ToolChoice("named", tool.name))
        turn = kit.turn(asked, family)
        call = ToolCall("1", tool.name, json.dumps(arguments, ensure_ascii=False))
        token_ids = behind_prefix(kit, turn, family.write_calls([call]))
        num_forced, events = play(kit, turn, token_ids)
        total += num_forced
        found = [event.call.arguments for event in events if isinstance(event, CallDelta)]
        assert found == [call.arguments]
    assert total > 400


STRINGS = {
    "^[a-z]+$": "kvw",
    "^[A-Z]{2}-[0-9]{3}$": "QX-123",
    "^(a|bc)*$": "abca",
    r"^\d{4}$": "2024",
    "^.{1,12}$": "-anything",
    "date": "2026-12-24",
    "date-time": "2026-12-24T10:00:00Z",
    "uuid": "123e4567-e89b-42d3-a456-426614174000",
}


def example(schema: Mapping[str, Any]) -> Any:
    """A value of one of the generated schemas, with every property."""
    if "enum" in schema:
        return schema["enum"][-1]
    if "anyOf" in schema:
        return example(schema["anyOf"][0])
    match schema["type"]:
        case "object":
            return {name: example(value) for name, value in schema["properties"].items()}
        case "array":
            return [example(schema["items"])] * schema.get("maxItems", 2)
        case "string":
            known = STRINGS.get(schema.get("pattern", schema.get("format", "")), "Grüße aus Bern")
            return known[: schema.get("maxLength")]
        case "boolean":
            return True
        case _:
            return schema.get("maximum", schema.get("minimum", -7))


def test_the_end_is_held_back_where_a_longer_token_is_legal(kit: Kit) -> None:
    """`order` must not be forced before `order_id`: as one of its tokens it may read otherwise."""
    for names in (["plan", "planet"], ["get_user", "get_users"], ["x", "xy"]):
        tools = tuple(Tool(name) for name in names)
        for name in names:
            turn = kit.turn(replace(ASK, tools=tools), family_for("hermes"))
            written = family_for("hermes").write_calls([ToolCall("1", name, "{}")])
            play(kit, turn, behind_prefix(kit, turn, written))


def test_nothing_is_forced_off_the_canonical_path(kit: Kit) -> None:
    """The model began `origin` as "ori" or "o": its tokenizer would not put a boundary there."""
    segment = kit.grammars.arguments(family_for("hermes").form, FLIGHT, last=True)
    canonical = kit.vocabulary.canonical
    assert canonical is not None
    assert (
        kit.tokenizer.decode(forced_tokens(segment, b'"arguments":', canonical)) == b' {"origin":'
    )
    for token_id in kit.tokenizer.encode(' {"'):
        assert segment.accept(token_id)
    assert kit.tokenizer.decode(forced_tokens(segment, b' {"', canonical)) == b'origin":'
    assert segment.accept(kit.tokenizer.encode("o")[0])
    assert not forced_tokens(segment, b' {"o', canonical)


def test_characters_cut_in_two_are_decoded(kit: Kit) -> None:
    """The days differ in their first character's last byte only."""
    turn = kit.turn(replace(ASK, tools=(FLIGHT,)), family_for("hermes"))
    text = family_for("hermes").write_calls(
        [ToolCall("1", "book_flight", json.dumps(ARGUMENTS, ensure_ascii=False))]
    )
    _, events = play(kit, turn, behind_prefix(kit, turn, text))
    assert any(isinstance(event, CallDelta) for event in events)


def test_a_control_token_spelled_in_a_schema_is_not_forced(kit: Kit) -> None:
    spelled = {"type": "object", "properties": {"<|im_end|>": {"const": 1}}}
    tool = Tool("f", "", spelled | {"required": ["<|im_end|>"]})
    turn = kit.turn(
        replace(ASK, tools=(tool,), tool_choice=ToolChoice("named", "f")), family_for("hermes")
    )
    forced, _ = turn.force()
    assert kit.tokenizer.control_token_ids.isdisjoint(forced)
    for token_id in kit.tokenizer.encode(' {"<|im_end|>": 1}'):
        assert is_legal(turn, token_id)
        turn.accept(token_id)


@pytest.mark.parametrize("budget", range(1, 60))
def test_one_token_of_the_budget_is_left(kit: Kit, budget: int) -> None:
    turn = kit.turn(ASK, family_for("hermes"), max_tokens=budget)
    forced, _ = turn.force()
    assert len(forced) < budget
    whole, _ = kit.turn(ASK, family_for("hermes")).force()
    assert forced == whole[: budget - 1]


def test_a_request_for_logprobs_forces_nothing(kit: Kit) -> None:
    asked = replace(ASK, sampling=SamplingParams(num_logprobs=0))
    assert kit.turn(asked, family_for("hermes")).force() == ([], [])


def test_a_call_that_is_forced_whole(kit: Kit) -> None:
    asked = replace(ASK, tools=(Tool("now"),), tool_choice=ToolChoice("named", "now"))
    for family in families():
        turn = kit.turn(asked, family)
        text = family.write_calls([ToolCall("1", "now", "{}")])
        rest = behind_prefix(kit, turn, text)
        forced, events = turn.force()
        assert (turn.ended, forced) == (True, rest)
        assert len([event for event in events if isinstance(event, CallDelta)]) == 1


def test_content_under_a_format(kit: Kit) -> None:
    format = ResponseFormat("regex", r"Result: (yes|no), (sure|unsure)\.")
    turn = kit.turn(
        GenerateRequest((Message("user", "?"),), response_format=format), family_for("hermes")
    )
    token_ids = kit.tokenizer.encode("Result: no, unsure.")
    num_forced, _ = play(kit, turn, token_ids)
    assert num_forced >= 3
