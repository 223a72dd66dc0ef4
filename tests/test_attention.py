"""Attention over long contexts: right, and the same bits however tokens and threads share it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import reference
import tiny
from test_stages import ISAS, Stages, random

from f1 import _core

NUM_TOKENS = 700  # three segments of 256 positions
SHAPES = {  # query heads, KV heads, head width
    "grouped": (6, 2, 20),
    "seven to one": (7, 1, 32),
    "one to one": (2, 2, 64),
    "many to one": (18, 2, 16),
}


class Cache:
    """A model whose cache holds NUM_TOKENS positions of one sequence, and their queries.

    From position `poisoned` on, they are NaN.
    """

    def __init__(
        self, file: tiny.TinyFile, isa: str, num_threads: int = 1, poisoned: int = NUM_TOKENS
    ) -> None:
        self.dims = file.dims
        self.width = file.dims.num_heads * file.dims.head_dim
        self.hidden = random(NUM_TOKENS, file.dims.hidden_size)
        num_pages = -(-NUM_TOKENS // 16)
        self.pages = [(7 * i) % num_pages for i in range(num_pages)]
        self.stages = Stages(file.model(isa, num_threads=num_threads), num_pages, NUM_TOKENS)
        self.hidden[poisoned:] = np.nan
        self.queries = self.run("qkv", 0, NUM_TOKENS)

    def run(self, stage: str, begin: int, end: int) -> np.ndarray:
        """Run a stage for the tokens in begin .. end - 1."""
        self.stages.set_batch(
            _core.testing.Batch(
                token_ids=[0] * (end - begin),
                positions=list(range(begin, end)),
                sequence_of=[0] * (end - begin),
                page_ids=self.pages,
                page_begin=[0, len(self.pages)],
                head_tokens=[],
            )
        )
        if stage == "qkv":
            self.stages.run("embed")  # prepares the rotation
            self.stages.write("hidden", self.hidden[begin:end])
        else:
            self.stages.write("query", self.queries[begin:end])
        self.stages.run(stage)
        return self.stages.read(
            "attended" if stage == "attend" else "query", end - begin, self.width
        )


def file_of(folder: Path, shape: str) -> tiny.TinyFile:
    num_heads, num_kv_heads, head_dim = SHAPES[shape]
    dims = replace(tiny.Dims(), num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim)
    return tiny.write(folder, dims, extras=False)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", SHAPES)
def test_attention_over_several_segments(tmp_path: Path, shape: str, isa: str) -> None:
    file = file_of(tmp_path, shape)
    cache = Cache(file, isa)
    got = cache.run("attend", 0, NUM_TOKENS).reshape(NUM_TOKENS, file.dims.num_heads, -1)
    _, keys, values = reference.qkv(
        file.dims.shape, file.weights, 0, cache.hidden.astype(np.float64), range(NUM_TOKENS)
    )
    keys, values = (x.astype(np.float16).astype(np.float64) for x in (keys, values))
    for t in (0, 1, 15, 63, 64, 255, 256, 257, 511, 512, 699):
        query = cache.queries[t].reshape(file.dims.num_heads, -1).astype(np.float64)
        expected = reference.attention(query, keys[: t + 1], values[: t + 1])
        np.testing.assert_allclose(got[t], expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", SHAPES)
def test_bits_depend_on_neither_tiles_nor_threads(tmp_path: Path, shape: str, isa: str) -> None:
    file = file_of(tmp_path, shape)
    whole = Cache(file, isa).run("attend", 0, NUM_TOKENS)
    assert np.isfinite(whole).all()
    for num_threads in (1, 4):
        cache = Cache(file, isa, num_threads)
        np.testing.assert_array_equal(cache.run("attend", 0, NUM_TOKENS), whole)
        for begin, end in (
            (0, 1),
            (3, 14),
            (60, 70),
            (251, 258),
            (255, 257),
            (510, 514),
            (699, 700),
        ):
            np.testing.assert_array_equal(cache.run("attend", begin, end), whole[begin:end])


@pytest.mark.parametrize("isa", ISAS)
def test_what_comes_later_in_a_page_does_not_matter(tmp_path: Path, isa: str) -> None:
    file = file_of(tmp_path, "grouped")
    whole = Cache(file, isa).run("attend", 0, NUM_TOKENS)
    poisoned = Cache(file, isa, poisoned=258)
    np.testing.assert_array_equal(poisoned.run("attend", 251, 258), whole[251:258])
    # Nor does it where a tile goes on into the poison.
    np.testing.assert_array_equal(poisoned.run("attend", 251, 262)[:7], whole[251:258])
