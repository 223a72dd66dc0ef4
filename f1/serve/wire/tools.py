"""The JSON of registered tools and toolsets, both ways.

A tool is flat, as in OpenAI's Responses, and has what f1.toml's tables have, but for what runs it:
no request may have code run here that the operator did not choose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from dataclasses import fields as fields_of
from functools import cache
from typing import Any, TypedDict

from f1.serve.limits import Limits
from f1.serve.wire.bodies import TOOL_NAME, function
from f1.serve.wire.fields import Fields, describe, refuse
from f1.serve.wire.responses.listing import parse_limit
from f1.serve.wire.shape import Either, Flag, Free, Items, Record, Shape, Word
from f1.tools.registry import Entry, Page, RegisteredTool, Toolset
from f1.tools.spec import Annotations, ToolSpec
from f1.tools.tables import read_table

Json = dict[str, Any]
_NOT_IN_TABLE = frozenset({"type", "name", "runner"})
_LISTED = frozenset({"after", "limit", "order"})
MAX_EXAMPLES = 16


class ClientRunner(Word):
    """Says why it is the only one."""

    __slots__ = ()

    def check(self, value: object, path: str) -> None:
        if value not in self.options:
            told = f"must be 'client', not {describe(value)}: what runs on the server is set by its"
            raise refuse(path, f"{told} operator, in f1.toml", code="runner_not_allowed")


@cache
def tool_body(limits: Limits, *, named: bool = True) -> Record:
    """POST /v1/tools; PUT /v1/tools/{name}, where the name need not be said again."""
    annotations = Record(dict.fromkeys([each.name for each in fields_of(Annotations)], Flag()))
    fields: dict[str, Shape] = function(limits) | {
        "type": Word(("function",)),
        "output": Free(),
        "examples": Items(Free(), 0, MAX_EXAMPLES),
        "annotations": annotations,
        "runner": ClientRunner(("client",)),
    }
    return Record(fields, ("name",) if named else ())


@cache
def toolset_body(limits: Limits, *, named: bool = True) -> Record:
    """POST /v1/toolsets; PUT /v1/toolsets/{name}. A tool is itself, or the name of a registered
    one."""
    tools = Items(Either((TOOL_NAME, tool_body(limits))), 1, limits.max_toolset)
    fields: dict[str, Shape] = {"name": TOOL_NAME, "tools": tools}
    return Record(fields, ("name", "tools") if named else ("tools",))


def parse_tool(body: object, limits: Limits, name: str | None = None) -> ToolSpec:
    """A tool, its schemas not checked; `name` is the one in the path. Raises InvalidRequest naming
    the first field that is wrong."""
    tool_body(limits, named=name is None).check(body, "")
    return _parse_tool(Fields(body), _name(Fields(body), name))


@dataclass(frozen=True, slots=True)
class AskedToolset:
    name: str
    tools: tuple[ToolSpec | str, ...]  # strings: names of registered ones


def parse_toolset(body: object, limits: Limits, name: str | None = None) -> AskedToolset:
    """The same of a set."""
    toolset_body(limits, named=name is None).check(body, "")
    fields = Fields(body)
    tools: list[ToolSpec | str] = []
    for index, item in enumerate(fields.array("tools", limits.max_toolset)):
        if not isinstance(item, str):
            inner = Fields(item, f"tools[{index}]")
            item = _parse_tool(inner, inner.required_string("name"))
        tools.append(item)
    return AskedToolset(_name(fields, name), tuple(tools))


def _name(fields: Fields, in_path: str | None) -> str:
    if in_path is None:
        return fields.required_string("name")
    TOOL_NAME.check(in_path, "name")
    if fields.string("name") not in (None, in_path):
        raise fields.refuse("name", f"must be '{in_path}', as in the path, or be left out")
    return in_path


def _parse_tool(fields: Fields, name: str) -> ToolSpec:
    table = {key: value for key, value in fields.value.items() if key not in _NOT_IN_TABLE}
    return read_table(name, table, fields.path)


# --- answers -------------------------------------------------------------------------------------


def write_tool(entry: RegisteredTool) -> Json:
    head = {"id": entry.name, "object": "tool"}
    return head | _write_spec(entry.spec) | _write_origin(entry)


def write_toolset(toolset: Toolset, *, whole: bool = False) -> Json:
    """Its tools only where it is asked for by itself: there may be thousands."""
    body: Json = {
        "id": toolset.id,
        "object": "toolset",
        "name": toolset.name,
        "version": toolset.version,
        "num_tools": len(toolset.tools),
        **_write_origin(toolset),
    }
    return body | ({"tools": [_write_spec(spec) for spec in toolset.tools]} if whole else {})


def write_page(page: Page[Entry], write: Callable[[Entry], Json]) -> Json:
    names = [entry.name for entry in page.entries]
    return {
        "object": "list",
        "data": [write(entry) for entry in page.entries],
        "first_id": names[0] if names else None,
        "last_id": names[-1] if names else None,
        "has_more": page.has_more,
    }


def write_deleted(kind: str, name: str) -> Json:
    return {"id": name, "object": kind, "deleted": True}


def _write_spec(spec: ToolSpec) -> Json:
    tool, annotations = spec.tool, spec.annotations
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": dict(tool.parameters),
        "strict": tool.strict,
        "output": spec.output,
        "examples": list(spec.examples),
        "annotations": asdict(annotations),
        "runner": "client" if spec.runner is None else "server",
    }


def _write_origin(entry: RegisteredTool | Toolset) -> Json:
    owner = "operator" if entry.owner is None else "tenant"
    return {"owner": owner, "created": entry.created}


# --- lists ---------------------------------------------------------------------------------------


class Asked(TypedDict):
    """A page: entries behind the one of the name `after`, `limit` of them."""

    after: str
    limit: int
    backwards: bool


def parse_page(query: Mapping[str, str]) -> Asked:
    """Raises InvalidRequest."""
    fields = Fields(dict(query))
    fields.only(_LISTED)
    order = fields.one_of("order", ("asc", "desc")) or "asc"
    limit = parse_limit(query.get("limit", "20"))
    return {"after": query.get("after", ""), "limit": limit, "backwards": order == "desc"}
