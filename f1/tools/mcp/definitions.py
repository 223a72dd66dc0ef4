"""What a server says its tools are: foreign text, bounded and judged before anybody reads it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from f1.calling.schema import check_schema
from f1.errors import InvalidRequest, InvalidSchema
from f1.tools.mcp.names import public_names
from f1.tools.mcp.settings import McpServer
from f1.tools.spec import Annotations, Runner, ToolSpec
from f1.tools.tables import check_spec
from f1.types import JsonSchema, Tool

log = logging.getLogger("f1.tools.mcp")

MAX_TOOLS = 1024  # of a server
MAX_TEXT = 1 << 17  # bytes of one definition
_MAX_DESCRIPTION = 8192  # characters that the model is shown
# What counts of it: all that the model, or who approves it, reads.
_FIELDS = ("name", "title", "description", "inputSchema", "outputSchema", "annotations")
_PROSE = frozenset(("title", "description", "$comment"))


@dataclass(frozen=True, slots=True)
class Definition:
    """`text` is its JSON, keys in order; `digest` of that is what is approved."""

    server: str
    name: str  # the server's
    public: str
    text: str
    digest: str

    @property
    def said(self) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self.text)
        return said


def read_definitions(server: McpServer, tools: Sequence[Mapping[str, Any]]) -> list[Definition]:
    """Of what it lists; those that are left out are told of in the log."""
    names = [name for tool in tools if isinstance(name := tool.get("name"), str)]
    public = {name: key for key, name in public_names(server.name, names).items()}
    found = []
    for tool in tools[:MAX_TOOLS]:
        name = tool.get("name", "")
        if server.only is not None and name not in server.only:
            continue
        if name not in public:
            log.warning(
                "mcp.%s: %s is left out: named twice", server.name, visible(str(name))[:200]
            )
            continue
        text = json.dumps({key: tool[key] for key in _FIELDS if tool.get(key) is not None},
                          sort_keys=True, ensure_ascii=False)  # fmt: skip
        data = text.encode(errors="surrogatepass")
        if len(data) > MAX_TEXT:
            log.warning("mcp.%s: %s is left out: %d bytes", server.name, public[name], len(data))
            continue
        digest = sha256(data).hexdigest()
        found.append(Definition(server.name, name, public[name], text, digest))
    if len(tools) > MAX_TOOLS:
        log.warning(
            "mcp.%s: %d tools; those after %d are left out", server.name, len(tools), MAX_TOOLS
        )
    return found


def spec_of(server: McpServer, definition: Definition, runner: Runner) -> ToolSpec:
    """The tool that models are shown. Raises InvalidRequest for what cannot be one: its name, a
    schema that is refused as any other would be, text in it that hides."""
    said, where = definition.said, definition.public
    description = visible(said.get("description") or said.get("title") or "")
    parameters, output = said.get("inputSchema") or {}, said.get("outputSchema")
    parameters = {"type": "object", "properties": {}} | _plain(parameters, where)
    tool = Tool(definition.public, description[:_MAX_DESCRIPTION], parameters)
    annotations = server.annotations.get(definition.name, Annotations())
    spec = ToolSpec(tool, runner, annotations=annotations, limits=server.limits_of(definition.name))
    check_spec(spec, f"{where}.")
    if isinstance(output, Mapping):
        return ToolSpec(tool, runner, _output(output, where), (), annotations, spec.limits)
    return spec


def _output(schema: JsonSchema, where: str) -> JsonSchema | None:
    """None where it is of no use: references to its results are then checked as they are put in."""
    try:
        plain: JsonSchema = _plain(schema, where)
        check_schema(plain, param=f"{where}.outputSchema")
        return plain
    except InvalidRequest as error:
        log.info("%s: its output schema is not used: %s", where, visible(error.message)[:500])
        return None


def _plain(value: Any, where: str, is_prose: bool = False) -> Any:
    """A schema whose prose shows all its characters. Raises InvalidSchema where what calls are made
    of, such as a name of an argument, holds some that are not seen. (It is not nested deeply: JSON
    of more than some 200 levels is not read.)"""
    if isinstance(value, str):
        if is_prose:
            return visible(value)[:_MAX_DESCRIPTION]
        if visible(value) != value:
            raise InvalidSchema(f"{where}: holds characters that are not seen", param=where)
    if isinstance(value, Mapping):
        return {_plain(key, where): _plain(item, where, key in _PROSE and isinstance(item, str))
                for key, item in value.items()}  # fmt: skip
    if isinstance(value, list):
        return [_plain(item, where) for item in value]
    return value


def visible(text: str) -> str:
    """No character of it moves a cursor, turns the direction of writing, or is not seen."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
