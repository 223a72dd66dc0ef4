"""A tool as a table: of f1.toml, of a body, of what is stored. The words are the same.

    [tools.search]
    description = "Looks things up"
    parameters = {type = "object", properties = {q = {type = "string"}}, required = ["q"]}
    output = {type = "array", items = {type = "string"}}
    examples = [{q = "weather in Oslo"}]
    annotations = {read_only = true}
    limits = {timeout = 10, retries = 1}

What tables say is not believed: every error names the field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import orjson

from f1.calling.schema import check_schema, check_tool, schema_text, validate
from f1.errors import InvalidRequest, InvalidSchema
from f1.tools.spec import Annotations, CallLimits, ToolSpec
from f1.types import Tool

Table = Mapping[str, Any]
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_KNOWN = frozenset(
    ("description", "parameters", "strict", "output", "examples", "annotations", "limits")
)
# What a call may be given: seconds, tries, calls at a time, bytes, characters.
_BOUNDS: dict[str, tuple[float, float]] = {
    "timeout": (0.001, 3600),
    "retries": (0, 10),
    "max_parallel": (1, 1024),
    "max_bytes": (1, 1 << 30),
    "max_chars": (1, 1 << 24),
}


def spec_from_table(name: str, table: Table, *, path: str | None = None) -> ToolSpec:
    """The tool that the table describes, checked. Raises InvalidRequest and InvalidSchema, their
    `param` beginning with `path`, which is "tools.NAME" unless said."""
    path = f"tools.{name}" if path is None else path
    spec = read_table(name, table, path)
    check_spec(spec, f"{path}.")
    return spec


def read_table(name: str, table: Table, path: str = "") -> ToolSpec:
    """The same, its schemas not checked."""
    reader = _Reader(table, f"{path}." if path else "")
    for field in table:
        if field not in _KNOWN:
            raise reader.refuse(str(field)[:100], "is not a known field")
    examples = reader.get("examples", list, "an array") or ()
    for index, example in enumerate(examples):
        if not isinstance(example, Mapping):
            raise reader.refuse(f"examples[{index}]", "must be an object")
    parameters = reader.get("parameters", Mapping, "an object")
    tool = Tool(name, reader.get("description", str, "a string") or "")
    if parameters is not None:
        tool = Tool(name, tool.description, parameters)
    if reader.get("strict", bool, "a boolean") is False:
        tool = Tool(name, tool.description, tool.parameters, strict=False)
    return ToolSpec(
        tool,
        output=reader.get("output", Mapping, "an object"),
        examples=tuple(examples),
        annotations=Annotations(**reader.record("annotations", Annotations)),
        limits=CallLimits(**reader.record("limits", CallLimits)),
    )


def write_table(spec: ToolSpec) -> dict[str, Any]:
    """The table that reads as this tool, how it is run aside; defaults are left out."""
    tool, table = spec.tool, dict[str, Any]()
    if tool.description:
        table["description"] = tool.description
    table["parameters"] = tool.parameters
    if not tool.strict:
        table["strict"] = False
    if spec.output is not None:
        table["output"] = spec.output
    if spec.examples:
        table["examples"] = list(spec.examples)
    if spec.annotations != Annotations():
        table["annotations"] = asdict(spec.annotations)
    if spec.limits != CallLimits():
        table["limits"] = asdict(spec.limits)
    return table


def check_name(name: str, param: str) -> None:
    """OpenAI's rule, for tools and toolsets."""
    if not _NAME.match(name):
        told = f"'{param}' must be 1 to 64 of A-Z, a-z, 0-9, '_' and '-'"
        raise InvalidRequest(told, param=param)


def check_spec(spec: ToolSpec, path: str = "") -> None:
    """Raises InvalidRequest or InvalidSchema, their `param` beginning with `path`."""
    check_name(spec.name, f"{path}name")
    for field, value in write_table(spec).items():
        _check_json(value, path + field)
    tool = spec.tool
    try:
        if tool.strict:
            check_tool(tool)
        else:  # its schema is only shown to the model
            schema_text(tool.parameters, "parameters")
    except InvalidSchema as error:
        where = (error.param or "parameters").removeprefix(f"tools.{tool.name}.")
        raise InvalidSchema(error.message, param=path + where) from None
    if not tool.strict and spec.runner is not None:
        told = f"'{path}strict' must not be false: calls that F1 runs are held to their schema"
        raise InvalidRequest(told, param=f"{path}strict")
    if spec.output is not None:
        check_schema(spec.output, param=f"{path}output")
    for index, example in enumerate(spec.examples if tool.strict else ()):
        if (problem := validate(tool.parameters, example)) is not None:
            where = f"{path}examples[{index}]"
            raise InvalidRequest(f"'{where}' does not fit the parameters: {problem}", param=where)


def _check_json(value: object, path: str) -> None:
    try:
        orjson.dumps(value)  # refuses text that is none, and what is too deep
        json.dumps(value, allow_nan=False)  # and this dates, as TOML has them, and NaN
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"'{path}' is no JSON: {error}", param=path) from None


class _Reader:
    """A table and its path."""

    def __init__(self, table: Table, prefix: str):
        self.table = table
        self.prefix = prefix

    def refuse(self, field: str, told: str) -> InvalidRequest:
        path = self.prefix + field
        return InvalidRequest(f"'{path}' {told}", param=path)

    def get(self, field: str, kind: Any, expected: str) -> Any:
        value = self.table.get(field)
        if value is not None and not isinstance(value, kind):
            raise self.refuse(field, f"must be {expected}")
        return value

    def record(self, field: str, kind: type[Annotations] | type[CallLimits]) -> dict[str, Any]:
        """The fields of `kind` that the table in `field` sets."""
        given = self.get(field, Mapping, "a table") or {}
        known = {each.name for each in fields(kind)}
        for name, value in given.items():
            if name not in known:
                raise self.refuse(f"{field}.{str(name)[:100]}", "is not a known field")
            if value is not None:
                self._check(f"{field}.{name}", value, _BOUNDS.get(name))
        return {name: value for name, value in given.items() if value is not None}

    def _check(self, field: str, value: object, bounds: tuple[float, float] | None) -> None:
        if bounds is None:
            if not isinstance(value, bool):
                raise self.refuse(field, "must be a boolean")
            return
        low, high = bounds
        whole = not field.endswith("timeout")
        kinds = int if whole else (int, float)
        good = isinstance(value, kinds) and not isinstance(value, bool)
        if not good or not low <= value <= high:  # type: ignore[operator]
            kind = "an integer" if whole else "a number"
            raise self.refuse(field, f"must be {kind} from {low:g} to {high:g}")
