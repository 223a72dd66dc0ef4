"""POST /v1/embeddings."""

from __future__ import annotations

from functools import partial

from fastapi import FastAPI, Request, Response

from f1.errors import ModelNotFound
from f1.serve.exchange import answer_aside, json_response, read_json
from f1.serve.server import Server
from f1.serve.wire.embeddings import parse_embeddings_request, write_embeddings
from f1.tools.embedder import Embedder

_BYTES_PER_TOKEN = 3


def add_routes(app: FastAPI, server: Server) -> None:
    @app.post("/v1/embeddings")
    async def embeddings(request: Request) -> Response:
        body = await read_json(request, server.limits.max_body_bytes)
        asked = parse_embeddings_request(body, server.limits)
        embed = partial(
            _embedder(server, asked.model).embed,
            asked.texts,
            max_tokens=server.limits.max_embedding_tokens,
            dimensions=asked.dimensions,
        )
        tokens = sum(map(len, asked.texts)) // _BYTES_PER_TOKEN
        found = await answer_aside(server, request, asked.model, embed, tokens, asked.timeout)
        return json_response(write_embeddings(asked, list(found.vectors), found.num_tokens))


def _embedder(server: Server, model: str) -> Embedder:
    if server.embedder is not None and model == server.embedder.model_id:
        return server.embedder
    known = f"it is '{server.embedder.model_id}'" if server.embedder else "this server has none"
    raise ModelNotFound(f"'{model[:100]}' is no embedding model: {known}", param="model")
