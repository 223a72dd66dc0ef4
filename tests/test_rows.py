"""The table of README.md names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NAMED = sorted(set(re.findall(r"`(test_\w+)\.(test_\w+)`", (HERE / "README.md").read_text())))


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_exists(file: str, test: str) -> None:
    tree = ast.parse((HERE / f"{file}.py").read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    assert test in {node.name for node in ast.walk(tree) if isinstance(node, functions)}
