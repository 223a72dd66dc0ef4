"""Frequencies of rotary position embeddings (RoFormer, arXiv 2104.09864), scalings included."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from f1.errors import ModelFileError

Frequencies = np.ndarray[Any, np.dtype[np.float64]]


def inverse_frequencies(head_dim: int, theta: float) -> Frequencies:
    """theta^(-2i / head_dim) for i in 0 .. head_dim/2 - 1."""
    if head_dim % 2:
        raise ModelFileError(f"heads are {head_dim} wide, an odd number: rotation takes pairs")
    return theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)


def scaled_like_llama3(
    frequencies: Frequencies,
    *,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    trained_positions: int,
) -> Frequencies:
    """Llama 3.1's stretching of the context: waves much longer than the trained context are slowed
    down by `factor`, short ones are kept, and those between are blended.

        wave length   short  |  trained/high .. trained/low  |  long
        frequency      f     |     blend of f and f/factor   |  f/factor
    """
    waves_in_context = trained_positions * frequencies / (2 * math.pi)
    keep = (waves_in_context - low_freq_factor) / (high_freq_factor - low_freq_factor)
    keep = np.clip(keep, 0.0, 1.0)
    return keep * frequencies + (1 - keep) * frequencies / factor
