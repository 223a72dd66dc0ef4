"""A model as found on disk: numbers, tensors by their canonical names, tokenizer and template.

Nothing of the weights is in it; the core maps the files and packs them (`f1.models.load`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from f1.models.chat import ChatTemplate
from f1.models.tokenizer import Tokenizer

ARCHITECTURES = ("llama", "qwen2", "qwen3")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The numbers of a Llama-family decoder; the fields of the core's `ModelConfig`."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    norm_eps: float
    rope_inv_freq: tuple[float, ...]  # [head_dim / 2], theta and scaling included
    rope_interleaved: bool


@dataclass(frozen=True, slots=True)
class TensorRef:
    """Where a tensor's bytes lie. `shape` is outermost first; `dtype` is GGUF's name for it."""

    path: Path
    offset: int
    num_bytes: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One model, ready to load. `tensors` has the names listed in csrc/model/model.h."""

    name: str
    architecture: str  # one of ARCHITECTURES
    config: ModelConfig
    tensors: Mapping[str, TensorRef]
    tokenizer: Tokenizer
    template: ChatTemplate
