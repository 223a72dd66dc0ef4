"""Validation against the official JSON-Schema-Test-Suite (draft 2020-12, vendored as it is)."""

from __future__ import annotations

from collections import Counter

from suite import GROUPS, Group

from f1.calling.schema import check_schema, validate
from f1.errors import InvalidSchema

# Where F1 differs from the suite, and why.
ASSERTED = "formats are asserted, not annotations"
LEAP = "a leap second is 23:59:60Z; other zones' are not known"
METASCHEMA = "schemas cannot bring their own meta-schema"
DIFFERENT = {
    **{
        f"format: {name} format: invalid {name} string is only an annotation by default": ASSERTED
        for name in "email ipv4 ipv6 date date-time time uuid duration".split()
    },
    "format/date-time: validation of date-time strings: "
    "a valid date-time with a leap second, with minus offset": LEAP,
    **{
        f"format/time: validation of time strings: valid leap second, {which} time-offset": LEAP
        for which in ("positive", "large positive", "negative", "large negative")
    },
    "vocabulary: schema that uses custom metaschema with with no validation vocabulary: "
    "no validation: invalid number, but it still validates": METASCHEMA,
}

# Schemas that are refused: they lead outside themselves.
REFUSED = {"defs": 1, "dynamicRef": 5, "ref": 1, "refRemote": 15}


def refusal(group: Group) -> InvalidSchema | None:
    try:
        check_schema(group.schema, param="parameters")
    except InvalidSchema as error:
        return error
    return None


def test_validation_agrees_with_the_suite() -> None:
    different = set()
    for group in GROUPS:
        if refusal(group):
            continue
        for case in group.cases:
            if (validate(group.schema, case.data) is None) != case.valid:
                different.add(f"{group.keyword}: {group.description}: {case.description}")
    assert different == set(DIFFERENT)


def test_refused_schemas_are_those_that_lead_outside() -> None:
    refused = [(group.keyword, error) for group in GROUPS if (error := refusal(group))]
    assert Counter(keyword for keyword, _ in refused) == REFUSED
    for _, error in refused:
        assert "does not resolve inside the schema" in error.message
        assert str(error.param).endswith(("$ref", "$dynamicRef"))


def test_earlier_drafts_are_read() -> None:
    schema = {
        "properties": {"x": {"items": [{"type": "integer"}], "additionalItems": False}},
        "dependencies": {"a": ["b"], "c": {"required": ["d"]}},
    }
    check_schema(schema, param="parameters")
    assert validate(schema, {"x": [1]}) is None
    for wrong in ({"x": ["1"]}, {"x": [1, 2]}, {"a": 1}, {"c": 1}):
        assert validate(schema, wrong) is not None
