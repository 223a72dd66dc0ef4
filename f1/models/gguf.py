"""GGUF files: their field and tensor names translated to ours.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from f1 import _core
from f1.errors import ModelFileError
from f1.models.chat import ChatTemplate, template_or_default
from f1.models.checkpoint import ARCHITECTURES, Checkpoint, ModelConfig, TensorRef
from f1.models.rope import inverse_frequencies
from f1.models.tokenizer_gguf import tokenizer_from_gguf

_WHOLE = {
    "token_embd.weight": "embed.weight",
    "output.weight": "head.weight",
    "output_norm.weight": "final_norm.weight",
}
_IN_LAYER = {
    "attn_norm": "attn_norm",
    "attn_q": "q",
    "attn_k": "k",
    "attn_v": "v",
    "attn_q_norm": "q_norm",
    "attn_k_norm": "k_norm",
    "attn_output": "o",
    "ffn_norm": "mlp_norm",
    "ffn_gate": "gate",
    "ffn_up": "up",
    "ffn_down": "down",
}
_WITH_BIAS = frozenset("qkv")
_ROPE_FACTORS = "rope_freqs.weight"


def load_gguf(path: Path, name: str) -> Checkpoint:
    """Raises ModelFileError naming the field or tensor that is missing, wrong or unknown."""
    try:
        return _load(path, name)
    except ModelFileError as error:
        raise ModelFileError(f"{path.name}: {error.message}") from error


def _load(path: Path, name: str) -> Checkpoint:
    file = _read(path)
    fields = _Fields(file.metadata)
    refs = {
        tensor: TensorRef(path, offset, num_bytes, dtype, tuple(shape))
        for tensor, dtype, shape, offset, num_bytes in file.tensors
    }
    factors = refs.pop(_ROPE_FACTORS, None)
    tensors = {_canonical_name(tensor): ref for tensor, ref in refs.items()}
    config = _config(fields, tensors, factors)
    tokenizer = tokenizer_from_gguf(file.metadata)
    if tokenizer.vocab_size != config.vocab_size:
        raise ModelFileError(
            f"tokenizer.ggml.tokens has {tokenizer.vocab_size} entries, but token_embd.weight "
            f"{config.vocab_size} rows"
        )
    source = file.metadata.get("tokenizer.chat_template")
    template = ChatTemplate(template_or_default(source, tokenizer), tokenizer)
    return Checkpoint(name, fields.architecture, config, tensors, tokenizer, template)


def _read(path: Path) -> _core.GgufFile:
    try:
        return _core.read_gguf(str(path))
    except _core.InvalidArgument as error:
        # The core names the whole path; load_gguf puts the file's name in front.
        raise ModelFileError(str(error).removeprefix(f"{path}: ")) from error


def _canonical_name(name: str) -> str:
    if name in _WHOLE:
        return _WHOLE[name]
    block, _, rest = name.partition(".")
    layer, _, rest = rest.partition(".")
    part, _, kind = rest.partition(".")
    part = _IN_LAYER.get(part, "")
    known = part and kind in ("weight", "bias") and (kind == "weight" or part in _WITH_BIAS)
    if block != "blk" or not layer.isdecimal() or not known:
        raise ModelFileError(f"tensor {name!r} is not part of a known architecture")
    return f"layers.{int(layer)}.{part}.{kind}"


class _Fields:
    """Typed look-up of `<architecture>.<field>`."""

    def __init__(self, metadata: Mapping[str, Any]):
        self._metadata = metadata
        self.architecture = str(metadata.get("general.architecture"))
        if self.architecture not in ARCHITECTURES:
            raise ModelFileError(
                f"general.architecture is {self.architecture!r}; known are "
                + ", ".join(ARCHITECTURES)
            )

    def size(self, field: str, default: int | None = None) -> int:
        """A count: a positive integer."""
        value = self._get(field, default)
        if type(value) is not int or not 0 < value < 2**31:
            raise ModelFileError(f"field {self._key(field)} is {value!r}, not a positive integer")
        return value

    def number(self, field: str, default: float | None = None) -> float:
        """A positive number."""
        value = self._get(field, default)
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise ModelFileError(f"field {self._key(field)} is {value!r}, not a positive number")
        return float(value)

    def text(self, field: str, default: str) -> str:
        return str(self._get(field, default))

    def _get(self, field: str, default: Any) -> Any:
        value = self._metadata.get(self._key(field), default)
        if value is None:
            raise ModelFileError(f"field {self._key(field)} is missing")
        return value

    def _key(self, field: str) -> str:
        return f"{self.architecture}.{field}"


def _config(
    fields: _Fields, tensors: Mapping[str, TensorRef], factors: TensorRef | None
) -> ModelConfig:
    embed = tensors.get("embed.weight")
    if embed is None or len(embed.shape) != 2:
        raise ModelFileError("tensor 'token_embd.weight' is missing or not a matrix")
    hidden_size, num_heads = fields.size("embedding_length"), fields.size("attention.head_count")
    head_dim = fields.size("attention.key_length", hidden_size // num_heads or None)
    for field in ("attention.value_length", "rope.dimension_count"):
        if (found := fields.size(field, head_dim)) != head_dim:
            raise ModelFileError(
                f"field {fields.architecture}.{field} is {found}; only {head_dim}, the width of a "
                "head, is supported"
            )
    return ModelConfig(
        num_layers=fields.size("block_count"),
        hidden_size=hidden_size,
        intermediate_size=fields.size("feed_forward_length"),
        num_heads=num_heads,
        num_kv_heads=fields.size("attention.head_count_kv", num_heads),
        head_dim=head_dim,
        vocab_size=embed.shape[0],
        max_positions=fields.size("context_length"),
        norm_eps=fields.number("attention.layer_norm_rms_epsilon"),
        rope_inv_freq=_rope(fields, head_dim, factors),
        # Converters permute the rows of q and k of this architecture alone.
        rope_interleaved=fields.architecture == "llama",
    )


def _rope(fields: _Fields, head_dim: int, factors: TensorRef | None) -> tuple[float, ...]:
    frequencies = inverse_frequencies(head_dim, fields.number("rope.freq_base", 10000.0))
    scaling = fields.text("rope.scaling.type", "none")
    if scaling == "linear":
        frequencies = frequencies / fields.number("rope.scaling.factor")
    elif scaling != "none":
        raise ModelFileError(
            f"field {fields.architecture}.rope.scaling.type is {scaling!r}; known are none, linear"
        )
    if factors is not None:
        frequencies = frequencies / _rope_factors(factors, len(frequencies))
    return tuple(frequencies.tolist())


def _rope_factors(ref: TensorRef, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    if ref.dtype != "F32" or ref.shape != (count,):
        raise ModelFileError(
            f"tensor {_ROPE_FACTORS!r} is {ref.dtype} {list(ref.shape)}, expected F32 [{count}]"
        )
    factors = np.fromfile(ref.path, dtype="<f4", count=count, offset=ref.offset)
    if len(factors) != count or not np.all(np.isfinite(factors) & (factors > 0)):
        raise ModelFileError(f"tensor {_ROPE_FACTORS!r} has values that are not positive")
    return factors.astype(np.float64)
