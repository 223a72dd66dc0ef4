"""What a request must satisfy before anything is decoded for it."""

from __future__ import annotations

import orjson

from f1.calling.family import tools_key, tools_of
from f1.calling.latest import latest
from f1.calling.schema import check_schema, check_tool, schema_text
from f1.errors import InvalidRequest
from f1.types import GenerateRequest, Soft

MAX_SOFT_STEPS = 256
MAX_SOFT_TOKENS = 64  # in one mix


def check_request(request: GenerateRequest) -> None:
    """Raises InvalidRequest or InvalidSchema naming what is wrong."""
    if request.prompt is not None:
        if not request.prompt or request.messages or request.tools:
            raise InvalidRequest("prompt: expected text or tokens, alone", param="prompt")
    elif not request.messages:
        raise InvalidRequest("messages: expected at least one message", param="messages")
    names = [tool.name for tool in request.tools]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidRequest(f"tools: {twice!r} is given twice", param="tools")
    try:
        _check_tools(tools_key(request.tools))
    except orjson.JSONEncodeError as error:  # no JSON, or nested too deep to be any
        for tool in request.tools:
            schema_text(tool.parameters, f"tools.{tool.name}.parameters")
        raise InvalidRequest(f"tools: a description is no text: {error}", param="tools") from error
    choice = request.tool_choice
    if choice.mode in ("required", "named") and not request.tools:
        raise InvalidRequest("tool_choice: there are no tools to call", param="tool_choice")
    if choice.mode == "named" and choice.name not in names:
        raise InvalidRequest(f"tool_choice: no tool is named {choice.name!r}", param="tool_choice")
    if request.soft is not None:
        _check_soft(request.soft)
    format = request.response_format
    if format.kind == "json_schema" and not isinstance(format.value, str):
        check_schema(format.value or {}, param="response_format.json_schema.schema")


def _check_soft(soft: Soft) -> None:
    bounds: tuple[tuple[str, float, float, float], ...] = (
        ("steps", soft.steps, 1, MAX_SOFT_STEPS),
        ("top_k", soft.top_k, 1, MAX_SOFT_TOKENS),
        ("temperature", soft.temperature, 0.01, 100),
        ("noise", soft.noise, 0, 100),
        ("cold_entropy", soft.cold_entropy, 0, 100),
        ("cold_steps", soft.cold_steps, 0, MAX_SOFT_STEPS),
    )
    for name, value, least, most in bounds:
        if not least <= value <= most:  # nor is what is no number
            told = f"soft.{name}: expected {least} to {most}, got {value}"
            raise InvalidRequest(told, param=f"soft.{name}")


@latest(32 << 20, lambda _, key: len(key) + 500)
def _check_tools(key: bytes) -> None:
    for tool in tools_of(key):
        if tool.strict:
            check_tool(tool)
        else:  # its schema is only shown to the model
            schema_text(tool.parameters, f"tools.{tool.name}.parameters")
