"""Where a call begins in free text: only for given tools, the same in whatever pieces it comes."""

from __future__ import annotations

import pytest

from f1.calling.family import Form
from f1.calling.opening import Opened, Opening

FENCE = Form('```json\n{"name":', ', "arguments":', "", "}\n```", "name")
TAG = Form('<tool_call>\n{"name":', ', "arguments":', "", "}\n</tool_call>", "marker")
BARE = Form('{"name":', ', "parameters":', "", "}", "name", only_at_start=True)


def read(forms: list[Form], data: bytes, size: int) -> tuple[bytes, Opened | None, bytes]:
    """Text, opened, and the unread rest."""
    opening, text = Opening(forms, ["get_time", "get_timezone"]), b""
    for begin in range(0, len(data), size):
        released, opened = opening.push(data[begin : begin + size])
        text += released
        if opened is not None:
            return text, opened, opened.rest + data[begin + size :]
    return text + opening.flush(), None, b""


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("forms", "before", "call", "name"),
    [
        ([FENCE], b"Sure.\n", b'```json\n{"name": "get_time"', "get_time"),
        ([FENCE], b"", b'```json\n{\n  "name" : "get_timezone"', "get_timezone"),
        ([FENCE], b'```json\n{"port": 8080}\n```\n', b'```json\n{"name": "get_time"', "get_time"),
        ([FENCE, TAG], b"a < b <tool_", b"<tool_call>", None),
        ([BARE], b" ", b'{"name": "get_time"', "get_time"),
    ],
)
def test_a_call_is_found(
    forms: list[Form], before: bytes, call: bytes, name: str | None, size: int
) -> None:
    after = b', "arguments": {}}'
    text, opened, rest = read(forms, before + call + after, size)
    assert opened is not None
    assert (text, opened.name, rest) == (before, name, after)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    "data",
    [
        b'```json\n{"port": 8080}\n```',
        b'```json\n{"name": "Alice", "age": 3}\n```',
        b'```json\n{"name": "get_time_of_day"}\n```',
        b'```json\n{"name": "get_ti',
        b'```python\nprint("name")\n```',
        b"``````json",
        b'Write {"name": "get_time"',
    ],
)
def test_other_text_stays_text(data: bytes, size: int) -> None:
    text, opened, _ = read([FENCE, BARE], data, size)
    assert opened is None
    assert text == data
