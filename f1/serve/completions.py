"""POST /v1/completions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from fastapi import FastAPI, Request, Response

from f1.models.tokenizer import Tokenizer
from f1.serve.exchange import Work, answer, answer_aside, read_json
from f1.serve.server import Server
from f1.serve.wire.completions import (
    CompletionsRequest,
    CompletionsWriter,
    Prompt,
    parse_completions_request,
)


def add_routes(app: FastAPI, server: Server) -> None:
    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        body = await read_json(request, server.limits.max_body_bytes)
        asked = parse_completions_request(body, server.limits)

        told: Sequence[str] = ()
        if asked.echo:
            read = partial(_read, server, asked)
            told = await answer_aside(server, request, asked.model, read, timeout=asked.timeout)
        writer = CompletionsWriter(asked, told)
        first, *more = asked.requests
        work = Work(asked.model, first, asked.stream, writer, asked.timeout, more=more)
        return await answer(server, request, work)


async def _read(server: Server, asked: CompletionsRequest) -> list[str]:
    """The prompts as text."""
    prompts = [request.prompt or "" for request in asked.requests]
    async with server.local(asked.model) as engine:
        tokenizer = await asyncio.to_thread(getattr, engine, "tokenizer")  # may have to be read
        return [await asyncio.to_thread(_text, prompt, tokenizer) for prompt in prompts]


def _text(prompt: Prompt, tokenizer: Tokenizer) -> str:
    """What is no token is left out here, and refused where the prompt is read."""
    if isinstance(prompt, str):
        return prompt
    known = [token_id for token_id in prompt if token_id < tokenizer.vocab_size]
    return tokenizer.decode(known).decode("utf-8", "replace")
