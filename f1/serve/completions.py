"""POST /v1/completions."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response

from f1.serve.exchange import Work, answer, read_json
from f1.serve.server import Server
from f1.serve.wire.completions import CompletionsWriter, Prompt, parse_completions_request


def add_routes(app: FastAPI, server: Server) -> None:
    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        body = await read_json(request, server.limits.max_body_bytes)
        asked = parse_completions_request(body, server.limits)

        def show(prompt: Prompt) -> str:
            if isinstance(prompt, str):
                return prompt
            tokenizer = server.local(asked.model).tokenizer
            known = [token_id for token_id in prompt if token_id < tokenizer.vocab_size]
            return tokenizer.decode(known).decode("utf-8", "replace")

        writer = CompletionsWriter(asked, show)
        first, *more = asked.requests
        work = Work(asked.model, first, asked.stream, writer, asked.timeout, more=more)
        return await answer(server, request, work)
