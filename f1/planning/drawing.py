"""A plan as text for people: one row a node, and lines from what it needs.

●     1  flight_price(city="Lisbon")
│ ●   2  hotel_price(city="Lisbon", nights=3)
╰─┴─● 3  total_cost(flight=$1.price, hotel=$2.price)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from f1.planning.plan import BadReference, bind, needs, show_ref
from f1.types import Node, Plan, Ref, ToolResult

_MAX_VALUE_CHARS = 60


def draw(plan: Plan, results: Mapping[str, ToolResult] | None = None) -> list[str]:
    """Rows of text, one a node, in the plan's order. `results`, by node id: where there is one,
    what ran stands there, if that is not what was planned: a person may have edited it."""
    results = results or {}
    last_use = {needed: index for index, node in enumerate(plan.nodes) for needed in needs(node)}
    lanes: list[str | None] = []  # which node's line goes down in this column
    rows = []
    for index, node in enumerate(plan.nodes):
        inputs = {lane for lane, other in enumerate(lanes) if other in needs(node)}
        rows.append(
            _row(lanes, inputs, {lane for lane in inputs if last_use[_at(lanes, lane)] > index})
        )
        lanes = [other if other and last_use[other] > index else None for other in lanes]
        while lanes and lanes[-1] is None:
            lanes.pop()
        at = len(rows[-1]) // 2  # where the row has put it
        if node.id in last_use:
            lanes += [None] * (at - len(lanes)) + [node.id]
    width = max(map(len, rows), default=0)
    wide = max((len(node.id) for node in plan.nodes), default=0)
    return [
        f"{row:<{width}} {node.id:>{wide}}  {show_node(_as_run(node, results))}"
        for row, node in zip(rows, plan.nodes, strict=True)
    ]


def show_node(node: Node) -> str:
    """`price(item=$1.items[0].name) after 2`"""
    inside = ", ".join(f"{name}={_show(value)}" for name, value in node.arguments.items())
    after = f" after {', '.join(node.after)}" if node.after else ""
    return f"{node.tool}({inside}){after}"


def _as_run(node: Node, results: Mapping[str, ToolResult]) -> Node:
    """References that were followed stay: they say more than the values they led to."""
    if (result := results.get(node.id)) is None or result.tries == 0:  # it did not run
        return node
    try:
        values = {name: result.value for name, result in results.items()}
        planned = json.loads(bind(node, values).arguments)
    except BadReference:
        planned = {}
    ran = json.loads(result.call.arguments)
    kept = {name for name, value in ran.items() if name in planned and planned[name] == value}
    arguments = {name: node.arguments[name] if name in kept else ran[name] for name in ran}
    return replace(node, arguments=arguments)


def _row(lanes: list[str | None], inputs: set[int], going_on: set[int]) -> str:
    """The lines of the open lanes, those of the inputs led to the node behind all of them."""
    first = min(inputs, default=len(lanes))
    row = ""
    for lane, other in enumerate(lanes):
        line = "─" if lane > first else " "
        if lane in inputs:
            left = lane > first
            corner = ("┼" if left else "├") if lane in going_on else ("┴" if left else "╰")
            row += corner + "─"
        elif other is not None:
            row += "│" + line
        else:
            row += line * 2
    return row + "●"


def _at(lanes: list[str | None], lane: int) -> str:
    return lanes[lane] or ""


def _show(value: Any) -> str:
    match value:
        case Ref():
            return show_ref(value)
        case Mapping():
            return f"{{{', '.join(f'{key}: {_show(inner)}' for key, inner in value.items())}}}"
        case list() | tuple():
            return f"[{', '.join(map(_show, value))}]"
        case _:
            text = json.dumps(value, ensure_ascii=False)
            return text if len(text) <= _MAX_VALUE_CHARS else f"{text[:_MAX_VALUE_CHARS]}…"
