"""Every stage of the forward pass in plain numpy, float64: the oracle for every backend.

Shapes: T tokens, D width, H query heads, G KV heads, E head width, V vocabulary. Weights are
[outputs, inputs]. Formats: ggml-common.h and ggml-quants.c of github.com/ggml-org/ggml.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Bytes = NDArray[np.uint8]

# ---- ggml's block formats ------------------------------------------------------------------------

BLOCK = {  # values and bytes of a block
    "F32": (1, 4), "F16": (1, 2), "BF16": (1, 2),
    "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34),
    "Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210),
}  # fmt: skip
HALVES = {  # where the f16 scales of a block stand
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,),
    "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
}  # fmt: skip


def dequantize(dtype: str, data: Bytes, shape: Sequence[int]) -> Array:
    """The values of a tensor of `shape` from its bytes."""
    if dtype == "F32":
        return data.view(np.float32).astype(np.float64).reshape(shape)
    if dtype == "F16":
        return data.view(np.float16).astype(np.float64).reshape(shape)
    if dtype == "BF16":
        return (
            (data.view(np.uint16).astype(np.uint32) << 16)
            .view(np.float32)
            .astype(np.float64)
            .reshape(shape)
        )
    blocks = data.reshape(-1, BLOCK[dtype][1])
    return _DEQUANTIZERS[dtype](blocks).reshape(shape)


def _half(blocks: Bytes, offset: int) -> Array:
    return blocks[:, offset : offset + 2].copy().view(np.float16).astype(np.float64)


def _nibbles(packed: Bytes) -> Array:
    return np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float64)


def _fifth(packed: Bytes) -> Array:
    return 16.0 * np.unpackbits(packed, axis=1, bitorder="little")


def _q4_0(b: Bytes) -> Array:
    return _half(b, 0) * (_nibbles(b[:, 2:]) - 8)


def _q4_1(b: Bytes) -> Array:
    return _half(b, 0) * _nibbles(b[:, 4:]) + _half(b, 2)


def _q5_0(b: Bytes) -> Array:
    return _half(b, 0) * (_nibbles(b[:, 6:]) + _fifth(b[:, 2:6]) - 16)


def _q5_1(b: Bytes) -> Array:
    return _half(b, 0) * (_nibbles(b[:, 8:]) + _fifth(b[:, 4:8])) + _half(b, 2)


def _q8_0(b: Bytes) -> Array:
    return _half(b, 0) * b[:, 2:].view(np.int8)


def _k_scales(b: Bytes) -> tuple[Array, Array]:
    """Scales and mins of the 8 groups, [blocks, 8, 1] each."""
    low, mid, high = b[:, 4:8], b[:, 8:12], b[:, 12:16]
    scales = np.concatenate([low & 63, high & 15 | low >> 6 << 4], axis=1)
    mins = np.concatenate([mid & 63, high >> 4 | mid >> 6 << 4], axis=1)
    return (_half(b, 0) * scales)[:, :, None], (_half(b, 2) * mins)[:, :, None]


def _q4_k(b: Bytes) -> Array:
    scales, mins = _k_scales(b)
    pairs = b[:, 16:].reshape(-1, 4, 1, 32)
    codes = np.concatenate([pairs & 15, pairs >> 4], axis=2).reshape(-1, 8, 32)
    return scales * codes - mins


def _q5_k(b: Bytes) -> Array:
    scales, mins = _k_scales(b)
    pairs = b[:, 48:].reshape(-1, 4, 1, 32)
    codes = np.concatenate([pairs & 15, pairs >> 4], axis=2).reshape(-1, 8, 32)
    fifth = b[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    return scales * (codes + 16.0 * fifth) - mins


def _q6_k(b: Bytes) -> Array:
    low = b[:, :128].reshape(-1, 2, 1, 64)
    codes = np.concatenate([low & 15, low >> 4], axis=2).reshape(-1, 2, 4, 32)
    high = b[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    scales = _half(b, 208)[:, :, None] * b[:, 192:208].view(np.int8)[:, :, None]
    return scales * (codes + 16.0 * high - 32).reshape(-1, 16, 16)


_DEQUANTIZERS = {
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0,
    "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k,
}  # fmt: skip


def random_tensor(
    rng: np.random.Generator, dtype: str, shape: Sequence[int], size: float
) -> tuple[Bytes, Array]:
    """Bytes of a random tensor and its values, of standard deviation near `size`.

    Quantised ones are random bits, so that every code and every scale occurs.
    """
    count = int(np.prod(shape))
    if dtype in ("F32", "F16", "BF16"):
        floats = (rng.standard_normal(count) * size).astype(np.float32)
        if dtype == "F16":
            data = floats.astype(np.float16).view(np.uint8)
        elif dtype == "BF16":
            data = (floats.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        else:
            data = floats.view(np.uint8)
        return data, dequantize(dtype, data, shape)
    values, width = BLOCK[dtype]
    blocks = rng.integers(0, 256, (count // values, width), dtype=np.uint8)
    for offset in HALVES[dtype]:  # first of the size of 1, to see what that makes
        scale = rng.uniform(0.5, 1.5, len(blocks)) * rng.choice([-1, 1], len(blocks))
        blocks[:, offset : offset + 2] = scale.astype(np.float16).view(np.uint8).reshape(-1, 2)
    shrink = size / dequantize(dtype, blocks, (count,)).std()
    for offset in HALVES[dtype]:
        smaller = (_half(blocks, offset) * shrink).astype(np.float16)
        blocks[:, offset : offset + 2] = smaller.view(np.uint8)
    return blocks.reshape(-1), dequantize(dtype, blocks, shape)


# ---- stages --------------------------------------------------------------------------------------


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def rope(x: Array, positions: Sequence[int], inv_freq: Array, *, interleaved: bool) -> Array:
    """Rotate x [T, heads, E]; pairs are neighbours when interleaved, else half a head apart."""
    angles = np.outer(positions, inv_freq)[:, None, :]
    half = x.shape[-1] // 2
    a, b = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
    rotated_a = a * np.cos(angles) - b * np.sin(angles)
    rotated_b = a * np.sin(angles) + b * np.cos(angles)
    if not interleaved:
        return np.concatenate([rotated_a, rotated_b], axis=-1)
    return np.stack([rotated_a, rotated_b], axis=-1).reshape(x.shape)


def attention(query: Array, keys: Array, values: Array) -> Array:
    """One token: query [H, E] (scaled) over keys and values [positions, G, E] -> [H, E]."""
    repeat = query.shape[0] // keys.shape[1]
    scores = np.einsum("he,phe->hp", query, keys.repeat(repeat, axis=1))
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("hp,phe->he", weights, values.repeat(repeat, axis=1))


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


@dataclass(frozen=True, slots=True)
class Shape:
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    inv_freq: Array
    interleaved: bool


def qkv(
    shape: Shape, w: Mapping[str, Array], layer: int, hidden: Array, positions: Sequence[int]
) -> tuple[Array, Array, Array]:
    """Query [T, H, E] scaled, key and value [T, G, E], rotated, of one layer."""
    at = f"layers.{layer}."
    x = rms_norm(hidden, w[at + "attn_norm.weight"], shape.norm_eps)

    def heads(name: str) -> Array:
        out = x @ w[f"{at}{name}.weight"].T + w.get(f"{at}{name}.bias", 0.0)
        out = out.reshape(len(x), -1, shape.head_dim)
        norm = w.get(f"{at}{name}_norm.weight")
        return out if norm is None else rms_norm(out, norm, shape.norm_eps)

    def rotate(x: Array) -> Array:
        return rope(x, positions, shape.inv_freq, interleaved=shape.interleaved)

    return rotate(heads("q")) / np.sqrt(shape.head_dim), rotate(heads("k")), heads("v")


def mlp_up(shape: Shape, w: Mapping[str, Array], layer: int, hidden: Array) -> Array:
    at = f"layers.{layer}."
    x = rms_norm(hidden, w[at + "mlp_norm.weight"], shape.norm_eps)
    return silu(x @ w[at + "gate.weight"].T) * (x @ w[at + "up.weight"].T)


Mix = tuple[Sequence[int], Sequence[float]]  # tokens and what each weighs


def embed(w: Mapping[str, Array], token_ids: Sequence[int], mixes: Mapping[int, Mix]) -> Array:
    """[T, D]: a token's row, or at the positions of `mixes` a weighted sum of rows."""
    hidden = w["embed.weight"][list(token_ids)].astype(np.float64)
    for position, (mixed, weights) in mixes.items():
        hidden[position] = np.asarray(weights, np.float64) @ w["embed.weight"][list(mixed)]
    return hidden


def mix(logits: NDArray[Any], top_k: int, temperature: float, gumbel: Array | None = None) -> Mix:
    """A soft step: the likeliest tokens, softmax(logits / temperature + noise); `gumbel` [V]."""
    likeliest = np.argsort(-logits, kind="stable")[:top_k]
    noise = 0.0 if gumbel is None else gumbel[likeliest]
    scores = logits[likeliest].astype(np.float64) / temperature + noise
    weights = np.exp(scores - scores.max())
    return likeliest.tolist(), (weights / weights.sum()).tolist()


def forward(
    shape: Shape,
    w: Mapping[str, Array],
    num_layers: int,
    token_ids: Sequence[int],
    mixes: Mapping[int, Mix] | None = None,
) -> Array:
    """Logits [T, V] of one sequence from position 0; `mixes` stand in place of tokens."""
    hidden = embed(w, token_ids, mixes or {})
    positions = range(len(token_ids))
    for layer in range(num_layers):
        query, keys, values = qkv(shape, w, layer, hidden, positions)
        attended = np.stack(
            [attention(query[t], keys[: t + 1], values[: t + 1]) for t in positions]
        )
        hidden = hidden + attended.reshape(len(hidden), -1) @ w[f"layers.{layer}.o.weight"].T
        hidden = hidden + mlp_up(shape, w, layer, hidden) @ w[f"layers.{layer}.down.weight"].T
    final = rms_norm(hidden, w["final_norm.weight"], shape.norm_eps)
    return final @ w.get("head.weight", w["embed.weight"]).T


def log_softmax(logits: NDArray[Any]) -> Array:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def kl(expected: NDArray[Any], got: NDArray[Any]) -> Array:
    """KL divergence of each row, in nats."""
    p, q = log_softmax(expected), log_softmax(got)
    return (np.exp(p) * (p - q)).sum(-1)


def quantize_activations(x: NDArray[np.float32]) -> Array:
    """What quantised weights see of x [..., K]: 8 bits with a scale for each 32 values.

    In float32 step by step, as every kernel must: a code off by one would show.
    """
    groups = x.astype(np.float32).reshape(*x.shape[:-1], -1, 32)
    largest = np.abs(groups).max(-1, keepdims=True)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 1e-30)
    scale = (largest / np.float32(127)).astype(np.float64)
    return (np.rint(groups * inverse) * scale).reshape(x.shape)
