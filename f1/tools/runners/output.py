"""What a runner has read, as a call's output."""

from __future__ import annotations

from f1.tools.spec import CallLimits, Output, ToolFailure


def read_json(data: bytes, limits: CallLimits, num_bytes: int | None = None) -> Output:
    """The value that `data` is the JSON of; `num_bytes`: how long it was, where that is its first
    part alone. Raises ToolFailure for what is no JSON."""
    from pydantic_core import from_json

    num_bytes = len(data) if num_bytes is None else num_bytes
    if num_bytes > limits.max_bytes:
        return read_text(data, limits, num_bytes)
    try:
        return Output(from_json(data, allow_inf_nan=False))
    except ValueError as error:
        raise ToolFailure(f"what it returned is no JSON: {error}") from error


def read_text(data: bytes, limits: CallLimits, num_bytes: int | None = None) -> Output:
    """`data` as text: UTF-8, with "�" in place of what is none."""
    num_bytes = len(data) if num_bytes is None else num_bytes
    if num_bytes <= limits.max_bytes:
        return Output(data.decode(errors="replace"))
    return Output(data[: limits.max_bytes].decode(errors="replace"), num_bytes)
