"""Safetensors headers made to break their reader: refused with tensor and field, or right."""

from __future__ import annotations

import json
import os
import random
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mutated
import pytest
from watch import Watch, tally

from f1.errors import ModelFileError
from f1.models.huggingface import load_folder
from f1.models.safetensors import read_header


def tensor(shape: list[Any], begin: Any, end: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


GOOD = {
    "__metadata__": {"format": "pt"},
    "a": tensor([4, 2], 0, 32),
    "b": tensor([], 32, 36),
    "c": tensor([3], 36, 42, "BF16"),
    "d": tensor([0, 7], 42, 42, "F16"),
}


def file_of(header: Any, num_bytes: int = 42, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(num_bytes)


def broken(draw: random.Random) -> bytes:
    raw = file_of(mutated.json_value(draw, GOOD), draw.choice([42, 42, 42, 41, 43, 0, 500]))
    kind = draw.randrange(10)
    if kind == 0:
        return raw[: draw.randrange(len(raw) + 1)]
    if kind == 1:
        length = draw.choice([*mutated.EDGES, len(raw) - 8, len(raw) - 50])
        return struct.pack("<Q", length) + raw[8:]
    if kind == 2:
        at = draw.randrange(len(raw))
        return raw[:at] + draw.randbytes(draw.randrange(4)) + raw[at + draw.randrange(4) :]
    return raw


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.full)])
def test_mutated_headers(count: int, tmp_path: Path) -> None:
    """Where one is taken, its tensors fill the rest of the file, one behind the other."""
    path = tmp_path / "model.safetensors"
    draw, watch, outcomes = random.Random(0), Watch(), Counter[str]()

    def read() -> None:
        tensors = sorted(read_header(path).values(), key=lambda ref: (ref.offset, ref.num_bytes))
        end = 8 + struct.unpack("<Q", raw[:8])[0]
        for ref in tensors:
            assert ref.offset == end
            end += ref.num_bytes
        assert end == len(raw)

    for _ in range(count):
        raw = broken(draw)
        path.write_bytes(raw)
        with watch.over(len(raw)):
            outcomes[tally(read, ModelFileError)] += 1
    print(outcomes)
    assert outcomes["taken"] > count // 200
    assert outcomes["refused"] > count // 4
    watch.check()


TWICE = b'{"w": %s, "w": %s}' % tuple(
    json.dumps(tensor([4], *span)).encode() for span in ((0, 16), (16, 32))
)
MILLION = b"{%s}" % b",".join(
    b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % n for n in range(1_000_000)
)
NAMED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "header of 0 bytes"),
    "seven bytes": (bytes(7), "header of 0 bytes"),
    "length 2^63": (file_of(GOOD, length=2**63), "header of 9223372036854775808 bytes"),
    "length 2^64-1": (file_of(GOOD, length=2**64 - 1), "header of"),
    "length beyond the end": (file_of(GOOD, length=10_000), "header of 10000 bytes"),
    "length cut short": (file_of(GOOD, length=20), "header at offset 8"),
    "a million entries": (file_of(MILLION, 0), "header of 5.* bytes"),
    "100,000 deep": (file_of(b"[" * 100_000), "header at offset 8"),
    "100,000 deep in a shape": (
        file_of(b'{"w":{"dtype":"F32","shape":%s}}' % (b"[" * 100_000 + b"]" * 100_000)),
        "header at offset 8",
    ),
    "lists by the ten thousand": (
        file_of(b'{"w":[%s]}' % b",".join([b"[]"] * 170_000)),
        "'w': dtype, shape or data_offsets",
    ),
    "not UTF-8": (file_of(b'{"\xff": 1}'), "header at offset 8"),
    "NaN": (file_of(b'{"w": NaN}'), "header at offset 8"),
    "names twice": (file_of(TWICE, 32), "'w' at offset .* leaves a gap behind 'header'"),
    "a gap": (
        file_of({"a": tensor([4], 0, 16), "b": tensor([4], 20, 36)}, 36),
        "'b' at offset .* leaves a gap behind 'a'",
    ),
    "a gap before": (file_of({"a": tensor([4], 4, 20)}, 20), "gap behind 'header'"),
    "bytes behind": (file_of({"a": tensor([4], 0, 16)}, 17), "1 bytes at offset .* no tensor's"),
    "an overlap": (
        file_of({"a": tensor([4], 0, 16), "b": tensor([4], 12, 28)}, 28),
        "'b' at offset .* overlaps 'a'",
    ),
    "the same place": (
        file_of({"a": tensor([4], 0, 16), "b": tensor([4], 0, 16)}, 16),
        "'b' at offset .* overlaps 'a'",
    ),
    "beyond the end": (file_of({"a": tensor([4], 8, 24)}, 16), r"\[8, 24\] exceed the 16"),
    "backwards": (file_of({"a": tensor([4], 16, 0)}, 16), "exceed"),
    "negative": (file_of({"a": tensor([4], -16, 0)}, 16), "exceed"),
    "offset 2^64": (file_of({"a": tensor([4], 2**64, 2**64 + 16)}, 16), "'a'"),
    "shape and bytes": (file_of({"a": tensor([5], 0, 16)}, 16), "takes 20 bytes"),
    "dtype and bytes": (file_of({"a": tensor([4], 0, 16, "F16")}, 16), "takes 8 bytes"),
    "shape wraps": (file_of({"a": tensor([2**31] * 3, 0, 16)}, 16), "takes"),
    "100,000 dimensions": (file_of({"a": tensor([2**31] * 100_000, 0, 16)}, 16), "shape"),
    "offsets are words": (file_of({"a": tensor([4], "0", "16")}, 16), "data_offsets"),
    "offsets are yes and no": (file_of({"a": tensor([0], False, False)}, 0), "data_offsets"),
    "a shape of halves": (file_of({"a": tensor([0.5], 0, 2)}, 2), "shape"),
}  # fmt: skip


@pytest.mark.parametrize("case", NAMED)
def test_named_headers(case: str, tmp_path: Path) -> None:
    raw, message = NAMED[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw)
    watch = Watch()
    with watch.over(len(raw)), pytest.raises(ModelFileError, match=message):
        read_header(path)
    watch.check()


SPECIAL: dict[str, Callable[[Path], object]] = {
    "a pipe": lambda path: os.mkfifo(path),
    "zeros": lambda path: path.symlink_to("/dev/zero"),
    "noise": lambda path: path.symlink_to("/dev/urandom"),
    "a folder": lambda path: path.mkdir(),
    "itself": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("case", SPECIAL)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_no_pipe_is_waited_for_and_no_device_read(case: str, name: str, tmp_path: Path) -> None:
    config = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}
    config |= {"num_hidden_layers": 1, "intermediate_size": 64, "vocab_size": 64}
    (tmp_path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 64}))
    (tmp_path / name).unlink(missing_ok=True)
    SPECIAL[case](tmp_path / name)
    with pytest.raises(ModelFileError, match=rf"{name}: (not a file|cannot open)"):
        load_folder(tmp_path, "m")
