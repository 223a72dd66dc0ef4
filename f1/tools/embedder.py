"""The embedding model behind threads of its own, fetched and loaded when it is first asked for."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from f1.errors import ContextLengthExceeded, DownloadError, InvalidRequest, ModelNotFound
from f1.models.catalogue import EMBEDDING_MODEL
from f1.models.pull import pull
from f1.settings import Settings

if TYPE_CHECKING:
    from f1.models.embedding import SentenceEncoder

log = logging.getLogger("f1.serve")

_BEHIND = 10  # niceness: decoding, which people watch, goes first


@dataclass(frozen=True, slots=True)
class Embedded:
    """`vectors` is [N, D] float32, each of length 1; `num_tokens` is of all texts."""

    vectors: np.ndarray
    num_tokens: int


class Embedder:
    """What comes in bulk is computed behind the engine, on one core; a request's few words, which
    somebody waits for, beside that. For any event loop."""

    model_id = EMBEDDING_MODEL
    made_by = EMBEDDING_MODEL  # vectors of another are not to be compared with its own

    def __init__(self, settings: Settings):
        self._settings = settings
        self._encoder: SentenceEncoder | None = None
        self._rough: SentenceEncoder | None = None  # for `sense`
        self._loading = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "f1-embedder", initializer=_step_back)
        self._quick = ThreadPoolExecutor(1, "f1-sense")

    async def embed(
        self, texts: Sequence[str], *, max_tokens: int, dimensions: int | None = None
    ) -> Embedded:
        """A vector for each text; cancelling it stops the work. Raises InvalidRequest where a text
        is longer than the model reads, or all together have more than `max_tokens`; ModelNotFound
        where its files cannot be had."""
        stopped = threading.Event()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(
                self._thread, self._embed, texts, max_tokens, dimensions, stopped
            )
        finally:
            stopped.set()

    async def sense(self, text: str) -> np.ndarray:
        """[D] float32, to compare with those of `sense_all`: of the text's end, where it is longer
        than the model reads. Raises ModelNotFound."""
        loop = asyncio.get_running_loop()
        (vector,) = await loop.run_in_executor(self._quick, self._sense, [text], True)
        return np.asarray(vector)

    def sense_all(self, texts: Sequence[str]) -> Future[np.ndarray]:
        """[N, D] float32, in the background; of the texts' beginnings."""
        return self._thread.submit(self._sense, texts, False)

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)
        self._quick.shutdown(cancel_futures=True)

    # --- its threads ------------------------------------------------------------------------------

    def _embed(
        self,
        texts: Sequence[str],
        max_tokens: int,
        dimensions: int | None,
        stopped: threading.Event,
    ) -> Embedded:
        encoder = self._loaded()
        if dimensions not in (None, encoder.num_dimensions):
            told = f"must be {encoder.num_dimensions}, as many as this model's vectors have"
            raise InvalidRequest(f"'dimensions' {told}, not {dimensions}", param="dimensions")
        sentences = _read(encoder, texts, max_tokens)
        vectors = [np.zeros((0, encoder.num_dimensions), np.float32)]
        for batch in encoder.embed(sentences):
            vectors.append(batch)
            if stopped.is_set():
                break  # nobody reads it
        return Embedded(np.concatenate(vectors), sum(map(len, sentences)))

    def _sense(self, texts: Sequence[str], ends: bool) -> np.ndarray:
        encoder = self._loaded()
        with self._loading:
            rough = self._rough = self._rough or encoder.halved()
        sentences = [_cut(rough, text, ends) for text in texts]
        return np.concatenate(list(rough.embed(sentences)))

    def _loaded(self) -> SentenceEncoder:
        with self._loading:
            self._encoder = self._encoder or self._load()
            return self._encoder

    def _load(self) -> SentenceEncoder:
        # Takes a second, and torch with it; needed by those alone who ask for embeddings.
        import torch

        from f1.models.embedding import SentenceEncoder

        torch.set_num_threads(1)
        try:
            return SentenceEncoder.load(pull(EMBEDDING_MODEL, self._settings))
        except DownloadError as error:
            log.warning("%s", error)  # it may name paths and addresses
            told = f"the files of {EMBEDDING_MODEL} are not here: run `f1 pull {EMBEDDING_MODEL}`"
            raise ModelNotFound(told, param="model") from error


def _read(encoder: SentenceEncoder, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    """The tokens of the texts; nothing is cut. Raises InvalidRequest."""
    sentences: list[list[int]] = []
    room = max_tokens
    for index, text in enumerate(texts):
        sentences.append(token_ids := encoder.tokenize(text))
        if len(token_ids) > encoder.max_tokens:
            told = f"has {len(token_ids)} tokens, and the model reads {encoder.max_tokens}"
            raise ContextLengthExceeded(f"'input[{index}]' {told}", param=f"input[{index}]")
        room -= len(token_ids)
        if room < 0:
            told = f"may have {max_tokens} tokens in all; up to 'input[{index}]' there are"
            raise InvalidRequest(f"'input' {told} {max_tokens - room}", param="input")
    return sentences


def _cut(encoder: SentenceEncoder, text: str, ends: bool) -> list[int]:
    first, *inner, last = encoder.tokenize(text)
    room = encoder.max_tokens - 2
    return [first, *(inner[-room:] if ends else inner[:room]), last]


def _step_back() -> None:
    if sys.platform == "linux":  # elsewhere niceness is the whole process's
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _BEHIND)
