"""The engine over real models: one request's tokens do not depend on what else goes on.

Most tests run on a tiny random model made here; the last ones on SmolLM2.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cores import (
    SAMPLINGS,
    Guess,
    Spans,
    alone,
    guess_from,
    prompt,
    request,
    run,
    sampled_one_by_one,
    steps,
    tiny_model,
)

from f1 import _core
from f1.models.load import load_checkpoint, load_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> _core.Model:
    return tiny_model(tmp_path_factory.mktemp("tiny"), num_threads=1)


# --- the tokens of a request are its own ----------------------------------------------------------


SPANS: list[Spans] = [{}, {1: [7], 5: list(range(20)), 27: [9, 9, 9]}]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("spans", SPANS, ids=["sampled", "appended"])
@pytest.mark.parametrize("drafted", [False, True], ids=["", "drafted"])
class TestInvariance:
    @pytest.fixture
    def asked(self, sampling: dict[str, Any]) -> _core.Request:
        return request(prompt(0, 71), 40, **sampling)

    @pytest.fixture
    def expected(self, model: _core.Model, asked: _core.Request, spans: Spans) -> list[int]:
        tokens = sampled_one_by_one(model, asked, spans)
        assert len(tokens) == 40
        assert len(set(tokens)) > 8, "a model that repeats itself shows nothing"
        return tokens

    @pytest.fixture
    def guess(self, expected: list[int], spans: Spans, drafted: bool) -> Guess:
        return guess_from(expected, spans) if drafted else lambda so_far: []

    def test_alone(
        self,
        model: _core.Model,
        asked: _core.Request,
        expected: list[int],
        spans: Spans,
        guess: Guess,
        drafted: bool,
    ) -> None:
        engine = _core.Engine(model, num_pages=32)
        assert run(engine, [asked], spans={0: spans}, guesses={0: guess}) == [expected]
        appended = sum(map(len, spans.values()))
        stats = engine.stats()
        assert stats["num_appended_tokens"] == appended
        assert stats["num_sampled_tokens"] == 40 - appended
        assert stats["num_steps"] == 40 - appended - stats["num_accepted_tokens"]
        if drafted:
            assert stats["num_accepted_tokens"] > 5
            assert stats["num_accepted_tokens"] < stats["num_drafted_tokens"]

    def test_in_a_batch_of_strangers(
        self,
        model: _core.Model,
        asked: _core.Request,
        expected: list[int],
        spans: Spans,
        guess: Guess,
    ) -> None:
        strangers = [
            request(prompt(i, 3 * i), 10 + i, temperature=i % 3, seed=i) for i in range(1, 16)
        ]
        engine = _core.Engine(model, num_pages=128)
        requests = [*strangers[:7], asked, *strangers[7:]]
        assert (
            run(
                engine,
                requests,
                spans={7: spans, 2: {4: [8] * 5}},
                guesses={7: guess, 3: lambda _: [1, 2]},
            )[7]
            == expected
        )

    @pytest.mark.parametrize("max_batch_tokens", [1, 7, 16, 64])
    def test_with_a_chunked_prompt(
        self,
        model: _core.Model,
        asked: _core.Request,
        expected: list[int],
        spans: Spans,
        guess: Guess,
        max_batch_tokens: int,
    ) -> None:
        engine = _core.Engine(
            model, num_pages=32, max_batch_tokens=max_batch_tokens, max_sequences=1
        )
        assert run(engine, [asked], spans={0: spans}, guesses={0: guess}) == [expected]

    @pytest.mark.parametrize("prefix_reuse", [True, False])
    def test_after_preemption(
        self,
        model: _core.Model,
        asked: _core.Request,
        expected: list[int],
        spans: Spans,
        guess: Guess,
        prefix_reuse: bool,
    ) -> None:
        older = [request(prompt(i, 30), 60) for i in (1, 2, 3)]
        engine = _core.Engine(model, num_pages=16, prefix_reuse=prefix_reuse)
        assert run(engine, [*older, asked], spans={3: spans}, guesses={3: guess})[3] == expected
        assert engine.stats()["num_preemptions"] > 0

    def test_with_its_prefix_reused(
        self,
        model: _core.Model,
        asked: _core.Request,
        expected: list[int],
        spans: Spans,
        guess: Guess,
    ) -> None:
        engine = _core.Engine(model, num_pages=32)
        run(engine, [request([*prompt(0, 71)[:50], 1, 2, 3])])
        assert run(engine, [asked], spans={0: spans}, guesses={0: guess}) == [expected]
        assert engine.stats()["num_reused_tokens"] == 48
        assert run(engine, [asked], spans={0: spans}, guesses={0: guess}) == [expected]
        assert engine.stats()["num_reused_tokens"] == 48 + 64

    def test_with_two_threads(
        self, tmp_path: Path, asked: _core.Request, expected: list[int], spans: Spans, guess: Guess
    ) -> None:
        engine = _core.Engine(tiny_model(tmp_path, num_threads=2), num_pages=32)
        assert run(engine, [asked], spans={0: spans}, guesses={0: guess}) == [expected]


def test_greedy_output_is_the_argmax_of_teacher_forced_logits(model: _core.Model) -> None:
    token_ids = prompt(3, 37)
    output = alone(model, request(token_ids, 30))
    logits = model.logits(np.array(token_ids + output, dtype=np.int32))
    assert logits[36:-1].argmax(axis=1).tolist() == output


@pytest.mark.parametrize("num_requests", [200, pytest.param(3000, marks=pytest.mark.full)])
def test_any_traffic_leaves_outputs_alone(model: _core.Model, num_requests: int) -> None:
    """Requests that share prefixes come, are aborted and preempted in a pool that is too small."""
    generator = random.Random(11)
    starts = [prompt(100, 40), prompt(101, 17), []]
    engine = _core.Engine(model, num_pages=20, max_batch_tokens=40, max_sequences=8)
    asked: dict[int, _core.Request] = {}
    tokens: dict[int, list[int]] = {}
    aborted: set[int] = set()
    for _ in range(15 * num_requests // 2):
        if generator.random() < 0.3 and len(asked) < num_requests:
            token_ids = generator.choice(starts) + prompt(generator.randrange(12), 20)
            r = request(token_ids, generator.randint(1, 180), temperature=1, seed=len(asked) % 5)
            sequence_id = engine.submit(r)
            asked[sequence_id], tokens[sequence_id] = r, []
        if generator.random() < 0.02 and asked:
            sequence_id = generator.choice(list(asked))
            aborted.add(sequence_id)  # perhaps one that has ended: no harm
            engine.abort(sequence_id)
        engine.begin_step()
        for output in engine.finish_step():
            tokens[output.sequence_id].append(output.token_id)
        engine.check()
    for outputs in steps(engine):
        for output in outputs:
            tokens[output.sequence_id].append(output.token_id)
    print(engine.stats(), len(aborted), "aborted")
    assert engine.stats()["num_preemptions"] > num_requests // 2
    assert engine.stats()["num_reused_tokens"] > 20 * num_requests
    assert len(asked) == num_requests
    for sequence_id, r in asked.items():
        expected = alone(model, r)
        got = tokens[sequence_id]
        assert got == (expected[: len(got)] if sequence_id in aborted else expected)


def test_choices_of_one_seed_differ_and_share_the_prompt(model: _core.Model) -> None:
    token_ids = prompt(1, 40)
    engine = _core.Engine(model, num_pages=32)
    outputs = run(
        engine, [request(token_ids, 12, choice=i, temperature=1, seed=4) for i in range(3)]
    )
    assert len({tuple(output) for output in outputs}) == 3
    assert engine.stats()["num_computed_tokens"] == 40 + 2 * 8 + 3 * 11
    assert run(engine, [request(token_ids, 12, choice=2, temperature=1, seed=4)])[0] == outputs[2]


@pytest.mark.parametrize("prefix_reuse", [True, False])
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_a_fork_samples_what_a_submission_would(
    model: _core.Model, sampling: dict[str, Any], prefix_reuse: bool
) -> None:
    """Forked while the prompt's first token waits, between steps, and off a fork."""
    token_ids = prompt(2, 45)
    asked = [request(token_ids, 30, choice=i, **sampling) for i in range(4)]
    engine = _core.Engine(model, num_pages=64, prefix_reuse=prefix_reuse)
    first = engine.submit(asked[0])
    assert engine.begin_step() == [first]
    children = [engine.fork(first, i) for i in (1, 2)]
    grandchild = engine.fork(children[1], 3)
    ids = [first, *children, grandchild]
    engine.check()
    tokens: dict[int, list[int]] = {i: [] for i in ids}
    for output in engine.finish_step():
        tokens[output.sequence_id].append(output.token_id)
    for outputs in steps(engine):
        for output in outputs:
            tokens[output.sequence_id].append(output.token_id)
    assert [tokens[i] for i in ids] == [alone(model, r) for r in asked]
    assert engine.stats()["num_computed_tokens"] == 45 + 4 * 29


def test_a_fork_in_the_middle_goes_on_from_there(model: _core.Model) -> None:
    token_ids = prompt(2, 45)
    engine = _core.Engine(model, num_pages=64)
    first = engine.submit(request(token_ids, 30, temperature=1, seed=6))
    so_far = []
    for _ in range(7):
        engine.begin_step()
        so_far += [output.token_id for output in engine.finish_step()]
    child = engine.fork(first, 1)
    tokens: dict[int, list[int]] = {first: [], child: []}
    for outputs in steps(engine):
        for output in outputs:
            tokens[output.sequence_id].append(output.token_id)
    again = request(token_ids + so_far, 23, temperature=1, seed=6, choice=1)
    assert tokens[child] == alone(model, again) != tokens[first]
    assert so_far + tokens[first] == alone(model, request(token_ids, 30, temperature=1, seed=6))


def test_no_fork_where_it_could_not_run_beside(model: _core.Model) -> None:
    asked = request(prompt(2, 45), 3)
    for options, waiting in (
        ({"num_pages": 32, "max_sequences": 1}, 0),
        ({"num_pages": 4}, 0),
        ({"num_pages": 8}, 1),
    ):
        engine = _core.Engine(model, **options)
        first = engine.submit(asked)
        assert engine.fork(first, 1) is None  # it does not run yet
        for _ in range(waiting):
            engine.submit(request(prompt(3, 100), 3))
        engine.begin_step()
        assert engine.fork(first, 1) is None
        engine.check()
        engine.finish_step()
    with pytest.raises(_core.InvalidArgument, match="no sequence"):
        engine.fork(12345, 1)


def test_forks_beside_drafts_fit_the_rows_of_a_step(model: _core.Model) -> None:
    """A step of 8 tokens makes logits of 8 rows: 5 for a sequence with 4 drafts leave 3."""
    asked = [request(prompt(2, 4), 10, choice=i, temperature=1, seed=6) for i in range(4)]
    engine = _core.Engine(model, num_pages=64, max_batch_tokens=8, max_sequences=8)
    first = engine.submit(asked[0])
    engine.draft(first, [1, 2, 3, 4])
    assert engine.begin_step() == [first]
    children = [engine.fork(first, i) for i in (1, 2, 3, 4)]
    assert [child is None for child in children] == [False, False, False, True]
    tokens: dict[int, list[int]] = {i: [] for i in (first, *children[:3])}
    engine.check()
    for outputs in (engine.finish_step(), *steps(engine)):
        for output in outputs:
            tokens[output.sequence_id].append(output.token_id)
    assert list(tokens.values()) == [alone(model, r) for r in asked]


# --- the same on real weights ---------------------------------------------------------------------


def test_smollm_tokens_are_its_own_whatever_the_traffic(smollm_path: Path) -> None:
    """Quantised weights take other kernels than the tiny model: all ways at once, twice."""
    checkpoint = load_checkpoint(str(smollm_path))
    encode = checkpoint.tokenizer.encode
    text = "The capital of France is Paris. The capital of Italy is Rome. The capital of Spain is"
    strangers = [
        request(encode(f"{i} things to know about the number {i}: " * (i % 4 + 1)), 8)
        for i in range(15)
    ]
    for sampling in ({}, {"temperature": 1.0, "seed": 3}):
        asked = request(encode(text), 16, **sampling)
        one = load_model(checkpoint, num_threads=1)
        expected = alone(one, asked)
        if not sampling:
            assert checkpoint.tokenizer.decode(expected).lstrip().startswith(b"Madrid")
        engine = _core.Engine(one, num_pages=96)
        assert run(engine, [*strangers, asked])[15] == expected
        assert run(engine, [asked]) == [expected]
        assert engine.stats()["num_reused_tokens"] >= 16
        small = _core.Engine(
            load_model(checkpoint, num_threads=2), num_pages=7, max_batch_tokens=9, max_sequences=4
        )
        older = [request(encode(f"Once upon a time, {i} "), 40) for i in range(3)]
        assert run(small, [*older, asked])[3] == expected
        assert small.stats()["num_preemptions"] > 0
