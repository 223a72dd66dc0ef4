"""Schemas that are seen at a glance to be well-formed, as most of tools' are.

The metaschema of 2020-12 says what every keyword's value must be; to hold a schema to it takes
milliseconds. Here the same is said of the common keywords alone, and takes microseconds. What has
any other keyword, or any doubtful value, is for the metaschema to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

_TYPES = frozenset(("array", "boolean", "integer", "null", "number", "object", "string"))


def is_plain(nodes: Iterable[Mapping[str, Any]]) -> bool:
    """Whether these, all subschemas of a document, are surely well-formed."""
    return all(
        (check := _CHECKS.get(keyword)) is not None and check(value)
        for node in nodes
        for keyword, value in node.items()
    )


def _is_type(value: Any) -> bool:
    if isinstance(value, str):
        return value in _TYPES
    return _are_names(value) and bool(value) and _TYPES.issuperset(value)


def _are_names(value: Any) -> bool:
    strings = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return strings and len(set(value)) == len(value)


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict | bool)  # what is in it stands among the nodes


def _are_schemas(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_schema, value))


def _is_map_of_schemas(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_schema, value.values()))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_anything(value: Any) -> bool:
    return True


_KINDS: dict[Callable[[Any], bool], str] = {
    _is_type: "type",
    _are_names: "required",
    _is_schema: "items additionalProperties",
    _are_schemas: "anyOf oneOf allOf",
    _is_map_of_schemas: "properties $defs",
    _is_number: "minimum maximum exclusiveMinimum exclusiveMaximum",
    _is_count: "minLength maxLength minItems maxItems minProperties maxProperties",
    _is_text: "description title format pattern $comment",
    _is_flag: "uniqueItems deprecated readOnly writeOnly",
    _is_list: "enum examples",
    _is_anything: "const default",
}
_CHECKS = {keyword: check for check, keywords in _KINDS.items() for keyword in keywords.split()}
