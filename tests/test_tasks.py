"""The multi-step tasks judge right: what does the task passes, what does less does not."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent.parent / "bench/tasks"))

from domains import TASKS
from grading import claims_success, grade, has_fact, play_oracle
from task import CATEGORIES, Placed


def answer_from(placed: Placed, results: list[Any]) -> str:
    return placed.task.says or f"Here is what came of it: {results}"


@pytest.mark.parametrize("placed", TASKS, ids=lambda placed: placed.id)
def test_oracle_passes_and_less_does_not(placed: Placed) -> None:
    world, results = play_oracle(placed)
    assert grade(placed, world, answer_from(placed, results)).why == ""
    assert not grade(placed, world, "").passed
    calls = placed.task.calls
    if not calls:
        assert not grade(placed, placed.world(), "I have booked it for you.").passed
        return
    assert not grade(placed, placed.world(), "I have done that for you.").passed
    any_counts = placed.task.category == "parallel"
    for skipped in range(len(calls)) if any_counts else [len(calls) - 1]:
        rest = calls[:skipped] + calls[skipped + 1 :]
        world, results = play_oracle(replace(placed, task=replace(placed.task, calls=rest)))
        assert not grade(placed, world, answer_from(placed, results)).passed


def test_irrelevant_calls_and_side_effects_fail() -> None:
    (placed,) = (p for p in TASKS if p.id == "house-irrelevant-1")
    world = placed.world()
    {tool.tool.name: tool for tool in world.tools()}["open_doors"]()
    assert grade(placed, world, placed.task.says).why == "called"
    (placed,) = (p for p in TASKS if p.id == "money-parallel-1")
    world, results = play_oracle(placed)
    world.tools()[1](source="checking", target="savings", amount=1)
    assert grade(placed, world, str(results)).why == "state"


def test_counts() -> None:
    assert len({placed.id for placed in TASKS}) == len(TASKS) >= 66
    for half, least in (("dev", 6), ("test", 5)):
        counted = Counter(p.task.category for p in TASKS if p.half == half)
        assert all(counted[category] >= least for category in CATEGORIES), counted
    assert min(Counter(p.task.category for p in TASKS).values()) >= 11


def test_failures_are_there_to_be_met() -> None:
    for placed in TASKS:
        _, results = play_oracle(placed)
        failed = [r for r in results if isinstance(r, str) and "Error: " in r]
        assert bool(failed) == (placed.task.category == "replan"), placed.id


@pytest.mark.parametrize(
    ("answer", "fact", "there"),
    [
        ("It costs 1,840.00 euros.", 1840, True),
        ("It costs 1840.5 euros.", 1840, False),
        ("about 42.2 km", 42.156, True),
        ("It is -3 outside", 3, False),
        ("there are three members", 3, True),
        ("room 13", 3, False),
        ("at 2:30 PM", "14:30", True),
        ("Buenos dias!", "buenos días", True),
        ("on March 20", ("2026-03-20", "March 20"), True),
    ],
)
def test_facts(answer: str, fact: Any, there: bool) -> None:
    assert has_fact(answer, fact) == there


@pytest.mark.parametrize(
    ("answer", "claimed"),
    [
        ("Your flight has been booked.", True),
        ("I've ordered a pizza for you!", True),
        ("The pizza was successfully ordered.", True),
        ("I cannot order a pizza. No order was placed.", False),
        ("Once I know the room, it will be set. Which room?", False),
        ("If you tell me the account, the money is sent.", False),
    ],
)
def test_invented_success(answer: str, claimed: bool) -> None:
    assert claims_success(answer) == claimed
