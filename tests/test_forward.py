"""The whole forward pass: against the reference, and the same bits however it is cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import reference
import tiny
from reference import kl
from test_stages import ISAS

from f1 import _core
from f1.models.load import load_checkpoint, load_model

DIMS = replace(tiny.Dims(), num_layers=3)
TOKENS = np.random.default_rng(0).integers(0, DIMS.vocab_size, 45).astype(np.int32)
# One of each kind of panel in the layers, and tables whose rows are read in place.
MIXES = {
    "floats": ("F32", {"q.weight": "F16", "gate.weight": "BF16", "embed.weight": "F16"}),
    "thirty-twos": (
        "Q4_0",
        {
            "q.weight": "Q4_0", "k.weight": "Q5_1", "v.weight": "F16", "o.weight": "Q5_0",
            "gate.weight": "Q8_0", "up.weight": "Q4_1", "down.weight": "Q5_0",
            "embed.weight": "Q4_1", "head.weight": "Q8_0",
        },
    ),
    "super-blocks": (
        "Q4_K",
        {
            "q.weight": "Q4_K", "k.weight": "Q5_K", "v.weight": "Q6_K", "o.weight": "Q4_K",
            "gate.weight": "Q6_K", "up.weight": "Q5_K", "down.weight": "Q6_K",
            "embed.weight": "Q4_K", "head.weight": "Q6_K",
        },
    ),
}  # fmt: skip


def tiny_file(folder: Path, mix: str) -> tiny.TinyFile:
    widest, dtypes = MIXES[mix]
    return tiny.write(folder, tiny.with_width(DIMS, widest), dtypes)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("mix", MIXES)
def test_logits_match_the_reference(tmp_path: Path, mix: str, isa: str) -> None:
    file = tiny_file(tmp_path, mix)
    got = file.model(isa).logits(TOKENS)
    expected = reference.forward(file.dims.shape, file.weights, DIMS.num_layers, list(TOKENS))
    # What remains is f16 K and V and, with quantised weights, 8-bit activations.
    assert kl(expected, got).max() < (1e-5 if mix == "floats" else 3e-3)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("mix", MIXES)
def test_rows_have_the_same_bits_however_they_are_computed(
    tmp_path: Path, mix: str, isa: str
) -> None:
    file = tiny_file(tmp_path, mix)
    model = file.model(isa, num_threads=1)
    expected = model.logits(TOKENS)
    for chunk in (1, 2, 3, 7, 16, 44):
        np.testing.assert_array_equal(model.logits(TOKENS, chunk=chunk), expected)
    threaded = file.model(isa, num_threads=3)
    for chunk in (0, 1, 9):
        np.testing.assert_array_equal(threaded.logits(TOKENS, chunk=chunk), expected)


def test_a_chunk_beyond_all_tokens_is_one_chunk(tmp_path: Path) -> None:
    model = tiny_file(tmp_path, "floats").model()
    np.testing.assert_array_equal(model.logits(TOKENS, chunk=2**31 - 1), model.logits(TOKENS))


@pytest.mark.parametrize("num_threads", [1, 2, 5])
@pytest.mark.parametrize(("size", "chunk"), [(0, 1), (1, 1), (7, 8), (8, 8), (9, 8), (1000, 3)])
def test_the_pool_runs_every_index_once(num_threads: int, size: int, chunk: int) -> None:
    assert _core.testing.run_pool(num_threads, size, chunk, num_runs=40) == [40] * size


@pytest.mark.parametrize("num_threads", [1, 3])
def test_the_pool_throws_what_a_chunk_threw_and_goes_on(num_threads: int) -> None:
    visits = _core.testing.run_pool(num_threads, 30, 1, num_runs=40, bad=17)
    assert visits[:18] == [40] * 18
    assert num_threads == 1 or visits[18:] == [40] * 12


@pytest.mark.parametrize("isa", ISAS)
def test_strangers_in_the_batch_change_nothing(tmp_path: Path, isa: str) -> None:
    file = tiny_file(tmp_path, "thirty-twos")
    model = file.model(isa, num_threads=2)
    expected = model.logits(TOKENS[:20])
    at = _core.testing.Stages(model, num_pages=32, max_tokens=128)
    lengths = [3, 20, 1, 31]
    strangers = np.random.default_rng(1).integers(0, DIMS.vocab_size, 64).tolist()
    token_ids = strangers[:3] + TOKENS[:20].tolist() + strangers[3 : 3 + 32]
    batch = _core.testing.Batch(
        token_ids=token_ids,
        positions=[i for n in lengths for i in range(n)],
        sequence_of=[b for b, n in enumerate(lengths) for _ in range(n)],
        page_ids=[31, 5, 30, 0, 17, 2],
        page_begin=[0, 1, 3, 4, 6],
        head_tokens=list(range(3, 23)),
    )
    at.set_batch(batch)
    at.forward()
    np.testing.assert_array_equal(at.head([(i, []) for i in range(20)]), expected)


def test_tied_head(tmp_path: Path) -> None:
    file = tiny.write(tmp_path, DIMS, tied=True)
    got = file.model().logits(TOKENS)
    expected = reference.forward(DIMS.shape, file.weights, DIMS.num_layers, list(TOKENS))
    assert kl(expected, got).max() < 1e-5


def test_empty_input_gives_no_rows(tmp_path: Path) -> None:
    model = tiny.write(tmp_path, DIMS).model()
    assert model.logits(np.array([], np.int32)).shape == (0, DIMS.vocab_size)


@pytest.mark.parametrize(
    ("token_ids", "chunk", "message"),
    [([0, 150], 0, "150"), ([-1], 0, "-1"), ([1], -2, "chunk")],
)
def test_bad_input_to_logits(
    tmp_path: Path, token_ids: list[int], chunk: int, message: str
) -> None:
    model = tiny.write(tmp_path, DIMS).model()
    with pytest.raises(_core.InvalidArgument, match=message):
        model.logits(np.array(token_ids, np.int32), chunk=chunk)


def test_missing_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    file = tiny.write(tmp_path, DIMS)
    sources = dict(file.sources)
    del sources["layers.1.up.weight"]
    with pytest.raises(_core.InvalidArgument, match=r"layers\.1\.up\.weight.*missing"):
        _core.Model(DIMS.config(), sources)
    sources = {**file.sources, "layers.2.o.weight": file.sources["layers.2.gate.weight"]}
    with pytest.raises(_core.InvalidArgument, match=r"layers\.2\.o\.weight.*\[72, 40\].*\[40, 120"):
        _core.Model(DIMS.config(), sources)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 5}, "num_heads"),
        ({"num_layers": 0}, "num_layers"),
        ({"hidden_size": -1}, "hidden_size"),
        ({"norm_eps": float("nan")}, "norm_eps"),
    ],
)
def test_bad_configs_are_refused(tmp_path: Path, change: dict[str, float], message: str) -> None:
    file = tiny.write(tmp_path, DIMS)
    with pytest.raises(_core.InvalidArgument, match=message):
        _core.Model(replace(DIMS, **change).config(), file.sources)


def test_unknown_options_are_refused(tmp_path: Path) -> None:
    file = tiny.write(tmp_path, DIMS)
    with pytest.raises(_core.InvalidArgument, match="isa"):
        file.model(isa="avx1024")
    with pytest.raises(_core.InvalidArgument, match="num_threads"):
        file.model(num_threads=-1)


TEXT = '''def merge(a, b):
    """Merge two sorted lists."""
    i = j = 0
    out = []
    while i < len(a) and j < len(b):
        out.append(a[i]) if a[i] <= b[j] else out.append(b[j])
{"name": "get_weather", "arguments": {"city": "Zürich", "unit": "celsius"}}
The quick brown fox — 東京は日本の首都です。 What is the capital of France? It is Paris.'''


def test_a_real_model_stays_near_exact_arithmetic(smollm_path: Path) -> None:
    """SmolLM2 against the reference on the same dequantised weights; figures as found."""
    checkpoint = load_checkpoint(str(smollm_path))
    config = checkpoint.config
    data = np.memmap(smollm_path, np.uint8, "r")
    weights = {
        name: reference.dequantize(s.dtype, data[s.offset : s.offset + s.num_bytes], s.shape)
        for name, s in checkpoint.tensors.items()
    }
    tokens = checkpoint.tokenizer.encode(TEXT)
    shape = reference.Shape(
        config.num_heads,
        config.num_kv_heads,
        config.head_dim,
        config.norm_eps,
        np.array(config.rope_inv_freq, np.float64),
        config.rope_interleaved,
    )
    expected = reference.forward(shape, weights, config.num_layers, tokens)
    got = load_model(checkpoint).logits(np.array(tokens, np.int32))
    assert kl(expected, got).mean() < 0.004
    assert (expected.argmax(-1) == got.argmax(-1)).mean() > 0.97
