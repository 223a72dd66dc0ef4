"""The programs in examples/ run, and their tools do what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from f1.ask import load_tools

EXAMPLES = Path(__file__).parent.parent / "examples"
PROGRAMS = sorted(EXAMPLES.glob("*.py"))


def functions(name: str) -> dict[str, Any]:
    return {tool.tool.name: tool for tool in load_tools(EXAMPLES / f"{name}.py")}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_it_runs_as_it_stands(program: Path, smollm_path: Path) -> None:
    assert len(program.read_text().splitlines()) <= 100
    command = [sys.executable, "-P", str(program), "Hello!", "--model", str(smollm_path)]
    done = subprocess.run(
        command, env={**os.environ}, capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()
    if program.stem == "assistant":
        assert "of 360 tools the model was shown:" in done.stdout
        assert 1 <= done.stdout.count("\n  ") <= 16


def test_a_trip_adds_up() -> None:
    tools = functions("travel")
    prices = tools["flight_price"]("Rome") | tools["hotel_price"]("rome", 2)
    assert tools["total_cost"](**prices) == {"total_cost": 149 + 2 * 112}
    with pytest.raises(LookupError, match="Lisbon"):
        tools["flight_price"]("Atlantis")


def test_the_database_cannot_be_written_and_queries_end() -> None:
    tools = functions("data")
    assert len(tools["list_tables"]()) == 2
    assert tools["query"]("SELECT name FROM customers WHERE id = 3") == [{"name": "Mae Quinn"}]
    for statement in ("DELETE FROM orders", "CREATE TABLE t (x)", "DROP TABLE orders"):
        with pytest.raises(Exception, match="readonly"):
            tools["query"](statement)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    with pytest.raises(Exception, match="interrupted"):
        tools["query"](endless)
    assert tools["query"]("SELECT count(*) AS n FROM orders") == [{"n": 5}]
