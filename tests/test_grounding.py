"""Which calls hold numbers that nobody has said."""

from __future__ import annotations

import pytest
from scripted import call

from f1.planning.grounding import is_guess, numbers_said
from f1.types import Message, Tool

SAFE = call("look", city="Oslo")


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("It costs 1,200 euros.", {"x": 1200}),
        ("From 12.50 to 99", {"x": [12.5, {"y": 99}]}),
        ("minus 40 degrees", {"x": -40}),
        ("twenty people", {"x": 20}),
        ("a few", {"x": 3}),
        ("on 2024-11-23", {"x": 2024}),
        ("anything", {"x": "4711", "y": True, "z": None}),
        ("the schema's", {"x": 77}),
    ],
)
def test_said(text: str, arguments: dict[str, object]) -> None:
    given = call("use", **arguments)
    tools = [Tool("use", "Up to 77.")]
    said = numbers_said([Message("user", text)], tools)
    assert not is_guess(given, said)
    assert not is_guess(SAFE, said)


@pytest.mark.parametrize("arguments", [{"x": 100}, {"x": 0.5}, {"x": [{"y": 12}]}, {"x": -11}])
def test_made_up(arguments: dict[str, object]) -> None:
    given = call("use", **arguments)
    messages = [Message("user", "What is 10 and 1000?")]
    said = numbers_said(messages, [])
    assert is_guess(given, said)
    assert not is_guess(SAFE, said)


def test_results_ground_what_uses_them() -> None:
    given = call("use", x=176)
    messages = [Message("tool", '{"price": 176}', tool_call_id="1")]
    assert not is_guess(given, numbers_said(messages, []))
