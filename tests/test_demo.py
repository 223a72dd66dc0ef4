"""The demo's question and nine ways to ask for the same, with the model the demo uses."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from rich.console import Console

from f1 import F1, demo
from f1.planning.outcome import Progress, Reply, report_of
from f1.types import RunReport

QUESTIONS = [
    demo.QUESTION,
    "How much would a trip to Oslo cost me in total, with the flight and 4 nights in a hotel?",
    "I want to fly to Rome and stay in a hotel for two nights. What is the total cost?",
    "Find the price of a flight to Paris and of a 5 night hotel stay there, and tell me what both "
    "cost together.",
    "What is the total price of a flight to Madrid plus a hotel in Madrid for 3 nights?",
    "I am planning 7 nights in Athens. Add up the flight and the hotel for me.",
    "Total cost of a trip to Vienna: flight and hotel, one night?",
    "Please work out what I would pay altogether for flying to Dublin and sleeping four nights in "
    "a hotel.",
    "My budget question: flight to Prague and six nights of hotel there, how much is that in all?",
    "Tell me the sum of the flight price to Berlin and the hotel price for 2 nights in Berlin.",
]


@pytest.fixture(scope="module")
def f1(qwen_path: Path) -> Iterator[F1]:
    with F1(str(qwen_path)) as client:
        yield client


def uses_both_results(progress: list[Progress]) -> bool:
    """Two calls in one step, then a third with the results of both as its arguments, then words."""
    report = (
        report_of(progress[-1]) if isinstance(progress[-1], Reply) else RunReport("auto", "cut")
    )
    names = [result.call.name for result in report.results]
    if sorted(names[:2]) != ["flight_price", "hotel_price"] or names[2:] != ["total_cost"]:
        return False
    first, second, third = report.results
    both_ran_at_once = max(first.started, second.started) < third.started
    found = json.loads(first.content) | json.loads(second.content)
    return both_ran_at_once and json.loads(third.call.arguments) == found


async def test_of_ten_ways_to_ask_eight_take_two_calls_then_a_third_on_both(f1: F1) -> None:
    async def ask(question: str) -> list[Progress]:
        async with aclosing(f1.awatch(question, demo.TOOLS)) as progress:
            return [item async for item in progress]

    runs = await asyncio.gather(*map(ask, QUESTIONS))
    failed = [
        q for q, progress in zip(QUESTIONS, runs, strict=True) if not uses_both_results(progress)
    ]
    assert len(failed) <= 2, failed


def test_it_tells_a_person_what_happened(f1: F1) -> None:
    screen = io.StringIO()
    assert demo.run_demo(f1, demo.QUESTION, Console(file=screen, width=200))
    text = screen.getvalue()
    assert demo.QUESTION in text
    assert "one by one they take" in text
    assert 'flight_price(city="Lisbon")' in text
    assert 'hotel_price(city="Lisbon", nights=3)' in text
    flight = demo.flight_price("Lisbon")["flight_price"]
    hotel = demo.hotel_price("Lisbon", 3)["hotel_price"]
    assert f"total_cost(flight_price={flight}, hotel_price={hotel})" in text
    assert str(flight + hotel) in text.split("Answer")[1]
