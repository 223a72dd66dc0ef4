"""Tools of f1.toml: what the model sees of them, and how they are run.

[tools.weather]                 [tools.convert]
http = {url = "https://…"}      python = "my_tools.py:convert"     (without either, the caller
…the table of f1.tools.tables   sandbox = true, network = false     of the model runs it)
                                …what the function does not say
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from f1.errors import InvalidRequest
from f1.tools.runners.http import http_runner
from f1.tools.runners.process import Workers
from f1.tools.runners.sandbox import Sandbox
from f1.tools.runners.workers import WorkerSettings
from f1.tools.spec import ToolSpec
from f1.tools.tables import spec_from_table, write_table

Table = Mapping[str, Any]
_SANDBOXES = frozenset(("sandbox", "network"))
_RUNNERS = _SANDBOXES | {"python", "http"}
_HTTP = frozenset("url method headers query body allow".split())
_KINDS: Mapping[str, type] = dict.fromkeys(("query", "body", "allow"), list) | {"headers": dict}
_EXPECTED = dict.fromkeys(("query", "body", "allow"), "a list of texts") | {"headers": "a table"}


def configured_tool(name: str, table: Table, workers: Workers) -> ToolSpec:
    """Raises InvalidRequest and InvalidSchema, their `param` beginning with "tools.NAME". Functions
    are looked at in one of the `workers`, and this waits for it."""
    path = f"tools.{name}"
    rest = {key: value for key, value in table.items() if key not in _RUNNERS}
    if "python" in table and "http" in table:
        raise _refused(f"{path}.http", "and 'python' cannot both run it")
    if "python" in table:
        sandbox = _sandbox(path, table, workers.settings)
        spec = _function(f"{path}.python", table["python"], workers, sandbox)
        given = {"description": spec.tool.description} | write_table(spec)
        merged = {key: _over(given.get(key), value) for key, value in (given | rest).items()}
        return replace(spec_from_table(name, merged), runner=spec.runner)
    for key in _SANDBOXES & table.keys():
        raise _refused(f"{path}.{key}", "is of python tools only")
    spec = spec_from_table(name, rest)
    if "http" not in table:
        return spec
    return replace(spec, runner=_http(spec, table["http"], f"{path}.http"))


def _over(given: Any, said: Any) -> Any:
    """What the file says goes before what the function does; of tables, key by key."""
    if isinstance(given, Mapping) and isinstance(said, Mapping) and "type" not in said:
        return {**given, **said}
    return said


def _sandbox(path: str, table: Table, settings: WorkerSettings) -> Sandbox | None:
    for key in _SANDBOXES & table.keys():
        if not isinstance(table[key], bool):
            raise _refused(f"{path}.{key}", "must be true or false")
    if not table.get("sandbox", settings.sandbox):
        if "network" in table:
            raise _refused(f"{path}.network", "is of tools with sandbox = true only")
        return None
    return Sandbox(table.get("network", settings.network))


def _function(path: str, given: object, workers: Workers, sandbox: Sandbox | None) -> ToolSpec:
    if not isinstance(given, str):
        raise _refused(path, "must be a text like 'my_tools.py:function'")
    try:
        return workers.tool(given, sandbox)
    except InvalidRequest as error:
        raise _refused(path, f"cannot be used: {error.message}") from error


def _http(spec: ToolSpec, given: object, path: str) -> Any:
    if not isinstance(given, Mapping):
        raise _refused(path, "must be a table with a url")
    for key, value in given.items():
        if key not in _HTTP:
            raise _refused(f"{path}.{key}", f"is not known; there are {', '.join(sorted(_HTTP))}")
        if not isinstance(value, _KINDS.get(key, str)):
            raise _refused(f"{path}.{key}", f"must be {_EXPECTED.get(key, 'a text')}")
    if "url" not in given:
        raise _refused(f"{path}.url", "is missing")
    try:
        keyed = spec.annotations.idempotent or not spec.annotations.read_only
        return http_runner(spec.tool, **given, keyed=keyed)
    except InvalidRequest as error:
        raise _refused(f"{path}.{error.param or 'url'}", f"is wrong: {error.message}") from error


def _refused(path: str, told: str) -> InvalidRequest:
    return InvalidRequest(f"'{path}' {told}", param=path)
