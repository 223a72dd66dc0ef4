"""Tiny models with random weights of any dtypes, for the tests of the core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import reference

from f1 import _core


@dataclass(frozen=True, slots=True)
class Dims:
    """Awkward by default: nothing is a multiple of 16 but what a format demands."""

    num_layers: int = 1
    hidden_size: int = 40
    intermediate_size: int = 72
    num_heads: int = 6
    num_kv_heads: int = 2
    head_dim: int = 20
    vocab_size: int = 150
    interleaved: bool = False
    norm_eps: float = 1e-5
    max_positions: int = 4096

    @property
    def inv_freq(self) -> np.ndarray:
        half = np.arange(0, self.head_dim, 2, dtype=np.float32)
        return (1 / np.float32(100) ** (half / np.float32(self.head_dim))).astype(np.float32)

    @property
    def shape(self) -> reference.Shape:
        return reference.Shape(
            self.num_heads,
            self.num_kv_heads,
            self.head_dim,
            self.norm_eps,
            self.inv_freq.astype(np.float64),
            self.interleaved,
        )

    def config(self) -> _core.ModelConfig:
        return _core.ModelConfig(
            num_layers=self.num_layers,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            vocab_size=self.vocab_size,
            max_positions=self.max_positions,
            norm_eps=self.norm_eps,
            rope_inv_freq=self.inv_freq.tolist(),
            rope_interleaved=self.interleaved,
        )

    def tensor_shapes(self, *, tied: bool, extras: bool) -> dict[str, tuple[int, ...]]:
        """Canonical names and shapes; `extras` are biases and q/k norms."""
        width, inner = self.hidden_size, self.intermediate_size
        query, key = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {
            "embed.weight": (self.vocab_size, width),
            "final_norm.weight": (width,),
        }
        if not tied:
            shapes["head.weight"] = (self.vocab_size, width)
        for layer in range(self.num_layers):
            parts: dict[str, tuple[int, ...]] = {
                "attn_norm.weight": (width,),
                "q.weight": (query, width),
                "k.weight": (key, width),
                "v.weight": (key, width),
                "o.weight": (width, query),
                "mlp_norm.weight": (width,),
                "gate.weight": (inner, width),
                "up.weight": (inner, width),
                "down.weight": (width, inner),
            }
            if extras:
                parts |= {"q.bias": (query,), "k.bias": (key,), "v.bias": (key,)}
                parts |= {"q_norm.weight": (self.head_dim,), "k_norm.weight": (self.head_dim,)}
            shapes |= {f"layers.{layer}.{name}": shape for name, shape in parts.items()}
        return shapes


@dataclass(frozen=True, slots=True)
class TinyFile:
    """A model's tensors in a file, and the values they stand for."""

    dims: Dims
    path: Path
    sources: dict[str, _core.TensorSource]
    weights: Mapping[str, reference.Array] = field(repr=False)

    def model(self, isa: str = "scalar", num_threads: int = 1) -> _core.Model:
        return _core.Model(self.dims.config(), self.sources, num_threads=num_threads, isa=isa)


def write(
    folder: Path,
    dims: Dims,
    dtypes: Mapping[str, str] | None = None,
    *,
    tied: bool = False,
    extras: bool = True,
    seed: int = 0,
) -> TinyFile:
    """Write random tensors; `dtypes` maps ends of names ("o.weight") to other than F32."""
    rng = np.random.default_rng(seed)
    path = folder / "tensors.bin"
    sources: dict[str, _core.TensorSource] = {}
    weights: dict[str, reference.Array] = {}
    placed: list[tuple[str, int, int, str, tuple[int, ...]]] = []
    with path.open("wb") as file:
        for name, shape in dims.tensor_shapes(tied=tied, extras=extras).items():
            dtype = next((d for end, d in (dtypes or {}).items() if name.endswith(end)), "F32")
            size = 0.5 if len(shape) == 1 else 1 / np.sqrt(shape[-1])
            data, weights[name] = reference.random_tensor(rng, dtype, shape, size)
            placed.append((name, file.tell(), len(data), dtype, shape))
            file.write(data.tobytes())
            file.write(bytes(-len(data) % 32))
    mapped = _core.MappedFile(str(path))
    for name, offset, size, dtype, shape in placed:
        sources[name] = _core.TensorSource(mapped, offset, size, dtype, list(shape))
    return TinyFile(dims, path, sources, weights)


def with_width(dims: Dims, dtype: str) -> Dims:
    """Dims whose every matrix can be of `dtype`: widths that its blocks divide, and little more."""
    if dtype in ("F32", "F16", "BF16"):
        return dims
    if reference.BLOCK[dtype][0] == 32:
        return replace(dims, hidden_size=96, intermediate_size=160, head_dim=16)
    return replace(dims, hidden_size=768, intermediate_size=512, num_heads=8, head_dim=32)
