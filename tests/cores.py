"""A core engine over a tiny random model, and its requests run step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from f1 import _core

VOCAB_SIZE = 333
MASK_WORDS = -(-VOCAB_SIZE // 32)


def tiny_model(
    folder: Path, num_threads: int, poison: int | None = None, isa: str = "auto"
) -> _core.Model:
    """Two layers of random F32 weights, loud enough that greedy output does not repeat itself.

    The token `poison` has an embedding that is no number.
    """
    width, heads, kv_heads, head_dim, mlp = 64, 4, 2, 16, 96
    layer = {
        "attn_norm.weight": (width,),
        "q.weight": (heads * head_dim, width),
        "k.weight": (kv_heads * head_dim, width),
        "v.weight": (kv_heads * head_dim, width),
        "o.weight": (width, heads * head_dim),
        "mlp_norm.weight": (width,),
        "gate.weight": (mlp, width),
        "up.weight": (mlp, width),
        "down.weight": (width, mlp),
    }
    shapes = {"embed.weight": (VOCAB_SIZE, width), "head.weight": (VOCAB_SIZE, width)}
    shapes["final_norm.weight"] = (width,)
    shapes |= {f"layers.{i}.{name}": shape for i in range(2) for name, shape in layer.items()}

    generator = np.random.default_rng(5)
    path = folder / "tiny.bin"
    sources = {}
    with path.open("wb") as file:
        for name, shape in shapes.items():
            scale = 1.0 if len(shape) == 1 else 2.0 / np.sqrt(shape[-1])
            values = (generator.normal(size=shape) * scale).astype(np.float32)
            if name == "embed.weight" and poison is not None:
                values[poison] = np.nan
            offset = file.tell()
            file.write(values.tobytes())
            sources[name] = (offset, values.nbytes, shape)
    config = _core.ModelConfig(
        num_layers=2,
        hidden_size=width,
        intermediate_size=mlp,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=VOCAB_SIZE,
        max_positions=512,
        norm_eps=1e-5,
        rope_inv_freq=[10000.0 ** (-2 * i / head_dim) for i in range(head_dim // 2)],
        rope_interleaved=False,
    )
    mapped = _core.MappedFile(str(path))
    tensors = {
        name: _core.TensorSource(mapped, offset, num_bytes, "F32", list(shape))
        for name, (offset, num_bytes, shape) in sources.items()
    }
    return _core.Model(config, tensors, num_threads=num_threads, isa=isa)


def request(
    token_ids: Sequence[int], max_tokens: int = 20, choice: int = 0, **sampling: Any
) -> _core.Request:
    stop_token_ids = sampling.pop("stop_token_ids", [])
    soft = {"soft": sampling.pop("soft")} if "soft" in sampling else {}
    return _core.Request(
        np.array(token_ids, dtype=np.int32),
        _core.SamplingParams(**sampling),
        max_tokens=max_tokens,
        stop_token_ids=stop_token_ids,
        choice=choice,
        **soft,
    )


def steps(
    engine: _core.Engine, masks: Mapping[int, np.ndarray] | None = None
) -> Iterator[list[_core.StepOutput]]:
    while engine.has_work:
        waiting = engine.begin_step()
        engine.check()
        yield engine.finish_step({i: (masks or {}).get(i) for i in waiting})
        engine.check()


Spans = Mapping[int, Sequence[int]]  # number of tokens so far -> those that follow unasked
Guess = Callable[[list[int]], Sequence[int]]  # tokens so far -> those that may come


def run(
    engine: _core.Engine,
    requests: Sequence[_core.Request],
    masks: Mapping[int, np.ndarray] | None = None,
    spans: Mapping[int, Spans] | None = None,
    guesses: Mapping[int, Guess] | None = None,
) -> list[list[int]]:
    """The tokens of each request, all submitted at once. What else is given is by index in
    `requests`; drafts are tried without masks."""
    ids = [engine.submit(r) for r in requests]
    tokens: dict[int, list[int]] = {i: [] for i in ids}
    masks_by_id = {ids[index]: mask for index, mask in (masks or {}).items()}
    spans_by_id = {ids[index]: of_it for index, of_it in (spans or {}).items()}
    guess_by_id = {ids[index]: guess for index, guess in (guesses or {}).items()}
    while engine.has_work:
        for sequence_id, guess in guess_by_id.items():
            engine.draft(sequence_id, guess(tokens[sequence_id]))
        waiting = engine.begin_step()
        engine.check()
        for output in engine.finish_step({i: masks_by_id.get(i) for i in waiting}):
            so_far = tokens[output.sequence_id]
            so_far += [output.token_id] * (output.token_id >= 0)
            if output.finish is not None:
                guess_by_id.pop(output.sequence_id, None)
        engine.check()
        for sequence_id, of_it in spans_by_id.items():
            if span := of_it.get(len(tokens[sequence_id])):
                engine.append(sequence_id, span)
                tokens[sequence_id] += span
    return [tokens[i] for i in ids]


def sampled_one_by_one(model: _core.Model, r: _core.Request, spans: Spans) -> list[int]:
    """What `run` gives where each token of the spans is sampled, all others being illegal."""
    engine = _core.Engine(model, num_pages=32)
    sequence_id = engine.submit(r)
    due = {at + i: token for at, span in spans.items() for i, token in enumerate(span)}
    tokens: list[int] = []
    while engine.has_work:
        engine.begin_step()
        mask = mask_of([due[len(tokens)]]) if len(tokens) in due else None
        tokens += [output.token_id for output in engine.finish_step({sequence_id: mask})]
    return tokens


def guess_from(expected: list[int], spans: Spans) -> Guess:
    """Up to six right tokens, the fifth of every seven wrong; none beyond where a span is due."""

    def guess(so_far: list[int]) -> list[int]:
        begin = len(so_far)
        due = [at for at in spans if at > begin]
        end = min([begin + 6, len(expected), *(at - 1 for at in due)])
        return [token if i % 7 != 4 else 1 for i, token in enumerate(expected[:end])][begin:]

    return guess


def alone(model: _core.Model, r: _core.Request) -> list[int]:
    return run(_core.Engine(model, num_pages=32), [r])[0]


def prompt(seed: int, length: int, vocab_size: int = VOCAB_SIZE) -> list[int]:
    return np.random.default_rng(seed).integers(0, vocab_size, length).tolist()


def mask_of(legal: Sequence[int], vocab_size: int = VOCAB_SIZE) -> np.ndarray:
    bits = np.zeros(-(-vocab_size // 32) * 32, dtype=bool)
    bits[list(legal)] = True
    return np.packbits(bits, bitorder="little").view(np.int32)


SAMPLINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.1, "seed": 9},
    {"temperature": 0.9, "top_k": 30, "top_p": 0.9, "min_p": 0.01, "seed": 2**64 - 1},
    {"repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.3},
]
