"""Plans of all shapes take as long as their critical paths; in virtual time, to the microsecond."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
import virtual

from f1.planning.gates import Gates
from f1.planning.plan import finish_times

sys.path.append(str(Path(__file__).parent.parent / "bench"))
import shapes


def test_there_are_twenty() -> None:
    assert len(shapes.SHAPES) == 20
    assert len({str(shape) for shape in shapes.SHAPES.values()}) == 20


@pytest.mark.parametrize("name", shapes.SHAPES)
def test_wall_time_is_the_critical_path(name: str) -> None:
    plan = shapes.plan_of(shapes.SHAPES[name], 1.0)
    delays = [delay for delay, _ in shapes.SHAPES[name]]

    async def body() -> float:
        _, _, wall = await shapes.run(plan, Gates(clock=asyncio.get_running_loop().time))
        return wall

    wall = virtual.run(body())
    assert wall == pytest.approx(max(finish_times(plan, shapes.seconds_of).values()), abs=1e-6)
    assert (wall < sum(delays)) == (not name.startswith(("one", "chain of")))


def test_calls_run_while_the_plan_is_still_being_said() -> None:
    async def body() -> None:
        plan = shapes.plan_of(shapes.fan(10, join=True), 1.0)
        gates = Gates(clock=asyncio.get_running_loop().time)
        first, said, wall = await shapes.run(plan, gates, pause=0.1)
        assert first == pytest.approx(0.1)
        assert said == pytest.approx(1.1)
        # The tenth call begins when it is said, and the last when the tenth is done.
        assert wall == pytest.approx(1.0 + 1.0 + 1.0)

    virtual.run(body())
