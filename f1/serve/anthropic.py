"""POST /v1/messages."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response

from f1.serve.exchange import Work, answer, caller_of, read_json
from f1.serve.server import Server
from f1.serve.wire.anthropic.request import parse_messages_request
from f1.serve.wire.anthropic.writer import MessagesWriter

PATH = "/v1/messages"


def add_routes(app: FastAPI, server: Server) -> None:
    @app.post(PATH)
    async def messages(request: Request) -> Response:
        body = await read_json(request, server.limits.max_body_bytes)
        asked = parse_messages_request(body, server.limits)
        writer = MessagesWriter(asked.model, caller_of(request).request_id, asked.eager_tools)
        return await answer(
            server, request, Work(asked.model, asked.generate, asked.stream, writer)
        )
