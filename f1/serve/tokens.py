"""POST /tokenize and POST /detokenize: what a model makes of text, without asking it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response

from f1.models.tokenizer import Tokenizer
from f1.serve.exchange import answer_aside, json_response, read_json
from f1.serve.server import Server
from f1.serve.wire.fields import refuse
from f1.serve.wire.tokens import (
    TokenizeRequest,
    parse_detokenize_request,
    parse_tokenize_request,
    write_tokens,
)


def add_routes(app: FastAPI, server: Server) -> None:
    @app.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        body = await read_json(request, server.limits.max_body_bytes)
        asked = parse_tokenize_request(body, server.limits)
        work = partial(_tokenize, server, asked)
        return json_response(await answer_aside(server, request, asked.model, work))

    @app.post("/detokenize")
    async def detokenize(request: Request) -> Response:
        body = await read_json(request, server.limits.max_body_bytes)
        asked = parse_detokenize_request(body, server.limits)
        work = partial(_detokenize, server, asked.model, asked.token_ids)
        text = await answer_aside(server, request, asked.model, work)
        return json_response({"prompt": text})


async def _detokenize(server: Server, model: str, token_ids: Sequence[int]) -> str:
    """Bytes that are no character become U+FFFD. Raises InvalidRequest, ModelNotFound."""
    async with server.local(model) as engine:
        tokenizer = await asyncio.to_thread(getattr, engine, "tokenizer")  # may have to be read
        return await asyncio.to_thread(_decode, tokenizer, token_ids)


async def _tokenize(server: Server, asked: TokenizeRequest) -> dict[str, Any]:
    async with server.local(asked.model) as engine:
        tokenizer = await asyncio.to_thread(getattr, engine, "tokenizer")
        if isinstance(asked.prompt, str):
            token_ids = await asyncio.to_thread(_encode, tokenizer, asked.prompt, asked)
        else:
            token_ids = await engine.tokenize(asked.prompt)
        strings = None
        if asked.strings:
            strings = await asyncio.to_thread(_shown, tokenizer, token_ids)
        return write_tokens(token_ids, engine.context_length, strings)


def _encode(tokenizer: Tokenizer, text: str, asked: TokenizeRequest) -> list[int]:
    encode = tokenizer.encode_prompt if asked.parse_special else tokenizer.encode
    return (tokenizer.leading_token_ids if asked.leads else []) + encode(text)


def _shown(tokenizer: Tokenizer, token_ids: Sequence[int]) -> list[str]:
    return [tokenizer.token_bytes(token_id).decode("utf-8", "replace") for token_id in token_ids]


def _decode(tokenizer: Tokenizer, token_ids: Sequence[int]) -> str:
    for index, token_id in enumerate(token_ids):
        if token_id >= tokenizer.vocab_size:
            told = f"must be a token id below {tokenizer.vocab_size}, not {token_id}"
            raise refuse(f"tokens[{index}]", told)
    return tokenizer.decode(token_ids).decode("utf-8", "replace")
