"""A sequence that nobody can say the next token of waits for it and changes nothing else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from cores import SAMPLINGS, alone, prompt, request, tiny_model

from f1 import _core
from f1.stepping import Stepper


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> _core.Model:
    return tiny_model(tmp_path_factory.mktemp("tiny"), num_threads=1)


@pytest.mark.parametrize("num_pages", [256, 12])  # 12: they preempt each other
def test_pauses_change_no_token(model: _core.Model, num_pages: int) -> None:
    requests = [
        request(prompt(i, 20 + 16 * (i % 3)), 100, **SAMPLINGS[i % len(SAMPLINGS)])
        for i in range(8)
    ]
    engine = _core.Engine(model, num_pages=num_pages, max_batch_tokens=24, max_sequences=6)
    random = np.random.default_rng(4)
    tokens: dict[int, list[int]] = {engine.submit(r): [] for r in requests}
    paused: set[int] = set()
    going = set(tokens)
    while engine.has_work:
        for sequence_id in sorted(going):
            if sequence_id in paused and random.random() < 0.3:
                engine.resume(sequence_id)
                paused.remove(sequence_id)
            elif sequence_id not in paused and random.random() < 0.3:
                engine.pause(sequence_id)
                paused.add(sequence_id)
        waiting = engine.begin_step()
        engine.check()
        assert not paused & set(waiting)
        for output in engine.finish_step():
            tokens[output.sequence_id].append(output.token_id)
            if output.finish is not None:
                going.remove(output.sequence_id)
        engine.check()
    assert list(tokens.values()) == [alone(model, r) for r in requests]
    assert (engine.stats()["num_preemptions"] > 0) == (num_pages == 12)


def test_a_prompt_is_computed_meanwhile(model: _core.Model) -> None:
    engine = _core.Engine(model, num_pages=64, max_batch_tokens=32)
    sequence_id = engine.submit(request(prompt(1, 100), 5))
    engine.pause(sequence_id)
    for _ in range(5):
        assert engine.begin_step() == []
        engine.finish_step()
    assert engine.stats()["num_computed_tokens"] == 99
    engine.resume(sequence_id)
    assert engine.begin_step() == [sequence_id]
    with pytest.raises(ValueError, match="waits for its token"):
        engine.pause(sequence_id)


def test_of_what_has_ended(model: _core.Model) -> None:
    engine = _core.Engine(model, num_pages=64)
    sequence_id = engine.submit(request(prompt(1, 10), 5))
    engine.pause(sequence_id)
    engine.abort(sequence_id)
    assert not engine.has_work
    with pytest.raises(ValueError, match="no sequence"):
        engine.resume(sequence_id)


def test_the_end_of_a_rest_is_not_the_end_of_a_wait() -> None:
    """For one that was to rest when, in the same step, its grammar was not ready."""
    core: Any = SimpleNamespace(pause=lambda _: None, resume=lambda _: pytest.fail("too early"))
    other: Any = None
    stepper = Stepper(core, other, other, (), other, other)
    choice: Any = SimpleNamespace(sequence_id=7)
    stepper._resting[7] = 0.0
    stepper._wait(choice, cast(Any, SimpleNamespace(when_ready=lambda _: None)))
    stepper._end_rests()
    assert list(stepper._waiting) == [7]
