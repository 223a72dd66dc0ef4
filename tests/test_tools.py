"""Functions to schemas, and calls to results."""

from __future__ import annotations

import asyncio
import enum
import threading
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Literal

import pydantic
import pytest
from scripted import call

from f1.errors import InvalidRequest
from f1.tools.docstring import parse_docstring
from f1.tools.function import make_tool, tool
from f1.tools.runner import ToolRunner
from f1.types import ToolResult


class Unit(enum.Enum):
    METRIC = "metric"
    IMPERIAL = "imperial"


@dataclass
class Point:
    x: float
    y: float


class Stay(pydantic.BaseModel):
    """A stay in a hotel."""

    city: str
    title: str = pydantic.Field(default="", description="What the stay is called.")


class Node(pydantic.BaseModel):
    children: list[Node] = []


@tool
def forecast(
    city: str,
    days: int = 3,
    unit: Unit = Unit.METRIC,
    detail: Literal["low", "high"] = "low",
    near: Point | None = None,
    tags: list[str] | None = None,
    weights: dict[str, float] = {},  # noqa: B006 - a default as users write them
    wind: bool = False,
) -> str:
    """Forecasts the weather.

    Says nothing of earthquakes.

    Args:
        city: Name of the city,
            in English.
        days (int): How many days.

    Returns:
        A sentence.
    """
    return f"{city}/{days}/{unit.name}/{near}/{wind}"


def test_schema_of_annotations_and_docstring() -> None:
    number = {"type": "number"}
    assert forecast.tool.name == "forecast"
    assert forecast.tool.description == "Forecasts the weather. Says nothing of earthquakes."
    assert forecast.tool.parameters == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Name of the city, in English."},
            "days": {"type": "integer", "description": "How many days.", "default": 3},
            "unit": {"type": "string", "enum": ["metric", "imperial"], "default": "metric"},
            "detail": {"type": "string", "enum": ["low", "high"], "default": "low"},
            "near": {
                "type": "object",
                "properties": {"x": number, "y": number},
                "required": ["x", "y"],
                "additionalProperties": False,
            },
            "tags": {"type": "array", "items": {"type": "string"}},
            "weights": {"type": "object", "additionalProperties": number, "default": {}},
            "wind": {"type": "boolean", "default": False},
        },
        "required": ["city"],
        "additionalProperties": False,
    }


def test_a_tool_is_still_its_function() -> None:
    assert forecast("Rome", wind=True) == "Rome/3/METRIC/None/True"


def test_arguments_become_the_annotated_types() -> None:
    bound = forecast.bind('{"city": "Rome", "unit": "imperial", "near": {"x": 1, "y": 2}}')
    assert bound == {"city": "Rome", "unit": Unit.IMPERIAL, "near": Point(1.0, 2.0)}


def test_models_keep_their_fields_and_lose_generated_titles() -> None:
    def book(stay: Stay, copy: Annotated[int, pydantic.Field(ge=1, description="Copies.")]) -> None:
        """Books."""

    parameters = make_tool(book).tool.parameters["properties"]
    assert parameters["stay"]["properties"] == {
        "city": {"type": "string"},
        "title": {"type": "string", "default": "", "description": "What the stay is called."},
    }
    assert parameters["copy"] == {"type": "integer", "minimum": 1, "description": "Copies."}


def test_a_recursive_type_keeps_its_references() -> None:
    def plant(tree: Node) -> None:
        """Plants."""

    found = make_tool(plant)
    assert found.tool.parameters["$defs"]["Node"]["properties"]["children"]["items"] == {
        "$ref": "#/$defs/Node"
    }
    assert found.bind('{"tree": {"children": [{}]}}') == {"tree": Node(children=[Node()])}


def test_name_and_description_can_be_given() -> None:
    @tool(name="weather", description="The weather.")
    def internal(city: str) -> str:
        return city

    assert (internal.tool.name, internal.tool.description) == ("weather", "The weather.")


def untyped(city):  # type: ignore[no-untyped-def]
    """No annotation."""


def starred(*cities: str) -> None:
    """Cannot be given by name."""


def unresolved(city: Missing) -> None:  # type: ignore[name-defined]  # noqa: F821
    """The annotation names nothing."""


def impossible(lock: threading.Thread) -> None:
    """No JSON Schema."""


@pytest.mark.parametrize("function", [untyped, starred, unresolved, impossible, lambda x: x])
def test_functions_without_a_schema_are_refused(function: object) -> None:
    with pytest.raises(TypeError, match="tool"):
        make_tool(function)  # type: ignore[arg-type]


def test_sphinx_docstrings() -> None:
    text = """Adds.

    :param int a: The first,
        and only.
    :returns: The sum.
    """
    assert parse_docstring(text) == ("Adds.", {"a": "The first, and only."})


async def run(runner: ToolRunner, *calls: object) -> list[ToolResult]:
    async with aclosing(runner.run(calls)) as results:  # type: ignore[arg-type]
        return [result async for result in results]


async def test_calls_of_one_step_run_side_by_side() -> None:
    # Each waits for the other: run one after the other, they would never end.
    meeting = threading.Barrier(2, timeout=30)

    @tool
    def meet(name: str) -> str:
        """Waits for the other."""
        meeting.wait()
        return name

    results = await run(
        ToolRunner([meet]), call("meet", "a", name="A"), call("meet", "b", name="B")
    )
    assert sorted(result.content for result in results) == ["A", "B"]
    assert not any(result.failed for result in results)


async def test_results_come_as_they_are_ready() -> None:
    first_may_end = asyncio.Event()

    @tool
    async def slow() -> str:
        """Ends when told."""
        await first_may_end.wait()
        return "slow"

    @tool
    def quick() -> dict[str, int]:
        """Ends at once."""
        return {"n": 1}

    contents = []
    async with aclosing(ToolRunner([slow, quick]).run([call("slow"), call("quick")])) as results:
        async for result in results:
            contents.append(result.content)
            first_may_end.set()
    assert contents == ['{"n":1}', "slow"]


@tool
def divide(a: int, b: int) -> float:
    """Divides."""
    return a / b


@tool
def leave() -> None:
    """Tries to end the process."""
    raise SystemExit(3)


@tool
def opaque() -> object:
    """Returns what JSON cannot say."""
    return object()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (call("divide", a=1, b=0), "ZeroDivisionError: division by zero"),
        (call("divide", a=1, b="2"), "do not fit the schema"),
        (call("divide", a=1), "do not fit the schema"),
        (call("subtract", a=1), "there is no tool 'subtract'"),
        (call("leave"), "SystemExit: 3"),
        (call("opaque"), "serialize"),
    ],
)
async def test_a_failure_is_a_result(asked: object, expected: str) -> None:
    runner = ToolRunner([divide, leave, opaque])
    failed, fine = sorted(
        await run(runner, asked, call("divide", "ok", a=6, b=2)), key=lambda r: not r.failed
    )
    assert failed.failed
    assert expected in failed.content
    assert fine.content == "3.0"


async def test_a_late_call_is_a_failure_and_the_others_are_not() -> None:
    release = threading.Event()

    @tool
    def hang() -> None:
        """Never ends."""
        release.wait(60)

    try:
        runner = ToolRunner([hang, divide], timeout=0.05)
        results = await run(runner, call("hang"), call("divide", a=6, b=3))
    finally:
        release.set()
    assert {result.call.name: result.failed for result in results} == {
        "hang": "timeout",
        "divide": None,
    }


async def test_a_long_result_is_cut_and_says_so() -> None:
    @tool
    def flood() -> str:
        """Says too much."""
        return "x" * 1000

    (result,) = await run(ToolRunner([flood], max_chars=10), call("flood"))
    assert result.content == "x" * 10 + "… (cut: 1000 characters)"


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="twice"):
        ToolRunner([divide, divide])
