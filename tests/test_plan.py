"""Plans as JSON: read, refused, written, bound. Nothing that a tool returned is ever read again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from f1.errors import InvalidRequest
from f1.planning.drawing import draw
from f1.planning.paths import parse_path, part_at, write_path
from f1.planning.plan import BadReference, bind, finish_times, needs, parse_plan, write_plan
from f1.tools.spec import ToolSpec
from f1.types import JsonSchema, Node, Plan, Ref, Tool

SCHEMA = json.loads((Path(__file__).parent.parent / "grammars/plan.schema.json").read_text())
TEXT: JsonSchema = {"type": "string"}
NUMBER: JsonSchema = {"type": "number"}


def spec(name: str, output: JsonSchema | None = None, **parameters: Any) -> ToolSpec:
    schema = {"type": "object", "properties": parameters, "required": list(parameters)}
    return ToolSpec(Tool(name, "", schema | {"additionalProperties": False}), output=output)


def record(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


ITEM = record(name=TEXT, price=NUMBER, count={"type": "integer"}, note={"type": ["string", "null"]})
SPECS = [
    spec("search", record(items={"type": "array", "items": ITEM}, total=NUMBER), q=TEXT),
    spec("price", NUMBER, item=TEXT),
    spec("add", record(sum=NUMBER), a=NUMBER, b=NUMBER),
    spec("mystery", None, n={"type": "integer"}),
    spec("send", TEXT, to={"type": "array", "items": TEXT}, body=record(text=TEXT, amount=NUMBER)),
    spec("pick", None, unit={"enum": ["C", "F"]}, size={"type": "integer", "minimum": 1}),
    spec("keep", None, any={}),
]
TOOLS: Mapping[str, ToolSpec] = {item.name: item for item in SPECS}


def node(
    node_id: str, tool: str, /, after: tuple[str, ...] = (), **arguments: Any
) -> dict[str, Any]:
    fields = {"id": node_id, "tool": tool, "arguments": arguments}
    return fields | ({"after": list(after)} if after else {})


def ref(node_id: str, path: str = "") -> dict[str, str]:
    return {"ref": node_id} | ({"path": path} if path else {})


GOOD = [
    node("1", "search", q="tea"),
    node("2", "price", item=ref("1", "items[0].name")),
    node("3", "mystery", n=ref("1", "items[1].count")),
    node("4", "add", a=ref("2"), b=ref("3", "x.y"), after=("1",)),
    node("5", "send", to=["a", ref("1", "items[2].note")], body={"text": "$2", "amount": ref("2")}),
    node("6", "keep", any={"literal": {"ref": "1"}}),
    node("7", "keep", any=[{"literal": {"literal": {"x": 1}}}, {"ref": "1", "path": "", "z": 2}]),
]


def parse(*nodes: dict[str, Any]) -> Plan:
    return parse_plan({"nodes": list(nodes)}, TOOLS)


def test_a_plan_is_read_written_and_drawn() -> None:
    plan = parse(*GOOD)
    assert plan.nodes[4].arguments["to"][1] == Ref("1", "items[2].note")
    assert plan.nodes[4].arguments["body"] == {"text": "$2", "amount": Ref("2")}
    assert plan.nodes[5].arguments["any"] == {"ref": "1"}
    assert [needs(n) for n in plan.nodes[:5]] == [(), ("1",), ("1",), ("2", "3", "1"), ("1", "2")]
    written = write_plan(plan, TOOLS)
    assert parse_plan(written, TOOLS) == plan
    assert [n.get("unchecked", []) for n in written["nodes"]][:5] == [[], [], [], ["b"], ["to[1]"]]
    assert finish_times(plan, lambda n: float(n.id))["4"] == 1 + 3 + 4
    assert draw(plan)[:4] == [
        '●       1  search(q="tea")',
        "├─●     2  price(item=$1.items[0].name)",
        "├─│─●   3  mystery(n=$1.items[1].count)",
        "├─┼─┴─● 4  add(a=$2, b=$3.x.y) after 1",
    ]


# --- what is refused -----------------------------------------------------------------------------

Change = Callable[[list[dict[str, Any]]], object]


def put(index: int, name: str, value: Any) -> Change:
    return lambda nodes: nodes[index]["arguments"].update({name: value})


def nested(levels: int) -> dict[str, Any]:
    return {"a": nested(levels - 1)} if levels else {}


REFUSED: list[tuple[str, Change]] = [
    ("[0].tool", lambda n: n[0].update(tool="serch")),
    ("[1].id", lambda n: n[1].update(id="1")),
    ("[0].id", lambda n: n[0].update(id=1)),
    ("[0].id", lambda n: n[0].update(id="")),
    ("[0].when", lambda n: n[0].update(when="now")),
    ("[2]", lambda n: n.insert(2, 7)),  # type: ignore[arg-type]
    ("[0].arguments", lambda n: n[0].update(arguments=[])),
    ("[3].after[0]", lambda n: n[3].update(after=["4"])),
    ("[3].after[1]", lambda n: n[3].update(after=["1", "9"])),
    ("[0].after[0]", lambda n: n[0].update(after=["4"])),
    ("[1].arguments.item.ref", put(1, "item", ref("2"))),
    ("[1].arguments.item.ref", put(1, "item", ref("3"))),
    ("[1].arguments.item.ref", put(1, "item", ref("nobody"))),
    ("[1].arguments.item.ref", put(1, "item", {"ref": 1})),
    ("[1].arguments.item.path", put(1, "item", ref("1", "items[0].nam"))),
    ("[1].arguments.item.path", put(1, "item", ref("1", "items.name"))),
    ("[1].arguments.item.path", put(1, "item", ref("1", "items[0]..name"))),
    ("[1].arguments.item.path", put(1, "item", {"ref": "1", "path": None})),
    ("[1].arguments.item.path", put(1, "item", ref("1", "items[0].price"))),
    ("[3].arguments.a.path", put(3, "a", ref("1", "items"))),
    ("[3].arguments.a", put(3, "a", ref("1"))),
    ("[3].arguments.a", put(3, "a", "4")),
    ("[3].arguments.c", put(3, "c", 4)),
    ("[3].arguments", lambda n: n[3]["arguments"].pop("a")),
    ("[4].arguments.to[0]", lambda n: n[4]["arguments"]["to"].insert(0, 5)),
    ("[4].arguments.to", put(4, "to", ref("1", "total"))),
    ("[4].arguments.body.amount", put(4, "body", {"amount": "", "text": ref("4", "sum")})),
    ("[4].arguments.body", put(4, "body", {"text": ref("1", "items[0].name")})),
    ("[4].arguments.body.text", put(4, "body", {"text": {"no": ref("2")}, "amount": 1})),
    ("[5].arguments.any", put(5, "any", float("nan"))),
    ("[5].arguments.any[0]", put(5, "any", [{1, 2}])),
    ("[5].arguments.any", put(5, "any", {"literal": nested(65)})),
    ("[5].arguments.any" + ".a" * 64, put(5, "any", nested(65))),
    ("", lambda n: n.extend(node(str(i), "keep", any=1) for i in range(10, 300))),
]  # fmt: skip


@pytest.mark.parametrize(("where", "change"), REFUSED)
def test_what_is_wrong_is_named(where: str, change: Change) -> None:
    nodes = json.loads(json.dumps(GOOD))
    change(nodes)
    with pytest.raises(InvalidRequest) as caught:
        parse(*nodes)
    param = caught.value.param or ""
    assert param.startswith(f"f1.plan.nodes{where}")
    assert param == f"f1.plan.nodes{where}" or param.endswith(".path")
    assert param in caught.value.message


def test_a_cycle_is_called_one() -> None:
    with pytest.raises(InvalidRequest, match="a cycle"):
        parse(node("1", "keep", any=ref("2")), node("2", "keep", any=1, after=("1",)))


@pytest.mark.parametrize("value", [None, [], {}, {"nodes": {}}, {"nodes": [], "name": "x"}])
def test_what_is_no_plan(value: Any) -> None:
    with pytest.raises(InvalidRequest):
        parse_plan(value, TOOLS)


FITS = [
    ("always", {"type": "integer"}, NUMBER),
    ("sometimes", NUMBER, {"type": "integer"}),
    ("never", NUMBER, TEXT),
    ("always", {"enum": ["C"]}, {"enum": ["C", "F"]}),
    ("sometimes", TEXT, {"enum": ["C", "F"]}),
    ("never", NUMBER, {"enum": ["C", "F"]}),
    ("sometimes", {"type": ["string", "null"]}, TEXT),
    ("always", TEXT, {"type": ["string", "null"]}),
    ("sometimes", {"anyOf": [TEXT, NUMBER]}, TEXT),
    ("always", {"minimum": 3, "maximum": 4, "type": "integer"}, {"type": "integer", "minimum": 1}),
    ("never", {"type": "integer", "maximum": 0}, {"type": "integer", "minimum": 1}),
    ("sometimes", TEXT, {"type": "string", "pattern": "^a"}),
    ("always", {"type": "array", "items": TEXT}, {"type": "array", "items": TEXT}),
    ("sometimes", {"type": "array", "items": TEXT}, {"type": "array", "items": NUMBER}),
    ("sometimes", {"type": "array", "items": TEXT}, {"type": "array", "uniqueItems": True}),
    ("never", {"type": "array", "items": TEXT, "minItems": 1}, {"type": "array", "items": NUMBER}),
    ("always", record(a=TEXT), record(a=TEXT)),
    ("never", record(a=TEXT), record(b=TEXT)),
    ("sometimes", {"type": "object", "properties": {"a": TEXT}}, record(a=TEXT)),
    ("never", record(a=NUMBER), record(a=TEXT)),
    ("always", NUMBER, {}),
    ("sometimes", {}, NUMBER),
    ("always", {"$ref": "#/$defs/x", "$defs": {"x": {"type": "integer"}}}, {"allOf": [NUMBER]}),
]


@pytest.mark.parametrize(("fit", "output", "parameter"), FITS)
def test_types(fit: str, output: JsonSchema, parameter: JsonSchema) -> None:
    tools = {"a": spec("a", output), "b": spec("b", None, x=parameter)}
    plan = {"nodes": [node("1", "a"), node("2", "b", x=ref("1"))]}
    if fit == "never":
        with pytest.raises(InvalidRequest, match="must lead to"):
            parse_plan(plan, tools)
        return
    written = write_plan(parse_plan(plan, tools), tools)
    assert written["nodes"][1].get("unchecked", []) == ([] if fit == "always" else ["x"])


# --- what is put in ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ({}, "no result of node 1"),
        ({"1": {"items": []}}, r"items has no \[0\]: it is an array of 0"),
        ({"1": {"item": 1}}, "the result has no items: it is an object with item"),
        ({"1": "text"}, "it is text"),
        ({"1": {"items": [{"name": 7}]}}, r"\$1.items\[0\].name does not fit 'item'"),
        ({"1": {"items": [{"name": "\ud800"}]}}, "no JSON"),
    ],
)
def test_a_reference_to_what_is_not_there(values: Mapping[str, Any], wrong: str) -> None:
    plan = parse(*GOOD[:2])
    with pytest.raises(BadReference, match=wrong):
        bind(plan.nodes[1], values, TOOLS["price"].tool.parameters)


# --- whatever is in it ---------------------------------------------------------------------------

SPELLED = ["$1", "${1}", "$1.items[0]", '{"ref": "1"}', "ref", "path", "literal", "", "a.b", "[0]"]
words = st.sampled_from(SPELLED) | st.text(max_size=5).filter(lambda s: s.isprintable())
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
json_values = st.recursive(
    scalars | words,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(words, inner, max_size=3)
        | st.fixed_dictionaries({"ref": inner}, optional={"path": inner})
        | st.fixed_dictionaries({"literal": inner})
    ),
    max_leaves=8,
)
keys = st.lists(words | st.integers(0, 5), max_size=4).map(tuple)
refs = st.builds(Ref, st.just("1"), keys.map(write_path))
# Objects that read as references hold none themselves: `json_values` alone makes those.
arguments = st.recursive(
    refs | json_values,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(words.filter(lambda s: s not in ("ref", "literal")), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(arguments)
def test_what_is_written_reads_as_the_same(value: Any) -> None:
    plan = Plan((Node("1", "keep", {"any": 0}), Node("2", "keep", {"any": value}, ("1",))))
    text = json.dumps(write_plan(plan, TOOLS))
    assert parse_plan(json.loads(text), TOOLS) == plan
    assert list(Draft202012Validator(SCHEMA).iter_errors(json.loads(text))) == []


@given(json_values)
def test_values_are_put_in_and_never_read(value: Any) -> None:
    """LLMCompiler replaces text in text, so that an output with `$2` pulls in another's."""
    held = {"whole": Ref("1"), "part": [Ref("1", "x")], "said": "$1", "odd": {"ref": "1", "z": 0}}
    made = bind(Node("2", "keep", held), {"1": {"x": value}, "2": "secret", "ref": "secret"})
    assert json.loads(made.arguments) == {
        "whole": {"x": value},
        "part": [value],
        "said": "$1",
        "odd": {"ref": "1", "z": 0},
    }


@given(keys)
def test_paths(keys: tuple[str | int, ...]) -> None:
    assert parse_path(write_path(keys)) == keys
    value: Any = "here"
    for key in reversed(keys):
        value = {key: value} if isinstance(key, str) else [0] * key + [value]
    assert part_at(value, write_path(keys)) == "here"


@given(st.text(max_size=12))
def test_a_path_is_read_or_refused(text: str) -> None:
    try:
        keys = parse_path(text)
    except ValueError:
        return
    assert parse_path(write_path(keys)) == keys


@given(json_values)
def test_any_json_is_a_plan_or_refused(value: Any) -> None:
    for plan in (value, {"nodes": value}, {"nodes": [GOOD[0], value]}, {"nodes": [value, value]}):
        with suppress(InvalidRequest):
            parse_plan(plan, TOOLS)


def test_the_schema_refuses_what_it_can() -> None:
    validator = Draft202012Validator(SCHEMA)
    Draft202012Validator.check_schema(SCHEMA)
    for where, change in REFUSED:
        nodes = json.loads(json.dumps(GOOD))
        change(nodes)
        errors = list(validator.iter_errors({"nodes": nodes}))
        shaped = where in ("[0].id", "[0].when", "[2]", "[0].arguments", "")
        assert not shaped or errors, where
