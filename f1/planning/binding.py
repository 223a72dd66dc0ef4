"""References in arguments: which nodes they need, and the values put in their place."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic_core import to_json

from f1.types import Node, Ref, ToolCall

_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]")


class BadReference(Exception):
    """What a reference points at is not there."""


def refs_of(value: Any) -> Iterator[Ref]:
    match value:
        case Ref():
            yield value
        case Mapping():
            for part in value.values():
                yield from refs_of(part)
        case list() | tuple():
            for part in value:
                yield from refs_of(part)


def bind(node: Node, values: Mapping[str, Any]) -> ToolCall:
    """The call with references by value and type. Raises BadReference."""
    return ToolCall(node.call_id, node.tool, to_json(_bound(node.arguments, values)).decode())


def unbound(node: Node) -> ToolCall:
    """The call of a node that cannot be bound: its references as they are written."""
    return ToolCall(node.call_id, node.tool, to_json(_written(node.arguments)).decode())


def _bound(value: Any, values: Mapping[str, Any]) -> Any:
    match value:
        case Ref():
            return _part(value, values)
        case Mapping():
            return {key: _bound(part, values) for key, part in value.items()}
        case list() | tuple():
            return [_bound(part, values) for part in value]
    return value


def _part(ref: Ref, values: Mapping[str, Any]) -> Any:
    if ref.id not in values:
        raise BadReference(f"${ref.id} is not there")
    value = values[ref.id]
    for name, index in _STEP.findall(ref.path):
        try:
            value = value[int(index)] if index else value[name]
        except (LookupError, TypeError):
            raise BadReference(f"${ref.id} has no {ref.path}") from None
    return value


def _written(value: Any) -> Any:
    match value:
        case Ref():
            path = {"path": value.path} if value.path else {}
            return {"ref": value.id, **path}
        case Mapping():
            return {key: _written(part) for key, part in value.items()}
        case list() | tuple():
            return [_written(part) for part in value]
    return value
