"""What is taken for well-formed at a glance is so by the metaschema, whatever it is."""

from __future__ import annotations

import random
from itertools import product
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator

from f1.calling.document import document
from f1.calling.plain import _CHECKS, is_plain
from f1.calling.schema import check_schema
from f1.errors import InvalidSchema

META = Draft202012Validator(Draft202012Validator.META_SCHEMA)
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 1.0, 0.5, -0.5, 1e300, "", "x", "string", "integer", "text", [],
    ["string"], ["string", "null"], ["string", "string"], ["text"], ["a", "a"], ["a", "b"], [1],
    [None], [{}], [True], [{}, 5], [[]], {}, {"a": {}}, {"a": True}, {"a": 5}, {"a": {"type": "x"}},
    {"a": [{}]}, {"type": "string"}, {"type": 5}, {"minLength": -1},
]  # fmt: skip
OTHERS = (
    "$id $ref $anchor not if prefixItems dependentRequired multipleOf patternProperties contains "
    "propertyNames x-unknown dependencies"
).split()


def plain(schema: dict[str, Any]) -> bool:
    return is_plain(document(orjson.dumps(schema)).nodes)


def test_each_keyword_with_each_value() -> None:
    taken = 0
    for keyword, value in product((*_CHECKS, *OTHERS), VALUES):
        for schema in ({keyword: value}, {"properties": {"a": {"items": {keyword: value}}}}):
            if plain(schema):
                taken += 1
                assert META.is_valid(document(orjson.dumps(schema)).root), schema
    assert taken > 300


@pytest.mark.parametrize("where", [lambda s: s, lambda s: {"properties": {"a": s}}])
@pytest.mark.parametrize("value", [True, 5, [], {}, "http://[x", "x#y"])
def test_an_id_that_is_no_address_is_refused_by_name(where: Any, value: object) -> None:
    schema = where({"$id": value, "properties": {"b": {"$ref": "#/x"}}})
    with pytest.raises(InvalidSchema) as caught:
        check_schema(schema, param="p")
    assert "$id" in (caught.value.param or "")


def test_schemas_put_together_at_random() -> None:
    draw = random.Random(5)

    def make(depth: int) -> Any:
        if depth == 0 or draw.random() < 0.1:
            return draw.choice(VALUES)
        keywords = draw.sample([*_CHECKS], draw.randint(0, 3))
        return {keyword: fill(keyword, depth - 1) for keyword in keywords}

    def fill(keyword: str, depth: int) -> Any:
        kind = draw.random()
        if kind < 0.4:
            return make(depth)
        if kind < 0.6:
            return {name: make(depth) for name in draw.sample(["a", "type", "items"], 2)}
        if kind < 0.7:
            return [make(depth) for _ in range(draw.randint(1, 2))]
        return draw.choice(VALUES)

    verdicts = []
    for _ in range(4000):
        schema = make(3)
        if isinstance(schema, dict):
            verdicts.append(plain(schema))
            assert not verdicts[-1] or META.is_valid(document(orjson.dumps(schema)).root), schema
    assert 100 < sum(verdicts) < len(verdicts)
