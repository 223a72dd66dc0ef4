"""llama.cpp as its Python package builds it (`pip install llama-cpp-python`).

Evaluated token by token, logits read in place. With a grammar, as its server does it: the likeliest
token is shown to the grammar first, and only when it is refused are all others.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import llama_cpp as peer
import numpy as np
from numpy.typing import NDArray

from f1.bench.clock import Instant

_CONTEXT = 4096  # tokens: more than any measurement here takes


class LlamaCppSubject:
    def __init__(self, path: str):
        threads = len(os.sched_getaffinity(0))
        self._llama = peer.Llama(
            path, n_ctx=_CONTEXT, n_threads=threads, n_threads_batch=threads, verbose=False
        )

    def speed(self, threads: int, token_ids: Sequence[int], num_new: int) -> dict[str, Any]:
        self._use(threads)
        self._llama.reset()
        start = Instant.now()
        self._llama.eval(token_ids)
        token = self._best()
        first = Instant.now()
        for _ in range(num_new):
            self._llama.eval([token])
            token = self._best()
        return {
            "prefill": start.until(first, len(token_ids)),
            "decode": first.until(Instant.now(), num_new),
        }

    def call(
        self, threads: int, token_ids: Sequence[int], schema: Mapping[str, Any], max_tokens: int
    ) -> dict[str, Any]:
        """Decodes one JSON value of that schema; the prompt's time and first token not counted."""
        self._use(threads)
        self._llama.reset()
        self._llama.eval(token_ids)
        with self._grammar(schema) as grammar:
            token = self._best_of(grammar)
            taken = [token]
            start = Instant.now()
            while len(taken) < max_tokens:
                self._llama.eval([token])
                token = self._best_of(grammar)
                if peer.llama_vocab_is_eog(self._vocabulary, token):
                    break
                taken.append(token)
            timing = start.until(Instant.now(), len(taken) - 1)
        text = self._llama.detokenize(taken).decode("utf-8", "replace")
        return timing | {"text": text}

    def first_token(self, threads: int, token_ids: Sequence[int]) -> dict[str, Any]:
        """From the prompt to its first token, the model loaded before."""
        self._use(threads)
        self._llama.reset()
        start = Instant.now()
        self._llama.eval(token_ids)
        self._best()
        return start.until(Instant.now(), 1)

    def _use(self, threads: int) -> None:
        peer.llama_set_n_threads(self._llama.ctx, threads, threads)

    @property
    def _vocabulary(self) -> Any:
        return peer.llama_model_get_vocab(self._llama.model)

    def _logits(self) -> NDArray[np.float32]:
        last = peer.llama_get_logits_ith(self._llama.ctx, -1)
        logits: NDArray[np.float32] = np.ctypeslib.as_array(last, shape=(self._llama.n_vocab(),))
        return logits

    def _best(self) -> int:
        return int(self._logits().argmax())

    def _best_of(self, grammar: Any) -> int:
        logits = self._logits()
        token = int(logits.argmax())
        if not _allowed(grammar, np.array([token]), logits).any():
            every = np.arange(len(logits))
            allowed = _allowed(grammar, every, logits)
            token = int(np.where(allowed, logits, -np.inf).argmax())
        if not peer.llama_vocab_is_eog(self._vocabulary, token):
            peer.llama_sampler_accept(grammar, token)
        return token

    @contextmanager
    def _grammar(self, schema: Mapping[str, Any]) -> Iterator[Any]:
        source = peer.LlamaGrammar.from_json_schema(json.dumps(schema), verbose=False)
        text = source._grammar.encode()
        grammar = peer.llama_sampler_init_grammar(self._vocabulary, text, b"root")
        try:
            yield grammar
        finally:
            peer.llama_sampler_free(grammar)


_ENTRY = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)], align=True)


def _allowed(
    grammar: Any, token_ids: NDArray[np.int64], logits: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Which of the tokens the grammar lets follow; it sets the logits of the others to -inf."""
    entries = np.zeros(len(token_ids), _ENTRY)
    entries["id"], entries["logit"] = token_ids, logits[token_ids]
    first = ctypes.cast(entries.ctypes.data, ctypes.POINTER(peer.llama_token_data))
    array = peer.llama_token_data_array(first, len(entries), -1, False)
    peer.llama_sampler_apply(grammar, ctypes.byref(array))
    allowed: NDArray[np.bool_] = np.isfinite(entries["logit"])
    return allowed
