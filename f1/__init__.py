"""F1: an open function-calling inference engine.

    from f1 import F1, tool

Names are imported when first used: `import f1` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from f1.client import F1
    from f1.errors import F1Error
    from f1.tools.function import tool
    from f1.tools.spec import invocation
    from f1.types import Message, Tool, ToolCall

__all__ = ["F1", "F1Error", "Message", "Tool", "ToolCall", "invocation", "tool"]
__version__ = "0.1.0"

_HOMES = {
    "F1": "f1.client",
    "F1Error": "f1.errors",
    "Message": "f1.types",
    "Tool": "f1.types",
    "ToolCall": "f1.types",
    "invocation": "f1.tools.spec",
    "tool": "f1.tools.function",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'f1' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
