"""The CUDA backend's stages against reference.py, in three orders of its threads.

Without a GPU the kernels run on a host shim under AddressSanitizer and UBSan (cuda_probe.py); with
F1_CUDA_PROBE set, the program that cuda/device.sh has built runs them on the device.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cuda_probe
import numpy as np
import pytest
import reference
import tiny
from cuda_probe import Probe, ProbeError, Row
from reference import kl
from test_sampling import pack

from f1 import _core

DIMS = tiny.Dims()
DEVICE = os.environ.get("F1_CUDA_PROBE")
ORDERS = ["device"] if DEVICE else ["forward 0", "reverse 0", "random 7"]
pytestmark = pytest.mark.skipif(
    DEVICE is None and platform.machine() not in ("x86_64", "AMD64"),
    reason="the shim changes stacks as x86-64 does",
)


@pytest.fixture(scope="session")
def program(request: pytest.FixtureRequest) -> Path:
    if DEVICE:
        return Path(DEVICE)
    assert request.config.cache is not None
    return cuda_probe.build(request.config.cache.mkdir("cuda_probe"))


@pytest.fixture(params=ORDERS)
def probe(program: Path, request: pytest.FixtureRequest) -> Iterator[Probe]:
    with Probe(program) as probe:
        if not DEVICE:
            probe.call("order", *request.param.split())
        yield probe


def random(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def bf16(x: np.ndarray) -> np.ndarray:
    """To the nearest bf16, ties to even, as float64."""
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(
        np.float32
    ).astype(np.float64)  # fmt: skip


def one_sequence(probe: Probe, num_tokens: int) -> None:
    num_pages = -(-num_tokens // 16)
    rows = list(range(num_tokens))
    probe.batch(rows, rows, [0] * num_tokens, list(range(num_pages)), [0, num_pages], rows)


@pytest.mark.parametrize("num_tokens", [1, 9, 33])
def test_products_and_residuals(tmp_path: Path, probe: Probe, num_tokens: int) -> None:
    dims = replace(DIMS, intermediate_size=300)  # ten chunks of inputs for four warps
    file = tiny.write(tmp_path, dims)
    probe.load(file)
    one_sequence(probe, num_tokens)
    hidden = random(num_tokens, dims.hidden_size)
    for part, name, stage, width in (
        ("attended", "o", "attn_out", dims.num_heads * dims.head_dim),
        ("mlp", "down", "mlp_down", dims.intermediate_size),
    ):
        x = random(num_tokens, width, seed=2)
        probe.write("hidden", hidden)
        probe.write(part, x)
        probe.stage(stage)
        expected = hidden + bf16(x) @ bf16(file.weights[f"layers.0.{name}.weight"]).T
        got = probe.read("hidden", num_tokens, dims.hidden_size)
        np.testing.assert_allclose(got, expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize("dtype", reference.BLOCK)
def test_every_format_becomes_bf16(tmp_path: Path, program: Path, dtype: str) -> None:
    dims = replace(tiny.with_width(DIMS, dtype), vocab_size=20)
    file = tiny.write(tmp_path, dims, {"embed.weight": dtype}, tied=True)
    with Probe(program) as probe:
        probe.load(file)
        one_sequence(probe, 20)
        probe.stage("embed")
        got = probe.read("hidden", 20, dims.hidden_size)
    # One unit of bf16: where a value lies between two, f32 and f64 may not round alike.
    np.testing.assert_allclose(got, bf16(file.weights["embed.weight"]), rtol=2**-7, atol=0)
    assert np.mean(got == bf16(file.weights["embed.weight"])) > 0.999


def test_mixes_of_rows(tmp_path: Path, probe: Probe) -> None:
    file = tiny.write(tmp_path, DIMS)
    rows = {"embed.weight": bf16(file.weights["embed.weight"])}
    probe.load(file)
    one_sequence(probe, 20)
    some: dict[int, reference.Mix] = {19: ([3, 149, 0], [0.5, 0.25, 0.25]), 2: ([5], [1.0])}
    probe.mixes(some)
    probe.stage("embed")
    got = probe.read("hidden", 20, DIMS.hidden_size)
    expected = reference.embed(rows, range(20), some)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)
    one_sequence(probe, 20)
    probe.mixes({i: ([i], [1.0]) for i in range(20)})
    probe.stage("embed")
    np.testing.assert_array_equal(
        probe.read("hidden", 20, DIMS.hidden_size), rows["embed.weight"][:20]
    )


def test_head_of_all_and_of_listed_tokens(tmp_path: Path, probe: Probe) -> None:
    file = tiny.write(tmp_path, DIMS)
    probe.load(file)
    one_sequence(probe, 17)
    x = random(17, DIMS.hidden_size)
    probe.write("final", x)
    expected = bf16(x) @ bf16(file.weights["head.weight"]).T
    probe.head([(i, []) for i in range(17)])
    full = np.stack([probe.logits(i, DIMS.vocab_size) for i in range(17)])
    np.testing.assert_allclose(full, expected, rtol=0, atol=5e-6)
    # Alone, listed or among others: the same bits, and nothing beside them.
    listed = [0, 1, 63, 64, 149]
    nothing = np.full(DIMS.vocab_size, np.nan, np.float32)
    for row in range(5):
        probe.call("write_logits", row, nothing)
    probe.head([(16, []), (3, listed), (3, []), (0, listed)])
    np.testing.assert_array_equal(probe.logits(0, DIMS.vocab_size), full[16])
    np.testing.assert_array_equal(probe.logits(2, DIMS.vocab_size), full[3])
    for row, index in ((1, 3), (3, 0)):
        got = probe.logits(row, DIMS.vocab_size)
        np.testing.assert_array_equal(got[:5], full[index][listed])
        assert np.isnan(got[5:]).all()
    assert np.isnan(probe.logits(4, DIMS.vocab_size)).all()


@pytest.mark.parametrize("extras", [True, False])
@pytest.mark.parametrize("interleaved", [True, False])
def test_qkv_and_attention(tmp_path: Path, probe: Probe, interleaved: bool, extras: bool) -> None:
    """Three sequences in one batch, over contexts that earlier batches left in their pages."""
    dims = replace(DIMS, interleaved=interleaved)
    file = tiny.write(tmp_path, dims, extras=extras)
    rounded = {n: bf16(w) if w.ndim == 2 else w for n, w in file.weights.items()}
    probe.load(file)
    lengths, num_heads, width = [35, 17, 1], dims.num_heads, dims.head_dim
    hidden = random(sum(lengths), dims.hidden_size)
    begins = [sum(lengths[:b]) for b in range(3)]
    done = [0, 0, 0]
    for step in ([19, 15, 1], [1, 0, 0], [15, 2, 0]):
        rows = [begins[b] + done[b] + i for b in range(3) for i in range(step[b])]
        positions = [done[b] + i for b in range(3) for i in range(step[b])]
        sequence_of = [b for b in range(3) for _ in range(step[b])]
        probe.batch([0] * len(rows), positions, sequence_of, [9, 2, 40, 7, 63, 0], [0, 3, 5, 6])
        probe.stage("embed")  # prepares the rotation
        probe.write("hidden", hidden[rows])
        probe.stage("qkv")
        queries = probe.read("query", len(rows), num_heads * width).reshape(-1, num_heads, width)
        probe.stage("attend")
        attended = probe.read("attended", len(rows), num_heads * width)
        for i, (row, position) in enumerate(zip(rows, positions, strict=True)):
            context = hidden[row - position : row + 1].astype(np.float64)
            query, keys, values = reference.qkv(
                dims.shape, rounded, 0, context, range(position + 1)
            )
            # Of the normed hidden states 8 bits are left.
            np.testing.assert_allclose(queries[i], query[-1], rtol=0, atol=0.02)
            expected = reference.attention(query[-1], keys, values).reshape(-1)
            np.testing.assert_allclose(attended[i], expected, rtol=0, atol=0.05)
        done = [d + s for d, s in zip(done, step, strict=True)]
    assert done == lengths


def test_attention_is_exact_over_what_the_pages_hold(tmp_path: Path, probe: Probe) -> None:
    """K and V read from the pages' bytes: what is left is f32 and the bf16 of the result."""
    file = tiny.write(tmp_path, DIMS)
    page_bytes, _ = probe.load(file)
    num_tokens, (heads, groups, width) = 150, (DIMS.num_heads, DIMS.num_kv_heads, DIMS.head_dim)
    pages = [11, 3, 30, 8, 0, 63, 20, 21, 40, 41]
    for begin in range(0, num_tokens, 50):
        at = list(range(begin, begin + 50))
        probe.batch([0] * 50, at, [0] * 50, pages, [0, 10])
        probe.stage("embed")
        probe.write("hidden", random(50, DIMS.hidden_size, seed=begin))
        probe.stage("qkv")
    query = 3 * random(50, heads * width, seed=5)
    probe.write("query", query)
    probe.stage("attend")
    data = np.array([probe.call("read_page", page) for page in pages], np.uint8)
    assert data.shape == (10, page_bytes)
    halves = data.view(np.float16).astype(np.float64).reshape(10, 2, groups, 16, width)
    keys, values = halves.transpose(1, 0, 3, 2, 4).reshape(2, 160, groups, width)
    got = probe.read("attended", 50, heads * width)
    for i in (0, 9, 10, 11, 49):
        seen = 101 + i
        expected = reference.attention(
            query[i].astype(np.float64).reshape(heads, width), keys[:seen], values[:seen]
        )
        np.testing.assert_allclose(got[i], expected.reshape(-1), rtol=2**-8, atol=1e-5)
    probe.write("query", 1e4 * query)
    probe.stage("attend")
    assert np.isfinite(probe.read("attended", 50, heads * width)).all()


def test_mlp_up_and_final_norm(tmp_path: Path, probe: Probe) -> None:
    file = tiny.write(tmp_path, DIMS)
    rounded = {n: bf16(w) if w.ndim == 2 else w for n, w in file.weights.items()}
    probe.load(file)
    probe.batch(list(range(17)), list(range(17)), [0] * 17, [0, 1], [0, 2], [16, 2, 7])
    probe.stage("embed")
    hidden = 3 * random(17, DIMS.hidden_size)
    probe.write("hidden", hidden)
    probe.stage("mlp_up")
    expected = reference.mlp_up(DIMS.shape, rounded, 0, hidden.astype(np.float64))
    got = probe.read("mlp", 17, DIMS.intermediate_size)
    np.testing.assert_allclose(got, expected, rtol=0, atol=0.02)

    probe.stage("final_norm")
    wanted = hidden[[16, 2, 7]].astype(np.float64)
    normed = reference.rms_norm(wanted, file.weights["final_norm.weight"], DIMS.norm_eps)
    np.testing.assert_allclose(probe.read("final", 3, DIMS.hidden_size), normed, rtol=2**-7)


def test_pages_are_copied_read_and_written_whole(tmp_path: Path, probe: Probe) -> None:
    dims = replace(DIMS, num_layers=2)
    probe.load(tiny.write(tmp_path, dims))
    one_sequence(probe, 21)
    probe.call("forward")
    first = probe.call("read_page", 0)
    assert any(first)
    probe.call("copy_page", 0, 9)
    assert probe.call("read_page", 9) == first
    changed = [255 - byte for byte in first]
    probe.call("write_page", 63, changed)
    assert probe.call("read_page", 63) == changed
    assert probe.call("read_page", 0) == first
    for command in (["copy_page", 0, 64], ["read_page", -1], ["write_page", 0, [1, 2]]):
        with pytest.raises(ProbeError):
            probe.call(*command)


def logits_of(probe: Probe, tokens: list[int], chunk: int, vocab_size: int) -> np.ndarray:
    """Teacher-forced, `chunk` tokens at a time."""
    rows = []
    num_pages = -(-len(tokens) // 16)
    pages = list(reversed(range(num_pages)))
    for begin in range(0, len(tokens), chunk):
        part = tokens[begin : begin + chunk]
        n = len(part)
        at = list(range(begin, begin + n))
        probe.batch(part, at, [0] * n, pages, [0, num_pages], list(range(n)))
        probe.call("forward")
        probe.head([(i, []) for i in range(n)])
        rows += [probe.logits(i, vocab_size) for i in range(n)]
    return np.stack(rows)


MIXES = {
    "floats": (DIMS, {"q.weight": "F16", "gate.weight": "BF16"}),
    "quantised": (
        tiny.with_width(DIMS, "Q4_0"),
        {
            "q.weight": "Q4_0", "k.weight": "Q5_1", "v.weight": "F16", "o.weight": "Q5_0",
            "gate.weight": "Q8_0", "up.weight": "Q4_1", "down.weight": "Q5_0",
            "embed.weight": "Q4_1", "head.weight": "Q8_0",
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("mix", MIXES)
def test_a_whole_forward_pass(tmp_path: Path, probe: Probe, mix: str) -> None:
    """Against the reference and the CPU; the same bits however it is cut."""
    dims, dtypes = MIXES[mix]
    dims = replace(dims, num_layers=2)
    file = tiny.write(tmp_path, dims, dtypes)
    tokens = np.random.default_rng(0).integers(0, dims.vocab_size, 37).astype(np.int32)
    probe.load(file)
    got = logits_of(probe, tokens.tolist(), 37, dims.vocab_size)
    expected = reference.forward(dims.shape, file.weights, 2, tokens.tolist())
    assert kl(expected, got).max() < 1e-5
    assert kl(file.model().logits(tokens), got).max() < 3e-5
    np.testing.assert_array_equal(logits_of(probe, tokens.tolist(), 9, dims.vocab_size), got)


def test_strangers_in_the_batch_change_nothing(tmp_path: Path, probe: Probe) -> None:
    file = tiny.write(tmp_path, DIMS)
    probe.load(file)
    expected = logits_of(probe, list(range(20)), 20, DIMS.vocab_size)
    lengths = [3, 20, 1, 31]
    token_ids = [140, 141, 142, *range(20), *range(100, 132)]
    positions = [i for n in lengths for i in range(n)]
    sequence_of = [b for b, n in enumerate(lengths) for _ in range(n)]
    probe.batch(
        token_ids, positions, sequence_of, [31, 5, 30, 0, 17, 2], [0, 1, 3, 4, 6], range(3, 23)
    )
    probe.call("forward")
    probe.head([(i, []) for i in range(20)])
    for i in range(20):
        np.testing.assert_array_equal(probe.logits(i, DIMS.vocab_size), expected[i])


def test_sampling_equals_the_cpus(tmp_path: Path, probe: Probe) -> None:
    """Greedy on the device, drawn on the host; under masks, over lists, several rows at once."""
    vocab = 1500
    probe.load(tiny.write(tmp_path, replace(DIMS, vocab_size=vocab)))
    draw = np.random.default_rng(1)
    logits = np.round(draw.normal(size=(7, vocab)) * 3).astype(np.float32)  # many are equal
    logits[4] = np.nan
    logits[5, 7] = np.inf
    legal = draw.random(vocab) < 0.1
    mask, ids = pack(legal), np.flatnonzero(legal)
    rows = [
        Row(0, vocab),
        Row(1, vocab, mask=mask),
        Row(2, len(ids), listed=ids),
        Row(3, vocab, mask=mask, temperature=0.8, top_k=40, top_p=0.9, seed=2**63 + 5, position=9),
        Row(6, vocab, mask=~mask),
        Row(4, vocab),
        Row(5, vocab),
    ]
    for number, row in enumerate(logits):
        probe.call("write_logits", number, row)
    got = probe.sample(rows)

    def on_cpu(row: Row) -> int:
        params = _core.SamplingParams(
            temperature=row.temperature, top_k=row.top_k, top_p=row.top_p, seed=row.seed
        )
        token, _, _ = _core.testing.sample(
            logits[row.row][: row.num_logits],
            params,
            mask=np.array(row.mask, np.int32) if len(row.mask) else None,
            listed_tokens=list(row.listed),
            position=row.position,
        )
        return int(token)

    assert [token for token, _ in got] == [on_cpu(row) for row in rows]
    assert [token for token, _ in got][5:] == [-1, -1]
    nobody = Row(0, vocab, mask=np.zeros_like(mask))
    assert probe.sample([nobody, Row(1, vocab, num_logprobs=0)])[0][0] == -1


@pytest.mark.skipif(DEVICE is not None, reason="faults that a device would not report")
@pytest.mark.parametrize(
    ("trap", "report"),
    [
        ("divergent_barrier", r"thread 0 is at __syncthreads\(\).*thread 40 has ended"),
        ("two_barriers", "threads do not meet"),
        ("missing_lanes", "thread 0 waits for its warp.*thread 31 has ended"),
        ("partial_mask", "not all lanes"),
        ("beyond_shared", "(?s)heap-buffer-overflow.*beyond_shared"),
        ("beyond_memory", "(?s)heap-buffer-overflow.*beyond_memory"),
        ("host_reads_memory", "(?s)use-after-poison"),
    ],
)
def test_the_shim_catches(program: Path, trap: str, report: str) -> None:
    with Probe(program) as probe, pytest.raises(ProbeError, match=report):
        probe.call("trap", trap)


@pytest.mark.skipif(DEVICE is not None, reason="orders are the shim's")
def test_a_missing_barrier_shows_in_some_order(program: Path) -> None:
    """Whoever runs first finds nothing from the other half of the block."""
    for order in ORDERS:
        with Probe(program) as probe:
            probe.call("order", *order.split())
            with pytest.raises(ProbeError, match="has gone through"):
                probe.call("trap", "no_barrier")


def test_what_cannot_be_is_refused(tmp_path: Path, program: Path) -> None:
    with Probe(program) as probe, pytest.raises(ProbeError, match="head_dim is 258"):
        probe.load(tiny.write(tmp_path, replace(DIMS, head_dim=258)))
