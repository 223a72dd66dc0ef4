"""What a request must satisfy before anything is decoded for it."""

from __future__ import annotations

from f1.calling.schema import check_schema, check_tool, schema_text
from f1.errors import InvalidRequest
from f1.types import GenerateRequest


def check_request(request: GenerateRequest) -> None:
    """Raises InvalidRequest or InvalidSchema naming what is wrong."""
    if not request.messages:
        raise InvalidRequest("messages: expected at least one message", param="messages")
    names = [tool.name for tool in request.tools]
    for name in names:
        if names.count(name) > 1:
            raise InvalidRequest(f"tools: {name!r} is given twice", param="tools")
    for tool in request.tools:
        if tool.strict:
            check_tool(tool)
        else:  # its schema is only shown to the model
            schema_text(tool.parameters, f"tools.{tool.name}.parameters")
    choice = request.tool_choice
    if choice.mode in ("required", "named") and not request.tools:
        raise InvalidRequest("tool_choice: there are no tools to call", param="tool_choice")
    if choice.mode == "named" and choice.name not in names:
        raise InvalidRequest(f"tool_choice: no tool is named {choice.name!r}", param="tool_choice")
    format = request.response_format
    if format.kind == "json_schema" and not isinstance(format.value, str):
        check_schema(format.value or {}, param="response_format.json_schema.schema")
