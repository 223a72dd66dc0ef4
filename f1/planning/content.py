"""What the model reads of a call."""

from __future__ import annotations

from f1.tools.spec import Output


def write_result(value: object) -> str:
    """Text as it is, anything else as JSON."""
    from pydantic_core import to_json

    return value if isinstance(value, str) else to_json(value).decode()


def write_failure(message: str) -> str:
    return write_result({"error": message})


def write_output(output: Output, max_chars: int) -> tuple[str, bool]:
    """The first `max_chars` characters, and whether that is not all of it, which it says."""
    text = write_result(output.value)
    if not text.isascii():
        text = text.encode(errors="replace").decode()  # half a surrogate pair is no text
    cut = output.num_bytes is not None or len(text) > max_chars
    if not cut:
        return text, False
    size = f"{len(text)} characters" if output.num_bytes is None else f"{output.num_bytes} bytes"
    return f"{text[:max_chars]}… (cut: {size})", True
