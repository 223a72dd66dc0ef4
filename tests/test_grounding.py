"""Which values of a call were said, and which the model has made up."""

from __future__ import annotations

from typing import Any

import pytest
from scripted import call

from f1.planning.grounding import Said
from f1.types import Message, Tool

SCHEMA = {
    "type": "object",
    "properties": {
        "x": {"type": "string", "description": "For example LH123.", "enum": ["EUR", "a b"]},
        "n": {"type": "integer", "default": 42, "maximum": 77},
    },
}


def guesses(text: str, arguments: dict[str, Any], *more: Message) -> tuple[str, ...]:
    messages = [Message("user", text), *more]
    said = Said.in_(messages, [Tool("use", "Up to 99 of them.", SCHEMA)])
    return said.guesses(call("use", **arguments))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("It costs 1,200 euros.", 1200),
        ("From 12.50 to 99", [12.5, {"y": 99}]),
        ("minus 40 degrees", -40),
        ("twenty people", 20),
        ("a few", 3),
        ("on 2024-11-23", 2024),
        ("anything", [True, None, 42, "EUR", ""]),
        ("Book flight lh 123.", "LH123"),
        ("for ann LEE please", "Ann Lee"),
        ("headphones and a cable", "headphone"),
        ("on 12 May", "2026-05-12"),
        ("tomorrow at four", "2026-11-24"),
        ("at 4 pm", "16:00"),
        ("move ideas.txt to the folder backup", "backup/ideas.txt"),
        ("who lives in Oslo?", "SELECT name FROM people WHERE city = 'Oslo' AND age > 30"),
    ],
)
def test_said(text: str, value: Any) -> None:
    assert guesses(text, {"x": value}) == ()


@pytest.mark.parametrize(
    "value", [100, 0.5, [{"y": 12}], -11, 77, 99, "LH123", "John Doe", "A1234", "2023-04-15",
              "09:30", "someone@example.com", "work/list.txt"],
)  # fmt: skip
def test_made_up(value: Any) -> None:
    assert guesses("What is 10 and 1000? Ask at work.", {"x": value, "n": 2}) == ("x",)


def test_an_id_is_no_small_count() -> None:
    assert guesses("Cancel my order.", {"order_id": 1, "id": 2, "paid": 3}) == ("order_id", "id")


def test_results_ground_what_uses_them_and_the_models_own_words_do_not() -> None:
    told = Message("tool", '{"price": 176}', tool_call_id="1")
    assert guesses("Buy it.", {"n": 176}, told) == ()
    own = Message("assistant", "It costs 176.")
    assert guesses("Buy it.", {"n": 176}, own) == ("n",)
    assert guesses("How much?", {"n": 176}, own, Message("user", "Buy it.")) == ()


@pytest.mark.parametrize(
    ("query", "made_up"),
    [
        ("SELECT name FROM people WHERE city = 'Oslo' AND born = 1990", False),
        ("SELECT name FROM people WHERE city = 'Rome' AND born = 1990", True),
        ("DELETE FROM people WHERE city = 'Oslo' AND id = 1", True),
        ("INSERT INTO people (name, city) VALUES ('John Doe', 'Oslo')", True),
        ("It's what they didn't say, and it's fine to write so.", False),
    ],
)
def test_what_a_query_compares_with_was_said(query: str, made_up: bool) -> None:
    assert bool(guesses("Who was born in Oslo in 1990?", {"sql": query})) == made_up
