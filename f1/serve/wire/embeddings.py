"""The JSON of OpenAI's embeddings, both ways."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from f1.serve.limits import Limits
from f1.serve.wire.bodies import MAX_INT, timeout
from f1.serve.wire.fields import Fields
from f1.serve.wire.shape import Either, Integer, Items, Record, Text, Word


@dataclass(frozen=True, slots=True)
class EmbeddingsRequest:
    """`base64`: of little-endian float32, which is how OpenAI's client asks."""

    model: str
    texts: tuple[str, ...]
    base64: bool = False
    dimensions: int | None = None
    timeout: float | None = None


@cache
def embeddings_body(limits: Limits) -> Record:
    """POST /v1/embeddings. Token ids are not taken: they are of some other model's vocabulary."""
    return Record(
        {
            "model": Text(1, limits.max_name_chars),
            "input": Either((Text(1), Items(Text(1), 1, limits.max_embedding_inputs))),
            "encoding_format": Word(("float", "base64")),
            "dimensions": Integer(1, MAX_INT),
            "user": Text(0, 512),
            "timeout": timeout(limits),
        },
        ("model", "input"),
    )


def parse_embeddings_request(body: object, limits: Limits) -> EmbeddingsRequest:
    """Raises InvalidRequest naming the first field that is wrong."""
    embeddings_body(limits).check(body, "")
    fields = Fields(body)
    given = fields.get("input")
    return EmbeddingsRequest(
        fields.required_string("model"),
        (given,) if isinstance(given, str) else tuple(given),
        fields.get("encoding_format") == "base64",
        fields.integer("dimensions"),
        fields.number("timeout"),
    )


def write_embeddings(
    asked: EmbeddingsRequest, vectors: Sequence[np.ndarray], num_tokens: int
) -> dict[str, Any]:
    data = [
        {"object": "embedding", "index": index, "embedding": _write(vector, asked)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    return {"object": "list", "data": data, "model": asked.model, "usage": usage}


def _write(vector: np.ndarray, asked: EmbeddingsRequest) -> str | list[float]:
    if asked.base64:
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    numbers: list[float] = vector.tolist()
    return numbers
