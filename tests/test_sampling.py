"""The sampler against the same steps in plain numpy, float64, sorting everything."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from f1 import _core

sample = _core.testing.sample


def philox(counter: list[int], key: int) -> list[int]:
    """Philox-4x32-10 as in Salmon et al. 2011, section 4.3."""
    low = 0xFFFFFFFF
    key0, key1 = key & low, key >> 32
    c0, c1, c2, c3 = counter
    for _ in range(10):
        a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ key0, b & low, (a >> 32) ^ c3 ^ key1, a & low
        key0, key1 = (key0 + 0x9E3779B9) & low, (key1 + 0xBB67AE85) & low
    return [c0, c1, c2, c3]


def uniform(seed: int, choice: int, position: int) -> float:
    words = philox([position, choice, 0, 0], seed)
    return ((words[0] << 32 | words[1]) >> 11) * 2.0**-53


def distribution(
    logits: np.ndarray, params: dict[str, Any], legal: np.ndarray, seen: dict[int, int]
) -> np.ndarray:
    """Probabilities of all tokens after every step of the order in csrc/backend/sampling.h."""
    x = np.where(legal, logits.astype(np.float64), -np.inf)
    for token, bias in params.get("logit_bias", {}).items():
        x[token] += bias
    for token, count in seen.items():
        r = params.get("repetition_penalty", 1.0)
        x[token] = x[token] / r if x[token] > 0 else x[token] * r
        x[token] -= params.get("presence_penalty", 0.0) * (count > 0)
        x[token] -= params.get("frequency_penalty", 0.0) * count
    p = np.exp((x - x.max()) / params["temperature"])
    order = np.lexsort((np.arange(len(p)), -p))  # likeliest first, the lower id among equals
    p /= p.sum()
    if params.get("top_k", 0):
        p[order[params["top_k"] :]] = 0
        p /= p.sum()
    if params.get("top_p", 1.0) < 1:
        before = np.cumsum(p[order]) - p[order]
        p[order[before >= params["top_p"]]] = 0
    p[p < params.get("min_p", 0.0) * p.max()] = 0
    return p / p.sum()


def pack(legal: np.ndarray) -> np.ndarray:
    """Booleans [V] as mask words, int32 [ceil(V / 32)]."""
    padded = np.zeros(-(-len(legal) // 32) * 32, dtype=bool)
    padded[: len(legal)] = legal
    return np.packbits(padded, bitorder="little").view(np.int32)


CASES: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 0.3},
    {"temperature": 5.0, "min_p": 0.2},
    {"temperature": 1.2, "top_k": 1},
    {"temperature": 1.2, "top_k": 7},
    {"temperature": 1.0, "top_k": 5000},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 2.0, "top_p": 0.999},
    {"temperature": 1.0, "top_p": 1e-6},
    {"temperature": 1.0, "min_p": 0.1},
    {"temperature": 1.0, "min_p": 1.0},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.8, "min_p": 0.05},
    {"temperature": 0.8, "top_p": 0.95, "min_p": 0.3},
    {"temperature": 1.0, "repetition_penalty": 1.3},
    {"temperature": 1.0, "presence_penalty": 0.7, "frequency_penalty": -0.4, "top_k": 20},
    {"temperature": 1.0, "logit_bias": {3: 5.0, 4: -100.0, 700: 2.5}, "top_p": 0.7},
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("vocab_size", [5, 777, 3001])
def test_draws_equal_numpy(case: dict[str, Any], vocab_size: int) -> None:
    random = np.random.default_rng(vocab_size)
    case = dict(case)
    if "logit_bias" in case:
        case["logit_bias"] = {t: b for t, b in case["logit_bias"].items() if t < vocab_size}
    params = _core.SamplingParams(**case, seed=2**63 + 11)
    for position in range(40):
        logits = (random.normal(size=vocab_size) * 3).astype(np.float32)
        legal = random.random(vocab_size) < 0.7
        legal[[3, 4]] = True
        seen = {int(t): int(random.integers(0, 4)) for t in random.integers(0, vocab_size, 9)}
        p = distribution(logits, case, legal, seen)
        pairs = sorted(seen.items())
        full, _, _ = sample(
            logits, params, mask=pack(legal), seen=pairs, choice=2, position=position
        )
        ids = np.flatnonzero(legal)
        listed, _, _ = sample(
            logits[ids], params, listed_tokens=ids, seen=pairs, choice=2, position=position
        )
        assert full == listed
        end = np.cumsum(p)  # in the order of ids: token t owns [end[t] - p[t], end[t])
        u = uniform(2**63 + 11, 2, position)
        assert end[full] - p[full] - 1e-5 <= u <= end[full] + 1e-5
        assert p[full] > 0


def test_frequencies_follow_the_distribution() -> None:
    logits = np.array([0.0, 1.0, 2.0, -1.0, 2.0], dtype=np.float32)
    params = _core.SamplingParams(temperature=0.7, seed=3)
    draws = [sample(logits, params, position=i)[0] for i in range(20_000)]
    p = distribution(logits, {"temperature": 0.7}, np.ones(5, dtype=bool), {})
    counts = np.bincount(draws, minlength=5)
    chi_square = float((((counts - 20_000 * p) ** 2) / (20_000 * p)).sum())
    assert chi_square < 18.5  # 99.9 % of 4 degrees of freedom; the draws are fixed by the seed


def test_philox_known_answers() -> None:
    """The vectors that come with Random123."""
    assert _core.testing.philox([0, 0, 0, 0], 0) == [
        0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8,
    ]  # fmt: skip
    ones = 0xFFFFFFFF
    assert _core.testing.philox([ones] * 4, ones << 32 | ones) == [
        0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD,
    ]  # fmt: skip
    assert _core.testing.philox([1, 2, 3, 4], 5 << 32 | 6) == philox([1, 2, 3, 4], 5 << 32 | 6)


def test_seed_choice_and_position_each_change_the_draw() -> None:
    logits = np.zeros(1000, dtype=np.float32)

    def draws(seed: int, choice: int) -> list[int]:
        params = _core.SamplingParams(temperature=1.0, seed=seed)
        return [sample(logits, params, choice=choice, position=i)[0] for i in range(8)]

    assert draws(1, 0) == draws(1, 0)
    assert len({tuple(draws(seed, choice)) for seed in (1, 2, 1 << 40) for choice in (0, 1)}) == 6
    assert len(set(draws(1, 0))) > 4


def test_greedy_takes_the_lowest_of_equals() -> None:
    logits = np.full(1000, -3.0, dtype=np.float32)
    logits[[300, 700]] = 2.0
    assert sample(logits, _core.SamplingParams())[0] == 300
    legal = np.ones(1000, dtype=bool)
    legal[300] = False
    assert sample(logits, _core.SamplingParams(), mask=pack(legal))[0] == 700


def test_logprobs_are_the_models_own_over_the_legal_tokens() -> None:
    random = np.random.default_rng(0)
    logits = (random.normal(size=2000) * 4).astype(np.float32)
    legal = random.random(2000) < 0.5
    case = {"temperature": 1.7, "logit_bias": {7: 3.0}, "repetition_penalty": 2.0}
    params = _core.SamplingParams(**case, num_logprobs=5)
    token, logprob, top = sample(logits, params, mask=pack(legal), seen=[(7, 1), (9, 0)])
    x = np.where(legal, logits.astype(np.float64), -np.inf)
    expected = x - (x.max() + np.log(np.exp(x - x.max()).sum()))
    assert legal[token]
    assert logprob == pytest.approx(expected[token], abs=1e-5)
    assert [t for t, _ in top] == np.argsort(-expected, kind="stable")[:5].tolist()
    assert [value for _, value in top] == pytest.approx(np.sort(expected)[::-1][:5], abs=1e-5)


def test_fewer_legal_tokens_than_logprobs() -> None:
    legal = np.zeros(100, dtype=bool)
    legal[[4, 50]] = True
    params = _core.SamplingParams(num_logprobs=20)
    _, _, top = sample(np.zeros(100, dtype=np.float32), params, mask=pack(legal))
    assert top == [(4, pytest.approx(math.log(0.5))), (50, pytest.approx(math.log(0.5)))]


@pytest.mark.parametrize("temperature", [0.0, 1e-45, 1.0, 1e30])
def test_extreme_logits_and_temperatures(temperature: float) -> None:
    params = _core.SamplingParams(temperature=temperature, num_logprobs=2)
    logits = np.array([-1e30, np.nan, 80.0, 1e30, -np.inf], dtype=np.float32)
    token, logprob, _ = sample(logits, params)
    assert token in (0, 2, 3)
    assert math.isfinite(logprob)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("num_logprobs", [-1, 3])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_give_no_token(
    temperature: float, num_logprobs: int, value: float
) -> None:
    params = _core.SamplingParams(temperature=temperature, num_logprobs=num_logprobs)
    assert sample(np.full(70, value, dtype=np.float32), params)[0] == -1
