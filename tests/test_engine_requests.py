"""What one request meets in the engine: masks, log-probabilities, its end, and refusals."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cores import (
    MASK_WORDS,
    VOCAB_SIZE,
    alone,
    guess_from,
    mask_of,
    prompt,
    request,
    run,
    steps,
    tiny_model,
)

from f1 import _core


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> _core.Model:
    return tiny_model(tmp_path_factory.mktemp("tiny"), num_threads=1)


# --- masks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_only_legal_tokens_are_sampled(model: _core.Model, temperature: float) -> None:
    engine = _core.Engine(model, num_pages=64)
    requests = [request(prompt(i, 20), temperature=temperature, seed=i) for i in range(3)]
    legal = [7, 31, 32, 64, 332]
    free, masked, forced = run(engine, requests, {1: mask_of(legal), 2: mask_of([332])})
    assert set(masked) <= set(legal)
    assert len(set(masked)) > 1
    assert forced == [332] * 20
    assert free == alone(model, requests[0])


def test_bits_beyond_the_vocabulary_are_ignored(model: _core.Model) -> None:
    engine = _core.Engine(model, num_pages=8)
    mask = mask_of([5])
    mask[-1] = np.int32(-1 << (VOCAB_SIZE % 32))
    assert run(engine, [request([1, 2], 3)], {0: mask}) == [[5, 5, 5]]


def test_no_legal_token_ends_that_request_alone(model: _core.Model) -> None:
    engine = _core.Engine(model, num_pages=64)
    good, dead = request(prompt(1, 9)), request(prompt(2, 9))
    ids = [engine.submit(good), engine.submit(dead)]
    nothing = np.zeros(MASK_WORDS, dtype=np.int32)
    outputs = [output for step in steps(engine, {ids[1]: nothing}) for output in step]
    ended = [output for output in outputs if output.sequence_id == ids[1]]
    assert [(output.token_id, output.finish) for output in ended] == [(-1, "no_legal_token")]
    assert [o.token_id for o in outputs if o.sequence_id == ids[0]] == alone(model, good)


@pytest.mark.parametrize("isa", ["scalar", "auto"])
def test_logits_that_are_no_numbers_end_that_request_alone(tmp_path: Path, isa: str) -> None:
    """Nor does anybody meet them later in the pages that the request leaves behind."""
    poisoned = tiny_model(tmp_path, num_threads=1, poison=7, isa=isa)
    tokens = [token for token in prompt(8, 60) if token != 7]
    good = request(tokens[:45], 3)
    expected = alone(poisoned, good)
    engine = _core.Engine(poisoned, num_pages=8, prefix_reuse=False)
    for length in (1, 16, 25, 40, 70):
        ids = [engine.submit(request([7] * length, 5)), engine.submit(good)]
        outputs = [output for step in steps(engine) for output in step]
        ended = [(o.token_id, o.finish) for o in outputs if o.sequence_id == ids[0]]
        assert ended == [(-1, "fault")]
        assert [o.token_id for o in outputs if o.sequence_id == ids[1]] == expected


@pytest.mark.parametrize(
    "mask",
    [
        np.zeros(MASK_WORDS - 1, np.int32),
        np.zeros(MASK_WORDS + 1, np.int32),
        np.zeros((0, MASK_WORDS), np.int32),
        np.zeros((2, MASK_WORDS + 1), np.int32),
        np.zeros((1, 1, MASK_WORDS), np.int32),
        np.zeros(MASK_WORDS, np.float32),
    ],
    ids=["short", "long", "no rows", "long rows", "three dimensions", "float"],
)
def test_a_mask_of_the_wrong_form_is_refused_and_nothing_lost(
    model: _core.Model, mask: np.ndarray
) -> None:
    engine = _core.Engine(model, num_pages=8)
    sequence_id = engine.submit(request([1, 2, 3], 1))
    assert engine.begin_step() == [sequence_id]
    with pytest.raises((_core.InvalidArgument, TypeError)):
        engine.finish_step({sequence_id: mask})
    (output,) = engine.finish_step({sequence_id: None})
    assert [output.token_id] == alone(model, request([1, 2, 3], 1))


def test_a_model_whose_file_is_cut_short_is_an_error(tmp_path: Path) -> None:
    """Not the end of the process: the embedding is read in place."""
    engine = _core.Engine(tiny_model(tmp_path, num_threads=1), num_pages=8)
    engine.submit(request([1, 2, 3], 5))
    engine.begin_step()
    engine.finish_step()
    os.truncate(tmp_path / "tiny.bin", 4096)
    with pytest.raises(_core.DeviceError, match="cut short"):
        engine.begin_step()
    engine.check()


# --- logprobs -------------------------------------------------------------------------------------


def test_logprobs_are_over_the_legal_tokens(model: _core.Model) -> None:
    token_ids = prompt(4, 25)
    logits = model.logits(np.array(token_ids, dtype=np.int32))[-1].astype(np.float64)
    legal = np.array([3, 50, 51, 200])
    expected = logits[legal] - np.log(np.exp(logits[legal]).sum())
    engine = _core.Engine(model, num_pages=8)
    sequence_id = engine.submit(request(token_ids, 1, num_logprobs=2))
    engine.begin_step()
    (output,) = engine.finish_step({sequence_id: mask_of(legal.tolist())})
    order = np.argsort(-expected)
    assert output.token_id == legal[order[0]]
    assert output.logprob == pytest.approx(expected[order[0]], abs=1e-4)
    assert [t for t, _ in output.top] == legal[order[:2]].tolist()
    assert [v for _, v in output.top] == pytest.approx(expected[order[:2]], abs=1e-4)


def test_logprobs_of_a_forced_token_and_where_not_asked_for(model: _core.Model) -> None:
    engine = _core.Engine(model, num_pages=8)
    ids = [engine.submit(request([1], 1, num_logprobs=n)) for n in (-1, 0, 4)]
    outputs = [o for step in steps(engine, {i: mask_of([9]) for i in ids}) for o in step]
    assert [(o.logprob, o.top) for o in outputs] == [(None, None), (0.0, []), (0.0, [(9, 0.0)])]


@pytest.mark.parametrize("legal", [[3, 50, 51, 200], [9], list(range(7, VOCAB_SIZE))], ids=len)
def test_masked_mass_is_what_the_illegal_tokens_had(model: _core.Model, legal: list[int]) -> None:
    token_ids = prompt(4, 25)
    logits = model.logits(np.array(token_ids, dtype=np.int32))[-1].astype(np.float64)
    likely = np.exp(logits - logits.max())
    engine = _core.Engine(model, num_pages=16)
    ids = [engine.submit(request(token_ids, 1, num_logprobs=0, masked_mass=m)) for m in (1, 0)]
    masked, plain = [o for step in steps(engine, {i: mask_of(legal) for i in ids}) for o in step]
    assert masked.masked_mass == pytest.approx(1 - likely[legal].sum() / likely.sum(), abs=1e-5)
    assert plain.masked_mass is None
    assert (masked.token_id, masked.logprob) == (plain.token_id, pytest.approx(plain.logprob))


def test_nothing_is_masked_without_a_mask(model: _core.Model) -> None:
    engine = _core.Engine(model, num_pages=8)
    engine.submit(request([1], 1, num_logprobs=0, masked_mass=True))
    ((output,),) = steps(engine)
    assert output.masked_mass == 0


# --- how sequences end ----------------------------------------------------------------------------


def test_stop_token_is_returned_and_ends(model: _core.Model) -> None:
    tokens = alone(model, request(prompt(5, 20)))
    stop = tokens[6]
    engine = _core.Engine(model, num_pages=8)
    engine.submit(request(prompt(5, 20), stop_token_ids=[stop, 1]))
    outputs = [output for step in steps(engine) for output in step]
    end = tokens.index(stop)
    assert [output.token_id for output in outputs] == tokens[: end + 1]
    assert [output.finish for output in outputs] == [None] * end + ["stop"]


def test_length_ends(model: _core.Model) -> None:
    engine = _core.Engine(model, num_pages=8)
    engine.submit(request([1], 3))
    finishes = [output.finish for step in steps(engine) for output in step]
    assert finishes == [None, None, "length"]
    assert not engine.has_work
    assert engine.begin_step() == []
    assert engine.finish_step() == []


def test_what_cannot_be_appended_is_refused_and_nothing_lost(model: _core.Model) -> None:
    engine = _core.Engine(model, num_pages=8)
    sequence_id = engine.submit(request([1, 2, 3], 4))
    engine.begin_step()
    with pytest.raises(_core.InvalidArgument, match="waits for its token"):
        engine.append(sequence_id, [1])
    (first,) = engine.finish_step()
    for token_ids, message in (
        ([VOCAB_SIZE], "vocabulary"),
        ([-1], "vocabulary"),
        ([1, 2, 3], "max_tokens allows 3"),
    ):
        with pytest.raises(_core.InvalidArgument, match=message):
            engine.append(sequence_id, token_ids)
    with pytest.raises(_core.InvalidArgument, match="no sequence"):
        engine.append(sequence_id + 1, [1])
    engine.append(sequence_id, [5, 6])
    engine.check()
    (last,) = [output for step in steps(engine) for output in step]
    assert last.finish == "length"
    assert last.token_id == alone(model, request([1, 2, 3, first.token_id, 5, 6], 1))[0]


def test_drafts_are_tried_as_far_as_there_are_masks(model: _core.Model) -> None:
    """A row of the mask for the next token, and one behind each draft that is to be tried."""
    legal = [[3, 9, 200], [17, 50, 51], [5, 6], [8, 300]]
    expected, at = [], 0
    engine = _core.Engine(model, num_pages=8)
    sequence_id = engine.submit(request(prompt(9, 20), 4))
    while engine.has_work:
        engine.begin_step()
        (output,) = engine.finish_step({sequence_id: mask_of(legal[at])})
        expected.append(output.token_id)
        at += 1
    for num_rows in range(1, 5):
        for wrong in range(4):
            engine = _core.Engine(model, num_pages=8)
            sequence_id = engine.submit(request(prompt(9, 20), 4))
            drafts = expected[:3]
            if wrong < 3:
                drafts[wrong] = 1
            engine.draft(sequence_id, [*drafts, 1, 1])  # more than can come
            engine.begin_step()
            rows = np.stack([mask_of(tokens) for tokens in legal[:num_rows]])
            outputs = engine.finish_step({sequence_id: rows})
            engine.check()
            num_tokens = min(num_rows, wrong + 1)
            assert [output.token_id for output in outputs] == expected[:num_tokens]
            assert engine.has_work == (num_tokens < 4)
            assert engine.stats()["num_accepted_tokens"] == num_tokens - 1
            assert engine.stats()["num_drafted_tokens"] == 3


def test_a_stop_token_among_drafts_ends(model: _core.Model) -> None:
    tokens = alone(model, request(prompt(5, 20)))
    engine = _core.Engine(model, num_pages=8)
    sequence_id = engine.submit(request(prompt(5, 20), stop_token_ids=[tokens[2]]))
    engine.draft(sequence_id, tokens[:6])
    engine.begin_step()
    outputs = engine.finish_step()
    assert [output.token_id for output in outputs] == tokens[:3]
    assert [output.finish for output in outputs] == [None, None, "stop"]
    assert not engine.has_work


def test_drafts_take_no_more_than_what_is_left(model: _core.Model) -> None:
    """Neither of the step's tokens nor of its rows of logits nor of the pages."""
    expected = [alone(model, request(prompt(i, 15 + i), 12)) for i in range(4)]
    for options in (
        {"num_pages": 32, "max_batch_tokens": 5, "max_sequences": 4},
        {"num_pages": 32, "max_sequences": 4, "max_draft_tokens": 2},
        {"num_pages": 32, "max_sequences": 4, "max_draft_tokens": 0},
        {"num_pages": 2, "max_sequences": 4},
    ):
        engine = _core.Engine(model, **options)
        requests = [request(prompt(i, 15 + i), 12) for i in range(4)]
        guesses = {i: guess_from(expected[i], {}) for i in range(4)}
        assert run(engine, requests, guesses=guesses) == expected
        drafted = engine.stats()["num_drafted_tokens"]
        assert (drafted > 0) == (options.get("max_draft_tokens") != 0)
    with pytest.raises(_core.InvalidArgument, match="max_draft_tokens"):
        _core.Engine(model, num_pages=8, max_draft_tokens=-1)


def test_abort_while_waiting_running_and_in_a_step(model: _core.Model) -> None:
    engine = _core.Engine(model, num_pages=64, max_sequences=2)
    first, second, third = (engine.submit(request(prompt(i, 20))) for i in range(3))
    assert engine.begin_step() == [first, second]
    engine.abort(second)
    engine.abort(third)
    engine.check()
    assert [output.sequence_id for output in engine.finish_step({second: None})] == [first]
    engine.abort(first)
    engine.abort(first)
    engine.abort(12345)
    engine.check()
    assert not engine.has_work
    stats = engine.stats()
    assert stats["num_free_pages"] + stats["num_reclaimable_pages"] == 64


def test_steps_alternate(model: _core.Model) -> None:
    engine = _core.Engine(model, num_pages=8)
    engine.submit(request([1], 2))
    engine.begin_step()
    with pytest.raises(_core.InvalidArgument, match="finish_step"):
        engine.begin_step()
    assert len(engine.finish_step()) == 1


def test_threads_may_submit_and_abort_while_another_steps(model: _core.Model) -> None:
    engine = _core.Engine(model, num_pages=64, max_sequences=4)
    wanted = [request(prompt(i, 10 + i % 30), 5, temperature=1, seed=i) for i in range(60)]
    tokens: dict[int, list[int]] = {}

    def submit(part: Sequence[_core.Request]) -> list[int]:
        ids = [engine.submit(r) for r in part]
        engine.abort(engine.submit(request(prompt(99, 40), 5)))
        return ids

    with ThreadPoolExecutor(3) as threads:
        submitting = [threads.submit(submit, wanted[i::3]) for i in range(3)]
        while not all(future.done() for future in submitting) or engine.has_work:
            engine.begin_step()
            for output in engine.finish_step():
                tokens.setdefault(output.sequence_id, []).append(output.token_id)
    for i, future in enumerate(submitting):
        for sequence_id, r in zip(future.result(), wanted[i::3], strict=True):
            assert tokens[sequence_id] == alone(model, r)
    engine.check()


def test_engines_may_share_a_model(model: _core.Model) -> None:
    wanted = [
        request(prompt(i, 20 + i), 30, temperature=1.2, top_p=0.9, top_k=50, seed=i)
        for i in range(6)
    ]
    engines = [_core.Engine(model, num_pages=64) for _ in range(3)]
    with ThreadPoolExecutor(3) as threads:
        got = list(threads.map(lambda engine: run(engine, wanted), engines))
    assert got == [[alone(model, r) for r in wanted]] * 3


def test_an_engine_needs_a_model() -> None:
    with pytest.raises(TypeError):
        _core.Engine(None, num_pages=1)


def test_cached_tokens_are_told(model: _core.Model) -> None:
    engine = _core.Engine(model, num_pages=16)
    for expected in (0, 32):
        engine.submit(request(prompt(6, 40), 2))
        outputs = [output for step in steps(engine) for output in step]
        assert [output.num_cached_tokens for output in outputs] == [expected] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"token_ids": []}, "token_ids"),
        ({"token_ids": [1, -1]}, "-1"),
        ({"token_ids": [VOCAB_SIZE]}, "vocabulary"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2**31 - 1}, "context has 512"),
        ({"token_ids": [1] * 500, "max_tokens": 13}, "context has 512"),
        ({"token_ids": [1] * 200, "max_tokens": 58}, "cache has 256"),
        ({"stop_token_ids": [VOCAB_SIZE]}, "stop_token_ids"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": float("nan")}, "top_p"),
        ({"min_p": 1.5}, "min_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"presence_penalty": float("nan")}, "presence_penalty"),
        ({"frequency_penalty": float("inf")}, "frequency_penalty"),
        ({"num_logprobs": -2}, "num_logprobs"),
        ({"num_logprobs": VOCAB_SIZE + 1}, "num_logprobs"),
        ({"masked_mass": True}, "masked_mass"),
        ({"logit_bias": {VOCAB_SIZE: 1.0}}, "logit_bias"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias"),
        ({"logit_bias": {1: float("nan")}}, "logit_bias"),
    ],
    ids=str,
)
def test_requests_that_cannot_be_served_are_refused(
    model: _core.Model, arguments: dict[str, Any], message: str
) -> None:
    engine = _core.Engine(model, num_pages=16)
    with pytest.raises(_core.InvalidArgument, match=message):
        engine.submit(request(**({"token_ids": [1], "max_tokens": 1} | arguments)))
    assert not engine.has_work
