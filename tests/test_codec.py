"""What F1 says of itself as JSON: read back as it was, and nothing read that it did not write."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from f1.codec import Malformed
from f1.trace.entries import CODEC, Called, Done, Launched, Origin, Turned, pack_ids, unpack_ids
from f1.types import (
    Finished,
    GenerateRequest,
    Message,
    Node,
    Plan,
    Ref,
    RunOptions,
    SamplingParams,
    TextDelta,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolResult,
    Usage,
    Verdict,
)

KEYS = st.text() | st.sampled_from(["is", "json", "ref"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner),
    max_leaves=12,
)


def through(value: Any) -> Any:
    return CODEC.decode_any(json.loads(json.dumps(CODEC.encode(value))))


@pytest.mark.parametrize(
    "value",
    [
        GenerateRequest(
            (Message("user", "hi"), Message("tool", "x", tool_call_id="c")),
            tools=(Tool("t", "d", {"type": "object", "properties": {"is": {"const": "Node"}}}),),
            shown_at={0: ("t",), 3: ("u",)},
            sampling=SamplingParams(logit_bias={3: 1.5}),
            prompt=(1, 2),
            run=RunOptions(
                plan=Plan((Node("2", "t", {"a": Ref("1", "x[0]")}, ("1",)),)),
                verdicts={"is": Verdict("edit", "{}")},
            ),
        ),
        GenerateRequest((), prompt="text"),
        Turned(
            0, 1, "caller", "k",
            (TextDelta(0, "x", (TokenLogprob("x", -1.0, b"\xff"),)),
             Finished(0, "stop", Usage(1, 2))),
            0.5, Usage(1, 2), prompt_ids=pack_ids([1, -2, 3]), token_ids=(pack_ids([7]),),
        ),
        Called(1, Node("1", "t", {"a": [1, {"b": None}]}), (Origin("a[0]", "user", 0, 3, 4),)),
        Launched("1", ToolCall("c", "t", "{}"), "key", True),
    ],
)  # fmt: skip
def test_words_come_back_as_they_were(value: Any) -> None:
    assert through(value) == value


@given(JSON)
def test_json_of_others_is_never_read_as_words(value: Any) -> None:
    """A tool that returns what F1 would write of a reference returns that, and no reference."""
    result = ToolResult(ToolCall("c", "t", "{}"), "", None, 0.0, 0.0, value=value)
    assert through(Done(result)) == Done(result)


@given(st.sampled_from(["Ref", "Node", "ToolCall", "", "Nothing"]), JSON)
def test_what_looks_like_a_word_is_none(name: str, value: Any) -> None:
    fake = {"is": name, "id": "1", "path": value}
    result = ToolResult(ToolCall("c", "t", "{}"), "", None, 0.0, 0.0, value=[fake])
    assert through(result).value == [fake]


@given(JSON)
def test_what_nobody_wrote_is_malformed_or_a_word(value: Any) -> None:
    try:
        word = CODEC.decode_any(value)
    except Malformed:
        return
    assert type(word).__name__ == value["is"]


@pytest.mark.parametrize(
    "row",
    [
        {"is": "os.system"},
        {"is": "Codec"},
        {"is": "Message", "role": "user", "__class__": "x"},
        {"is": "Message", "role": 3},
        {"is": "Message"},
        {"is": "Message", "role": "user", "tool_calls": "abc"},
        {
            "is": "GenerateRequest",
            "messages": [{"is": "Node", "id": "1", "tool": "t", "arguments": {}}],
        },
        {"is": "Usage", "prompt_tokens": True, "completion_tokens": 1},
        {"is": "Turned", "prompt_ids": "not base64!"},
        ["Message"],
        None,
    ],
)
def test_hostile_rows_are_refused(row: Any) -> None:
    with pytest.raises(Malformed):
        CODEC.decode_any(row)


def test_ids_are_packed() -> None:
    ids = [0, 1, -1, 2**31 - 1, 151_643]
    assert unpack_ids(pack_ids(ids)) == ids
    assert pack_ids([1]) == b"\x01\x00\x00\x00"
