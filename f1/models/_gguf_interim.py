"""Stands in for `_core.read_gguf` until the core has it; same result, no checks."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_FORMATS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_TYPES = {0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20)}
_TYPES |= {6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 12: ("Q4_K", 256, 144)}
_TYPES |= {13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 30: ("BF16", 1, 2)}


def read_gguf(path: str) -> Any:
    with (
        Path(path).open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        position = 4 + 4

        def scalar(code: str) -> Any:
            nonlocal position
            (value,) = struct.unpack_from("<" + code, data, position)
            position += struct.calcsize("<" + code)
            return value

        def string() -> bytes:
            nonlocal position
            length = scalar("Q")
            position += length
            return data[position - length : position]

        def field(kind: int) -> Any:
            nonlocal position
            if kind == 8:
                return string().decode()
            if kind != 9:
                return scalar(_FORMATS[kind])
            kind, count = scalar("I"), scalar("Q")
            if kind == 8:
                return [string() for _ in range(count)]
            code = f"<{count}{_FORMATS[kind]}"
            position += struct.calcsize(code)
            return list(struct.unpack_from(code, data, position - struct.calcsize(code)))

        num_tensors, num_fields = scalar("Q"), scalar("Q")
        metadata = {}
        for _ in range(num_fields):
            name = string().decode()
            metadata[name] = field(scalar("I"))
        infos = []
        for _ in range(num_tensors):
            name = string().decode()
            shape = [scalar("Q") for _ in range(scalar("I"))][::-1]
            infos.append((name, shape, scalar("I"), scalar("Q")))
        base = -(-position // 32) * 32
        tensors = []
        for name, shape, kind, offset in infos:
            dtype, group, size = _TYPES[kind]
            count = 1
            for extent in shape:
                count *= extent
            tensors.append((name, dtype, shape, base + offset, count // group * size))
        return SimpleNamespace(metadata=metadata, tensors=tensors)
