"""Schemas are refused with a reason that names the place, and arguments are held to them."""

from __future__ import annotations

from typing import Any

import pytest

from f1.calling.schema import MAX_SCHEMA_DEPTH, check_tool, validate_arguments
from f1.errors import InvalidSchema
from f1.types import Tool


def tool(**properties: Any) -> Tool:
    return Tool("f", "", {"type": "object", "properties": properties})


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def doubling(levels: int) -> dict[str, Any]:
    """Definitions that each hold a value to the next one twice."""
    twice = {str(n): {"allOf": [{"$ref": f"#/$defs/{n + 1}"}] * 2} for n in range(levels)}
    return twice | {str(levels): {"type": "string"}}


ACCEPTED = {
    "no properties": Tool("f"),
    "a property named pattern": tool(pattern={"type": "string", "pattern": "^a+$"}),
    "a property named $ref": Tool("f", "", {"properties": {"$ref": {"type": "string"}}}),
    "recursion through a value": tool(children={"type": "array", "items": {"$ref": "#"}}),
    "definitions": Tool(
        "f",
        "",
        {
            "type": "object",
            "properties": {"x": {"$ref": "#/$defs/a"}},
            "$defs": {"a": {"type": "integer"}},
        },
    ),
}

REFUSED = {
    "not an object": (Tool("f", "", {"type": "array"}), "type must be 'object'"),
    "unknown type": (tool(x={"type": "strin"}), "properties.x.type"),
    "look-ahead": (tool(x={"type": "string", "pattern": "(?=a)b"}), r"properties.x: pattern"),
    "bad pattern name": (
        tool(x={"patternProperties": {"(?<a": {"type": "string"}}}),
        r"properties.x: pattern",
    ),
    "endless reference": (
        Tool("f", "", {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
        "cycle",
    ),
    "cycle through anyOf": (
        Tool("f", "", {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}, "properties": {}}),
        "cycle",
    ),
    "cycle through dependentSchemas": (
        Tool("f", "", {"dependentSchemas": {"a": {"$ref": "#"}}}),
        "cycle",
    ),
    "cycle through $dynamicRef": (tool(x={"$dynamicRef": "#/properties/x"}), "cycle"),
    "doubling references": (
        Tool("f", "", {"$defs": doubling(30), "properties": {"x": {"$ref": "#/$defs/0"}}}),
        "subschemas for one value",
    ),
    "many references in a row": (
        Tool(
            "f",
            "",
            {"$defs": {str(n): {"$ref": f"#/$defs/{n + 1}"} for n in range(2000)} | {"2000": {}}},
        ),
        "in a row",
    ),
    "reference to what is no schema": (
        Tool("f", "", {"properties": {"x": {"$ref": "#/x-y"}}, "x-y": {"pattern": "(?=a)"}}),
        "does not resolve",
    ),
    "remote reference": (tool(x={"$ref": "https://example.com/s.json"}), "does not resolve"),
    "dangling reference": (tool(x={"$ref": "#/$defs/none"}), "does not resolve"),
    "too deep": (tool(x=nested(MAX_SCHEMA_DEPTH + 1)), "nested deeper"),
    "far too deep": (tool(x=nested(10_000)), "nested deeper"),
    "too big": (tool(x={"enum": ["y" * 70_000]}), "bytes, the limit"),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted(case: str) -> None:
    check_tool(ACCEPTED[case])


@pytest.mark.parametrize("case", REFUSED)
def test_refused_naming_tool_and_place(case: str) -> None:
    refused, reason = REFUSED[case]
    with pytest.raises(InvalidSchema, match=reason) as caught:
        check_tool(refused)
    assert "'f'" in caught.value.message
    assert caught.value.status == 400


STRING = {"type": "string"}
DRAFT = "https://json-schema.org/draft/2020-12/schema"
INVALID = {
    "not JSON": (tool(x=STRING), "{", "not JSON"),
    "not an object": (tool(x=STRING), "[]", "must be a JSON object"),
    "wrong type": (tool(x=STRING), '{"x": 1}', "x: 1 is not of type 'string'"),
    "pattern": (tool(x={"pattern": "^a$"}), '{"x": "b"}', "does not match"),
    "exponential pattern": (tool(x={"pattern": "^(a+)+$"}), f'{{"x": "{"a" * 60}!"}}', "match"),
    "exponential pattern below a $schema": (
        tool(x={"$schema": DRAFT, "pattern": "^(a+)+$"}),
        f'{{"x": "{"a" * 60}!"}}',
        "match",
    ),
    "exponential pattern behind a reference to a root with $schema": (
        Tool(
            "f",
            "",
            {"$schema": DRAFT, "properties": {"x": {"pattern": "^(a+)+$"}, "again": {"$ref": "#"}}},
        ),
        f'{{"again": {{"x": "{"a" * 60}!"}}}}',
        "match",
    ),
    "unknown property": (
        Tool("f", "", {"properties": {"x": STRING}, "additionalProperties": False}),
        '{"y": 1}',
        "unknown property 'y'; the properties are: x",
    ),
    "pattern properties": (
        Tool("f", "", {"patternProperties": {"^n": {"type": "integer"}}}),
        '{"n1": "a"}',
        "n1",
    ),
    "unevaluated": (
        Tool("f", "", {"anyOf": [{"properties": {"x": STRING}}], "unevaluatedProperties": False}),
        '{"x": "a", "y": 1}',
        "'y'",
    ),
    "allOf": (
        tool(n={"allOf": [{"minimum": 5}, {"maximum": 8}]}),
        '{"n": 99}',
        "greater than the maximum",
    ),
    "not": (tool(n={"not": {"const": 3}}), '{"n": 3}', "should not be valid"),
    "deep": (tool(), '{"x": ' + "[" * 200 + "]" * 200 + "}", "nested deeper"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_arguments(case: str) -> None:
    given, arguments, reason = INVALID[case]
    assert reason in (validate_arguments(given, arguments) or "valid")


@pytest.mark.parametrize(
    ("given", "arguments"),
    [
        (tool(x={"pattern": "^(a+)+$"}), '{"x": "aaa"}'),
        (
            Tool("f", "", {"patternProperties": {"^n": {}}, "additionalProperties": False}),
            '{"n": 1}',
        ),
        (
            Tool(
                "f",
                "",
                {
                    "if": {"required": ["x"]},
                    "then": {"properties": {"x": STRING, "y": STRING}},
                    "$defs": {"z": {"properties": {"z": STRING}}},
                    "allOf": [{"$ref": "#/$defs/z"}],
                    "unevaluatedProperties": False,
                },
            ),
            '{"x": "a", "y": "b", "z": "c"}',
        ),
    ],
)
def test_valid_arguments(given: Tool, arguments: str) -> None:
    assert validate_arguments(given, arguments) is None
