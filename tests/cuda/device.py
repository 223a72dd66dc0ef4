"""One real model on a device: its logits against the CPU's, and its speed. Prints a table.

usage, in the folder above: PYTHONPATH=. cuda/device.py MODEL [ISA]    ISA: "cuda"
"""

from __future__ import annotations

import sys
import time
from statistics import median

import numpy as np
import reference

from f1 import _core
from f1.models.load import load_checkpoint, load_model

TEXT = "The capital of France is Paris. The capital of Japan is Tokyo. " * 40
PROMPT = 512
STEPS = 64


def compare(device: _core.Model, cpu: _core.Model, tokens: np.ndarray) -> tuple[float, float]:
    """Mean KL divergence in nats, and how often both find the same token likeliest."""
    ours, theirs = device.logits(tokens), cpu.logits(tokens)
    agreement = (ours.argmax(-1) == theirs.argmax(-1)).mean()
    return float(reference.kl(theirs, ours).mean()), float(agreement)


def run(
    model: _core.Model, tokens: np.ndarray, num_sequences: int, legal: np.ndarray
) -> list[float]:
    """Seconds of each step: the first is the prompts', the others decode one token of each."""
    pages = num_sequences * ((PROMPT + STEPS) // 16 + 2)
    engine = _core.Engine(model, pages, PROMPT * num_sequences, num_sequences, prefix_reuse=False)
    for _ in range(num_sequences):
        engine.submit(_core.Request(tokens[:PROMPT], max_tokens=STEPS + 1))
    seconds = []
    while engine.has_work:
        begin = time.perf_counter()
        waiting = engine.begin_step()
        for output in engine.finish_step(dict.fromkeys(waiting, legal)):
            word = int(legal[output.token_id // 32])
            assert word >> output.token_id % 32 & 1, f"{output.token_id} is not legal"
        seconds.append(time.perf_counter() - begin)
    return seconds


def main(name: str, isa: str = "cuda") -> None:
    checkpoint = load_checkpoint(name)
    tokens = np.array(checkpoint.tokenizer.encode(TEXT)[: PROMPT + 1], np.int32)
    assert len(tokens) > PROMPT
    begin = time.perf_counter()
    device = load_model(checkpoint, isa=isa)
    loading = time.perf_counter() - begin
    divergence, agreement = compare(device, load_model(checkpoint), tokens[:256])
    # Every second token may not be: more than are listed, so the mask itself goes to the device.
    legal = np.full(-(-checkpoint.config.vocab_size // 32), 0x55555555, np.int32)
    rows: list[tuple[str, str]] = [
        ("model, backend", f"{name}, {device.backend_name}"),
        ("loading, s", f"{loading:.2f}"),
        ("weights on the device, MB", f"{device.packed_bytes / 1e6:.0f}"),
        ("KL to the CPU, nats", f"{divergence:.6f}"),
        ("same likeliest token", f"{agreement:.3f}"),
    ]
    run(device, tokens, 1, legal)  # to warm up
    for num_sequences in (1, 4, 16):
        seconds = run(device, tokens, num_sequences, legal)
        step = median(seconds[1:])
        rows += [
            (f"prompt of {num_sequences} x {PROMPT}, tok/s",
             f"{num_sequences * PROMPT / seconds[0]:.0f}"),
            (f"decode of {num_sequences}, ms a step", f"{1000 * step:.3f}"),
            (f"decode of {num_sequences}, tok/s", f"{num_sequences / step:.0f}"),
        ]  # fmt: skip
    for what, value in rows:
        print(f"{what:32} {value:>16}")
    assert divergence < 0.01, "the device computes something else"
    assert agreement > 0.95, "the device computes something else"


if __name__ == "__main__":
    main(*sys.argv[1:])
