"""Tools that f1.toml declares, with what runs them."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from f1.errors import F1Error
from f1.tools.runners.declared import tool_from_table
from f1.tools.runners.http import HttpRunner
from f1.tools.runners.process import Workers
from f1.tools.runners.workers import WorkerSettings
from f1.tools.spec import Annotations, CallLimits, Output, ToolSpec

MODULE = '''
import os
from f1 import tool

raise_at_import = os.environ.get("F1_TEST_BREAK") and 1 / 0

@tool(read_only=True, timeout=5, retries=1)
def find(q: str, n: int = 2) -> list[str]:
    """Finds things."""
    return [q] * n

def key() -> str | None:
    return os.environ.get("F1_TEST_KEY")
'''


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    (tmp_path / "my_finder.py").write_text(MODULE)
    workers = Workers(WorkerSettings(tmp_path))
    yield workers
    workers.close()


def read(text: str, workers: Workers) -> ToolSpec:
    [(name, table)] = tomllib.loads(text)["tools"].items()
    return tool_from_table(name, table, workers)


async def test_a_function_and_what_is_put_right(workers: Workers) -> None:
    spec = read(
        """
        [tools.search]
        python = "my_finder:find"
        description = "Searches"
        limits = {timeout = 2}
        annotations = {idempotent = true}
        """,
        workers,
    )
    assert (spec.name, spec.tool.description) == ("search", "Searches")
    assert spec.tool.parameters["required"] == ["q"]
    assert spec.output == {"type": "array", "items": {"type": "string"}}
    assert spec.limits == CallLimits(timeout=2, retries=1)
    assert spec.annotations == Annotations(read_only=True, idempotent=True)
    assert spec.runner is not None
    assert await spec.runner.call({"q": "a"}, spec.limits) == Output(["a", "a"])


async def test_variables_are_each_tools_own(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("F1_TEST_KEY", "sesame")
    seen = []
    for python in (
        '"my_finder.py:key"',
        '{function = "my_finder.py:key", environment = ["F1_TEST_KEY"]}',
    ):
        spec = read(f"[tools.key]\npython = {python}", workers)
        assert spec.runner is not None
        seen.append((await spec.runner.call({}, spec.limits)).value)
    assert seen == [None, "sesame"]


def test_an_api(workers: Workers) -> None:
    spec = read(
        """
        [tools.weather]
        parameters = {type = "object", properties = {city = {type = "string"}}, required = ["city"]}
        http = {url = "https://api.example.com/{city}", method = "POST", allow = ["10.0.0.0/8"]}
        """,
        workers,
    )
    assert isinstance(spec.runner, HttpRunner)
    assert spec.runner.method == "POST"
    assert read('[tools.theirs]\ndescription = "x"', workers).runner is None


HTTP = 'http = {url = "https://api.example.com/"'


@pytest.mark.parametrize(
    ("lines", "param", "told"),
    [
        ('python = "my_finder:lost"', "python", "no attribute 'lost'"),
        ('python = "lost_module:find"', "python", "No module named"),
        ('python = "find"', "python", "neither"),
        ("python = {}", "python", "neither"),
        ("python = 1", "python", "must be a table"),
        ("python = {function = 1}", "python.function", "a text"),
        ('python = {module = "x"}', "python.module", "not known"),
        ('python = {function = "a:b", environment = "X"}', "python.environment", "a list"),
        (f'python = "my_finder:find"\n{HTTP}}}', "", "two runners"),
        (f"{HTTP}, method = 1}}", "http.method", "a text"),
        (f'{HTTP}, method = "TRACE"}}', "http.method", "one of"),
        (f"{HTTP}, headers = {{X = 1}}}}", "http.headers", "a table of texts"),
        (f'{HTTP}, headers = {{X = "${{F1_NOT_SET}}"}}}}', "http.headers", "F1_NOT_SET"),
        (f'{HTTP}, query = ["q"]}}', "http.query", "no argument 'q'"),
        ("http = {}", "http.url", "missing"),
        ('http = {url = "https://api.example.com/{town}"}', "http.url", "no argument 'town'"),
        (f"strict = false\n{HTTP}}}", "strict", "held to their schema"),
        ('python = "my_finder:find"\nlimits = {timeout = -1}', "limits.timeout", "a number"),
        ('python = "my_finder:find"\nexamples = [{p = 1}]', "examples[0]", "does not fit"),
    ],
)
def test_mistakes_are_named(lines: str, param: str, told: str, workers: Workers) -> None:
    with pytest.raises(F1Error, match=told) as error:
        read(f"[tools.search]\n{lines}", workers)
    assert error.value.param == f"tools.search.{param}".rstrip(".")
    assert "tools.search" in str(error.value)
