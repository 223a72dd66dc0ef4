"""Functions to schemas, and calls to results."""

from __future__ import annotations

import enum
import threading
from dataclasses import dataclass
from typing import Annotated, Literal

import pydantic
import pytest

from f1.tools.docstring import parse_docstring
from f1.tools.function import make_tool, tool


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
