"""The CUDA backend as a process: built with g++ on the host shim, or on a GPU by cuda/device.sh."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import compiled
import numpy as np
import tiny
from compiled import ROOT
from numpy.typing import NDArray

Floats = NDArray[np.float32]
SOURCES = [
    *sorted((ROOT / "csrc/core").glob("*.cpp")),
    ROOT / "csrc/backend/sampler.cpp",
    ROOT / "csrc/backend/sampling.cpp",
    ROOT / "csrc/model/model.cpp",
    ROOT / "csrc/weights/source.cpp",
    *sorted((ROOT / "csrc/backend/cuda").glob("*.c*")),
    *sorted((ROOT / "csrc/backend/cuda/shim").glob("*.cpp")),
    ROOT / "tests/cuda/on_shim.cpp",
    ROOT / "tests/cuda/probe.cpp",
]
FLAGS = (
    "-std=c++20 -g -Wall -Wextra -Werror -ffp-contract=off -fno-strict-aliasing -DF1_CUDA_SHIM"
).split()


def build(folder: Path) -> Path:
    """The probe on the shim, with sanitizers."""

    def flags(source: Path) -> list[str]:
        """All care for the backend; the rest just needs to be there."""
        is_ours = "cuda" in source.relative_to(ROOT).parts
        return [*FLAGS, "-O1", *compiled.SANITIZE] if is_ours else FLAGS

    return compiled.build(folder, "probe", SOURCES, flags, ROOT / "tests/cuda")


class ProbeError(Exception):
    """The backend threw, or the process ended: a sanitizer's report."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row to sample from; the fields of SampleRow and SamplingParams."""

    row: int
    num_logits: int
    listed: Sequence[int] = ()
    mask: Sequence[int] = ()
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    num_logprobs: int = -1
    choice: int = 0
    position: int = 0


class Probe:
    """One process with at most one model in it. A context manager."""

    def __init__(self, program: Path) -> None:
        self._errors = TemporaryFile("w+")  # noqa: SIM115  closed with the process
        self._process = subprocess.Popen(
            [program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"},
        )

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()
        self._errors.close()

    def call(self, *words: Any) -> list[int]:
        """Sends a command and returns the numbers it answers. Raises ProbeError."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(_spell(word) for word in words) + "\n")
        self._process.stdin.flush()
        kind, _, rest = self._process.stdout.readline().rstrip().partition(" ")
        if kind == "ok":
            return [int(number) for number in rest.split()]
        if kind != "error":
            self._process.wait()
            self._errors.seek(0)
            rest = self._errors.read()
        raise ProbeError(rest)

    def load(self, file: tiny.TinyFile, num_pages: int = 64, max_tokens: int = 64) -> list[int]:
        """Bytes of a page, bytes of the weights."""
        dims = file.dims
        self.call(
            "config", dims.num_layers, dims.hidden_size, dims.intermediate_size, dims.num_heads,
            dims.num_kv_heads, dims.head_dim, dims.vocab_size, dims.max_positions, dims.norm_eps,
            int(dims.interleaved), dims.inv_freq,
        )  # fmt: skip
        for name, source in file.sources.items():
            size, shape = source.num_bytes, list(source.shape)
            self.call("tensor", name, file.path, source.offset, size, source.dtype, shape)
        return self.call("model", num_pages, max_tokens)

    def batch(
        self,
        token_ids: Sequence[int],
        positions: Sequence[int],
        sequence_of: Sequence[int],
        page_ids: Sequence[int],
        page_begin: Sequence[int],
        head_tokens: Sequence[int] = (),
    ) -> None:
        self.call("batch", token_ids, positions, sequence_of, page_ids, page_begin, head_tokens)

    def mixes(self, of: Mapping[int, tuple[Sequence[int], Sequence[float]]]) -> None:
        """Of the batch just set: what stands in place of its tokens."""
        ids = [token for mixed, _ in of.values() for token in mixed]
        begins = np.cumsum([0, *(len(mixed) for mixed, _ in of.values())]).tolist()
        weights = [weight for _, weights in of.values() for weight in weights]
        self.call("mixes", list(of), begins, ids, np.array(weights, np.float32))

    def stage(self, name: str, layer: int = 0) -> None:
        self.call("stage", name, layer)

    def write(self, part: str, values: Floats) -> None:
        self.call("write", part, values)

    def read(self, part: str, rows: int, width: int) -> Floats:
        return _floats(self.call("read", part, rows * width)).reshape(rows, width)

    def head(self, rows: Sequence[tuple[int, Sequence[int]]]) -> None:
        self.call("head", len(rows), *(word for row in rows for word in row))

    def logits(self, row: int, count: int) -> Floats:
        return _floats(self.call("read_logits", row, count))

    def sample(self, rows: Sequence[Row]) -> list[tuple[int, float]]:
        """(token, logprob) of each row."""
        words = [getattr(row, field.name) for row in rows for field in fields(Row)]
        answer = self.call("sample", len(rows), *words)
        return list(zip(answer[::2], _floats(answer[1::2]).tolist(), strict=True))


def _floats(bits: list[int]) -> Floats:
    return np.array(bits, np.uint32).view(np.float32)


def _spell(word: Any) -> str:
    """Floats as their bits; lists after their length."""
    if isinstance(word, np.ndarray) and word.dtype == np.float32:
        word = word.reshape(-1).view(np.uint32).tolist()
    if isinstance(word, float):
        word = int(np.float32(word).view(np.uint32))
    if isinstance(word, str | int | np.integer | Path):
        return str(word)
    return " ".join([str(len(word)), *map(str, word)])
