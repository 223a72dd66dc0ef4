"""Schemas are refused with a reason that names the place, and arguments are held to them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from bytegrammar import ByteGrammar

from f1.calling.document import document
from f1.calling.lowering import lower
from f1.calling.schema import (
    MAX_PATTERNS_OF_KEYS,
    MAX_SCHEMA_DEPTH,
    check_schema,
    check_tool,
    validate,
    validate_arguments,
)
from f1.calling.validating import check
from f1.errors import InvalidSchema
from f1.types import JsonSchema, Tool


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


NAMES = ["", " ", "a b", 'say "hi"', "back\\slash", "漢字", "x\ny", "$ref", "enum", "ä" * 60]


def test_property_names_may_have_any_characters() -> None:
    schema = {"type": "object", "properties": {name: {"type": "integer"} for name in NAMES}}
    check_tool(Tool("f", "", schema))
    grammar = ByteGrammar(schema)
    assert grammar.accepts(dict.fromkeys(NAMES, 1))
    assert not grammar.accepts(dict.fromkeys(NAMES, "1"))


LARGE = {
    "objects that must differ": ({"uniqueItems": True}, [{"a": n, "b": [n]} for n in range(3000)]),
    "an enum of thousands": (
        {"items": {"enum": [f"v{n}" for n in range(5000)]}},
        [f"v{n}" for n in range(5000)],
    ),
    "branches of thousands": (
        {"items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}},
        list(range(12_000)),
    ),
}


@pytest.mark.parametrize("case", LARGE)
def test_large_arguments_take_few_steps(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is a subschema held against a value: fewer than four for each value."""
    schema, value = LARGE[case]
    parsed = document(orjson.dumps({"properties": {"x": schema}}))
    monkeypatch.setattr("f1.calling.validating.MAX_STEPS", 4 * len(value))
    assert check(parsed, {"x": value}) is None
    monkeypatch.setattr("f1.calling.validating.MAX_STEPS", 1)
    assert "steps" in str(check(parsed, {"x": value}))


def test_equality_is_that_of_json() -> None:
    unique = {"uniqueItems": True}
    assert validate(unique, [1, True, 0, False, "1", [1], [True], {"a": 1}, {"a": True}]) is None
    for same in ([1, 1.0], [[0], [0.0]], [{"a": 1, "b": 2}, {"b": 2.0, "a": 1}]):
        assert validate(unique, same) is not None


def test_a_key_given_twice_is_refused() -> None:
    assert "more than once" in str(validate_arguments(tool(), '{"a": 1, "a": 2}'))
    assert "more than once" in str(validate_arguments(tool(), '{"x": {"a": 1, "\\u0061": 2}}'))


def test_what_nothing_satisfies_has_no_grammar() -> None:
    for nothing in (
        {"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]},
        {"enum": [1], "type": "string"},
        {"allOf": [{"minimum": 5, "type": "integer"}, {"maximum": 4}]},
        {"not": {}},
    ):
        with pytest.raises(InvalidSchema, match="no value satisfies it") as caught:
            lower(nothing, "tools.f.parameters")
        assert caught.value.param == "tools.f.parameters"


# What earlier grammars let through, or kept from being said.
LET_THROUGH = {
    "required, not declared": ({"type": "object", "required": ["a"]}, {}),
    "dependentRequired": ({"dependentRequired": {"a": ["b"]}}, {"a": 1}),
    "if and then": (
        {
            "type": "object",
            "properties": {"kind": {"enum": ["a", "b"]}, "n": {"type": "integer"}},
            "required": ["kind"],
            "if": {"properties": {"kind": {"const": "a"}}},
            "then": {"required": ["n"]},
        },
        {"kind": "a"},
    ),
    "pattern and length": ({"type": "string", "pattern": "^[a-z]+$", "maxLength": 3}, "abcd"),
    "bounds in allOf": ({"allOf": [{"minimum": 5}, {"maximum": 8}]}, 99),
    "objects in allOf": (
        {"allOf": [{"required": ["a"], "properties": {"a": {}}}, {"properties": {"b": {}}}]},
        {"b": 1},
    ),
    "not, with an enum": ({"enum": [1, 2, 3], "not": {"const": 3}}, 3),
    "enum and type": ({"enum": ["a", 1], "type": "string"}, 1),
    "an anchor": ({"$ref": "#n", "$defs": {"n": {"$anchor": "n", "type": "integer"}}}, "a"),
    "a quote in a pattern": ({"type": "string", "pattern": '^a"$'}, "a"),
    "a small multiple": ({"type": "integer", "minimum": 0, "maximum": 9, "multipleOf": 3}, 4),
}
HELD_BACK = {
    "escapes under a length": ({"type": "string", "maxLength": 9}, 'a "b"\n\\'),
    "a pattern that is not anchored": ({"type": "string", "pattern": "b"}, "abc"),
    "a quote in a pattern": ({"type": "string", "pattern": '^a"$'}, 'a"'),
    "a tuple cut short": ({"prefixItems": [{"type": "integer"}, {"type": "string"}]}, [1]),
    "many decimals": ({"type": "number", "minimum": 0}, 0.123456789),
    "an exponent": ({"type": "number", "minimum": 0}, 1e-9),
    "a null": ({"type": ["string", "null"]}, None),
    "recursion": (
        {
            "type": "object",
            "properties": {"v": {"type": "integer"}, "next": {"$ref": "#"}},
            "required": ["v"],
        },
        {"v": 1, "next": {"v": 2, "next": {"v": 3}}},
    ),
}


@pytest.mark.parametrize("case", LET_THROUGH)
def test_the_grammar_stops(case: str) -> None:
    schema, wrong = LET_THROUGH[case]
    grammar = ByteGrammar(schema)
    assert validate(schema, wrong) is not None
    assert not grammar.accepts(wrong)
    assert grammar.relaxed == ()


@pytest.mark.parametrize("case", HELD_BACK)
def test_the_grammar_allows(case: str) -> None:
    schema, value = HELD_BACK[case]
    assert validate(schema, value) is None
    assert ByteGrammar(schema).accepts(value)


def test_what_the_grammar_leaves_is_told_by_place() -> None:
    schema = {"properties": {"a": {"uniqueItems": True}, "b": {"pattern": r"\bx\b"}}}
    found = {(relaxed.path, relaxed.keyword) for relaxed in lower(schema, "f").relaxed}
    assert found == {("properties.a", "uniqueItems"), ("properties.b", "pattern")}


def many_required(size: int) -> JsonSchema:
    return {"type": "object", "required": [f"a{n:x}" for n in range(size)]}


def values_beside_subschemas(size: int) -> JsonSchema:
    properties = {"x": {"enum": list(range(2 * size))}}
    return {"properties": properties, "$defs": {f"a{n:x}": {} for n in range(size)}}


def keys_and_their_patterns(size: int) -> JsonSchema:
    patterns = {f"b{n:x}$": {} for n in range(MAX_PATTERNS_OF_KEYS)}
    return {"properties": {f"a{n:x}": {} for n in range(size)}, "patternProperties": patterns}


def calls_to_lower(schema: JsonSchema) -> int:
    """Calls and returns of functions, built-in ones too: it counts the same on a busy machine."""
    count = 0

    def tell(*_: object) -> None:
        nonlocal count
        count += 1

    sys.setprofile(tell)
    try:
        lower(schema, "")
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(
    "schema", [many_required, values_beside_subschemas, keys_and_their_patterns]
)
def test_large_schemas_are_lowered_with_work_that_grows_with_them(
    schema: Callable[[int], JsonSchema],
) -> None:
    assert len(lower(schema(2500), "").ebnf) < 1 << 20
    assert calls_to_lower(schema(1000)) < 2.1 * calls_to_lower(schema(500))


def test_patterns_of_keys_are_bounded_in_all() -> None:
    few = {"patternProperties": {f"^{n}$": {} for n in range(MAX_PATTERNS_OF_KEYS // 2)}}
    check_schema({"properties": {"a": few, "b": few}}, param="p")
    many = few | {"properties": {"c": {"patternProperties": {"x": {}}}}}
    with pytest.raises(InvalidSchema, match="patternProperties") as caught:
        check_schema({"properties": {"a": few, "b": many}}, param="p")
    assert caught.value.param == "p.properties.b.properties.c.patternProperties"
