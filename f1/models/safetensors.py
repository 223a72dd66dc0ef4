"""Headers of safetensors files, checked in full before anything is believed.

    8 bytes   N, little-endian
    N bytes   {"name": {"dtype": "BF16", "shape": [...], "data_offsets": [begin, end]}, ...}
    the rest  the tensors' bytes; offsets count from here

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import orjson

from f1.errors import ModelFileError
from f1.models.checkpoint import TensorRef
from f1.models.files import open_file, read_file

_MAX_HEADER = 2 * 2**20  # bytes; of 20,000 tensors. A byte of JSON can stand for 20 of memory.
_MAX_INDEX = 8 * 2**20
_MAX_DIMENSIONS = 8
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8}


def read_headers(folder: Path) -> dict[str, TensorRef]:
    """All tensors of the folder's model.safetensors, or of the shards its index names."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return read_header(folder / "model.safetensors")
    weight_map = _weight_map(index)
    shards = {shard: read_header(folder / shard) for shard in sorted(set(weight_map.values()))}
    tensors = {}
    for name, shard in weight_map.items():
        if name not in shards[shard]:
            raise ModelFileError(f"tensor {name!r} is not in {shard}, where the index puts it")
        tensors[name] = shards[shard][name]
    return tensors


def read_header(path: Path) -> dict[str, TensorRef]:
    """Raises ModelFileError naming file, tensor and field or offset."""
    with open_file(path) as file:
        file_size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_MAX_HEADER, file_size - 8):
            raise ModelFileError(f"{path.name}: a header of {length} bytes at offset 0")
        text = file.read(length)
    try:
        header = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ModelFileError(f"{path.name}: header at offset 8: {error}") from error
    if not isinstance(header, dict):
        raise ModelFileError(f"{path.name}: header at offset 8 is not an object")
    header.pop("__metadata__", None)
    tensors = {
        name: _tensor(path, name, entry, 8 + length, file_size) for name, entry in header.items()
    }
    _check_places(path, tensors, 8 + length, file_size)
    return tensors


def _tensor(path: Path, name: str, entry: Any, base: int, file_size: int) -> TensorRef:
    where = f"{path.name}: tensor {name!r}"
    match entry:
        case {
            "dtype": str(dtype),
            "shape": [*shape],
            "data_offsets": [begin, end],
        } if (
            len(shape) <= _MAX_DIMENSIONS
            and all(type(extent) is int and 0 <= extent < 2**32 for extent in shape)
            and type(begin) is type(end) is int
        ):
            pass
        case _:
            raise ModelFileError(f"{where}: dtype, shape or data_offsets is missing or malformed")
    if dtype not in _ITEM_BYTES:
        raise ModelFileError(f"{where}: dtype {dtype!r}; known are {', '.join(_ITEM_BYTES)}")
    if not 0 <= begin <= end <= file_size - base:
        raise ModelFileError(
            f"{where}: data_offsets [{begin}, {end}] exceed the {file_size - base} bytes of data"
        )
    if end - begin != (expected := math.prod(shape) * _ITEM_BYTES[dtype]):
        raise ModelFileError(
            f"{where}: {dtype} {shape} takes {expected} bytes, data_offsets span {end - begin}"
        )
    return TensorRef(path, base + begin, end - begin, dtype, tuple(shape))


def _check_places(path: Path, tensors: dict[str, TensorRef], begin: int, file_size: int) -> None:
    """One behind the other to the end of the file, as the format has it. (Of two entries with one
    name JSON keeps the last: the place of the other is a gap.)"""
    end, before = begin, "header"
    for name, ref in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].num_bytes)):
        if ref.offset != end:
            wrong = "overlaps" if ref.offset < end else "leaves a gap behind"
            raise ModelFileError(
                f"{path.name}: tensor {name!r} at offset {ref.offset} {wrong} {before!r}"
            )
        end, before = ref.offset + ref.num_bytes, name
    if end != file_size:
        raise ModelFileError(
            f"{path.name}: {file_size - end} bytes at offset {end} are no tensor's"
        )


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = orjson.loads(read_file(index, _MAX_INDEX))["weight_map"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise ModelFileError(f"{index.name}: no weight_map: {error}") from error
    if not isinstance(weight_map, dict):
        raise ModelFileError(f"{index.name}: weight_map is not an object")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise ModelFileError(f"{index.name}: {name!r} is in {shard!r}, not a file beside it")
    return weight_map
