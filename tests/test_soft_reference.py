"""Soft steps on real weights against another's forward pass: transformers, f32, dequantised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from cores import request, steps

from f1 import _core
from f1.models.load import load_checkpoint, load_model

TEXTS = [
    "The capital of France is Paris. The capital of Italy is Rome. The capital of Spain is",
    "def quicksort(items):\n    if len(items) < 2:\n        return",
    "To make bread you need flour, water, salt and",
    "Which of these is a prime number: 21, 27, 29 or 33? The answer is",
    "Once upon a time there was a little girl who lived in",
    "user: What is the weather like in Oslo today?\nassistant: I will look up the",
]
STEPS = 6


def theirs(model: Any, token_ids: list[int], num_steps: int) -> np.ndarray:
    """Log-probabilities behind the soft steps; the whole sequence again for each."""
    import torch

    table = model.get_input_embeddings().weight
    with torch.inference_mode():
        inputs = table[torch.tensor(token_ids)]
        for _ in range(num_steps):
            logits = model(inputs_embeds=inputs[None]).logits[0, -1].numpy()
            mixed, weights = reference.mix(logits, 8, 1.0)
            row = torch.tensor(weights, dtype=torch.float32) @ table[torch.tensor(mixed)]
            inputs = torch.cat([inputs, row[None]])
        return reference.log_softmax(model(inputs_embeds=inputs[None]).logits[0, -1].numpy())


def ours(engine: _core.Engine, vocab_size: int, token_ids: list[int], num_steps: int) -> np.ndarray:
    soft = _core.SoftParams(num_steps=num_steps, position=len(token_ids), top_k=8)
    engine.submit(request(token_ids, num_steps + 1, num_logprobs=vocab_size, soft=soft))
    (output,) = [output for step in steps(engine) for output in step]
    found = np.full(vocab_size, -np.inf)
    for token, value in output.top or ():
        found[token] = value
    return found


@pytest.mark.full
def test_transformers_say_the_same_behind_soft_steps(smollm_path: Path) -> None:
    """Behind one step nearly as without, where the difference is that of quantised arithmetic; each
    further step feeds it back, and it grows."""
    import torch
    from transformers import AutoModelForCausalLM

    path = smollm_path.resolve()
    model: Any = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    model.eval()
    checkpoint = load_checkpoint(str(smollm_path))
    engine = _core.Engine(load_model(checkpoint), num_pages=64)
    vocab_size = checkpoint.tokenizer.vocab_size
    apart: dict[int, list[float]] = {0: [], 1: [], STEPS: []}
    num_same = 0
    for text in TEXTS:
        token_ids = checkpoint.tokenizer.encode(text)
        for num_steps, of_it in apart.items():
            expected = theirs(model, token_ids, num_steps)
            got = ours(engine, vocab_size, token_ids, num_steps)
            of_it.append(float(reference.kl(expected, got)))
            same = bool(expected.argmax() == got.argmax())
            num_same += same
            print(f"{num_steps} steps: KL {of_it[-1]:.5f}, same token: {same}", flush=True)
    assert num_same >= 3 * len(TEXTS) - 1
    assert max(apart[0]) < 0.05, apart
    assert max(apart[1]) < 0.1, apart
