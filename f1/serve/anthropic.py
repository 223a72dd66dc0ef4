"""POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from functools import partial

from fastapi import FastAPI, Request, Response

from f1.serve.exchange import Work, answer, answer_aside, caller_of, json_response, read_json
from f1.serve.server import Server
from f1.serve.wire.anthropic.request import parse_count_request, parse_messages_request
from f1.serve.wire.anthropic.writer import MessagesWriter
from f1.serve.wire.fields import renamed
from f1.types import GenerateRequest

PATH = "/v1/messages"
# What chat calls a field, and this API.
_HERE = {
    "response_format.json_schema": "output_config.format",
    "response_format": "output_config.format",
}


def add_routes(app: FastAPI, server: Server) -> None:
    @app.post(PATH)
    async def messages(request: Request) -> Response:
        body = await read_json(request, server.limits.max_body_bytes)
        asked = parse_messages_request(body, server.limits)
        writer = MessagesWriter(asked, caller_of(request).request_id)
        work = Work(asked.model, asked.generate, asked.stream, writer, asked.timeout)
        with renamed(_HERE):
            return await answer(server, request, work)

    @app.post(f"{PATH}/count_tokens")
    async def count_tokens(request: Request) -> Response:
        body = await read_json(request, server.limits.max_body_bytes)
        asked = parse_count_request(body, server.limits)
        count = partial(_count, server, asked.model, asked.generate)
        found = await answer_aside(server, request, asked.model, count)
        return json_response({"input_tokens": found})


async def _count(server: Server, model: str, request: GenerateRequest) -> int:
    async with server.local(model) as engine:
        return len(await engine.tokenize(request))
