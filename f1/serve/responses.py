"""POST /v1/responses."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response

from f1.serve.exchange import Work, answer, read_json
from f1.serve.server import Server
from f1.serve.wire.fields import refuse
from f1.serve.wire.responses.items import Item
from f1.serve.wire.responses.request import parse_responses_request, whole_request
from f1.serve.wire.responses.writer import ResponsesWriter


def add_routes(app: FastAPI, server: Server) -> None:
    @app.post("/v1/responses")
    async def create(request: Request) -> Response:
        body = await read_json(request, server.limits.max_body_bytes)
        asked = parse_responses_request(body, server.limits)
        if asked.previous_response_id is not None:
            raise refuse("previous_response_id", "names no stored response")
        items: list[Item] = []
        for item in asked.items:
            if not isinstance(item, Item):
                raise refuse(f"{item.path}.id", "names no stored item")
            items.append(item)
        repaired: list[str] = []
        generate = whole_request(asked, items, repaired)
        writer = ResponsesWriter(asked, repaired)
        return await answer(server, request, Work(asked.model, generate, asked.stream, writer))
