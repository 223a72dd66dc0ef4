"""The role `embedder` on another server: OpenAI's POST /embeddings."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np

from f1.config import RemoteModel
from f1.errors import EngineStopped, InvalidRequest
from f1.offload import key_of
from f1.settings import Settings
from f1.tools.embedder import Embedded, Embedder

log = logging.getLogger("f1.offload")

_AT_ONCE = 256  # texts
_MAX_CHARS = 2000  # of a text that only has to be found again
_CHARS_PER_TOKEN = 3


class OffloadedEmbedder(Embedder):
    """`name` is what the model is called here. For any event loop."""

    def __init__(
        self, name: str, model: RemoteModel, settings: Settings, env: Mapping[str, str] = os.environ
    ):
        super().__init__(settings)
        key = key_of(name, model, env)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        base_url = model.base_url.rstrip("/") + ("/v1" if not urlsplit(model.base_url).path else "")
        self.model_id = name
        self.made_by = f"{base_url} {model.model}"
        self._url = f"{base_url}/embeddings"
        self._model = model
        self._http = httpx.AsyncClient(headers=headers, timeout=model.timeout)
        self._closing = False
        # What a thread waits for in a socket cannot be called off; what a loop does can.
        self._loop = asyncio.new_event_loop()
        self._looping = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._looping.start()

    def close(self) -> None:
        """What is under way is broken off: nobody waits for a server that does not answer."""
        asyncio.run_coroutine_threadsafe(self._break_off(), self._loop).result()
        super().close()
        asyncio.run_coroutine_threadsafe(self._http.aclose(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._looping.join()
        self._loop.close()

    async def _break_off(self) -> None:
        self._closing = True
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _post(self, body: Mapping[str, Any]) -> httpx.Response:
        if self._closing:
            raise CancelledError
        return await self._http.post(self._url, json=body)

    def _embed(
        self,
        texts: Sequence[str],
        max_tokens: int,
        dimensions: int | None,
        stopped: threading.Event,
    ) -> Embedded:
        about = sum(map(len, texts)) // _CHARS_PER_TOKEN
        if about > max_tokens:
            told = f"may have {max_tokens} tokens in all; it has about {about}"
            raise InvalidRequest(f"'input' {told}", param="input")
        asked = {} if dimensions is None else {"dimensions": dimensions}
        return self._ask(texts, asked, stopped)

    def _sense(self, texts: Sequence[str], ends: bool) -> np.ndarray:
        cut = [text[-_MAX_CHARS:] if ends else text[:_MAX_CHARS] for text in texts]
        return self._ask(cut, {}, threading.Event()).vectors

    def _ask(
        self, texts: Sequence[str], asked: Mapping[str, Any], stopped: threading.Event
    ) -> Embedded:
        found: list[np.ndarray] = []
        num_tokens = 0
        for first in range(0, len(texts), _AT_ONCE):
            if stopped.is_set():
                break  # nobody reads it
            some = list(texts[first : first + _AT_ONCE])
            body = {"model": self._model.model, "input": some, **asked, **self._model.body}
            try:
                posted = asyncio.run_coroutine_threadsafe(self._post(body), self._loop)
                answer = posted.result()
                answer.raise_for_status()
                told = answer.json()
                vectors = _read(told["data"], len(some))
                num_tokens += (told.get("usage") or {}).get("prompt_tokens") or 0
            except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
                log.warning("%s: %s", self.model_id, error)  # it may name paths and addresses
                told = f"the server of '{self.model_id}' gives no vectors; the log has more"
                raise EngineStopped(told) from error
            found.append(vectors)
        return Embedded(np.concatenate(found or [np.zeros((0, 0), np.float32)]), num_tokens)


def _read(items: Sequence[Mapping[str, Any]], count: int) -> np.ndarray:
    """[N, D] float32 of length 1. Raises ValueError and its kin."""
    ordered = sorted(items, key=lambda item: item.get("index") or 0)
    vectors = np.array([item["embedding"] for item in ordered], np.float32)
    if vectors.ndim != 2 or len(vectors) != count or not np.isfinite(vectors).all():
        raise ValueError(f"{count} vectors were asked for, and not these: {vectors.shape}")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny))
