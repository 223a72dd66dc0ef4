"""Tools of f1.toml that F1 runs: a table of f1.tools.tables, and what runs its calls.

    [tools.search]
    python = "my_tools:search"              # or "tools/my_tools.py:search", from the file's folder
    limits = {timeout = 10}                 # what the function says of itself, put right

    [tools.charge]
    python = {function = "billing:charge", environment = ["BILLING_KEY"]}

    [tools.weather]
    description = "The weather in a city"
    parameters = {type = "object", properties = {city = {type = "string"}}, required = ["city"]}
    http = {url = "https://api.example.com/{city}", headers = {Authorization = "Bearer ${KEY}"}}

Without either, the caller runs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from f1.errors import F1Error, InvalidRequest
from f1.tools.runners.process import Workers
from f1.tools.spec import ToolSpec
from f1.tools.tables import Table, check_spec, read_table, spec_from_table
from f1.types import Tool

_RUNNERS = ("python", "http")
_PYTHON = {"function": str, "environment": list}
_HTTP = {"url": str, "method": str, "headers": Mapping, "query": list, "body": list, "allow": list}


def tool_from_table(name: str, table: Table, workers: Workers) -> ToolSpec:
    """Raises InvalidRequest and InvalidSchema; `param` is the field's path: "tools.NAME.http.url".
    Waits for the import of a function."""
    path = f"tools.{name}"
    rest = {key: value for key, value in table.items() if key not in _RUNNERS}
    given = [key for key in _RUNNERS if table.get(key) is not None]
    if len(given) > 1:
        raise InvalidRequest(f"'{path}' has two runners: {', '.join(given)}", param=path)
    if given == ["python"]:
        return _python(name, table["python"], rest, workers)
    spec = spec_from_table(name, rest)
    if given == ["http"]:
        spec = replace(spec, runner=_http(spec.tool, table["http"], f"{path}.http"))
        check_spec(spec, f"{path}.")
    return spec


def _python(name: str, told: object, rest: Table, workers: Workers) -> ToolSpec:
    path = f"tools.{name}.python"
    options = _read({"function": told} if isinstance(told, str) else told, _PYTHON, path)
    try:
        found = workers.tool(options.get("function", ""), options.get("environment", ()))
    except InvalidRequest as error:
        raise InvalidRequest(f"'{path}': {error}", param=path) from error
    given = read_table(name, rest, f"tools.{name}")
    shown = Tool(
        name,
        given.tool.description or found.tool.description,
        given.tool.parameters if "parameters" in rest else found.tool.parameters,
        given.tool.strict,
    )
    spec = ToolSpec(
        shown,
        found.runner,
        found.output if given.output is None else given.output,
        given.examples or found.examples,
        _overlaid(found.annotations, given.annotations, rest.get("annotations")),
        _overlaid(found.limits, given.limits, rest.get("limits")),
    )
    check_spec(spec, f"tools.{name}.")
    return spec


def _overlaid(said: Any, given: Any, table: Table | None) -> Any:
    return replace(said, **{key: getattr(given, key) for key in table or {}})


def _http(tool: Tool, told: object, path: str) -> Any:
    from f1.tools.runners.http import http_runner  # brings httpx

    options = _read(told, _HTTP, path)
    if "url" not in options:
        raise InvalidRequest(f"'{path}.url' is missing", param=f"{path}.url")
    url = options.pop("url")
    try:
        return http_runner(tool, url, **options)
    except F1Error as error:
        field = f"{path}.{error.param}"
        raise InvalidRequest(f"'{field}': {error}", param=field) from error


def _read(told: object, known: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The table's fields, each of its kind; lists and tables are of texts."""
    if not isinstance(told, Mapping):
        raise InvalidRequest(f"'{path}' must be a table", param=path)
    for key, value in told.items():
        field = f"{path}.{key}"
        if key not in known:
            raise InvalidRequest(f"'{field}' is not known", param=field)
        texts = value.values() if isinstance(value, Mapping) else value
        if not isinstance(value, known[key]) or not all(isinstance(text, str) for text in texts):
            word = {str: "a text", list: "a list of texts"}.get(known[key], "a table of texts")
            raise InvalidRequest(f"'{field}' must be {word}", param=field)
    return dict(told)
