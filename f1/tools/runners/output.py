"""What calls return, as bytes; and such bytes as a call's output."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from f1.tools.spec import Output, ToolFailure

_PIECE = 1 << 20  # characters


def write_output(result: Any, max_bytes: int) -> tuple[bool, bytes, int]:
    """(is it text, its first `max_bytes`, how long it is). Anything but text becomes JSON; an
    iterator is a list, which is read no further than it is kept."""
    from pydantic_core import to_json

    if isinstance(result, str):
        text, size = bytearray(), 0
        for begin in range(0, len(result), _PIECE):
            piece = result[begin : begin + _PIECE].encode(errors="replace")
            text += piece[: max_bytes - len(text)]
            size += len(piece)
        return True, bytes(text), size
    if isinstance(result, bytes | bytearray | memoryview):
        return True, bytes(result[:max_bytes]), len(result)
    if isinstance(result, Iterator):
        whole = bytearray(b"[")
        for item in result:
            whole += (b"," if len(whole) > 1 else b"") + to_json(item, inf_nan_mode="null")
            if len(whole) > max_bytes:
                break
        whole += b"]"
        return False, bytes(whole[:max_bytes]), len(whole)
    data = to_json(result, inf_nan_mode="null")
    return False, data[:max_bytes], len(data)


def read_output(is_text: bool, data: bytes | bytearray, size: int) -> Output:
    """The value that `data` stands for; where it is not all of `size` bytes, itself as text, with
    "\N{REPLACEMENT CHARACTER}" in place of what is no UTF-8. Raises ToolFailure for what should
    be JSON and is not."""
    from pydantic_core import from_json

    if is_text or len(data) < size:
        text = data.decode(errors="replace")
        return Output(text, size if len(data) < size else None)
    try:
        return Output(from_json(data, allow_inf_nan=False))
    except ValueError as error:
        raise ToolFailure(f"what came back is no JSON: {error}") from error
