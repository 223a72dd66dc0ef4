"""No invalid call gets through, no valid one is refused: random schemas, held to by another
validator (`jsonschema`) than the one that releases calls."""

from __future__ import annotations

import json
import random

import orjson
import pytest
from bytegrammar import ByteGrammar
from jsonschema import Draft202012Validator
from schemapairs import Pairs

from f1.calling.schema import check_tool, validate_arguments
from f1.types import Tool

WALKS = 3
EXACT = 2**53  # beyond, readers of JSON differ on what a number is


def follow(seeds: range) -> tuple[int, int]:
    """How many random calls were released, and how many validation caught."""
    released = caught = 0
    for seed in seeds:
        schema, value = Pairs(seed).tool()
        plain = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
        assert plain.is_valid(value), seed
        tool = Tool("f", "", schema)
        check_tool(tool)
        grammar = ByteGrammar(schema)
        assert grammar.accepts(value), seed
        assert validate_arguments(tool, json.dumps(value)) is None, seed
        draw = random.Random(seed)
        for text in filter(None, (grammar.walk(draw) for _ in range(WALKS))):
            wrong = validate_arguments(tool, text)
            found = orjson.loads(text)
            if not exact(found) or (wrong and "more than once" in wrong):
                continue
            assert (wrong is None) == plain.is_valid(found), (seed, text, wrong)
            released += wrong is None
            caught += wrong is not None
    return released, caught


def exact(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(exact, value.values()))
    if isinstance(value, list):
        return all(map(exact, value))
    return not isinstance(value, int | float) or abs(value) < EXACT


def test_random_schemas_and_calls() -> None:
    released, caught = follow(range(500))
    assert released > 1000
    assert caught > 20  # or nothing was left to validation


@pytest.mark.full
def test_many_random_schemas_and_calls() -> None:
    released, caught = follow(range(500, 10_500))
    assert released > 20_000
    assert caught > 500
