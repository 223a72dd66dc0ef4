"""POST /v1/chat/completions."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response

from f1.serve.exchange import Work, answer, read_json
from f1.serve.server import Server
from f1.serve.wire.request import parse_chat_request
from f1.serve.wire.response import ChatWriter


def add_routes(app: FastAPI, server: Server) -> None:
    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        body = await read_json(request, server.limits.max_body_bytes)
        chat = parse_chat_request(body, server.limits)
        work = Work(chat.model, chat.generate, chat.stream, ChatWriter(chat), chat.timeout)
        return await answer(server, request, work)
