"""What a call brought back, as F1 keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic_core import from_json, to_json

from f1.tools.mcp.definitions import visible
from f1.tools.spec import CallLimits, Output, ToolFailure

if TYPE_CHECKING:
    from mcp.types import CallToolResult

CUT = "f1.cut"  # in `_meta` of a result that the transport has cut: how long its message was
_MAX_FAILURE = 2000  # characters


def read_result(result: CallToolResult, limits: CallLimits) -> Output:
    """`structuredContent` where there is some, else what its content says in text. Raises
    ToolFailure for what the server calls an error."""
    text = "\n".join(filter(None, map(_text, result.content)))
    if result.is_error:
        raise ToolFailure(visible(text[:_MAX_FAILURE]) or "it failed, and does not say why")
    cut = (result.meta or {}).get(CUT)
    if result.structured_content is not None:
        data = to_json(result.structured_content)
        if len(data) <= limits.max_bytes:
            return Output(result.structured_content)
        return _first(data, limits, len(data))
    data = text.encode(errors="replace")
    if isinstance(cut, int) or len(data) > limits.max_bytes:
        return _first(data, limits, cut if isinstance(cut, int) else len(data))
    return Output(_value(text))


def _first(data: bytes, limits: CallLimits, size: int) -> Output:
    return Output(data[: limits.max_bytes].decode(errors="replace"), size)


def _value(text: str) -> object:
    """Many servers put JSON into text; so it can be referred to."""
    if text[:1] in ("{", "["):
        try:
            return from_json(text, allow_inf_nan=False)
        except ValueError:
            return text
    return text


def _text(block: object) -> str:
    """Of what is no text, what it is."""
    match getattr(block, "type", ""):
        case "text":
            return str(getattr(block, "text", ""))
        case "image" | "audio" as kind:
            size = len(getattr(block, "data", "")) * 3 // 4
            return f"[{kind}, {visible(str(getattr(block, 'mime_type', '')))[:100]}, {size} bytes]"
        case "resource_link":
            return f"[link: {visible(str(getattr(block, 'uri', '')))[:500]}]"
        case "resource":
            held = getattr(block, "resource", None)
            text = getattr(held, "text", None)
            return text if isinstance(text, str) else f"[file: {getattr(held, 'uri', '')!s:.500}]"
    return ""
