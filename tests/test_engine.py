"""The engine over real models: one request's tokens do not depend on what else goes on.

Most tests run on a tiny random model made here; the last ones on SmolLM2.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from f1 import _core
from f1.models.load import load_checkpoint, load_model

VOCAB_SIZE = 333
MASK_WORDS = -(-VOCAB_SIZE // 32)


def tiny_model(
    folder: Path, num_threads: int, poison: int | None = None, isa: str = "auto"
) -> _core.Model:
    """Two layers of random F32 weights, loud enough that greedy output does not repeat itself.

    The token `poison` has an embedding that is no number.
    """
    width, heads, kv_heads, head_dim, mlp = 64, 4, 2, 16, 96
    layer = {
        "attn_norm.weight": (width,),
        "q.weight": (heads * head_dim, width),
        "k.weight": (kv_heads * head_dim, width),
        "v.weight": (kv_heads * head_dim, width),
        "o.weight": (width, heads * head_dim),
        "mlp_norm.weight": (width,),
        "gate.weight": (mlp, width),
        "up.weight": (mlp, width),
        "down.weight": (width, mlp),
    }
    shapes = {"embed.weight": (VOCAB_SIZE, width), "head.weight": (VOCAB_SIZE, width)}
    shapes["final_norm.weight"] = (width,)
    shapes |= {f"layers.{i}.{name}": shape for i in range(2) for name, shape in layer.items()}

    generator = np.random.default_rng(5)
    path = folder / "tiny.bin"
    sources = {}
    with path.open("wb") as file:
        for name, shape in shapes.items():
            scale = 1.0 if len(shape) == 1 else 2.0 / np.sqrt(shape[-1])
            values = (generator.normal(size=shape) * scale).astype(np.float32)
            if name == "embed.weight" and poison is not None:
                values[poison] = np.nan
            offset = file.tell()
            file.write(values.tobytes())
            sources[name] = (offset, values.nbytes, shape)
    config = _core.ModelConfig(
        num_layers=2,
        hidden_size=width,
        intermediate_size=mlp,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=VOCAB_SIZE,
        max_positions=512,
        norm_eps=1e-5,
        rope_inv_freq=[10000.0 ** (-2 * i / head_dim) for i in range(head_dim // 2)],
        rope_interleaved=False,
    )
    mapped = _core.MappedFile(str(path))
    tensors = {
        name: _core.TensorSource(mapped, offset, num_bytes, "F32", list(shape))
        for name, (offset, num_bytes, shape) in sources.items()
    }
    return _core.Model(config, tensors, num_threads=num_threads, isa=isa)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> _core.Model:
    return tiny_model(tmp_path_factory.mktemp("tiny"), num_threads=1)


def request(
    token_ids: Sequence[int], max_tokens: int = 20, choice: int = 0, **sampling: Any
) -> _core.Request:
    stop_token_ids = sampling.pop("stop_token_ids", [])
    return _core.Request(
        np.array(token_ids, dtype=np.int32),
        _core.SamplingParams(**sampling),
        max_tokens=max_tokens,
        stop_token_ids=stop_token_ids,
        choice=choice,
    )


def steps(
    engine: _core.Engine, masks: Mapping[int, np.ndarray] | None = None
) -> Iterator[list[_core.StepOutput]]:
    while engine.has_work:
        waiting = engine.begin_step()
        engine.check()
        yield engine.finish_step({i: (masks or {}).get(i) for i in waiting})
        engine.check()


Spans = Mapping[int, Sequence[int]]  # number of tokens so far -> those that follow unasked
Guess = Callable[[list[int]], Sequence[int]]  # tokens so far -> those that may come


def run(
    engine: _core.Engine,
    requests: Sequence[_core.Request],
    masks: Mapping[int, np.ndarray] | None = None,
    spans: Mapping[int, Spans] | None = None,
    guesses: Mapping[int, Guess] | None = None,
) -> list[list[int]]:
    """The tokens of each request, all submitted at once. What else is given is by index in
    `requests`; drafts are tried without masks."""
    ids = [engine.submit(r) for r in requests]
    tokens: dict[int, list[int]] = {i: [] for i in ids}
    masks_by_id = {ids[index]: mask for index, mask in (masks or {}).items()}
    spans_by_id = {ids[index]: of_it for index, of_it in (spans or {}).items()}
    guess_by_id = {ids[index]: guess for index, guess in (guesses or {}).items()}
    while engine.has_work:
        for sequence_id, guess in guess_by_id.items():
            engine.draft(sequence_id, guess(tokens[sequence_id]))
        waiting = engine.begin_step()
        engine.check()
        for output in engine.finish_step({i: masks_by_id.get(i) for i in waiting}):
            so_far = tokens[output.sequence_id]
            so_far += [output.token_id] * (output.token_id >= 0)
            if output.finish is not None:
                guess_by_id.pop(output.sequence_id, None)
        engine.check()
        for sequence_id, of_it in spans_by_id.items():
            if span := of_it.get(len(tokens[sequence_id])):
                engine.append(sequence_id, span)
                tokens[sequence_id] += span
    return [tokens[i] for i in ids]


def sampled_one_by_one(model: _core.Model, r: _core.Request, spans: Spans) -> list[int]:
    """What `run` gives where each token of the spans is sampled, all others being illegal."""
    engine = _core.Engine(model, num_pages=32)
    sequence_id = engine.submit(r)
    due = {at + i: token for at, span in spans.items() for i, token in enumerate(span)}
    tokens: list[int] = []
    while engine.has_work:
        engine.begin_step()
        mask = mask_of([due[len(tokens)]]) if len(tokens) in due else None
        tokens += [output.token_id for output in engine.finish_step({sequence_id: mask})]
    return tokens


def guess_from(expected: list[int], spans: Spans) -> Guess:
    """Up to six right tokens, the fifth of every seven wrong; none beyond where a span is due."""

    def guess(so_far: list[int]) -> list[int]:
        begin = len(so_far)
        due = [at for at in spans if at > begin]
        end = min([begin + 6, len(expected), *(at - 1 for at in due)])
        return [token if i % 7 != 4 else 1 for i, token in enumerate(expected[:end])][begin:]

    return guess


def alone(model: _core.Model, r: _core.Request) -> list[int]:
    return run(_core.Engine(model, num_pages=32), [r])[0]


def prompt(seed: int, length: int, vocab_size: int = VOCAB_SIZE) -> list[int]:
    return np.random.default_rng(seed).integers(0, vocab_size, length).tolist()


def mask_of(legal: Sequence[int], vocab_size: int = VOCAB_SIZE) -> np.ndarray:
    bits = np.zeros(-(-vocab_size // 32) * 32, dtype=bool)
    bits[list(legal)] = True
    return np.packbits(bits, bitorder="little").view(np.int32)


SAMPLINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.1, "seed": 9},
    {"temperature": 0.9, "top_k": 30, "top_p": 0.9, "min_p": 0.01, "seed": 2**64 - 1},
    {"repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.3},
]


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


def test_any_traffic_leaves_outputs_alone(model: _core.Model) -> None:
    """Requests that share prefixes come, are aborted and preempted in a pool that is too small."""
    generator = random.Random(11)
    starts = [prompt(100, 40), prompt(101, 17), []]
    engine = _core.Engine(model, num_pages=20, max_batch_tokens=40, max_sequences=8)
    asked: dict[int, _core.Request] = {}
    tokens: dict[int, list[int]] = {}
    aborted: set[int] = set()
    for _ in range(1500):
        if generator.random() < 0.3 and len(asked) < 200:
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
    assert engine.stats()["num_preemptions"] > 100
    assert engine.stats()["num_reused_tokens"] > 4000
    assert len(asked) == 200
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
