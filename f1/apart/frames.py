"""What crosses between the API's process and an engine's: frames of JSON, each behind its length.

    parent ─▶ child   {"model", "settings"}, once; then {"id", "do", "with"}, and {"id"} to stop it
    child ─▶ parent   {"ready": …} or {"failed": error}, once; {"beat": stats}, twice a second;
                      {"items": [[id, item], …]}, what happened in one turn of its loop

An item is a text (of choice 0, the most there is), an event, or the last one of its id: a value or
an error. There is no pickle: a child that is out of its mind can say wrong things, and no more.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from f1 import errors
from f1.codec import Codec, Malformed
from f1.errors import F1Error
from f1.types import Event, TextDelta

HEAD = struct.Struct(">I")  # bytes of JSON that follow
MAX_FRAME = 1 << 30
CODEC = Codec()
_ERRORS = {
    each.__name__: each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, F1Error)
}


@dataclass(frozen=True, slots=True)
class Value:
    """What was asked for has been done, and this came of it."""

    value: Any = None


Item = Event | F1Error | Value


def write_frame(message: Any) -> bytes:
    body = orjson.dumps(message)
    return HEAD.pack(len(body)) + body


def write_items(items: Sequence[bytes]) -> bytes:
    """A frame of what write_item() wrote."""
    body = b'{"items":[' + b",".join(items) + b"]}"
    return HEAD.pack(len(body)) + body


def read_frames(data: bytearray) -> list[Any]:
    """Takes the whole frames off the front of what was received. Raises Malformed."""
    messages, at = [], 0
    while len(data) >= at + HEAD.size:
        (size,) = HEAD.unpack_from(data, at)
        if size > MAX_FRAME:
            raise Malformed(f"a frame of {size} bytes")
        end = at + HEAD.size + size
        if len(data) < end:
            break
        messages.append(read_body(bytes(data[at + HEAD.size : end])))
        at = end
    del data[:at]
    return messages


def read_body(body: bytes) -> Any:
    """Raises Malformed."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"no JSON: {error}") from error


def write_item(number: int, item: Item) -> bytes:
    """Of what has that id. Raises TypeError: it is one request's, and harms no other."""
    written: Any
    if isinstance(item, TextDelta) and item.choice == 0 and not item.logprobs:
        written = item.text
    elif isinstance(item, F1Error):
        written = {"error": write_error(item)}
    elif isinstance(item, Value):
        written = {"value": item.value}
    else:
        written = CODEC.encode(item)
    return orjson.dumps((number, written))


def read_item(written: Any) -> Item:
    """Raises Malformed."""
    if isinstance(written, str):
        return TextDelta(0, written)
    if isinstance(written, dict):
        if "is" in written:
            event: Event = CODEC.decode_any(written)
            return event
        if "error" in written:
            return read_error(written["error"])
        if "value" in written:
            return Value(written["value"])
    raise Malformed("neither an event nor an end")


def write_error(error: F1Error) -> dict[str, Any]:
    """As the nearest kind of f1.errors; what caused it stays where it was."""
    kind = next(each.__name__ for each in type(error).__mro__ if each.__name__ in _ERRORS)
    said = {"param": error.param, "code": error.code, "retry_after": error.retry_after}
    return {"kind": kind, "message": error.message, **said}


def read_error(written: Any) -> F1Error:
    """Raises Malformed."""
    match written:
        case {
            "kind": str(kind),
            "message": str(message),
            "param": str() | None as param,
            "code": str() | None as code,
            "retry_after": float() | int() | None as retry_after,
        } if kind in _ERRORS:
            return _ERRORS[kind](message, param=param, code=code, retry_after=retry_after)
    raise Malformed("no error")
