"""Soft steps in the engine: what they compute, and that they belong to one sequence alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import tiny
from cores import alone, guess_from, prompt, request, run, steps, tiny_model

from f1 import _core

STEPS = 9
LEAD, TAIL = 45, 7  # tokens before and behind the soft steps


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> _core.Model:
    return tiny_model(tmp_path_factory.mktemp("tiny"), num_threads=1)


def soft(num_steps: int = STEPS, position: int = LEAD, **how: Any) -> _core.SoftParams:
    return _core.SoftParams(num_steps=num_steps, position=position, **how)


def tokens_and_steps(
    model: _core.Model, asked: _core.Request, **options: int
) -> tuple[list[int], int]:
    engine = _core.Engine(model, num_pages=32, **options)
    engine.submit(asked)
    outputs = [o for step in steps(engine) for o in step]
    (num_steps,) = {output.num_soft_steps for output in outputs}
    assert engine.stats()["num_soft_steps"] == num_steps
    return [output.token_id for output in outputs], num_steps


# --- what they compute ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Thinker:
    """The loop in plain numpy, float64: no cache, no batch, all of the sequence every time."""

    file: tiny.TinyFile
    dims: tiny.Dims
    top_k: int = 8
    temperature: float = 1.0
    noise: float = 0.0
    seed: int = 0
    choice: int = 0

    def logits(self, token_ids: list[int], mixes: dict[int, reference.Mix]) -> np.ndarray:
        layers = self.dims.num_layers
        return reference.forward(self.dims.shape, self.file.weights, layers, token_ids, mixes)[-1]

    def gumbel(self, position: int) -> np.ndarray | None:
        if self.noise == 0:
            return None
        draws = []
        for token in range(self.dims.vocab_size):
            words = _core.testing.philox([position, self.choice, token, 1], self.seed)
            uniform = ((words[0] << 32 | words[1]) >> 11) * 2.0**-53 + 2.0**-54
            draws.append(-np.log(-np.log(uniform)))
        return self.noise * np.array(draws)

    def run(
        self, lead: list[int], tail: list[int], num_steps: int, num_tokens: int
    ) -> tuple[list[int], list[float]]:
        """Greedy tokens behind the thoughts, and the entropy at each soft step."""
        token_ids, mixes, entropies = list(lead), {}, []
        for _ in range(num_steps):
            logits, position = self.logits(token_ids, mixes), len(token_ids)
            p = np.exp(reference.log_softmax(logits / self.temperature))
            entropies.append(float(-(p * np.log(p)).sum()))
            gumbel = self.gumbel(position)
            mixes[position] = reference.mix(logits, self.top_k, self.temperature, gumbel)
            token_ids.append(0)
        token_ids += tail
        for _ in range(num_tokens):
            token_ids.append(int(self.logits(token_ids, mixes).argmax()))
        return token_ids[-num_tokens:], entropies


WAYS: list[dict[str, Any]] = [
    {},
    {"top_k": 16, "temperature": 0.6},
    {"noise": 1.0},
    {"top_k": 4, "temperature": 2.0, "noise": 0.5},
]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_loop_in_numpy_says_the_same(tmp_path: Path, way: dict[str, Any]) -> None:
    dims = replace(tiny.Dims(), num_layers=2)
    file = tiny.write(tmp_path, dims, extras=False)
    thinker = Thinker(file, dims, seed=2**40 + 3 if "noise" in way else 0, **way)
    lead, tail = prompt(1, 20, dims.vocab_size), prompt(2, 3, dims.vocab_size)
    expected, _ = thinker.run(lead, tail, 6, 12)
    asked = request(lead + tail, 18, seed=thinker.seed, soft=soft(6, 20, **way))
    got, num_steps = tokens_and_steps(file.model(), asked)
    assert (got, num_steps) == (expected, 6)
    assert got != thinker.run(lead, tail, 0, 12)[0], "thoughts that change nothing show nothing"


def test_thinking_ends_where_the_model_is_sure(tmp_path: Path) -> None:
    """After the second step in a row of low entropy, which is not taken."""
    dims = replace(tiny.Dims(), num_layers=2)
    file = tiny.write(tmp_path, dims, extras=False)
    lead = prompt(1, 20, dims.vocab_size)
    thinker = Thinker(file, dims, temperature=0.5)
    _, entropies = thinker.run(lead, [], 12, 1)
    limit = float(np.quantile(entropies, 0.6))
    cold = [entropy < limit for entropy in entropies]
    at = next(i for i in range(1, 12) if cold[i - 1] and cold[i])
    assert 0 < at < 11, entropies
    for tail in ([], [5, 6]):
        asked = request(
            lead + tail,
            40,
            soft=soft(12, 20, temperature=0.5, cold_entropy=limit, cold_steps=2),
        )
        got, num_steps = tokens_and_steps(file.model(), asked)
        assert num_steps == at
        assert got == thinker.run(lead, tail, at, 40 - at)[0]


def test_a_mix_of_one_token_is_that_token(model: _core.Model) -> None:
    """Bit for bit: then soft steps are greedy ones that nobody sees."""
    asked = request(prompt(0, LEAD), 40)
    thinking = request(prompt(0, LEAD), 40, soft=soft(top_k=1))
    tokens = alone(model, asked)
    assert tokens_and_steps(model, thinking) == (tokens[STEPS:], STEPS)
    # In the midst of what is given, too.
    given = [*prompt(0, LEAD), *tokens[:STEPS], *prompt(3, TAIL)]
    between = request([*prompt(0, LEAD), *prompt(3, TAIL)], 40, soft=soft(top_k=1))
    assert tokens_and_steps(model, between)[0] == alone(model, request(given, 40 - STEPS))


@pytest.mark.parametrize(
    ("max_tokens", "num_steps"), [(1, 0), (2, 1), (STEPS, STEPS - 1), (40, STEPS)]
)
def test_they_count_against_max_tokens(model: _core.Model, max_tokens: int, num_steps: int) -> None:
    asked = request(prompt(0, LEAD + TAIL), max_tokens, soft=soft())
    tokens, taken = tokens_and_steps(model, asked)
    assert taken == num_steps
    assert len(tokens) == max_tokens - num_steps


# --- the tokens of a request are its own ----------------------------------------------------------


@pytest.mark.parametrize("way", [{}, {"noise": 1.0}], ids=["plain", "noisy"])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.1, "seed": 9}], ids=str)
class TestInvariance:
    @pytest.fixture
    def asked(self, sampling: dict[str, Any], way: dict[str, Any]) -> _core.Request:
        return request(prompt(0, LEAD + TAIL), 40, soft=soft(**way), **sampling)

    @pytest.fixture
    def expected(
        self, model: _core.Model, asked: _core.Request, sampling: dict[str, Any]
    ) -> list[int]:
        tokens, num_steps = tokens_and_steps(model, asked)
        assert num_steps == STEPS
        assert tokens != alone(model, request(prompt(0, LEAD + TAIL), 31, **sampling))
        return tokens

    def test_in_a_batch_of_strangers(
        self, model: _core.Model, asked: _core.Request, expected: list[int]
    ) -> None:
        """Some of which think, too; and none has anything of it."""
        strangers = [
            request(prompt(i, 3 * i), 20 + i, temperature=i % 3, seed=i)
            if i % 4
            else request(prompt(i, 3 * i), 20 + i, soft=soft(3 + i, i, noise=i % 8))
            for i in range(1, 16)
        ]
        engine = _core.Engine(model, num_pages=128)
        got = run(engine, [*strangers[:7], asked, *strangers[7:]], guesses={3: lambda _: [1, 2]})
        assert got[7] == expected
        assert got[:7] + got[8:] == [alone(model, r) for r in strangers]

    @pytest.mark.parametrize("max_batch_tokens", [1, 7, 16, 64])
    def test_with_a_chunked_prompt(
        self, model: _core.Model, asked: _core.Request, expected: list[int], max_batch_tokens: int
    ) -> None:
        options = {"max_batch_tokens": max_batch_tokens, "max_sequences": 1}
        assert tokens_and_steps(model, asked, **options) == (expected, STEPS)

    @pytest.mark.parametrize("prefix_reuse", [True, False])
    def test_after_preemption(
        self, model: _core.Model, asked: _core.Request, expected: list[int], prefix_reuse: bool
    ) -> None:
        older = [request(prompt(i, 30), 60) for i in (1, 2, 3)]
        engine = _core.Engine(model, num_pages=16, prefix_reuse=prefix_reuse)
        assert run(engine, [*older, asked])[3] == expected
        assert engine.stats()["num_preemptions"] > 0
        assert engine.stats()["num_soft_steps"] == STEPS, "thoughts are kept, not thought again"

    def test_with_drafts(
        self, model: _core.Model, asked: _core.Request, expected: list[int]
    ) -> None:
        engine = _core.Engine(model, num_pages=32)
        assert run(engine, [asked], guesses={0: guess_from(expected, {})}) == [expected]
        assert engine.stats()["num_accepted_tokens"] > 5

    def test_paused_and_with_two_threads(
        self, tmp_path: Path, asked: _core.Request, expected: list[int]
    ) -> None:
        engine = _core.Engine(tiny_model(tmp_path, num_threads=2), num_pages=32)
        sequence_id = engine.submit(asked)
        tokens = []
        for at in range(80):
            rests = at % 3 == 1 and engine.has_work
            if rests:
                engine.pause(sequence_id)
            engine.begin_step()
            engine.check()
            tokens += [output.token_id for output in engine.finish_step()]
            if rests:
                engine.resume(sequence_id)
        assert tokens == expected


def test_forks_say_what_submissions_would(model: _core.Model) -> None:
    """They share what was thought; where it was noisy each has to think for itself."""
    for noise in (0.0, 1.0):
        asked = [
            request(prompt(0, LEAD + TAIL), 30, i, temperature=1, seed=4, soft=soft(noise=noise))
            for i in range(3)
        ]
        engine = _core.Engine(model, num_pages=64)
        ids = [engine.submit(asked[0])]
        while not (waiting := engine.begin_step()):
            engine.finish_step()
        assert waiting == ids
        forked = [engine.fork(ids[0], i) for i in (1, 2)]
        assert [i is None for i in forked] == [noise > 0] * 2
        ids += [
            engine.submit(r) if i is None else i for i, r in zip(forked, asked[1:], strict=True)
        ]
        engine.check()
        tokens: dict[int, list[int]] = {i: [] for i in ids}
        for outputs in (engine.finish_step(), *steps(engine)):
            for output in outputs:
                tokens[output.sequence_id].append(output.token_id)
        assert [tokens[i] for i in ids] == [alone(model, r) for r in asked]
        assert len(set(map(tuple, tokens.values()))) == 3
        assert engine.stats()["num_soft_steps"] == (3 * STEPS if noise else STEPS)


# --- pages ----------------------------------------------------------------------------------------


def test_no_later_request_finds_thoughts_under_tokens(model: _core.Model) -> None:
    """Not even one with just the tokens that stand for them in the books."""
    lead = prompt(0, LEAD)
    for position in (LEAD, 32, 33):
        engine = _core.Engine(model, num_pages=64)
        thinking = request(lead, 60, soft=soft(20, position))
        (tokens,) = run(engine, [thinking])
        stand_ins, token_ids = [], lead[:position]
        for _ in range(20):  # the likeliest each time, were there no mixes
            stand_ins += alone(model, request(token_ids + stand_ins, 1))
        later = request([*token_ids, *stand_ins, *lead[position:], *tokens], 10)
        expected = alone(model, later)
        before = engine.stats()["num_reused_tokens"]
        assert run(engine, [later]) == [expected]
        assert engine.stats()["num_reused_tokens"] - before == position // 16 * 16
        again, _ = tokens_and_steps(model, thinking)
        assert run(engine, [thinking, thinking]) == [again, again]


# --- what is refused ------------------------------------------------------------------------------


def test_tokens_that_are_no_numbers_end_it(tmp_path: Path) -> None:
    poisoned = tiny_model(tmp_path, num_threads=1, poison=7)
    engine = _core.Engine(poisoned, num_pages=8)
    engine.submit(request([1, 7, 2], 9, soft=soft(4, 3)))
    (output,) = [o for step in steps(engine) for o in step]
    assert (output.token_id, output.finish) == (-1, "fault")


def test_nothing_is_appended_to_thoughts(model: _core.Model) -> None:
    engine = _core.Engine(model, num_pages=8)
    sequence_id = engine.submit(request([1, 2, 3], 9, soft=soft(4, 3)))
    assert engine.begin_step() == []
    with pytest.raises(ValueError, match="soft steps"):
        engine.append(sequence_id, [5])
    engine.abort(sequence_id)
    engine.check()
    assert not engine.has_work


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"num_steps": -1}, "num_steps"),
        ({"position": 0}, "position"),
        ({"position": 4}, "position"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": 334}, "top_k"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"noise": -0.1}, "noise"),
        ({"noise": float("inf")}, "noise"),
        ({"cold_entropy": float("nan")}, "cold_entropy"),
        ({"cold_steps": -1}, "cold_steps"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(
    model: _core.Model, how: dict[str, Any], message: str
) -> None:
    engine = _core.Engine(model, num_pages=8)
    with pytest.raises(_core.InvalidArgument, match=message):
        engine.submit(request([1, 2, 3], 9, soft=soft(**{"num_steps": 4, "position": 3} | how)))
    assert not engine.has_work
