"""Files made to break their readers: each is refused with its reason or is whole; none does harm.

The C++ reader runs by itself under AddressSanitizer and UBSan, the whole loader in this process.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import compiled
import mutated
import pytest
import transformers
from compiled import ROOT
from test_checkpoint import gguf_tensors, tiny, write_gguf
from test_gguf import ARRAY, BROKEN, GOOD, STRING, UINT32, build, entry, tensor, text
from watch import MEMORY, Watch, tally

from f1 import _core
from f1.errors import ModelFileError
from f1.models.gguf import load_gguf
from f1.models.load import load_model

SOURCES = [
    *(ROOT / "csrc/core" / name for name in ("dtype.cpp", "mapped_file.cpp")),
    *sorted((ROOT / "csrc/weights").glob("*.cpp")),
    ROOT / "tests/weights/read.cpp",
]
FLAGS = ["-std=c++20", "-g", "-Wall", "-Wextra", "-Werror", *compiled.SANITIZE]


class Reader:
    """The sanitised reader, file after file; a report of a sanitizer ends it and fails the test."""

    def __init__(self, program: Path, path: Path):
        self.path = path
        self.seen: Counter[str] = Counter()
        self.slowest = self.largest = 0.0
        self._errors: IO[str] = TemporaryFile("w+")  # noqa: SIM115  closed with the process
        self._process = subprocess.Popen(
            [program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            # What is freed is not kept back: it would count as memory taken.
            env={**os.environ, "ASAN_OPTIONS": "quarantine_size_mb=1:max_malloc_fill_size=0"},
        )

    def read(self, raw: bytes | None = None) -> str:
        """What the reader says of the file at `path`, of these bytes if some are given."""
        if raw is not None:
            self.path.write_bytes(raw)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{self.path}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().rstrip("\n")
        kind = answer.partition(" ")[0]
        if kind not in ("read", "refused"):
            self._process.wait()
            self._errors.seek(0)
            pytest.fail(f"the reader ended: {self._errors.read()}")
        used, seconds = self._process.stdout.readline().split()
        self.seen[kind] += 1
        self.slowest = max(self.slowest, float(seconds))
        self.largest = max(self.largest, float(used) - len(raw or b""))
        return answer

    def close(self) -> None:
        self._process.communicate()
        self._errors.seek(0)
        report = self._errors.read()
        self._errors.close()
        assert self._process.returncode == 0, report


@pytest.fixture(scope="module")
def program(request: pytest.FixtureRequest) -> Path:
    assert request.config.cache is not None
    return compiled.build(
        request.config.cache.mkdir("read_weights"),
        "read",
        SOURCES,
        lambda _: FLAGS,
        ROOT / "tests/weights",
    )


@pytest.fixture
def reader(program: Path, tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(program, tmp_path / "model.gguf")
    yield reader
    reader.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A tiny model with all that a GGUF file needs to be loaded."""
    path = tmp_path_factory.mktemp("whole") / "model.gguf"
    return write_gguf(path, "llama", gguf_tensors(tiny(transformers.LlamaConfig))).read_bytes()


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.full)])
def test_mutated_gguf_under_sanitizers(count: int, whole: bytes, reader: Reader) -> None:
    assert reader.read(whole).startswith("read")
    for raw in mutated.files(whole, count):
        answer = reader.read(raw)
        assert answer.startswith("read") or " at offset " in answer or "empty" in answer
    print(f"{reader.seen}, {reader.slowest:.3f} s, {reader.largest / 2**20:.1f} MiB")
    assert reader.seen["read"] > count // 50
    assert reader.seen["refused"] > count // 4
    assert reader.slowest < 1
    assert reader.largest < MEMORY


def test_every_cut_of_a_header_under_sanitizers(reader: Reader) -> None:
    assert reader.read(GOOD).startswith("read")
    for size in range(len(GOOD)):
        assert reader.read(GOOD[:size]).startswith("refused")


def _array(kind: int, count: int, items: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + items


def _nested(depth: int) -> bytes:
    return b"".join(struct.pack("<IQ", ARRAY, 1) for _ in range(depth)) + _array(UINT32, 0)


def _dims(*dims: int) -> bytes:
    return build([], [tensor("t", list(dims), 0, 0)], bytes(64))


def _alignment(value: int) -> bytes:
    return build([entry("general.alignment", UINT32, struct.pack("<I", value))], [], bytes(64))


NAMED = {
    "four bytes": (b"GGUF", "version at offset 4"),
    "magic alone, version 0": (b"GGUF" + bytes(4), "version"),
    "no dimensions": (_dims(), "number of dimensions"),
    "nine dimensions": (_dims(*[1] * 9), "number of dimensions.*is 9"),
    "dimension 0": (_dims(0), "positive"),
    "dimension 2^31": (_dims(2**31), "leave the file"),
    "dimension 2^32": (_dims(2**32), "leave the file"),
    "dimension 2^42+1": (_dims(2**42 + 1), "leave the file"),
    "dimensions 2^42 twice": (_dims(2**42, 2**42), "overflows"),
    "dimension 2^63-1": (_dims(2**63 - 1), "overflows"),
    "dimension 2^63": (_dims(2**63), "positive"),
    "dimension 2^64-1": (_dims(2**64 - 1), "positive"),
    "product of 0": (_dims(2**62, 4, 0), "positive|overflows"),
    "alignment 0": (_alignment(0), "alignment.*power of two"),
    "alignment 1": (_alignment(1), "alignment.*power of two"),
    "alignment 1 GiB": (_alignment(2**30), "alignment.*power of two"),
    "alignment as text": (
        build([entry("general.alignment", STRING, text("32"))], []),
        "alignment.*power of two",
    ),
    "array in array": (build([entry("k", ARRAY, _nested(1))], [], bytes(64)), "nested"),
    "array in array, 10,000 deep": (build([entry("k", ARRAY, _nested(10_000))], []), "nested"),
    "array of 2^64-1 bytes": (build([entry("k", ARRAY, _array(0, 2**64 - 1))], []), "array length"),
    "array of 2^61 numbers": (
        build([entry("k", ARRAY, _array(10, 2**61))], [], bytes(64)),
        "array length",
    ),
    "array of 2^31 strings": (
        build([entry("k", ARRAY, _array(STRING, 2**31))], [], bytes(64)),
        "array length",
    ),
    "a string of 2^31 in an array": (
        build([entry("k", ARRAY, _array(STRING, 1, struct.pack("<Q", 2**31)))], [], bytes(64)),
        "needs 2147483648 bytes",
    ),
    "a string that wraps around": (
        build([entry("k", STRING, struct.pack("<Q", 2**64 - 8))], [], bytes(64)),
        "needs 18446744073709551608 bytes",
    ),
    "a key that wraps around": (
        build([struct.pack("<Q", 2**64 - 8) + b"key" * 30], [], bytes(64)),
        "needs 18446744073709551608 bytes",
    ),
    "a key of 2^64-1": (build([struct.pack("<Q", 2**64 - 1)], [], bytes(64)), "metadata key"),
    "a key with NUL": (build([entry("a\0b", UINT32, bytes(4))], []), "printable"),
    "a name of escapes": (build([], [tensor("\x1b[2J", [1], 0, 0)], bytes(64)), "printable"),
    "size beyond the end": (build([], [tensor("t", [17], 0, 0)], bytes(64)), "leave the file"),
    "offset at the end": (build([], [tensor("t", [1], 0, 64)], bytes(64)), "leave the file"),
    "offset + size wraps": (
        build([], [tensor("t", [16], 0, 2**64 - 64)], bytes(64)),
        "leave the file",
    ),
    "more entries than bytes": (build([], [], b"", num_entries=2**32), "metadata entries"),
    "more tensors than bytes": (build([], [], b"", num_tensors=2**32), "number of tensors"),
    "a million small numbers, forty times": (
        build([entry(f"k{n}", ARRAY, _array(0, 10**6, bytes(10**6))) for n in range(40)], []),
        "more than 64 MiB of names and values",
    ),
    "a million empty strings, twice": (
        build([entry(f"k{n}", ARRAY, _array(STRING, 10**6, bytes(8 * 10**6))) for n in "ab"], []),
        "more than 64 MiB of names and values",
    ),
    "200,000 entries": (
        build([entry(f"k{n}", 0, b"\0") for n in range(200_000)], []),
        "more than 64 MiB of names and values",
    ),
    "200,000 tensors": (
        build([], [tensor(f"t{n}", [1], 0, 32 * n) for n in range(200_000)], bytes(6_400_000)),
        "more than 64 MiB of names and values",
    ),
    "100 MB of one string": (
        build([entry("k", STRING, text("x" * 10**8))], []),
        "more than 64 MiB of names and values",
    ),
}


@pytest.mark.parametrize("case", [*BROKEN, *NAMED])
def test_named_files(case: str, reader: Reader) -> None:
    """By the sanitised reader and by the one that serves."""
    raw, message = (BROKEN | NAMED)[case]
    answer = reader.read(raw)
    if case != "not UTF-8":  # what text is, only the bindings ask
        assert answer.startswith("refused")
    with pytest.raises(_core.InvalidArgument, match=message):
        _core.read_gguf(str(reader.path))
    assert reader.slowest < 1
    assert reader.largest < MEMORY


def test_an_empty_key_is_a_key(reader: Reader) -> None:
    assert reader.read(build([entry("", UINT32, bytes(4))], [])) == "read 0 1"


def test_a_file_cut_between_two_looks_is_refused(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(whole)
    checkpoint = load_gguf(path, "m")
    os.truncate(path, len(whole) // 2)
    with pytest.raises(ModelFileError, match="leave the file"):
        load_model(checkpoint, num_threads=1)


SPECIAL: dict[str, Callable[[Path], object]] = {
    "a folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
    "zeros": lambda path: path.symlink_to("/dev/zero"),
    "noise": lambda path: path.symlink_to("/dev/urandom"),
    "nothing": lambda path: path.symlink_to("/dev/null"),
    "memory": lambda path: path.symlink_to("/proc/self/mem"),
    "a file of /proc": lambda path: path.symlink_to("/proc/self/status"),
    "nowhere": lambda path: path.symlink_to("nowhere"),
    "itself": lambda path: path.symlink_to(path.name),
    "a socket": lambda path: _listen(path),
}


def _listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(path.parent)  # names of sockets are short
        listener.bind(path.name)
        os.chdir(here)


@pytest.mark.parametrize("case", SPECIAL)
def test_what_is_no_file_is_refused(case: str, reader: Reader) -> None:
    SPECIAL[case](reader.path)
    assert reader.read().startswith("refused")
    with pytest.raises(ModelFileError, match=r"not a file|empty|cannot open|mapped"):
        load_gguf(reader.path, "m")


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.full)])
def test_mutated_gguf_is_loaded_or_refused(count: int, whole: bytes, tmp_path: Path) -> None:
    """By all of the loader: tokenizer, template, weights."""
    path = tmp_path / "model.gguf"

    def load() -> None:
        load_model(load_gguf(path, "m"), num_threads=1)

    path.write_bytes(whole)
    load()  # what is imported and kept counts for none
    watch, outcomes = Watch(), Counter[str]()
    for raw in mutated.files(whole, count, seed=1):
        path.write_bytes(raw)
        with watch.over(len(raw)):
            outcomes[tally(load, ModelFileError)] += 1
    print(outcomes)
    assert outcomes["taken"] > count // 100
    assert outcomes["refused"] > count // 4
    watch.check()
