"""A plan as JSON, and its nodes as calls.

    {"nodes": [{"id": "1", "tool": "search", "arguments": {"q": "tea"}},
               {"id": "2", "tool": "price", "arguments": {"item": {"ref": "1", "path": "[0].id"}}}]}

    JSON ──parse_plan──▶ Plan ──bind, as results come──▶ ToolCalls
         ◀──write_plan──

Inside arguments an object with `ref`, and nothing but `path` beside it, is a reference;
`{"literal": {…}}` is the object in it, unread, whatever that looks like. Strings never are
references. In Python references are `Ref`s, so that what a tool returned is never taken for one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from f1.calling.document import document
from f1.calling.schema import MAX_ARGUMENT_DEPTH, deeper_than, schema_text
from f1.calling.validating import check
from f1.errors import InvalidRequest
from f1.planning.checking import check_nodes, shown, unchecked
from f1.planning.paths import NoSuchPart, parse_path, part_at, write_path
from f1.tools.spec import ToolSpec
from f1.types import JsonSchema, Node, Plan, Ref, ToolCall

MAX_NODES = 256
MAX_ID_CHARS = 64
_NODE_FIELDS = ("id", "tool", "arguments", "after", "unchecked")


class BadReference(Exception):
    """What a reference points at is not there, or not of the type that is needed."""

    def __init__(self, message: str):
        super().__init__(message)
        self.message = message


def needs(node: Node) -> tuple[str, ...]:
    """Ids of the nodes that have to be done before it, each once."""
    ids = [ref.id for _, ref in references(node)]
    return tuple(dict.fromkeys((*ids, *node.after)))


def references(node: Node) -> Iterator[tuple[tuple[str | int, ...], Ref]]:
    """All in its arguments, and where they stand."""
    yield from _references(node.arguments, ())


def bind(node: Node, values: Mapping[str, Any], parameters: JsonSchema | None = None) -> ToolCall:
    """The node as a call, each reference replaced by the JSON value it points at: `values` has the
    results, by node id, and nothing in them is read again. With the tool's (checked) `parameters`
    what is put in has to fit them. Raises BadReference."""
    try:
        arguments = _bound(node.arguments, values)
        text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise BadReference(f"what node {node.id} refers to is no JSON: {error}") from None
    if parameters is not None:
        _check_bound(node, arguments, parameters)
    return ToolCall(node.call_id or f"call_{node.id}", node.tool, text)


def finish_times(plan: Plan, seconds: Callable[[Node], float]) -> dict[str, float]:
    """When each node is done at the earliest, if each takes its `seconds` and starts as soon as
    what it needs is there. The largest is the length of the critical path."""
    done: dict[str, float] = {}
    for node in plan.nodes:
        start = max((done[other] for other in needs(node)), default=0.0)
        done[node.id] = start + seconds(node)
    return done


# --- reading -------------------------------------------------------------------------------------


def parse_plan(value: object, tools: Mapping[str, ToolSpec], *, param: str = "f1.plan") -> Plan:
    """The plan in this JSON value, checked against the tools' schemas. Raises InvalidRequest, its
    `param` below the given one: `f1.plan.nodes[1].arguments.item.path`."""
    fields = _object(value, param, ("nodes",))
    items = fields.get("nodes")
    if not isinstance(items, list):
        raise _refuse(f"{param}.nodes", f"must be an array of nodes, not {shown(items)}")
    if len(items) > MAX_NODES:
        raise _refuse(f"{param}.nodes", f"may hold at most {MAX_NODES} nodes, not {len(items)}")
    nodes = [_node(item, f"{param}.nodes[{index}]") for index, item in enumerate(items)]
    check_nodes(nodes, tools, param)
    return Plan(tuple(nodes))


def with_references(node: Node, earlier: Sequence[Node], tools: Mapping[str, ToolSpec]) -> Node:
    """The node of a decoded call, with what refers to `earlier` ones read as such. Where that does
    not fit (a free-form object only looks like it), nothing is."""
    known = {other.id: other for other in earlier}
    try:
        arguments = {name: _recognised(value, known) for name, value in node.arguments.items()}
        read = replace(node, arguments=arguments)
        unchecked(read, known, tools)
    except InvalidRequest:
        return node
    return read


def _recognised(value: Any, known: Collection[str]) -> Any:
    match value:
        case Mapping() if (
            _is_reference(value) and isinstance(value["ref"], str) and value["ref"] in known
        ):
            return Ref(value["ref"], _path(value.get("path", ""), "path"))
        case Mapping():
            return {key: _recognised(inner, known) for key, inner in value.items()}
        case list():
            return [_recognised(inner, known) for inner in value]
        case _:
            return value


def _node(value: object, param: str) -> Node:
    fields = _object(value, param, _NODE_FIELDS)
    node_id = _text(fields.get("id"), f"{param}.id")
    tool = _text(fields.get("tool"), f"{param}.tool")
    arguments = fields.get("arguments", {})
    if not isinstance(arguments, Mapping):
        raise _refuse(f"{param}.arguments", f"must be an object, not {shown(arguments)}")
    after = fields.get("after", [])
    if not isinstance(after, list):
        raise _refuse(f"{param}.after", f"must be an array of ids, not {shown(after)}")
    ids = [_text(item, f"{param}.after[{index}]") for index, item in enumerate(after)]
    read = {
        str(name): _read(inner, f"{param}.arguments.{name}", 1) for name, inner in arguments.items()
    }
    return Node(node_id, tool, read, tuple(ids))


def _read(value: Any, param: str, level: int) -> Any:
    if level > MAX_ARGUMENT_DEPTH:
        raise _refuse(param, f"is nested deeper than {MAX_ARGUMENT_DEPTH} levels")
    match value:
        case Mapping() if _is_reference(value):
            ref = _text(value["ref"], f"{param}.ref")
            return Ref(ref, _path(value.get("path", ""), f"{param}.path"))
        case Mapping() if _is_literal(value):
            if deeper_than(value["literal"], MAX_ARGUMENT_DEPTH - level):
                raise _refuse(param, f"is nested deeper than {MAX_ARGUMENT_DEPTH} levels")
            return value["literal"]
        case Mapping():
            return {str(k): _read(v, f"{param}.{k}", level + 1) for k, v in value.items()}
        case list() | tuple():
            return [_read(v, f"{param}[{i}]", level + 1) for i, v in enumerate(value)]
        case float() if not math.isfinite(value):
            raise _refuse(param, f"must be JSON, not {value}")
        case str() | int() | float() | None:
            return value
        case _:
            raise _refuse(param, f"must be JSON, not {type(value).__name__}")


def _is_reference(value: Mapping[str, Any]) -> bool:
    return "ref" in value and value.keys() <= {"ref", "path"}


def _is_literal(value: Mapping[str, Any]) -> bool:
    return value.keys() == {"literal"} and isinstance(value["literal"], Mapping)


def _path(value: object, param: str) -> str:
    if not isinstance(value, str):
        raise _refuse(param, f"must be a path such as items[0].price, not {shown(value)}")
    try:
        parse_path(value)
    except ValueError as error:
        raise _refuse(param, f"must be a path such as items[0].price: {error}") from None
    return value


def _text(value: object, param: str) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_ID_CHARS:
        wanted = f"must be a string of 1 to {MAX_ID_CHARS} characters"
        raise _refuse(param, f"{wanted}, not {shown(value)}")
    return value


def _object(value: object, param: str, known: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _refuse(param, f"must be an object, not {shown(value)}")
    for name in value:
        if name not in known:
            told = f"is not a known field; they are: {', '.join(known)}"
            raise _refuse(f"{param}.{str(name)[:100]}", told, code="unknown_field")
    return value


def _refuse(param: str, expected: str, *, code: str | None = None) -> InvalidRequest:
    return InvalidRequest(f"'{param}' {expected}", param=param, code=code)


# --- writing -------------------------------------------------------------------------------------


def write_plan(plan: Plan, tools: Mapping[str, ToolSpec] | None = None) -> dict[str, Any]:
    """As JSON that parse_plan reads as the same plan. With the `tools`, arguments whose type only a
    run can tell are listed as `unchecked`."""
    nodes = {node.id: node for node in plan.nodes}
    written = []
    for node in plan.nodes:
        fields: dict[str, Any] = {"id": node.id, "tool": node.tool}
        fields["arguments"] = write_arguments(node.arguments)
        if node.after:
            fields["after"] = list(node.after)
        if tools is not None and (open_ones := unchecked(node, nodes, tools)):
            fields["unchecked"] = list(open_ones)
        written.append(fields)
    return {"nodes": written}


def write_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A node's arguments as they stand in the JSON of its plan."""
    return {name: _written(value) for name, value in arguments.items()}


def _written(value: Any) -> Any:
    match value:
        case Ref():
            return {"ref": value.id} | ({"path": value.path} if value.path else {})
        case Mapping() if _is_reference(value) or _is_literal(value):
            if any(_references(value, ())):
                raise ValueError("a reference inside an object that reads as one")
            return {"literal": dict(value)}
        case Mapping():
            return {key: _written(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_written(inner) for inner in value]
        case _:
            return value


# --- references ----------------------------------------------------------------------------------


def _references(
    value: Any, at: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], Ref]]:
    match value:
        case Ref():
            yield at, value
        case Mapping():
            for key, inner in value.items():
                yield from _references(inner, (*at, key))
        case list() | tuple():
            for index, inner in enumerate(value):
                yield from _references(inner, (*at, index))


def _bound(value: Any, values: Mapping[str, Any]) -> Any:
    match value:
        case Ref():
            if value.id not in values:
                raise BadReference(f"{show_ref(value)}: there is no result of node {value.id}")
            try:
                return part_at(values[value.id], value.path)
            except NoSuchPart as error:
                raise BadReference(f"{show_ref(value)} is not there: {error}") from None
        case Mapping():
            return {key: _bound(inner, values) for key, inner in value.items()}
        case list() | tuple():
            return [_bound(inner, values) for inner in value]
        case _:
            return value


def _check_bound(node: Node, arguments: dict[str, Any], parameters: JsonSchema) -> None:
    """What does not fit by itself is the caller's to find."""
    problem = check(document(schema_text(parameters, "parameters")), arguments)
    if problem is None:
        return
    for at, ref in references(node):
        if problem.path[: len(at)] == at or at[: len(problem.path)] == problem.path != ():
            where = write_path(at)
            raise BadReference(f"{show_ref(ref)} does not fit '{where}': {problem}")


def show_ref(ref: Ref) -> str:
    """`$2.items[0].price`, for people."""
    dot = "." if ref.path and ref.path[0] not in "[" else ""
    return f"${ref.id}{dot}{ref.path}"
