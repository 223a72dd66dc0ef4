"""Every stage of every instruction set against reference.py, on awkward shapes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf.quants
import numpy as np
import pytest
import reference
import tiny
from reference import BLOCK, quantize_activations

from f1 import _core

FLOATS = ("F32", "F16", "BF16")
Stages = _core.testing.Stages
DIMS = tiny.Dims()


def available(isa: str) -> bool:
    try:
        _core.testing.isa_name(isa)
    except _core.InvalidArgument:
        return False
    return True


ISAS = [i for i in ("scalar", "avx2", "avx512") if available(i)]


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def batch_of(lengths: list[int], starts: list[int]) -> _core.testing.Batch:
    """Sequences of `lengths` new tokens at `starts`, their pages dealt out backwards."""
    num_pages = [-(-(start + n) // 16) for start, n in zip(starts, lengths, strict=True)]
    return _core.testing.Batch(
        token_ids=[(7 * i) % DIMS.vocab_size for i in range(sum(lengths))],
        positions=[s + i for s, n in zip(starts, lengths, strict=True) for i in range(n)],
        sequence_of=[b for b, n in enumerate(lengths) for _ in range(n)],
        page_ids=list(reversed(range(sum(num_pages)))),
        page_begin=[sum(num_pages[:b]) for b in range(len(num_pages) + 1)],
        head_tokens=list(range(sum(lengths))),
    )


def stages(model: _core.Model, num_tokens: int) -> Stages:
    made = Stages(model, num_pages=64, max_tokens=max(num_tokens, 1))
    made.set_batch(batch_of([num_tokens], [0]))
    return made


def random(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def seen(x: np.ndarray, dtype: str) -> np.ndarray:
    """x as weights of `dtype` see it."""
    return x.astype(np.float64) if dtype in FLOATS else quantize_activations(x)


@pytest.mark.parametrize("dtype", [d for d in BLOCK if d not in FLOATS])
def test_reference_dequantizes_as_ggml_does(dtype: str) -> None:
    data, values = reference.random_tensor(np.random.default_rng(3), dtype, (6, 512), 1.0)
    kind = gguf.GGMLQuantizationType[dtype]
    theirs = gguf.quants.dequantize(data.reshape(6, -1), kind)
    np.testing.assert_allclose(values, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", BLOCK)
def test_matrix_products(tmp_path: Path, isa: str, dtype: str) -> None:
    dims = replace(tiny.with_width(DIMS, dtype), hidden_size=40)  # outputs: no multiple of 16
    file = tiny.write(tmp_path, dims, {"o.weight": dtype, "down.weight": dtype})
    for num_tokens in (1, 3, 8, 17):
        at = stages(file.model(isa), num_tokens)
        hidden = random(num_tokens, dims.hidden_size)
        for part, name, stage, width in (
            ("attended", "o", "attn_out", dims.num_heads * dims.head_dim),
            ("mlp", "down", "mlp_down", dims.intermediate_size),
        ):
            x = random(num_tokens, width, seed=2)
            x[0, :32] = 0.0  # a group of zeros
            x[0, 32:64] *= 1e-39  # and one so small that its inverse is infinite
            x[1:2] = 0.25  # all codes are 127: two products of 8-bit codes need more than 16 bits
            at.write("hidden", hidden)
            at.write(part, x)
            at.run(stage)
            expected = hidden + seen(x, dtype) @ file.weights[f"layers.0.{name}.weight"].T
            got = at.read("hidden", num_tokens, dims.hidden_size)
            np.testing.assert_allclose(got, expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize("dtype", ["F32", "Q8_0", "Q4_K"])
def test_what_is_no_number_is_not_lost(tmp_path: Path, isa: str, dtype: str) -> None:
    """A single one, wherever it stands in a group of codes, makes its row show it, and no other."""
    dims = tiny.with_width(DIMS, dtype)
    file = tiny.write(tmp_path, dims, {"down.weight": dtype})
    at = stages(file.model(isa), 64)
    x = random(64, dims.intermediate_size)
    for token in range(0, 64, 2):
        x[token, token // 2 + 32] = np.copysign(np.nan, x[token, 0])
    at.write("hidden", random(64, dims.hidden_size))
    at.write("mlp", x)
    at.run("mlp_down")
    got = at.read("hidden", 64, dims.hidden_size)
    assert np.isnan(got[::2]).all()
    assert np.isfinite(got[1::2]).all()


@pytest.mark.parametrize("dtype", BLOCK)
def test_wide_products(tmp_path: Path, isa: str, dtype: str) -> None:
    """Several blocks of inputs, a strip that is not full, each way of going through the tokens:
    the sums are right, and the same bits alone or among others."""
    dims = replace(tiny.with_width(DIMS, dtype), hidden_size=104, intermediate_size=2048 - 256)
    file = tiny.write(tmp_path, dims, {"down.weight": dtype})
    x = random(41, dims.intermediate_size, seed=2)
    hidden = random(41, dims.hidden_size)
    weights = file.weights["layers.0.down.weight"]
    expected = hidden + seen(x, dtype) @ weights.T
    model = file.model(isa, num_threads=2)
    alone = []
    for num_tokens in (41, 33, 32, 9, 8, 5, 2, 1):
        at = stages(model, num_tokens)
        at.write("hidden", hidden[:num_tokens])
        at.write("mlp", x[:num_tokens])
        at.run("mlp_down")
        got = at.read("hidden", num_tokens, dims.hidden_size)
        np.testing.assert_allclose(got, expected[:num_tokens], rtol=0, atol=1e-5)
        alone.append(got)
    for got in alone[1:]:
        np.testing.assert_array_equal(got, alone[0][: len(got)])


@pytest.mark.parametrize("dtype", [d for d in BLOCK if d not in FLOATS])
def test_wide_head(tmp_path: Path, isa: str, dtype: str) -> None:
    """More inputs than a line of scales belongs to, and a number of rows that ends within 16."""
    dims = replace(DIMS, hidden_size=1280 if BLOCK[dtype][0] == 256 else 1056, vocab_size=601)
    file = tiny.write(tmp_path, dims, {"head.weight": dtype})
    at = stages(file.model(isa, num_threads=2), 9)
    x = random(9, dims.hidden_size)
    at.write("final", x)
    full = at.head([(i, []) for i in range(9)])
    expected = seen(x, dtype) @ file.weights["head.weight"].T
    np.testing.assert_allclose(full, expected, rtol=0, atol=3e-5)
    listed = sorted({*range(0, 601, 17), 600})
    one, few = at.head([(8, []), (4, listed)])
    np.testing.assert_array_equal(one, full[8])
    np.testing.assert_array_equal(few[: len(listed)], full[4][listed])


@pytest.mark.parametrize("dtype", BLOCK)
def test_tables(tmp_path: Path, isa: str, dtype: str) -> None:
    dims = tiny.with_width(DIMS, dtype)
    file = tiny.write(tmp_path, dims, {"embed.weight": dtype, "head.weight": dtype})
    at = stages(file.model(isa, num_threads=2), 17)
    at.run("embed")
    tokens = [(7 * i) % dims.vocab_size for i in range(17)]
    got = at.read("hidden", 17, dims.hidden_size)
    np.testing.assert_allclose(got, file.weights["embed.weight"][tokens], rtol=1e-6, atol=1e-9)

    x = random(17, dims.hidden_size)
    at.write("final", x)
    full = at.head([(i, []) for i in range(17)])
    expected = seen(x, dtype) @ file.weights["head.weight"].T
    np.testing.assert_allclose(full, expected, rtol=0, atol=5e-6)
    # Alone, listed or among others: the same bits.
    listed = [0, 1, 63, 64, 149]
    mixed = at.head([(16, []), (3, listed), (3, []), (0, listed)])
    np.testing.assert_array_equal(mixed[0], full[16])
    np.testing.assert_array_equal(mixed[2], full[3])
    np.testing.assert_array_equal(mixed[1][:5], full[3][listed])
    np.testing.assert_array_equal(mixed[3][:5], full[0][listed])
    assert np.isnan(mixed[1][5:]).all()  # nothing was written there


@pytest.mark.parametrize("dtype", ["F32", "BF16", "Q8_0", "Q4_K"])
def test_mixes_of_rows(tmp_path: Path, isa: str, dtype: str) -> None:
    """They stand where the token's row would; one row of weight 1 is that row, bit for bit."""
    dims = tiny.with_width(DIMS, dtype)
    file = tiny.write(tmp_path, dims, {"embed.weight": dtype})
    at = Stages(file.model(isa, num_threads=2), num_pages=4, max_tokens=9)
    tokens = [(7 * i) % dims.vocab_size for i in range(9)]
    places = {"positions": list(range(9)), "sequence_of": [0] * 9}
    pages = {"page_ids": [0], "page_begin": [0, 1], "head_tokens": []}

    def embedded(token_ids: list[int], mixes: dict[int, reference.Mix]) -> np.ndarray:
        ids = [token for mixed, _ in mixes.values() for token in mixed]
        ends = np.cumsum([len(mixed) for mixed, _ in mixes.values()], dtype=int).tolist()
        weights = [weight for _, weights in mixes.values() for weight in weights]
        batch = _core.testing.Batch(
            token_ids, **places, **pages, mixed_tokens=list(mixes), mix_begin=[0, *ends],
            mix_ids=ids, mix_weights=weights,
        )  # fmt: skip
        at.set_batch(batch)
        at.run("embed")
        return at.read("hidden", 9, dims.hidden_size)

    some: dict[int, reference.Mix] = {8: ([3, 149, 0], [0.5, 0.25, 0.25]), 2: ([5], [1.0])}
    got = embedded(tokens, some)
    expected = reference.embed(file.weights, tokens, some)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)
    whole = embedded([0] * 9, {i: ([token], [1.0]) for i, token in enumerate(tokens)})
    np.testing.assert_array_equal(whole, embedded(tokens, {}))


@pytest.mark.parametrize("extras", [True, False])
@pytest.mark.parametrize("interleaved", [True, False])
def test_qkv_and_attention(tmp_path: Path, isa: str, interleaved: bool, extras: bool) -> None:
    """Three sequences in one batch, over contexts that earlier batches left in their pages."""
    dims = replace(DIMS, interleaved=interleaved)
    file = tiny.write(tmp_path, dims, extras=extras)
    at = Stages(file.model(isa, num_threads=2), num_pages=64, max_tokens=64)
    lengths, num_heads, width = [35, 17, 1], dims.num_heads, dims.head_dim
    total = sum(lengths)
    hidden = random(total, dims.hidden_size)
    steps = [[19, 15, 1], [1, 0, 0], [15, 2, 0]]
    begins = [sum(lengths[:b]) for b in range(3)]
    done = [0, 0, 0]
    for step in steps:
        rows = [begins[b] + done[b] + i for b in range(3) for i in range(step[b])]
        positions = [done[b] + i for b in range(3) for i in range(step[b])]
        batch = _core.testing.Batch(
            token_ids=[0] * len(rows),
            positions=positions,
            sequence_of=[b for b in range(3) for _ in range(step[b])],
            page_ids=[9, 2, 40, 7, 63, 0],
            page_begin=[0, 3, 5, 6],
            head_tokens=[],
        )
        at.set_batch(batch)
        at.run("embed")  # prepares the rotation
        at.write("hidden", hidden[rows])
        at.run("qkv")
        got_query = at.read("query", len(rows), num_heads * width).reshape(-1, num_heads, width)
        at.run("attend")
        got = at.read("attended", len(rows), num_heads * width).reshape(-1, num_heads, width)
        for i, (row, position) in enumerate(zip(rows, positions, strict=True)):
            first = row - position
            query, keys, values = reference.qkv(
                dims.shape,
                file.weights,
                0,
                hidden[first : row + 1].astype(np.float64),
                range(position + 1),
            )
            np.testing.assert_allclose(got_query[i], query[-1], rtol=0, atol=5e-6)
            expected = reference.attention(
                query[-1],
                keys.astype(np.float16).astype(np.float64),
                values.astype(np.float16).astype(np.float64),
            )
            np.testing.assert_allclose(got[i], expected, rtol=0, atol=5e-4)
        done = [d + s for d, s in zip(done, step, strict=True)]
    assert done == lengths


def test_attention_survives_large_scores(tmp_path: Path, isa: str) -> None:
    file = tiny.write(tmp_path, DIMS, extras=False)
    at = stages(file.model(isa), 40)
    at.run("embed")
    at.write("hidden", random(40, DIMS.hidden_size))
    at.run("qkv")
    at.write("query", 1e4 * random(40, DIMS.num_heads * DIMS.head_dim, seed=5))
    at.run("attend")
    assert np.isfinite(at.read("attended", 40, DIMS.num_heads * DIMS.head_dim)).all()


@pytest.mark.parametrize("dtype", ["F32", "Q5_0", "Q4_K"])
def test_mlp_up_and_final_norm(tmp_path: Path, isa: str, dtype: str) -> None:
    dims = tiny.with_width(DIMS, dtype)
    file = tiny.write(tmp_path, dims, {"gate.weight": dtype, "up.weight": dtype})
    at = stages(file.model(isa, num_threads=2), 17)
    hidden = 3 * random(17, dims.hidden_size)
    at.write("hidden", hidden)
    at.run("mlp_up")
    got = at.read("mlp", 17, dims.intermediate_size)
    expected = reference.mlp_up(dims.shape, file.weights, 0, hidden.astype(np.float64))
    # Quantised activations differ from exact ones by half a code: 1/254 of a group's largest.
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 if dtype == "F32" else 0.05)

    at.run("final_norm")
    normed = reference.rms_norm(
        hidden.astype(np.float64), file.weights["final_norm.weight"], dims.norm_eps
    )
    np.testing.assert_allclose(at.read("final", 17, dims.hidden_size), normed, rtol=1e-5, atol=1e-6)


def test_broken_batches_are_refused(tmp_path: Path) -> None:
    at = Stages(tiny.write(tmp_path, DIMS).model(), num_pages=4, max_tokens=4)
    good = {
        "token_ids": [1, 2],
        "positions": [0, 1],
        "sequence_of": [0, 0],
        "page_ids": [3],
        "page_begin": [0, 1],
        "head_tokens": [1],
    }
    at.set_batch(_core.testing.Batch(**good))
    at.forward()
    for broken in (
        {"token_ids": [1, DIMS.vocab_size]},
        {"token_ids": [1, -1]},
        {"positions": [0, 16]},
        {"positions": [0, -1]},
        {"positions": [0]},
        {"sequence_of": [0, 1]},
        {"page_ids": [4]},
        {"page_begin": [0, 2]},
        {"page_begin": []},
        {"head_tokens": [2]},
        {"mixed_tokens": [2], "mix_begin": [0, 1], "mix_ids": [0], "mix_weights": [1.0]},
        {"mixed_tokens": [1], "mix_begin": [0, 0]},
        {"mixed_tokens": [1], "mix_begin": [0, 2], "mix_ids": [0], "mix_weights": [1.0]},
        {"mixed_tokens": [1], "mix_begin": [0, 1], "mix_ids": [0], "mix_weights": []},
        {
            "mixed_tokens": [1], "mix_begin": [0, 1], "mix_ids": [DIMS.vocab_size],
            "mix_weights": [1.0],
        },
        {"mix_begin": []},
    ):  # fmt: skip
        at.set_batch(_core.testing.Batch(**{**good, **broken}))
        with pytest.raises(_core.InternalError):
            at.forward()


def test_pages_are_copied_read_and_written_whole(tmp_path: Path, isa: str) -> None:
    """Every layer's K and V: what attention gets from copies is what it gets from the first."""
    dims = replace(DIMS, num_layers=3)
    model = tiny.write(tmp_path, dims).model(isa)
    at, other = (Stages(model, num_pages=8, max_tokens=32) for _ in range(2))

    def attended(stages: Stages, page_ids: list[int]) -> list[np.ndarray]:
        """Of a query of each layer at position 20."""
        stages.set_batch(_core.testing.Batch([0], [20], [0], page_ids, [0, 2], [0]))
        stages.run("embed")
        width = dims.num_heads * dims.head_dim
        rows = []
        for layer in range(dims.num_layers):
            stages.write("query", random(1, width))
            stages.run("attend", layer)
            rows.append(stages.read("attended", 1, width))
        return rows

    at.set_batch(
        _core.testing.Batch(list(range(21)), list(range(21)), [0] * 21, [6, 1], [0, 2], [])
    )
    at.forward()
    expected = attended(at, [6, 1])
    at.copy_page(6, 0)
    at.copy_page(1, 7)
    np.testing.assert_array_equal(attended(at, [0, 7]), expected)
    assert len(at.read_page(6)) == model.kv_page_bytes
    other.write_page(3, at.read_page(0))
    other.write_page(2, at.read_page(7))
    np.testing.assert_array_equal(attended(other, [3, 2]), expected)
    assert other.read_page(3) == at.read_page(6)
    with pytest.raises(_core.InternalError):
        at.copy_page(8, 0)
    with pytest.raises(_core.InternalError):
        at.write_page(0, b"short")
