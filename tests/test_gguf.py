"""The GGUF reader: what ggml's own writer writes is read; what is broken is named, never fatal."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import reference

from f1 import _core

ARCHITECTURE, UINT32, FLOAT32, STRING, ARRAY = "llama", 4, 6, 8, 9
TYPE_IDS = {name: int(gguf.GGMLQuantizationType[name]) for name in reference.BLOCK}


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def entry(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str, dims: list[int], kind: int, offset: int) -> bytes:
    """A line of the tensor table; dims innermost first."""
    head = text(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
    return head + struct.pack("<IQ", kind, offset)


def build(entries: list[bytes], tensors: list[bytes], data: bytes = b"", **header: int) -> bytes:
    magic, version = header.get("magic", 0x46554747), header.get("version", 3)
    num_tensors = header.get("num_tensors", len(tensors))
    num_entries = header.get("num_entries", len(entries))
    raw = struct.pack("<IIQQ", magic, version, num_tensors, num_entries)
    raw += b"".join(entries) + b"".join(tensors)
    return raw + bytes(-len(raw) % 32) + data


GOOD_ENTRIES = [
    entry("general.architecture", STRING, text(ARCHITECTURE)),
    entry("llama.block_count", UINT32, struct.pack("<I", 7)),
    entry("tokens", ARRAY, struct.pack("<IQ", STRING, 2) + text("a") + text("bc")),
]
GOOD_TENSORS = [tensor("one", [32, 3], TYPE_IDS["Q8_0"], 0), tensor("two", [5], 0, 128)]
GOOD = build(GOOD_ENTRIES, GOOD_TENSORS, bytes(128 + 20))


def read(folder: Path, raw: bytes) -> _core.GgufFile:
    path = folder / "model.gguf"
    path.write_bytes(raw)
    return _core.read_gguf(str(path))


def test_reads_what_gguf_writes(tmp_path: Path) -> None:
    path = tmp_path / "theirs.gguf"
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    values: dict[str, Any] = {
        "u8": ("uint8", 200), "i8": ("int8", -100), "u16": ("uint16", 60_000),
        "i16": ("int16", -30_000), "u32": ("uint32", 4_000_000_000),
        "i32": ("int32", -2_000_000_000), "u64": ("uint64", 2**63 + 1), "i64": ("int64", -(2**62)),
        "f32": ("float32", 0.5),
        "f64": ("float64", 0.1), "yes": ("bool", True), "text": ("string", "Zürich 東京"),
    }  # fmt: skip
    for key, (kind, value) in values.items():
        getattr(writer, f"add_{kind}")(key, value)
    writer.add_array("words", [b"\xff\x00raw", "é".encode(), b""])
    writer.add_array("numbers", [1, -2, 3])
    rng = np.random.default_rng(0)
    stored = {}
    for dtype, (block, _) in reference.BLOCK.items():
        data, _ = reference.random_tensor(rng, dtype, (3, 2 * block), 1.0)
        stored[dtype] = data.tobytes()
        writer.add_tensor(
            f"t.{dtype}", data.reshape(3, -1), raw_dtype=gguf.GGMLQuantizationType[dtype]
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    got = _core.read_gguf(str(path))
    assert got.metadata["general.architecture"] == ARCHITECTURE
    for key, (kind, value) in values.items():
        assert got.metadata[key] == value, key
        assert isinstance(got.metadata[key], bool) == (kind == "bool")
    assert got.metadata["words"] == [b"\xff\x00raw", "é".encode(), b""]
    assert got.metadata["numbers"] == [1, -2, 3]
    raw = path.read_bytes()
    assert [name for name, *_ in got.tensors] == [f"t.{dtype}" for dtype in reference.BLOCK]
    for name, dtype, shape, offset, num_bytes in got.tensors:
        assert name == f"t.{dtype}"
        assert shape == [3, 2 * reference.BLOCK[dtype][0]]
        assert raw[offset : offset + num_bytes] == stored[dtype]


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    assert len(read(tmp_path, GOOD).tensors) == 2
    for size in range(len(GOOD)):
        with pytest.raises(_core.InvalidArgument, match=r"offset|empty"):
            read(tmp_path, GOOD[:size])


def test_garbled_headers_are_errors_or_lie_in_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    header = len(GOOD) - 148
    refused = 0
    for _ in range(800):
        raw = bytearray(GOOD)
        for place in rng.integers(0, header, rng.integers(1, 4)):
            raw[place] = rng.choice([0, 1, 0x7F, 0xFF, rng.integers(0, 256)])
        try:
            found = read(tmp_path, bytes(raw))
        except _core.InvalidArgument:
            refused += 1
            continue
        for _, _, _, offset, num_bytes in found.tensors:
            assert offset + num_bytes <= len(raw)
    assert refused > 300


HUGE = 2**62
BROKEN = {
    "magic": (build([], [], magic=0x46554748), r"magic at offset 0"),
    "version": (build([], [], version=9), r"version at offset 4: is 9"),
    "big-endian": (build([], [], version=3 << 24), r"version.*little-endian"),
    "number of tensors": (build([], [], num_tensors=HUGE), r"number of tensors at offset 8"),
    "number of entries": (build([], [], num_entries=HUGE), r"metadata entries at offset 16"),
    "key twice": (build(GOOD_ENTRIES[:1] * 2, []), r"general.architecture.*twice"),
    "value type": (build([entry("k", 13, b"")], [], bytes(64)), r"metadata 'k'.*type 13"),
    "array length": (
        build([entry("k", ARRAY, struct.pack("<IQ", UINT32, HUGE))], [], bytes(64)),
        r"metadata 'k' array length at offset",
    ),
    "nested array": (
        build([entry("k", ARRAY, struct.pack("<IQ", ARRAY, 1))], [], bytes(64)),
        r"metadata 'k'.*nested",
    ),
    "string length": (
        build([entry("k", STRING, struct.pack("<Q", HUGE))], [], bytes(64)),
        r"metadata 'k' at offset .*needs 4611686018427387904 bytes",
    ),
    "not UTF-8": (
        build([entry("k", STRING, struct.pack("<Q", 1) + b"\xff")], [], bytes(64)),
        r"metadata 'k'.*UTF-8",
    ),
    "alignment": (
        build([entry("general.alignment", UINT32, struct.pack("<I", 48))], []),
        r"general.alignment.*power of two",
    ),
    "dimensions": (
        build([], [tensor("t", [1, 1, 1, 1, 1], 0, 0)], bytes(64)),
        r"tensor 't' number of dimensions at offset .*is 5",
    ),
    "empty tensor": (build([], [tensor("t", [0, 2], 0, 0)], bytes(64)), r"tensor 't'.*positive"),
    "negative": (build([], [tensor("t", [2**63], 0, 0)], bytes(64)), r"tensor 't'.*positive"),
    "overflow": (
        build([], [tensor("t", [2**40, 2**40], 0, 0)], bytes(64)),
        r"tensor 't' dimensions.*overflows",
    ),
    "block": (
        build([], [tensor("t", [33], TYPE_IDS["Q8_0"], 0)], bytes(64)),
        r"tensor 't'.*rows of 33.*Q8_0.*blocks of 32",
    ),
    "type": (build([], [tensor("t", [32], 23, 0)], bytes(64)), r"tensor 't' type.*type 23"),
    "misaligned": (build([], [tensor("t", [2], 0, 4)], bytes(64)), r"tensor 't' offset.*alignment"),
    "outside": (build([], [tensor("t", [2], 0, 64)], bytes(64)), r"'t' offset.*leave the file"),
    "far outside": (
        build([], [tensor("t", [2], 0, 2**64 - 32)], bytes(64)),
        r"tensor 't' offset.*leave the file",
    ),
    "overlap": (
        build([], [tensor("t", [16], 0, 0), tensor("u", [2], 0, 32)], bytes(64)),
        r"tensor 'u' offset.*overlaps tensor 't'",
    ),
    "name twice": (
        build([], [tensor("t", [2], 0, 0), tensor("t", [2], 0, 32)], bytes(64)),
        r"tensor 't'.*two tensors",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_named(tmp_path: Path, case: str) -> None:
    raw, message = BROKEN[case]
    with pytest.raises(_core.InvalidArgument, match=message):
        read(tmp_path, raw)


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(_core.InvalidArgument, match=r"nowhere.*No such file"):
        _core.read_gguf(str(tmp_path / "nowhere"))
    with pytest.raises(_core.InvalidArgument, match="empty"):
        read(tmp_path, b"")
    with pytest.raises(_core.InvalidArgument):
        _core.read_gguf(str(tmp_path))


@pytest.mark.parametrize(
    ("offset", "num_bytes", "dtype", "shape", "message"),
    [
        (0, 68, "Q8_0", [1, 32], "num_bytes is 68.*take 34"),
        (128, 34, "Q8_0", [32], "leave the file"),
        (2**64 - 8, 34, "Q8_0", [32], "leave the file"),
        (0, 34, "Q8_1", [32], "unknown dtype 'Q8_1'"),
        (0, 4, "F32", [], "no dimensions"),
        (0, 4, "F32", [-1], "positive"),
    ],
)
def test_sources_are_checked(
    tmp_path: Path, offset: int, num_bytes: int, dtype: str, shape: list[int], message: str
) -> None:
    path = tmp_path / "raw"
    path.write_bytes(bytes(136))
    with pytest.raises(_core.InvalidArgument, match=message):
        _core.TensorSource(_core.MappedFile(str(path)), offset, num_bytes, dtype, shape)


def test_a_real_file(smollm_path: Path) -> None:
    found = _core.read_gguf(str(smollm_path))
    assert found.metadata["llama.block_count"] == 30
    assert len(found.metadata["tokenizer.ggml.tokens"]) == 49152
    assert found.metadata["tokenizer.ggml.tokens"][0] == b"<|endoftext|>"
    shapes = {name: (dtype, shape) for name, dtype, shape, *_ in found.tensors}
    assert shapes["blk.0.ffn_down.weight"] == ("Q4_1", [576, 1536])
    assert len(found.tensors) == 272
