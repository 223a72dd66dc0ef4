"""Tokens per second, prefill and decode, beside llama.cpp in one interleaved run.

    pip install . llama-cpp-python              # the peer; without it only ours is measured
    python bench/speed.py [--models NAME …] [--threads N] [--rounds 7] [--demo] [--json FILE]

Engines take turns round by round, so that a busy machine or a falling clock meets all of them.
One sequence, greedy, no grammar, no prefix reuse. Medians over the rounds, with the whole spread.
`f1 x8` is eight sequences at once: tokens of all of them together (its prefill
figure includes the decoding that the first ones do meanwhile). `--demo` adds the time to the
first event of the built-in demo, with a cold and with a warm prefix cache.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import describe_run
from numpy.typing import NDArray

from f1 import _core
from f1.models.checkpoint import Checkpoint
from f1.models.load import load_checkpoint, load_model
from f1.models.pull import resolve
from f1.settings import Settings

DATA = Path(__file__).parent / "data"
TokenIds = NDArray[np.int32]  # [T]


@dataclass(frozen=True, slots=True)
class Workload:
    prompt: TokenIds
    num_new: int  # tokens decoded after the first


@dataclass(frozen=True, slots=True)
class Timing:
    """Tokens per second in one round; prefill includes choosing the first token."""

    prefill: float
    decode: float


Engine = Callable[[Workload], Timing]


def ours(checkpoint: Checkpoint, settings: Settings, num_sequences: int, longest: int) -> Engine:
    model = load_model(checkpoint, num_threads=settings.num_threads)
    pages = num_sequences * (longest // 16 + 2)

    def run(work: Workload) -> Timing:
        # A new engine has an empty prefix cache; its pages are zeroed before the clock starts.
        engine = _core.Engine(
            model, pages, settings.max_batch_tokens, max(num_sequences, 1), prefix_reuse=False
        )
        waiting: set[int] = set()
        start = time.perf_counter()
        for index in range(num_sequences):
            # Another first token for each, so that no two prompts share their beginning.
            prompt = work.prompt.copy()
            prompt[0] = prompt[index]
            waiting.add(engine.submit(_core.Request(prompt, max_tokens=work.num_new + 1)))
        decoded, finished = 0, False
        first = end = start
        while engine.has_work:  # decode is timed from the last one's first token to the first's end
            engine.begin_step()
            outputs = engine.finish_step({})
            if waiting:
                waiting -= {output.sequence_id for output in outputs}
                first = end = time.perf_counter()
            elif not finished:
                decoded += len(outputs)
                end = time.perf_counter()
                finished = any(output.finish for output in outputs)
        return Timing(num_sequences * len(work.prompt) / (first - start), decoded / (end - first))

    return run


def llama_cpp(path: Path, threads: int, longest: int) -> Engine:
    """The peer as its Python package runs it, its logits read in place and the best one taken."""
    import llama_cpp as peer

    model = peer.Llama(
        str(path),
        n_ctx=longest + 64,
        n_threads=threads,
        n_threads_batch=threads,
        verbose=False,
    )

    def best() -> int:
        logits = peer.llama_get_logits_ith(model.ctx, -1)
        return int(np.ctypeslib.as_array(logits, shape=(model.n_vocab(),)).argmax())

    def run(work: Workload) -> Timing:
        model.reset()
        start = time.perf_counter()
        model.eval(work.prompt.tolist())
        token = best()
        first = time.perf_counter()
        for _ in range(work.num_new):
            model.eval([token])
            token = best()
        end = time.perf_counter()
        return Timing(len(work.prompt) / (first - start), work.num_new / (end - first))

    return run


def measure(name: str, threads: int, rounds: int, num_prompt: int, num_new: int) -> dict[str, Any]:
    """Rounds of all engines for one model: {engine: {prefill|decode: figures}}."""
    settings = Settings.from_env()
    settings = Settings(cache=settings.cache, num_threads=threads)
    checkpoint, path = load_checkpoint(name, settings), resolve(name, settings)
    longest = num_prompt + num_new + 1
    engines = {
        "f1": ours(checkpoint, settings, 1, longest),
        "f1 x8": ours(checkpoint, settings, 8, longest),
    }
    try:
        engines["llama.cpp"] = llama_cpp(path, threads, longest)
    except ImportError:
        print("llama-cpp-python is not installed: only ours is measured")
    text = "\n\n".join(p.read_text("utf-8") for p in sorted(DATA.glob("*.txt")))
    work = Workload(np.array(checkpoint.tokenizer.encode(text)[:num_prompt], np.int32), num_new)
    warm_up = Workload(work.prompt[:32], 4)
    timings: dict[str, list[Timing]] = {who: [] for who in engines}
    for engine in engines.values():
        engine(warm_up)
    for _ in range(rounds):
        for who, engine in engines.items():
            timings[who].append(engine(work))
    return {
        who: {
            "prefill": figures([t.prefill for t in of_it]),
            "decode": figures([t.decode for t in of_it]),
        }
        for who, of_it in timings.items()
    }


def figures(values: list[float]) -> dict[str, Any]:
    return {"median": median(values), "min": min(values), "max": max(values), "all": values}


def show(name: str, found: Mapping[str, Any]) -> None:
    print(f"\n{name:22s} {'prefill tok/s':>24s} {'decode tok/s':>24s}")
    for who, row in found.items():
        cells = [
            f"{row[phase]['median']:8.1f} ({row[phase]['min']:.1f} to {row[phase]['max']:.1f})"
            for phase in ("prefill", "decode")
        ]
        print(f"  {who:20s} {cells[0]:>24s} {cells[1]:>24s}")


def measure_demo(threads: int) -> dict[str, float]:
    """Seconds: loading the engine, then from question to the first event, twice."""
    from f1 import F1
    from f1.demo import QUESTION, TOOLS

    settings = Settings(cache=Settings.from_env().cache, num_threads=threads)
    start = time.perf_counter()
    with F1(settings=settings) as f1:
        found = {"start": time.perf_counter() - start}
        for state in ("cold", "warm"):
            start = time.perf_counter()
            run = f1.watch(QUESTION, TOOLS)
            next(run)
            found[f"first_event_{state}"] = time.perf_counter() - start
            run.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", nargs="+", default=["smollm2-135m", "qwen2.5-coder-0.5b"])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--demo", action="store_true")
    parser.add_argument("--json", type=Path, help="also write everything here")
    options = parser.parse_args()
    work = {"num_prompt": options.prompt_tokens, "num_new": options.new_tokens}
    found: dict[str, Any] = {}
    for name in options.models:
        found[name] = measure(name, options.threads, options.rounds, **work)
        show(name, found[name])
    run = describe_run("llama-cpp-python", threads=options.threads, rounds=options.rounds, **work)
    if options.demo:
        run["demo"] = measure_demo(options.threads)
        print("\ndemo: " + ", ".join(f"{k} {v:.2f} s" for k, v in run["demo"].items()))
    if options.json:
        options.json.write_text(json.dumps(run | {"models": found}, indent=1))


if __name__ == "__main__":
    main()
