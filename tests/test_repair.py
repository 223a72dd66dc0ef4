"""Histories put right, and the ones refused without it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from f1.errors import InvalidRequest
from f1.serve.limits import Limits
from f1.serve.wire.messages import write_message
from f1.serve.wire.repair import NO_RESULT, repair
from f1.serve.wire.request import parse_chat_request
from f1.types import Message, ToolCall

IDS = st.sampled_from(["a", "b", "a_", ""])
CALLS = st.lists(IDS.map(lambda i: ToolCall(i or "c", "clock", "{}")), max_size=3).map(tuple)
MESSAGES = st.one_of(
    st.just(Message("user", "Hi")),
    CALLS.map(lambda calls: Message("assistant", "", calls)),
    IDS.map(lambda i: Message("tool", "x", tool_call_id=i or "c")),
)


def parse(messages: list[Message], **options: bool) -> Any:
    written = [write_message(message) for message in messages]
    body = {"model": "f1", "messages": written, "f1": options}
    return parse_chat_request(body, Limits())


@given(st.lists(MESSAGES, min_size=1, max_size=8))
def test_what_is_repaired_would_be_accepted_and_what_is_accepted_is_left_alone(
    messages: list[Message],
) -> None:
    told: list[str] = []
    repaired = repair(messages, told)
    parse([*repaired, Message("user", "Go on")])
    try:
        accepted = parse(messages).generate.messages
    except InvalidRequest:
        assert told
    else:
        assert accepted == repaired
        assert not told


def test_each_kind_of_damage() -> None:
    call = ToolCall("a", "clock", "{}")
    asked = Message("assistant", "", (call, call))
    first, second = (Message("tool", text, tool_call_id="a") for text in ("1", "2"))
    stray = Message("tool", "?", tool_call_id="z")
    request = parse([asked, first, second, stray, Message("assistant", "", (call,))],
                    repair_history=True)  # fmt: skip
    messages = request.generate.messages
    assert [c.id for c in messages[0].tool_calls] == ["a", "a_"]
    assert [(m.tool_call_id, m.content) for m in messages[1:3]] == [("a", "1"), ("a_", "2")]
    assert messages[-1] == Message("tool", NO_RESULT, tool_call_id="a")
    assert len(messages) == 5
    assert request.repaired == (
        "two calls had the id 'a'",
        "a result for 'z' answered no open call",
        "call 'a' had no result",
    )


def test_without_being_asked_nothing_is_repaired() -> None:
    with pytest.raises(InvalidRequest, match="no tool message for a"):
        parse([Message("assistant", "", (ToolCall("a", "clock", "{}"),)), Message("user", "Hi")])
