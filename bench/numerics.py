"""How far quantised inference is from the same weights in f32: ours and llama.cpp's, in one run.

    pip install '.[test]' llama-cpp-python      # the peer; without it only ours is measured
    python bench/numerics.py [--models NAME …] [--isa auto|scalar|…] [--json FILE]

Teacher-forced over the texts in bench/data (code, JSON and the like, prose, chat, Unicode), in
segments of at most 512 tokens, each from an empty context. The reference is transformers in f32 on
the file's own weights, dequantised (`gguf_file=`). For each position: does the likeliest next token
agree (top-1), and KL(reference ‖ candidate) in nats over the whole vocabulary.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from f1.bench.machine import describe_run
from f1.models.checkpoint import Checkpoint
from f1.models.load import load_checkpoint, load_model
from f1.models.pull import resolve
from f1.settings import Settings
from f1.types import Message

TokenIds = NDArray[np.int32]  # [T]
Logits = NDArray[np.float32]  # [T, V]
Candidate = Callable[[TokenIds], Logits]

DATA = Path(__file__).parent / "data"
SEGMENT = 512  # tokens
_ROWS = 64  # rows of the vocabulary's width that are held in f64 at once


@dataclass(slots=True)
class Distance:
    """Sums over positions."""

    agreed: int = 0
    kl: list[float] = field(default_factory=list)

    def add(self, reference: Logits, candidate: Logits) -> None:
        for begin in range(0, len(reference), _ROWS):
            p = log_softmax(reference[begin : begin + _ROWS])
            q = log_softmax(candidate[begin : begin + _ROWS])
            self.agreed += int((p.argmax(-1) == q.argmax(-1)).sum())
            self.kl += (np.exp(p) * (p - q)).sum(-1).tolist()

    def summary(self) -> dict[str, float]:
        kl = np.array(self.kl)
        return {
            "top1_agreement": self.agreed / len(kl),
            "mean_kl": float(kl.mean()),
            "p99_kl": float(np.quantile(kl, 0.99)),
        }


def log_softmax(logits: Logits) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))  # type: ignore[no-any-return]


def segments(checkpoint: Checkpoint) -> Iterator[tuple[str, TokenIds]]:
    """Name of the text and its token ids, in pieces; a conversation goes through the template."""
    for path in sorted(DATA.iterdir()):
        text = path.read_text("utf-8")
        if path.suffix == ".json":
            ids = checkpoint.template.render([Message(**message) for message in json.loads(text)])
        else:
            ids = checkpoint.tokenizer.encode(text)
        for begin in range(0, len(ids), SEGMENT):
            yield path.stem, np.array(ids[begin : begin + SEGMENT], np.int32)


def ours(checkpoint: Checkpoint, threads: int, isa: str) -> Candidate:
    return load_model(checkpoint, num_threads=threads, isa=isa).logits


def llama_cpp(path: Path, threads: int) -> Candidate:
    """The peer, as its Python package runs it. Raises ImportError where it is not installed."""
    from llama_cpp import Llama

    model = Llama(
        str(path),
        n_ctx=SEGMENT,
        n_batch=SEGMENT,
        n_threads=threads,
        n_threads_batch=threads,
        logits_all=True,
        verbose=False,
    )

    def logits(token_ids: TokenIds) -> Logits:
        model.reset()
        model.eval(token_ids.tolist())
        return np.array(model.scores[: len(token_ids)], np.float32)

    return logits


def transformers_f32(path: Path, threads: int) -> Candidate:
    """The reference: the file's weights dequantised, every operation in f32."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()

    @torch.inference_mode()
    def logits(token_ids: TokenIds) -> Logits:
        found = model(torch.from_numpy(token_ids.astype(np.int64))[None]).logits[0]
        return found.numpy()  # type: ignore[no-any-return]

    return logits


def measure(name: str, threads: int, isa: str) -> dict[str, Any]:
    """Distances of every candidate for one model, over all texts and for each."""
    settings = Settings.from_env()
    path, checkpoint = resolve(name, settings), load_checkpoint(name, settings)
    candidates = {"f1": ours(checkpoint, threads, isa)}
    try:
        candidates["llama.cpp"] = llama_cpp(path, threads)
    except ImportError:
        print("llama-cpp-python is not installed: only ours is measured")
    reference = transformers_f32(path, threads)
    whole = {who: Distance() for who in candidates}
    texts: dict[str, dict[str, Distance]] = {}
    for text, token_ids in segments(checkpoint):
        expected = reference(token_ids)
        for who, run in candidates.items():
            found = run(token_ids)
            whole[who].add(expected, found)
            texts.setdefault(text, {}).setdefault(who, Distance()).add(expected, found)
    return {
        "tokens": len(whole["f1"].kl),
        "all": {who: distance.summary() for who, distance in whole.items()},
        "texts": {
            text: {who: distance.summary() for who, distance in row.items()}
            for text, row in texts.items()
        },
    }


def show(name: str, found: dict[str, Any]) -> None:
    print(f"\n{name}, {found['tokens']} tokens      top-1     mean KL      p99 KL")
    for text, row in [*found["texts"].items(), ("all", found["all"])]:
        for who, d in row.items():
            figures = f"{d['top1_agreement']:.4f}   {d['mean_kl']:.6f}   {d['p99_kl']:.5f}"
            print(f"  {text:10s} {who:10s}    {figures}")
    if "llama.cpp" in found["all"]:
        ratio = found["all"]["f1"]["mean_kl"] / found["all"]["llama.cpp"]["mean_kl"]
        print(f"  mean KL, ours over llama.cpp's: {ratio:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", nargs="+", default=["smollm2-135m", "qwen2.5-coder-0.5b"])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--isa", default="auto", help="instruction set of our core")
    parser.add_argument("--json", type=Path, help="also write everything here")
    options = parser.parse_args()
    found = {}
    for name in options.models:
        found[name] = measure(name, options.threads, options.isa)
        show(name, found[name])
    if options.json:
        run = describe_run(
            "llama-cpp-python", "transformers", "torch", threads=options.threads, isa=options.isa
        )
        options.json.write_text(json.dumps(run | {"models": found}, indent=1))


if __name__ == "__main__":
    main()
