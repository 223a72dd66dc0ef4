"""Tools that a conversation comes to need later, in the prompts of all families."""

from __future__ import annotations

import json

import pytest

from f1.calling.family import Family, families
from f1.types import Message, Tool, ToolCall

TOOLS = tuple(Tool(name, f"About {name}s.") for name in ("apple", "pear", "plum", "fig"))
TALK = (
    Message("system", "Be brief."),
    Message("user", "Apples?"),
    Message("assistant", tool_calls=(ToolCall("1", "apple", "{}"),)),
    Message("tool", "Red.", tool_call_id="1"),
    Message("assistant", "They are red."),
    Message("user", "And plums {{ content }}?"),
    Message("assistant", tool_calls=(ToolCall("2", "plum", '{"a": 1}'), ToolCall("3", "fig", ""))),
    Message("tool", "Blue.", tool_call_id="2"),
    Message("tool", "Green.", tool_call_id="3"),
    Message("assistant", "Blue and green."),
    Message("user", "Thanks."),
)
SHOWN_AT = {1: ("pear", "apple"), 5: ("plum",)}  # a search told of figs

each_family = pytest.mark.parametrize("family", families(), ids=lambda family: family.name)


def plain(family: Family, count: int, shown_at: dict[int, tuple[str, ...]]) -> list[Message]:
    known = {place: names for place, names in shown_at.items() if place < count}
    return family.plain_messages(TALK[:count], TOOLS, known)


@each_family
def test_prompts_only_grow_at_their_end(family: Family) -> None:
    whole = plain(family, len(TALK), SHOWN_AT)
    for count in (2, 4, 5, 6, 9, 10):
        begun = plain(family, count, SHOWN_AT)
        assert whole[: len(begun)] == begun


@each_family
def test_tools_stand_where_they_were_first_shown(family: Family) -> None:
    whole = plain(family, len(TALK), SHOWN_AT)
    examples = len(family._shown)
    (asked,) = [i for i, m in enumerate(whole) if "{{ content }}" in m.content]
    before = "".join(m.content for m in (whole[0], *whole[examples + 1 : asked]))
    assert before.index("About pears") < before.index("About apples")
    assert "About plums" not in before
    assert whole[asked].content.count("About plums") == 1
    assert whole[asked].content.endswith("And plums {{ content }}?")
    assert "About figs" not in "".join(m.content for m in whole)
    assert whole[-1] == Message("user", "Thanks.")


@each_family
def test_all_stand_at_the_beginning_where_nothing_is_said(family: Family) -> None:
    at_first = {1: tuple(tool.name for tool in TOOLS)}
    assert family.plain_messages(TALK, TOOLS, at_first) == family.plain_messages(TALK, TOOLS)
    unknown = {1: at_first[1], 5: ("cherry",)}  # a strategy has left it out
    assert family.plain_messages(TALK, TOOLS, unknown) == family.plain_messages(TALK, TOOLS)


@each_family
def test_what_is_shown_is_json(family: Family) -> None:
    (asked,) = [m for m in plain(family, 6, SHOWN_AT) if "{{ content }}" in m.content]
    line = next(line for line in asked.content.splitlines() if "About plums" in line)
    shown = json.loads(line[line.index("{") : line.rindex("}") + 1])
    assert shown.get("function", shown)["name"] == "plum"
