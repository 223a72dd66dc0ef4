"""OpenVINO GenAI (`pip install openvino-genai`) on the same GGUF file.

It re-quantises: a block's minimum (Q4_1) becomes a zero point of its own, rounded to a whole step,
which moves a weight by a quarter of a step on average. Files with Q5_0 it does not load.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino
import openvino_genai as peer

from f1.bench.clock import Instant


class OpenVinoSubject:
    def __init__(self, path: str):
        self._path = path
        self._pipelines: dict[int, Any] = {}

    def speed(self, threads: int, token_ids: Sequence[int], num_new: int) -> dict[str, Any]:
        config = peer.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = num_new + 1, True, False
        ids = np.array([token_ids], np.int64)
        prompt = peer.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        streamer = _Streamer()
        pipeline = self._pipeline(threads)
        start = Instant.now()
        pipeline.generate(prompt, config, streamer)
        first, end = streamer.instants[0], streamer.instants[-1]
        return {
            "prefill": start.until(first, len(token_ids)),
            "decode": first.until(end, len(streamer.instants) - 1),
        }

    def _pipeline(self, threads: int) -> Any:
        if threads not in self._pipelines:
            self._pipelines[threads] = peer.LLMPipeline(
                self._path, "CPU", INFERENCE_NUM_THREADS=threads, ATTENTION_BACKEND="SDPA"
            )
        return self._pipelines[threads]


class _Streamer(peer.StreamerBase):  # type: ignore[misc]  # no types are shipped
    """Notes when each token came."""

    def __init__(self) -> None:
        super().__init__()
        self.instants: list[Instant] = []

    def write(self, token: Any) -> Any:
        self.instants.append(Instant.now())
        return peer.StreamingStatus.RUNNING

    def end(self) -> None:
        pass
