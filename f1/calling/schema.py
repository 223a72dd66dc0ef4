"""JSON Schemas of tools: checked once when given, and used to check every call before it runs.

`jsonschema` does the work, with two changes for input that nobody has vetted: its regular
expressions run on RE2 (linear time; Python's `re` is exponential on `^(a+)+$`), and references
resolve inside the schema only (its default registry fetches remote ones).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import orjson
import re2
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match
from jsonschema.validators import extend
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from f1.errors import InvalidSchema
from f1.types import JsonSchema, Tool

MAX_SCHEMA_BYTES = 65_536
MAX_SCHEMA_DEPTH = 64
MAX_PATTERN_CHARS = 512
MAX_ARGUMENT_DEPTH = 64
MAX_APPLIED = 4096  # subschemas that one value is held to, references followed

# Where subschemas stand: keywords that hold one, a list of them, a map of them.
_ONE = (
    *("items", "contains", "propertyNames", "additionalProperties", "unevaluatedProperties"),
    *("unevaluatedItems", "not", "if", "then", "else"),
)
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_MAPS = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
# Those that apply to the very same value: a cycle through these alone never ends.
_IN_PLACE = ("not", "if", "then", "else")
_IN_PLACE_LISTS = ("allOf", "anyOf", "oneOf")
_REFERENCES = ("$ref", "$dynamicRef")


def check_tool(tool: Tool) -> None:
    """Raises InvalidSchema, naming the tool, when its parameters are no usable object schema."""
    try:
        check_schema(tool.parameters, param="parameters")
        kind = tool.parameters.get("type", "object")
        if kind != "object":
            raise InvalidSchema(f"parameters: type must be 'object', got {kind!r}")
    except InvalidSchema as error:
        message = f"tool {tool.name!r}: {error.message}"
        raise InvalidSchema(
            message, param=f"tools.{tool.name}.{error.param or 'parameters'}"
        ) from None


def check_schema(schema: JsonSchema, *, param: str) -> None:
    """Raises InvalidSchema unless `schema` is a valid, bounded, self-contained 2020-12 schema."""
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
    return validate(tool.parameters, value)


def validate_content(schema: JsonSchema, content: str) -> str | None:
    """None when the JSON text `content` satisfies the schema; else what is wrong."""
    try:
        return validate(schema, orjson.loads(content))
    except orjson.JSONDecodeError as error:
        return f"not JSON: {error}"


def validate(schema: JsonSchema, value: object) -> str | None:
    """None when `value` satisfies the (checked) schema; else the most telling error."""
    if _deeper_than(value, MAX_ARGUMENT_DEPTH):
        return f"nested deeper than {MAX_ARGUMENT_DEPTH} levels"
    try:
        error = best_match(_validator(schema_text(schema, "schema")).iter_errors(value))
    except RecursionError:  # levels of the value times references of the schema
        return "nested too deep to be checked"
    if error is None:
        return None
    path = error.json_path.removeprefix("$").removeprefix(".")
    message = error.message if len(error.message) <= 500 else f"{error.message[:500]}…"
    return f"{path}: {message}" if path else message


def schema_text(schema: JsonSchema, param: str) -> bytes:
    """The schema as compact JSON, its keys in the order given: what caches are keyed by."""
    if _deeper_than(schema, MAX_SCHEMA_DEPTH):
        raise InvalidSchema(f"{param}: nested deeper than {MAX_SCHEMA_DEPTH} levels", param=param)
    try:
        text = orjson.dumps(schema)
    except orjson.JSONEncodeError as error:
        raise InvalidSchema(f"{param}: not JSON: {error}", param=param) from None
    if len(text) > MAX_SCHEMA_BYTES:
        limit = f"{param}: {len(text)} bytes, the limit is {MAX_SCHEMA_BYTES}"
        raise InvalidSchema(limit, param=param)
    return text


# --- checking ----------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _check(text: bytes, param: str) -> None:
    schema = orjson.loads(text)
    error = best_match(Draft202012Validator(Draft202012Validator.META_SCHEMA).iter_errors(schema))
    if error is not None:
        raise InvalidSchema(f"{param}{error.json_path[1:]}: {error.message}", param=param)
    resolver = _resolver(schema)
    subschemas = list(_subschemas(schema, param))
    checked = {id(subschema) for _, subschema in subschemas}
    for path, subschema in subschemas:
        for pattern in _patterns(subschema):
            _check_pattern(pattern, path)
        for reference in (subschema[key] for key in _REFERENCES if key in subschema):
            if not _leads_to(reference, resolver, checked):
                message = f"{path}: $ref {reference!r} does not resolve inside the schema"
                raise InvalidSchema(message, param=param)
    try:
        _check_ends(schema, resolver, param)
    except RecursionError:
        message = f"{param}: too many references in a row"
        raise InvalidSchema(message, param=param) from None


def _leads_to(reference: str, resolver: Any, checked: set[int]) -> bool:
    """Whether it leads to a schema, not to something else or to what nobody has checked."""
    try:
        target = resolver.lookup(reference).contents
    except (Unresolvable, ValueError):
        return False
    return isinstance(target, bool) or id(target) in checked


def _patterns(schema: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(pattern := schema.get("pattern"), str):
        yield pattern
    yield from schema.get("patternProperties", {})


def _check_pattern(pattern: str, path: str) -> None:
    if len(pattern) > MAX_PATTERN_CHARS:
        message = f"{path}: pattern of {len(pattern)} characters, the limit is {MAX_PATTERN_CHARS}"
        raise InvalidSchema(message)
    try:
        _compile(pattern)
    except re2.error as error:
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else error
        raise InvalidSchema(f"{path}: pattern {pattern!r} is not supported: {reason}") from None


def _subschemas(schema: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object schema inside `schema`, itself first, with its path."""
    if not isinstance(schema, dict):
        return
    yield path, schema
    for key in _ONE:
        yield from _subschemas(schema.get(key), f"{path}.{key}")
    for key in _LISTS:
        for index, value in enumerate(schema.get(key, ())):
            yield from _subschemas(value, f"{path}.{key}[{index}]")
    for key in _MAPS:
        for name, value in schema.get(key, {}).items():
            yield from _subschemas(value, f"{path}.{key}.{name}")


def _check_ends(schema: Any, resolver: Any, param: str) -> None:
    """Refuses references that lead back to themselves without going into a value, and those that
    double at every step (twenty `allOf` of two make a million)."""
    applied: dict[int, int] = {}  # subschemas a value is held to, by node; 0 while counting

    def count(node: Any) -> int:
        if not isinstance(node, dict):
            return 1
        if id(node) not in applied:
            applied[id(node)] = 0
            applied[id(node)] = 1 + sum(map(count, _in_place(node, resolver)))
        if not applied[id(node)]:
            raise InvalidSchema(f"{param}: $ref cycle that never reaches a value", param=param)
        return applied[id(node)]

    for path, subschema in _subschemas(schema, param):
        if (found := count(subschema)) > MAX_APPLIED:
            message = f"{path}: {found} subschemas for one value, the limit is {MAX_APPLIED}"
            raise InvalidSchema(message, param=param)


def _in_place(schema: Mapping[str, Any], resolver: Any) -> Iterator[Any]:
    for key in _REFERENCES:
        if key in schema:
            yield resolver.lookup(schema[key]).contents
    for key in _IN_PLACE:
        if key in schema:
            yield schema[key]
    for key in _IN_PLACE_LISTS:
        yield from schema.get(key, ())
    yield from schema.get("dependentSchemas", {}).values()


def _deeper_than(value: Any, levels: int) -> bool:
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


# --- validating, on RE2 ------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _compile(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    return re2.compile(pattern, options)


def _matches(pattern: str, text: str) -> bool:
    return _compile(pattern).search(text) is not None


def _resolver(schema: Any) -> Any:
    resource: Resource[Any] = DRAFT202012.create_resource(schema)
    return Registry().with_resource("", resource).resolver()


@lru_cache(maxsize=4096)
def _validator(text: bytes) -> Any:
    schema = orjson.loads(text)
    for _, subschema in _subschemas(schema, ""):
        # Below the root it would bring back the library's own validator, which matches with `re`.
        subschema.pop("$schema", None)
    return _SafeValidator(schema, registry=Registry())


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not _matches(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, patterns: Mapping[str, Any], instance: Any, schema: Any
) -> Iterator[ValidationError]:
    if validator.is_type(instance, "object"):
        for pattern, subschema in patterns.items():
            for key, value in instance.items():
                if _matches(pattern, key):
                    yield from validator.descend(value, subschema, path=key, schema_path=pattern)


def _additional_properties(
    validator: Any, extra: Any, instance: Any, schema: Any
) -> Iterator[ValidationError]:
    if validator.is_type(instance, "object"):
        known = schema.get("properties", {})
        patterns = schema.get("patternProperties", {})
        for key, value in instance.items():
            if key in known or any(_matches(pattern, key) for pattern in patterns):
                continue
            if extra is False:
                names = ", ".join(known) or "none"
                yield ValidationError(f"unknown property {key!r}; the properties are: {names}")
            else:
                yield from validator.descend(value, extra, path=key)


def _unevaluated_properties(
    validator: Any, extra: Any, instance: Any, schema: Any
) -> Iterator[ValidationError]:
    if validator.is_type(instance, "object"):
        evaluated = _evaluated(validator, instance, schema)
        for key, value in instance.items():
            if key not in evaluated and not _holds(validator, value, extra):
                yield ValidationError(f"property {key!r} is not allowed by any part of the schema")


def _evaluated(validator: Any, instance: Mapping[str, Any], schema: Any) -> set[str]:
    """The keys of `instance` that some keyword of `schema` has looked at (2020-12, section 11)."""
    if isinstance(schema, bool):
        return set()
    keys = {key for key in schema.get("properties", {}) if key in instance}
    for pattern in schema.get("patternProperties", {}):
        keys |= {key for key in instance if _matches(pattern, key)}
    for keyword in ("additionalProperties", "unevaluatedProperties"):
        if keyword in schema:
            keys |= {k for k, v in instance.items() if _holds(validator, v, schema[keyword])}
    for keyword in _REFERENCES:
        if keyword in schema:
            found = validator._resolver.lookup(schema[keyword])
            inner = validator.evolve(schema=found.contents, _resolver=found.resolver)
            keys |= _evaluated(inner, instance, found.contents)
    branches = [s for keyword in _IN_PLACE_LISTS for s in schema.get(keyword, ())]
    branches += [s for key, s in schema.get("dependentSchemas", {}).items() if key in instance]
    if "if" in schema:
        taken = "then" if _holds(validator, instance, schema["if"]) else "else"
        branches += [schema["if"]] if taken == "then" else []
        branches += [schema[taken]] if taken in schema else []
    for branch in branches:
        if _holds(validator, instance, branch):
            keys |= _evaluated(validator, instance, branch)
    return keys


def _holds(validator: Any, instance: Any, schema: Any) -> bool:
    return next(validator.descend(instance, schema), None) is None


_SafeValidator = extend(
    Draft202012Validator,
    {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "unevaluatedProperties": _unevaluated_properties,
    },
)
