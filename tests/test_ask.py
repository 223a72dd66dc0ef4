"""`f1 ask`: tools from a file, and what a person sees of a run."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
from memory_runs import MemoryRuns
from rich.console import Console
from scripted import ScriptedEngine, call

from f1.ask import load_tools
from f1.errors import InvalidRequest
from f1.narrator import Narrator
from f1.planning.orchestrator import Orchestrator, System
from f1.planning.outcome import GiveUp, Outcome, Reply
from f1.supervised import supervised
from f1.tools.function import tool
from f1.tools.policy import Rule, Rules
from f1.trace.recorder import Recorder
from f1.types import Approval, Budget, GenerateRequest, Message, RunOptions, Verdict

MARKED = '''
from f1 import tool

@tool(read_only=True)
def price(item: str) -> int:
    """Price of an item."""
    return {"tea": 3}[item]

def helper(x: int) -> int:
    return x
'''
PLAIN = '''
from dataclasses import dataclass
from json import dumps

@dataclass
class Cup:
    size: int

def brew(cup: Cup, hot: bool = True) -> str:
    """Brews tea."""
    return "tea"

def _hidden(x: int) -> int:
    return x

def untyped(x):
    return x
'''


@pytest.mark.parametrize(("source", "names"), [(MARKED, ["price"]), (PLAIN, ["brew"])])
def test_tools_of_a_file(tmp_path: Path, source: str, names: list[str]) -> None:
    file = tmp_path / "my_tools.py"
    file.write_text(source)
    assert [found.tool.name for found in load_tools(file)] == names


def test_a_file_imports_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "beside_my_tools.py").write_text("PRICE = 3\n")
    file = tmp_path / "my_tools.py"
    file.write_text("from beside_my_tools import PRICE\n" + MARKED)
    before = list(sys.path)
    try:
        assert [found.tool.name for found in load_tools(file)] == ["price"]
    finally:
        sys.modules.pop("beside_my_tools", None)
    assert sys.path == before


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("x = 1", "no function with @tool"),
        ("1 / 0", "ZeroDivisionError"),
        ("def f(x: int", "SyntaxError"),
        ("def f(x: open) -> int:\n    return 1", "JSON Schema"),
        (None, "is no file"),
    ],
)
def test_files_without_tools_are_told(tmp_path: Path, source: str | None, told: str) -> None:
    file = tmp_path / "bad.py"
    if source is not None:
        file.write_text(source)
    with pytest.raises(InvalidRequest, match=told):
        load_tools(file)


@tool(read_only=True)
def price(item: str) -> int:
    """Price of an item."""
    return {"tea": 3, "cake": 4}[item]


@tool(read_only=True)
def favourite() -> str:
    """What they like best."""
    return "tea"


async def narrated(
    engine: ScriptedEngine, *, terminal: bool, steps: int = 8
) -> tuple[str, Outcome]:
    """What stands on the screen in the end, and how the run ended."""
    request = GenerateRequest(
        (Message("user", "What do they cost?"),), run=RunOptions(budget=Budget(steps=steps))
    )
    async with aclosing(Orchestrator(System.of(engine), [price.spec]).run(request)) as progress:
        items = [item async for item in progress]
    screen = io.StringIO()
    console = Console(file=screen, width=120, force_terminal=terminal, color_system=None)
    outcome = Narrator(console).tell(items)
    return screen.getvalue(), outcome


TWO = [call("price", "c1", item="tea"), call("price", "c2", item="[b]milk")]


@pytest.mark.parametrize("terminal", [False, True])
async def test_a_person_sees_calls_results_and_the_answer(terminal: bool) -> None:
    text, outcome = await narrated(ScriptedEngine(TWO, "Tea is 3."), terminal=terminal)
    assert isinstance(outcome, Reply)
    assert 'price(item="[b]milk")' in text  # what looks like markup is text
    assert "KeyError" in text
    assert "one by one they take" in text
    assert "Tea is 3." in text.split("Answer")[1]
    assert ("● 1  price" in text) == terminal  # the graph
    assert ("→ price" in text) != terminal  # the lines
    assert ("\x1b[" in text) == terminal


async def test_a_person_sees_the_arguments_that_ran() -> None:
    """Those that were edited, once they ran; and references where they led to what ran."""
    screen = io.StringIO()
    console = Console(file=screen, width=120, force_terminal=True, color_system=None)

    def approve(approval: Approval) -> Verdict:
        edits = approval.node_id == "3"
        return Verdict("edit", arguments='{"item": "cake"}') if edits else Verdict("approve")

    plan = {
        "nodes": [
            {"id": "1", "tool": "favourite", "arguments": {}},
            {"id": "2", "tool": "price", "arguments": {"item": {"ref": "1"}}},
            {"id": "3", "tool": "price", "arguments": {"item": "tea"}},
        ]
    }
    rules = Rules((Rule("ask", "policy[0]", tools=("price",)),))
    recorder = Recorder(MemoryRuns())
    system = replace(System.of(ScriptedEngine("Done.")), policy=rules, recorder=recorder)
    request = GenerateRequest((Message("user", "?"),), run=RunOptions(plan=plan))
    orchestrator = Orchestrator(system, [favourite.spec, price.spec])
    Narrator(console).tell([item async for item in supervised(orchestrator, request, approve)])
    await recorder.close()
    text = screen.getvalue()
    last = text[text.rindex("favourite()") :]
    assert "price(item=$1)" in last
    assert 'price(item="cake")' in last
    assert 'price(item="tea")' not in last


async def test_a_run_without_an_answer_says_why() -> None:
    text, outcome = await narrated(ScriptedEngine(TWO), terminal=False, steps=1)
    assert isinstance(outcome, GiveUp)
    assert "No answer: no answer within 1 steps" in text


def test_the_command_plans_and_runs_the_plan(tmp_path: Path, smollm_path: Path) -> None:
    tools = tmp_path / "my_tools.py"
    tools.write_text(MARKED)
    plan = tmp_path / "plan.json"
    nodes = [{"id": "1", "tool": "price", "arguments": {"item": "tea"}}]
    plan.write_text(json.dumps({"nodes": nodes}))
    planned = ask(
        "The price of tea?", "-t", tools, "-m", smollm_path, "--plan-only", "--max-tokens", 64
    )
    assert set(json.loads(planned.stdout)) == {"nodes"}
    ran = ask("Tea?", "-t", tools, "-m", smollm_path, "--plan", plan, "--max-tokens", 32)
    assert '→ price(item="tea")' in ran.stdout
    assert "✓ price 3" in ran.stdout


def test_the_command_refuses_a_file_that_is_none(tmp_path: Path) -> None:
    done = ask("Hi", "--tools", tmp_path / "none.py", code=1)
    assert "none.py: is no file" in done.stderr
    assert "Traceback" not in done.stderr


def ask(*arguments: object, code: int | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "f1.cli", "ask", *map(str, arguments)],
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert code is None or done.returncode == code, done.stdout + done.stderr
    return done
