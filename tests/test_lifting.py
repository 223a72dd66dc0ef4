"""Parameters with room for references: whatever the grammar lets through is a plan."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from bytegrammar import ByteGrammar
from test_plan import ITEM, NUMBER, TEXT, TOOLS, record, ref, spec

from f1.calling.schema import check_tool
from f1.planning.lifting import Source, fields_of, lift, lift_only
from f1.planning.plan import parse_plan, with_references, write_plan
from f1.types import JsonSchema, Node, Plan, Ref, Tool

EARLIER = (
    Node("1", "search", {"q": "tea"}),
    Node("2", "price", {"item": Ref("1", "items[0].name")}),
    Node("3", "mystery", {"n": 1}),
)
SOURCES = [Source(node.id, node.tool, TOOLS[node.tool].output) for node in EARLIER]


def accepts(tool: Tool) -> dict[str, Any]:
    assert tool.accepts is not None
    check_tool(Tool(tool.name, "", tool.accepts))
    return dict(tool.accepts)


@pytest.mark.parametrize("name", ["search", "price", "add", "mystery", "send", "pick", "keep"])
def test_what_it_lets_through_is_a_plan(name: str) -> None:
    lifted = lift(TOOLS[name].tool, SOURCES)
    grammar = ByteGrammar(accepts(lifted))
    num_read = num_references = 0
    for seed in range(60):
        text = grammar.walk(random.Random(seed))
        if text is None:
            continue
        node = with_references(Node("4", name, json.loads(text)), EARLIER, TOOLS)
        plan = Plan((*EARLIER, node))
        assert parse_plan(write_plan(plan, TOOLS), TOOLS) == plan
        num_read += 1
        num_references += "Ref(" in repr(node)
    assert num_read >= 20
    assert num_references >= 5 or name == "keep"  # which takes anything


POSSIBLE = [
    ("add", {"a": 1, "b": ref("1", "items[7].price")}),
    ("add", {"a": ref("1", "total"), "b": ref("2")}),
    ("add", {"a": ref("3", "any.thing[2]"), "b": ref("1", "items[0].count")}),
    ("send", {"to": ["a", ref("1", "items[99].note")], "body": {"text": "x", "amount": ref("2")}}),
    ("send", {"to": ref("3"), "body": ref("3", "body")}),
    ("keep", {"any": ref("1", "items")}),
]
IMPOSSIBLE = [
    ("add", {"a": 1, "b": ref("4")}),  # itself
    ("add", {"a": 1, "b": ref("9", "total")}),  # a later one
    ("add", {"a": 1, "b": ref("1", "sum")}),  # no such field
    ("add", {"a": 1, "b": ref("1", "items[0].name")}),  # of another type
    ("add", {"a": 1, "b": ref("1", "items[100].price")}),
    ("add", {"a": 1, "b": ref("1")}),
    ("add", {"a": 1, "b": "$2"}),
    ("add", {"a": 1, "b": {"ref": "2", "x": 1}}),
    ("price", {"item": ref("2")}),
    ("send", {"to": [ref("2")], "body": {"text": "x", "amount": 1}}),
]


@pytest.mark.parametrize("name", sorted({name for name, _ in POSSIBLE + IMPOSSIBLE}))
def test_references_to_what_will_be_there_and_no_others(name: str) -> None:
    lifted = lift(TOOLS[name].tool, SOURCES)
    grammar = ByteGrammar(accepts(lifted))
    for listed, possible in ((POSSIBLE, True), (IMPOSSIBLE, False)):
        for arguments in (arguments for of, arguments in listed if of == name):
            assert grammar.accepts(arguments) == possible, arguments


@pytest.mark.parametrize("name", sorted(TOOLS))
def test_literals_stay(name: str) -> None:
    plain, lifted = TOOLS[name].tool, lift(TOOLS[name].tool, SOURCES)
    assert lifted.parameters == plain.parameters
    before, after = ByteGrammar(dict(plain.parameters)), ByteGrammar(accepts(lifted))
    texts = [before.walk(random.Random(seed)) for seed in range(20)]
    assert all(after.accepts_text(text) for text in texts if text is not None)


def test_nothing_but_references() -> None:
    lifted = lift_only(TOOLS["add"].tool, SOURCES[:2], ["b"], loosely=True)
    assert lifted is not None
    grammar = ByteGrammar(accepts(lifted))
    assert grammar.accepts({"a": 1, "b": ref("2")})
    assert grammar.accepts({"a": 2, "b": ref("1", "total")})
    assert not grammar.accepts({"a": 1, "b": 2})
    assert not grammar.accepts({"a": ref("2"), "b": ref("1", "total")})  # it was said
    assert lift_only(TOOLS["pick"].tool, SOURCES[1:2], ["unit"], loosely=True) is None


def test_of_the_name_and_of_one_result() -> None:
    found = record(id=NUMBER, title=TEXT, email=TEXT, others={"type": "array", "items": ITEM})
    sources = [Source("1", "find_event", found)]
    invite = spec("invite", None, event_id=NUMBER, email=TEXT, count={"type": "integer"}).tool
    lifted = lift_only(invite, sources, ["event_id", "email"], loosely=False)
    assert lifted is not None
    grammar = ByteGrammar(accepts(lifted))
    assert grammar.accepts({"event_id": ref("1", "id"), "email": ref("1", "email"), "count": 1})
    assert not grammar.accepts({"event_id": ref("1", "id"), "email": ref("1", "title"), "count": 1})
    contact = Source("2", "find_contact", record(name=TEXT, phone=TEXT))
    lifted = lift_only(invite, [*sources, contact], ["email"], loosely=True)
    assert lifted is not None
    grammar = ByteGrammar(accepts(lifted))
    assert grammar.accepts({"event_id": 1, "email": ref("1", "email"), "count": 1})
    assert not grammar.accepts({"event_id": 1, "email": ref("2", "name"), "count": 1})
    assert lift_only(invite, sources, ["count"], loosely=False) is None  # in the list alone
    assert lift_only(invite, sources, ["count"], loosely=True) is not None


def test_a_tool_that_nothing_fits_stays_as_it_is() -> None:
    tool = TOOLS["price"].tool
    assert lift(tool, [Source("1", "price", NUMBER)]) is tool
    assert lift(tool, []) is tool
    loose = Tool("loose", "", strict=False)
    assert lift(loose, SOURCES) is loose


@pytest.mark.parametrize(
    ("output", "paths"),
    [
        (TEXT, [""]),
        (record(a=TEXT, b=record(c=NUMBER)), ["", "a", "b", "b.c"]),
        ({"type": "array", "items": record(x=TEXT)}, ["", "[0]", "[0].x"]),
        ({"type": "object", "additionalProperties": NUMBER}, [""]),
        (
            {"$ref": "#/$defs/t", "$defs": {"t": record(v=TEXT, next={"$ref": "#/$defs/t"})}},
            "| v| next| next.v| next.next| next.next.v| next.next.next| next.next.next.v"
            "| next.next.next.next".split("| "),
        ),
    ],
)
def test_fields(output: JsonSchema, paths: list[str]) -> None:
    assert [field.path for field in fields_of(output)] == paths


def test_odd_names_are_spelled_as_paths_are() -> None:
    odd = record(**{"a.b": record(**{"(x)": NUMBER}), "list": {"type": "array", "items": NUMBER}})
    lifted = lift(spec("f", None, n=NUMBER).tool, [Source("1", "g", odd)])
    grammar = ByteGrammar(accepts(lifted))
    assert grammar.accepts({"n": ref("1", '["a.b"].(x)')})
    assert grammar.accepts({"n": ref("1", "list[12]")})
    assert not grammar.accepts({"n": ref("1", "list.12")})
