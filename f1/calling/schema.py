"""JSON Schemas of tools: checked once when given, and used to check every call before it runs.

Nobody has vetted them: patterns are those of RE2 (linear time), references lead nowhere outside
the schema, and sizes, depths and steps have limits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import orjson
import re2

from f1.calling.document import REFERENCES, Document, document, has_usable_id
from f1.calling.latest import latest
from f1.calling.plain import is_plain
from f1.calling.validating import check, compile_pattern
from f1.errors import InvalidSchema
from f1.types import JsonSchema, Tool

MAX_SCHEMA_BYTES = 65_536
MAX_SCHEMA_DEPTH = 64
MAX_ENUM_VALUES = 5_000
MAX_PATTERN_CHARS = 512
MAX_PATTERNS_OF_KEYS = 128  # in all: every key may have to be held to each of them
MAX_ARGUMENT_DEPTH = 64
MAX_APPLIED = 4096  # subschemas that one value is held to, references followed

# Subschemas that apply to the very same value: a cycle through these alone never ends.
_IN_PLACE = ("not", "if", "then", "else")
_IN_PLACE_LISTS = ("allOf", "anyOf", "oneOf")


def held_to(tool: Tool) -> Tool:
    """The tool with the schema that its calls must satisfy."""
    if tool.accepts is not None:
        return replace(tool, parameters=tool.accepts, accepts=None)
    return tool if tool.strict else replace(tool, parameters={"additionalProperties": True})


def check_tool(tool: Tool) -> None:
    """Raises InvalidSchema, naming the tool, when its parameters are no usable object schema."""
    try:
        check_schema(tool.parameters, param="parameters")
        kind = tool.parameters.get("type", "object")
        if kind != "object":
            message = f"parameters: type must be 'object', got {kind!r}"
            raise InvalidSchema(message, param="parameters.type")
    except InvalidSchema as error:
        message = f"tool {tool.name!r}: {error.message}"
        raise InvalidSchema(
            message, param=f"tools.{tool.name}.{error.param or 'parameters'}"
        ) from None


def check_schema(schema: JsonSchema, *, param: str) -> None:
    """Raises InvalidSchema unless `schema` is a valid, bounded, self-contained 2020-12 schema (or
    one of an earlier draft that can be read as one)."""
    if not isinstance(schema, Mapping):
        raise InvalidSchema(
            f"{param}: expected a JSON object, got {type(schema).__name__}", param=param
        )
    _check(schema_text(schema, param), param)


def validate_arguments(tool: Tool, arguments: str) -> str | None:
    """None when the JSON text `arguments` satisfies the tool's parameters; else what is wrong."""
    try:
        value = orjson.loads(arguments)
    except orjson.JSONDecodeError as error:
        return f"arguments are not JSON: {error}"
    if not isinstance(value, dict):
        return "arguments must be a JSON object"
    return validate(tool.parameters, value) or _repeated_key(arguments)


def is_too_deep(arguments: str) -> bool:
    """JSON in which what goes down level by level would go too far; False for what is none."""
    if arguments.count("[") + arguments.count("{") <= MAX_ARGUMENT_DEPTH:
        return False
    try:
        return deeper_than(json.loads(arguments), MAX_ARGUMENT_DEPTH)
    except RecursionError:
        return True
    except ValueError:
        return False


def validate_content(schema: JsonSchema, content: str) -> str | None:
    """None when the JSON text `content` satisfies the schema; else what is wrong."""
    try:
        return validate(schema, orjson.loads(content))
    except orjson.JSONDecodeError as error:
        return f"not JSON: {error}"


def validate(schema: JsonSchema, value: object) -> str | None:
    """None when `value` satisfies the (checked) schema; else the most telling error."""
    if deeper_than(value, MAX_ARGUMENT_DEPTH):
        return f"nested deeper than {MAX_ARGUMENT_DEPTH} levels"
    problem = check(document(schema_text(schema, "schema")), value)
    return None if problem is None else str(problem)


def schema_text(schema: JsonSchema, param: str) -> bytes:
    """The schema as compact JSON, its keys in the order given: what caches are keyed by."""
    if deeper_than(schema, MAX_SCHEMA_DEPTH):
        raise InvalidSchema(f"{param}: nested deeper than {MAX_SCHEMA_DEPTH} levels", param=param)
    try:
        text = orjson.dumps(schema)
    except orjson.JSONEncodeError as error:
        raise InvalidSchema(f"{param}: not JSON: {error}", param=param) from None
    if len(text) > MAX_SCHEMA_BYTES:
        limit = f"{param}: {len(text)} bytes, the limit is {MAX_SCHEMA_BYTES}"
        raise InvalidSchema(limit, param=param)
    return text


def _repeated_key(text: str) -> str | None:
    """Readers of JSON differ on which of two equal keys counts."""
    repeated: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> None:
        if len(dict(pairs)) < len(pairs):
            keys = [key for key, _ in pairs]
            repeated.append(next(key for key in keys if keys.count(key) > 1))

    json.loads(text, object_pairs_hook=note)
    return f"the key {repeated[0]!r} is there more than once" if repeated else None


# --- checking ----------------------------------------------------------------------------------


@latest(16 << 20, lambda _, text, param: len(text) + len(param) + 500)
def _check(text: bytes, param: str) -> None:
    parsed = document(text)
    if not is_plain(parsed.nodes):
        # Imported here: it is slow to, and whoever only asks a server does not need it.
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import best_match

        meta = Draft202012Validator(Draft202012Validator.META_SCHEMA)
        error = best_match(meta.iter_errors(parsed.root))
        if error is not None:
            path = f"{param}{error.json_path[1:]}"
            raise InvalidSchema(f"{path}: {error.message}", param=path)
    num_patterns = 0
    for node in parsed.nodes:
        path = _path(param, parsed, node)
        if not has_usable_id(node):
            raise InvalidSchema(f"{path}: $id is no address", param=f"{path}.$id")
        num_patterns += len(node.get("patternProperties", ()))
        if num_patterns > MAX_PATTERNS_OF_KEYS:
            message = f"{path}: patternProperties: more than {MAX_PATTERNS_OF_KEYS} in all"
            raise InvalidSchema(message, param=f"{path}.patternProperties")
        for keyword, pattern in _patterns(node):
            _check_pattern(pattern, path, keyword)
        for keyword in REFERENCES:
            if keyword in node and parsed.target(node, keyword) is None:
                message = f"{path}: {keyword} {node[keyword]!r} does not resolve inside the schema"
                raise InvalidSchema(message, param=f"{path}.{keyword}")
        if len(node.get("enum", ())) > MAX_ENUM_VALUES:
            message = f"{path}: enum of {len(node['enum'])}, the limit is {MAX_ENUM_VALUES}"
            raise InvalidSchema(message, param=f"{path}.enum")
    try:
        _check_ends(parsed, param)
    except RecursionError:
        message = f"{param}: too many references in a row"
        raise InvalidSchema(message, param=param) from None


def _path(param: str, parsed: Document, node: Mapping[str, Any]) -> str:
    path = parsed.path(node)
    return f"{param}.{path}" if path else param


def _patterns(schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if isinstance(pattern := schema.get("pattern"), str):
        yield "pattern", pattern
    yield from (("patternProperties", pattern) for pattern in schema.get("patternProperties", {}))


def _check_pattern(pattern: str, path: str, keyword: str) -> None:
    param = f"{path}.{keyword}"
    if len(pattern) > MAX_PATTERN_CHARS:
        message = f"{path}: pattern of {len(pattern)} characters, the limit is {MAX_PATTERN_CHARS}"
        raise InvalidSchema(message, param=param)
    try:
        compile_pattern(pattern)
    except re2.error as error:
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else error
        message = f"{path}: pattern {pattern!r} is not supported: {reason}"
        raise InvalidSchema(message, param=param) from None


def _check_ends(parsed: Document, param: str) -> None:
    """Refuses references that lead back to themselves without going into a value, and those that
    double at every step (twenty `allOf` of two make a million)."""
    applied: dict[int, int] = {}  # subschemas a value is held to, by node; 0 while counting

    def count(node: Any) -> int:
        if not isinstance(node, dict):
            return 1
        if id(node) not in applied:
            applied[id(node)] = 0
            applied[id(node)] = 1 + sum(map(count, _in_place(parsed, node)))
        if not applied[id(node)]:
            raise InvalidSchema(f"{param}: $ref cycle that never reaches a value", param=param)
        return applied[id(node)]

    for node in parsed.nodes:
        if (found := count(node)) > MAX_APPLIED:
            path = _path(param, parsed, node)
            message = f"{path}: {found} subschemas for one value, the limit is {MAX_APPLIED}"
            raise InvalidSchema(message, param=path)


def _in_place(parsed: Document, node: Mapping[str, Any]) -> Iterator[Any]:
    for key in REFERENCES:
        if key in node:
            yield parsed.target(node, key)
    for key in _IN_PLACE:
        if key in node:
            yield node[key]
    for key in _IN_PLACE_LISTS:
        yield from node.get(key, ())
    yield from node.get("dependentSchemas", {}).values()


def deeper_than(value: Any, levels: int) -> bool:
    """JSON with objects or lists in each other more often than that."""
    layer = [value]
    for _ in range(levels + 1):
        layer = [
            child
            for node in layer
            if isinstance(node, (Mapping, list, tuple))
            for child in (node.values() if isinstance(node, Mapping) else node)
        ]
        if not layer:
            return False
    return True
