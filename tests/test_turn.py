"""The turn machine: what its masks allow is always parsed, whole calls only, in every family.

No model here: tokens are drawn at random from the mask (worse than any model), or follow a script.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kit import Kit, is_legal, legal, make_kit

from f1.calling.family import Family, families, family_for, grammars_folder
from f1.calling.schema import validate_arguments
from f1.calling.turn import Turn, TurnEvent
from f1.types import (
    CallDelta,
    GenerateRequest,
    Message,
    ResponseFormat,
    TextDelta,
    Tool,
    ToolCall,
    ToolChoice,
)

WEATHER = Tool(
    "get_weather",
    "",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
            "units": {"enum": ["C", "F", 'x"y']},
        },
        "required": ["city"],
    },
)
TREE = Tool(
    "plant",
    "",
    {
        "type": "object",
        "properties": {
            "root": {"$ref": "#/$defs/node"},
            "height": {"type": "number"},
            "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]+$"}},
            "any": {},
        },
        "required": ["root", "tags"],
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
            }
        },
    },
)
TIME = Tool("get_time")
TOOLS = (WEATHER, TREE, TIME)
ASK = GenerateRequest((Message("user", "?"),), TOOLS)


@pytest.fixture(scope="module", params=[False, True], ids=["as written", "freely"])
def kit(smollm_path: Path, request: pytest.FixtureRequest) -> Kit:
    return make_kit(smollm_path, freely=request.param)


def calls(events: list[TurnEvent]) -> list[tuple[str, Any]]:
    found = [event.call for event in events if isinstance(event, CallDelta)]
    return [(call.name, json.loads(call.arguments)) for call in found]


def text(events: list[TurnEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def draw_token(draw: random.Random, kit: Kit, turn: Turn) -> int:
    """Any legal token, and now and then one that closes something: chance alone hardly would."""
    tokens = legal(turn)
    closing = [i for i in tokens if kit.tokenizer.token_bytes(i)[:1] in (b'"', b"]", b"}")]
    return int(draw.choice(closing if closing and draw.random() < 0.25 else tokens))


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
class TestEveryFamily:
    def test_reads_what_it_writes(self, kit: Kit, family: Family) -> None:
        made = [
            ToolCall("1", "get_weather", '{"city": "Sa\\u00f5 \\"P\\"", "days": 3}'),
            ToolCall("2", "get_time", "{}"),
        ]
        for form in family.forms:
            written = replace(family, forms=(form,)).write_calls(made)
            turn = kit.turn(ASK, family)
            events = list(kit.follow(turn, written))
            assert calls(events) == [(c.name, json.loads(c.arguments)) for c in made]
            assert text(events) == ""
            assert turn.reason == "tool_calls"

    def test_text_before_a_call_is_content(self, kit: Kit, family: Family) -> None:
        if family.form.only_at_start:
            pytest.skip("calls stand at the start in this family")
        written = "I will look. \n\n" + family.write_calls([ToolCall("1", "get_time", "{}")])
        events = list(kit.follow(kit.turn(ASK, family), written))
        assert text(events) == "I will look."
        assert calls(events) == [("get_time", {})]

    def test_half_a_call_is_no_call(self, kit: Kit, family: Family) -> None:
        written = family.write_calls([ToolCall("1", "get_weather", '{"city": "Paris"}')])
        cut = written[: written.index("Paris")]
        events = list(kit.follow(kit.turn(ASK, family), cut))
        assert events == []

    def test_a_repeated_call_ends_the_turn(self, kit: Kit, family: Family) -> None:
        call = ToolCall("1", "get_time", "{}")
        turn = kit.turn(ASK, family)
        events = list(kit.follow(turn, family.write_calls([call, call, call])))
        assert calls(events) == [("get_time", {})]
        assert turn.ended

    @pytest.mark.parametrize("seed", range(12))
    def test_random_legal_tokens_make_valid_calls(
        self, kit: Kit, family: Family, seed: int
    ) -> None:
        draw = random.Random(seed)
        turn = kit.turn(replace(ASK, tool_choice=ToolChoice("required")), family)
        events: list[TurnEvent] = []
        for _ in range(400):
            token_id = draw_token(draw, kit, turn)
            if token_id in kit.tokenizer.stop_token_ids:
                break
            events += turn.accept(token_id)
            if turn.ended:
                break
        events += turn.finish()
        assert text(events) == ""
        found = [event.call for event in events if isinstance(event, CallDelta)]
        assert found
        for call in found:
            given = next(tool for tool in TOOLS if tool.name == call.name)
            assert validate_arguments(given, call.arguments) is None


def test_own_family_files_go_first(tmp_path: Path) -> None:
    shipped = json.loads((grammars_folder() / "hermes.json").read_text())
    (tmp_path / "mine.json").write_text(json.dumps(shipped | {"models": ["qwen2.5-coder"]}))
    assert family_for("qwen2.5-coder-0.5b").name == "qwen2.5-coder"
    assert family_for("qwen2.5-coder-0.5b", tmp_path).name == "mine"
    assert family_for("smollm2-135m", tmp_path).name == "smollm2"


def test_choices(kit: Kit) -> None:
    family = family_for("hermes")
    named = kit.turn(replace(ASK, tool_choice=ToolChoice("named", "get_weather")), family)
    assert named.prefix.endswith('"get_weather", "arguments":')
    events = list(kit.follow(named, ' {"city": "Rome"}}\n</tool_call>\n<tool_call>'))
    assert calls(events) == [("get_weather", {"city": "Rome"})]
    assert named.ended

    none = kit.turn(replace(ASK, tool_choice=ToolChoice("none")), family)
    written = family.write_calls([ToolCall("1", "get_time", "{}")])
    assert text(list(kit.follow(none, written))) == written

    single = kit.turn(replace(ASK, parallel_tool_calls=False), family)
    list(kit.follow(single, written))
    assert single.ended


def test_calls_that_differ_are_not_repeats(kit: Kit) -> None:
    family = family_for("hermes")
    request = replace(ASK, tools=(Tool("f", "", {"properties": {"x": {}}}),))
    made = [ToolCall("1", "f", '{"x": 1}'), ToolCall("2", "f", '{"x": true}')]
    events = list(kit.follow(kit.turn(request, family), family.write_calls(made)))
    assert [arguments for _, arguments in calls(events)] == [{"x": 1}, {"x": True}]


def test_only_given_names_are_legal(kit: Kit) -> None:
    turn = kit.turn(replace(ASK, tool_choice=ToolChoice("required")), family_for("hermes"))
    for token_id in kit.tokenizer.encode_prompt(' "get_'):
        assert is_legal(turn, token_id)
        turn.accept(token_id)
    assert not is_legal(turn, kit.tokenizer.encode_prompt("stock")[0])


@pytest.mark.parametrize("name", ["name", "arguments", "parameters", "function"])
@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_tools_named_like_the_syntax(kit: Kit, family: Family, name: str) -> None:
    request = replace(ASK, tools=(Tool("get_time"), Tool(name)))
    made = [ToolCall("1", "get_time", "{}"), ToolCall("2", name, "{}")]
    events = list(kit.follow(kit.turn(request, family), family.write_calls(made)))
    assert calls(events) == [("get_time", {}), (name, {})]


def test_nothing_follows_a_stop_string(kit: Kit) -> None:
    """Not even where it was found in what only began like a call."""
    turn = kit.turn(replace(ASK, stop=("get_time",)), family_for("qwen2.5-coder"))
    written = '```json\n{"name": "get_time"} and more'
    assert text(list(kit.follow(turn, written))) == '```json\n{"name": "'
    assert turn.ended


def test_the_grammar_counts_short_bounds_and_leaves_long_ones_to_validation(kit: Kit) -> None:
    fields = {
        "short": {"type": "string", "maxLength": 5},
        "long": {"type": "string", "maxLength": 1000},
        "pattern": {"type": "string", "pattern": "^.{90}$"},
    }
    schema = {"type": "object", "properties": fields, "required": list(fields)}
    request = replace(ASK, tools=(Tool("f", "", schema),), tool_choice=ToolChoice("named", "f"))
    turn = kit.turn(request, family_for("hermes"), max_tokens=10_000)
    (x,), (quote,) = kit.tokenizer.encode("x"), kit.tokenizer.encode('"')
    for written, count in ((' {"short": "', 5), (', "long": "', 1001), (', "pattern": "', 91)):
        for token_id in [*kit.tokenizer.encode(written), *[x] * count]:
            assert is_legal(turn, token_id)
            turn.accept(token_id)
        assert is_legal(turn, x) == (count != 5)
        turn.accept(quote)


def test_a_fence_that_names_no_tool_stays_text(kit: Kit) -> None:
    for written in ('```json\n{"port": 8080}\n```', '```json\n{"name": "Ann", "age": 3}\n```'):
        turn = kit.turn(ASK, family_for("qwen2.5-coder"))
        assert text(list(kit.follow(turn, written))) == written
        assert turn.reason == "stop"


def test_a_response_format_leaves_room_for_calls(kit: Kit) -> None:
    format = ResponseFormat(
        "json_schema", {"type": "object", "properties": {"a": {"type": "integer"}}}
    )
    family = family_for("hermes")
    request = replace(ASK, response_format=format)
    answered = kit.turn(request, family)
    assert text(list(kit.follow(answered, '{"a": 1}'))) == '{"a": 1}'
    assert answered.ended
    written = family.write_calls([ToolCall("1", "get_time", "{}")])
    assert calls(list(kit.follow(kit.turn(request, family), written))) == [("get_time", {})]
    assert not is_legal(kit.turn(request, family), kit.tokenizer.encode_prompt("Sure")[0])


def test_content_that_begins_like_a_call(kit: Kit) -> None:
    schema = {"type": "object", "properties": {"names": {"type": "array"}}, "required": ["names"]}
    request = replace(ASK, response_format=ResponseFormat("json_schema", schema))
    turn = kit.turn(request, family_for("llama-3"))
    written = '{"names": ["get_time"]}'
    assert text(list(kit.follow(turn, written))) == written
    assert turn.ended


@pytest.mark.parametrize("seed", range(8))
def test_random_legal_tokens_make_valid_content(kit: Kit, seed: int) -> None:
    draw = random.Random(seed)
    format = ResponseFormat("json_schema", TREE.parameters)
    request = GenerateRequest((Message("user", "?"),), response_format=format)
    turn = kit.turn(request, family_for("hermes"))
    events: list[TurnEvent] = []
    while not turn.ended:
        events += turn.accept(int(draw.choice(legal(turn))))
    assert validate_arguments(TREE, text(events)) is None


def test_history_is_written_as_the_model_would_have(kit: Kit) -> None:
    family = family_for("hermes")
    made = (ToolCall("a", "get_time", ""), ToolCall("b", "get_weather", '{"city": "Oslo"}'))
    messages = (
        Message("system", "Be brief."),
        Message("user", "When?"),
        Message("assistant", "Looking.", made),
        Message("tool", "12:00", tool_call_id="a"),
        Message("tool", "rain", tool_call_id="b"),
    )
    plain = family.plain_messages(messages, TOOLS)
    assert [message.role for message in plain] == ["system", "user", "assistant", "user"]
    assert plain[0].content.startswith("Be brief.")
    assert all(tool.name in plain[0].content for tool in TOOLS)
    assert plain[2].content == "Looking.\n" + family.write_calls(made)
    assert plain[3].content.index("12:00") < plain[3].content.index("rain")


def test_a_value_that_repeats_itself_is_cut(smollm_path: Path) -> None:
    kit = make_kit(smollm_path)
    turn = kit.turn(ASK, family_for("smollm2-135m"), max_tokens=4000)
    begin = '<tool_call>[{"name": "get_weather", "arguments": {"city": "'
    for token_id in kit.tokenizer.encode_prompt(begin + "Oslo, no " * 400):
        turn.accept(token_id)
        if turn.looped:
            break
    assert turn.looped
    assert turn.finish(cut=True) == []
    assert turn.report().looped
