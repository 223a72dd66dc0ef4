"""JSON as it lies in a database: text, deflated where it is long.

{…} [… "…        as orjson writes it
␣{…}             as json writes it: numbers past 64 bits, not finite ones, halves of surrogates
x…               either, deflated (the first byte of what zlib writes; no JSON begins with it)
"""

from __future__ import annotations

import json
import zlib
from typing import Any

import orjson

from f1.store.database import checksum

MAX_BYTES = 64 * 2**20  # of one text: what claims to be longer was not written here
_LONG = 4096  # bytes: from here on the disk costs more than the processor


class Broken(ValueError):
    """This is not what was written."""


def pack(value: Any) -> bytes:
    """Raises ValueError where it is longer than MAX_BYTES, or no JSON."""
    text = _write(value)
    if len(text) > MAX_BYTES:
        raise ValueError(f"{len(text)} bytes are more than {MAX_BYTES}, which one entry may have")
    return zlib.compress(text, 1) if len(text) >= _LONG else text


def unpack(blob: object, crc: object, *more: object) -> Any:
    """What was packed, where `crc` is sum_of(blob, *more). Raises Broken."""
    if not isinstance(blob, bytes) or sum_of(blob, *more) != crc:
        raise Broken("the checksum is wrong")
    try:
        text = _inflate(blob) if blob[:1] == b"x" else blob
        return json.loads(text) if text[:1] == b" " else orjson.loads(text)
    except (ValueError, RecursionError, zlib.error) as error:
        raise Broken(str(error)) from error


def sum_of(blob: bytes, *more: object) -> int:
    """Of a text and what else its row says."""
    return checksum(blob, *(repr(each).encode(errors="replace") for each in more))


def _write(value: Any) -> bytes:
    try:
        text = orjson.dumps(value)
        if b"null" in text:  # which orjson writes for numbers that are not finite, too
            json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):  # orjson's are both
        try:
            return b" " + json.dumps(value).encode()
        except (TypeError, RecursionError) as error:
            raise ValueError(f"no JSON: {error}") from error
    return text


def _inflate(blob: bytes) -> bytes:
    inflating = zlib.decompressobj()
    text = inflating.decompress(blob, MAX_BYTES)
    if not inflating.eof:
        raise Broken(f"longer than {MAX_BYTES} bytes, or cut")
    return text
