"""Ours, as bare as a peer's loop of evaluations: the core's engine, greedy, no grammar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from f1 import _core
from f1.bench.clock import Instant
from f1.models.load import load_checkpoint, load_model
from f1.settings import Settings

_PAGE = 16  # tokens


class CoreSubject:
    def __init__(self, model: str):
        self._settings = Settings.from_env()
        self._checkpoint = load_checkpoint(model, self._settings)
        self._models: dict[int, _core.Model] = {}

    def facts(self, threads: int) -> dict[str, Any]:
        model = self._model(threads)
        return {
            "backend": model.backend_name,
            "packed_bytes": model.packed_bytes,
            "kv_bytes_per_token": model.kv_page_bytes // _PAGE,
        }

    def speed(self, threads: int, token_ids: Sequence[int], num_new: int) -> dict[str, Any]:
        """One sequence from an empty cache. Prefill ends with the first token; `num_new` more make
        the decoding."""
        engine = self._engine(threads, 1, len(token_ids) + num_new + 1, prefix_reuse=False)
        start = Instant.now()
        engine.submit(_request(token_ids, num_new + 1))
        while not _step(engine):
            pass
        first = Instant.now()
        tokens = 0
        while engine.has_work:
            tokens += _step(engine)
        return {
            "prefill": start.until(first, len(token_ids)),
            "decode": first.until(Instant.now(), tokens),
        }

    def batch(
        self,
        threads: int,
        token_ids: Sequence[int],
        sizes: Sequence[int],
        num_new: int,
        rounds: int,
    ) -> list[dict[str, Any]]:
        """Decoding with `sizes` sequences together (falling), each with a context of its own.

        A round goes through all sizes: the surplus sequences are dropped between them. Prompts are
        computed once, in the first round; the others find them in the prefix cache.
        """
        longest = len(token_ids) + len(sizes) * (num_new + 2) + _PAGE
        engine = self._engine(threads, max(sizes), longest, prefix_reuse=True)
        found = []
        for _ in range(rounds):
            waiting = set()
            for index in range(max(sizes)):  # no two prompts begin alike
                prompt = [token_ids[-1 - index], *token_ids[1:]]
                waiting.add(engine.submit(_request(prompt, longest - len(prompt))))
            running = sorted(waiting)
            while waiting:
                engine.begin_step()
                waiting -= {output.sequence_id for output in engine.finish_step({})}
            timings: dict[str, Any] = {}
            for size in sizes:
                for sequence_id in running[size:]:
                    engine.abort(sequence_id)
                running = running[:size]
                _step(engine)  # the first of a size allocates
                start = Instant.now()
                tokens = sum(_step(engine) for _ in range(num_new))
                timings[str(size)] = start.until(Instant.now(), tokens)
            for sequence_id in running:
                engine.abort(sequence_id)
            found.append(timings)
        return found

    def _model(self, threads: int) -> _core.Model:
        if threads not in self._models:
            self._models[threads] = load_model(
                self._checkpoint, num_threads=threads, isa=self._settings.isa
            )
        return self._models[threads]

    def _engine(
        self, threads: int, num_sequences: int, longest: int, *, prefix_reuse: bool
    ) -> _core.Engine:
        return _core.Engine(
            self._model(threads),
            num_pages=num_sequences * (longest // _PAGE + 2),
            max_batch_tokens=self._settings.max_batch_tokens,
            max_sequences=num_sequences,
            prefix_reuse=prefix_reuse,
        )


def _request(token_ids: Sequence[int], max_tokens: int) -> _core.Request:
    return _core.Request(np.array(token_ids, np.int32), max_tokens=max_tokens)


def _step(engine: _core.Engine) -> int:
    """One step; the number of tokens it made."""
    engine.begin_step()
    return len(engine.finish_step({}))
