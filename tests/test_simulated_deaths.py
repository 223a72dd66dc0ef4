"""Thousands of worlds in which processes die and disks are full: nothing that was told is lost, and
nothing is done twice, or without leave."""

from __future__ import annotations

from collections import Counter

import pytest
from simulated_deaths import simulate_deaths


@pytest.mark.filterwarnings("ignore")  # of what the dead leave behind
@pytest.mark.parametrize(
    "seeds", [range(150), pytest.param(range(10_000), marks=pytest.mark.full)], ids=len
)
def test_deaths(seeds: range, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL")
    happened = Counter[str]()
    for seed in seeds:
        world = simulate_deaths(seed)
        assert world.broken == [], f"python tests/simulated_deaths.py {seed}"
        happened += world.happened
    for fault in ("died", "died in a write", "write failed", "unknown"):
        assert happened[fault] > len(seeds) / 20, happened


def test_a_world_is_the_same_each_time() -> None:
    first, again = simulate_deaths(7), simulate_deaths(7)
    assert (first.happened, first.begun, first.log) == (again.happened, again.begun, again.log)
