"""Sentences to vectors: a BERT encoder (Devlin et al. 2018), the mean of what it makes of each
token, scaled to length 1 (Reimers and Gurevych 2019, Sentence-BERT).

    ids ─▶ word + position ─▶ norm ─▶ [ attention ─▶ norm ─▶ MLP ─▶ norm ]… ─▶ mean ─▶ length 1

Sentences of a batch lie one behind the other, so there is no padding to compute or to mask: only
attention and the mean look at one sentence at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from tokenizers import Tokenizer as Encoder
from torch import Tensor
from torch.nn import functional

from f1.errors import ModelFileError
from f1.models.encoder import plain_ids
from f1.models.safetensors import read_header
from f1.models.tokenizer_json import read_json

_BATCH_TOKENS = 2048  # computed at once: some 20 MB of activations


@dataclass(frozen=True, slots=True)
class SentenceEncoder:
    """`max_tokens`: of a sentence, those that frame it included. Vectors have D numbers."""

    max_tokens: int
    tokenizer: Encoder  # plain text only: no text is taken for a token that frames sentences
    frame: tuple[int, int]  # [CLS] and [SEP]
    num_layers: int
    num_heads: int
    norm_eps: float
    weights: Mapping[str, Tensor]

    @classmethod
    def load(cls, folder: Path) -> SentenceEncoder:
        """From a folder as sentence-transformers writes them. Raises ModelFileError."""
        config = read_json(folder / "config.json")
        framing = read_json(folder / "sentence_bert_config.json")
        try:
            if config["model_type"] != "bert" or config["hidden_act"] != "gelu":
                raise ModelFileError(f"config.json: {config['model_type']!r} is no BERT known here")
            spec = read_json(folder / "tokenizer.json")
            ids = spec["model"]["vocab"]
            plain: dict[str, Any] = {"added_tokens": [], "truncation": None, "padding": None}
            encoder = cls(
                min(framing["max_seq_length"], config["max_position_embeddings"]),
                Encoder.from_buffer(orjson.dumps(spec | plain | {"post_processor": None})),
                (ids["[CLS]"], ids["[SEP]"]),
                config["num_hidden_layers"],
                config["num_attention_heads"],
                config["layer_norm_eps"],
                _read_weights(folder / "model.safetensors"),
            )
            list(encoder.embed([encoder.frame]))  # all weights are there, and fit
            return encoder
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ModelFileError(f"{folder.name}: {type(error).__name__}: {error}") from error

    @property
    def num_dimensions(self) -> int:
        """D"""
        return self.weights["embeddings.word_embeddings.weight"].shape[1]

    def halved(self) -> SentenceEncoder:
        """With matrices of bfloat16 where the processor multiplies them, in half the time; vectors
        then differ by some 0.3 %. Elsewhere itself."""
        known = torch.cpu.get_capabilities()
        if not (known.get("avx512_bf16") or known.get("amx_bf16")):
            return self
        layers = {
            name: weight.to(torch.bfloat16)
            for name, weight in self.weights.items()
            if name.startswith("encoder.") and "LayerNorm" not in name
        }
        return replace(self, weights={**self.weights, **layers})

    def tokenize(self, text: str) -> list[int]:
        """The ids of one sentence, framed."""
        first, last = self.frame
        return [first, *plain_ids(self.tokenizer, text), last]

    def embed(self, sentences: Sequence[Sequence[int]]) -> Iterator[np.ndarray]:
        """[B, D] float32 for the next B sentences, until all are done. Each has 1 to `max_tokens`
        ids."""
        batch: list[Sequence[int]] = []
        room = _BATCH_TOKENS
        for sentence in sentences:
            if batch and len(sentence) > room:
                yield self._forward(batch)
                batch, room = [], _BATCH_TOKENS
            batch.append(sentence)
            room -= len(sentence)
        if batch:
            yield self._forward(batch)

    @torch.inference_mode()
    def _forward(self, sentences: Sequence[Sequence[int]]) -> np.ndarray:
        lengths = [len(sentence) for sentence in sentences]
        ids = torch.tensor([token for sentence in sentences for token in sentence])
        positions = torch.cat([torch.arange(length) for length in lengths])
        weight = self.weights.__getitem__
        hidden = weight("embeddings.word_embeddings.weight")[ids]  # [T, D]
        hidden = hidden + weight("embeddings.position_embeddings.weight")[positions]
        hidden = hidden + weight("embeddings.token_type_embeddings.weight")[0]
        hidden = self._norm("embeddings.LayerNorm", hidden)
        for number in range(self.num_layers):
            layer = f"encoder.layer.{number}"
            attended = self._attend(f"{layer}.attention.self", hidden, lengths)
            attended = self._linear(f"{layer}.attention.output.dense", attended)
            hidden = self._norm(f"{layer}.attention.output.LayerNorm", hidden + attended)
            inner = functional.gelu(self._linear(f"{layer}.intermediate.dense", hidden))
            inner = self._linear(f"{layer}.output.dense", inner)
            hidden = self._norm(f"{layer}.output.LayerNorm", hidden + inner)
        means = torch.stack([sentence.mean(0) for sentence in torch.split(hidden, lengths)])
        vectors: np.ndarray = functional.normalize(means).numpy()
        return vectors

    def _attend(self, name: str, hidden: Tensor, lengths: list[int]) -> Tensor:
        """[T, D] → [T, D]: every token looks at all of its sentence."""
        queries, keys, values = (
            torch.split(self._linear(f"{name}.{part}", hidden), lengths)
            for part in ("query", "key", "value")
        )
        attended = []
        for sentence in zip(queries, keys, values, strict=True):
            q, k, v = (x.view(len(x), self.num_heads, -1).transpose(0, 1) for x in sentence)
            of_heads = functional.scaled_dot_product_attention(q, k, v)  # [H, length, E]
            attended.append(of_heads.transpose(0, 1).flatten(1))
        return torch.cat(attended)

    def _linear(self, name: str, hidden: Tensor) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return functional.linear(hidden.to(weight.dtype), weight, bias).float()

    def _norm(self, name: str, hidden: Tensor) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return functional.layer_norm(hidden, hidden.shape[1:], weight, bias, self.norm_eps)


def _read_weights(path: Path) -> dict[str, Tensor]:
    weights = {}
    for name, ref in read_header(path).items():
        if ref.dtype == "F32":  # the rest is no weight
            data = np.fromfile(path, np.float32, ref.num_bytes // 4, offset=ref.offset)
            weights[name] = torch.from_numpy(data.reshape(ref.shape))
    return weights
