"""`/v1/responses`: answers that may follow on answers that are kept.

    POST    /v1/responses                    previous_response_id ─▶ the conversation so far
    GET     /v1/responses/{id}               as it was answered
    GET     /v1/responses/{id}/input_items   what it was asked with
    DELETE  /v1/responses/{id}

A response is kept for its tenant, before its client is told that it is complete.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI, Request, Response

from f1.errors import NotFound
from f1.serve.exchange import Work, answer, caller_of, json_response, read_json
from f1.serve.limits import Limits
from f1.serve.server import Server
from f1.serve.wire.fields import Fields, refuse, renamed
from f1.serve.wire.responses.items import Item, Reference, parse_item
from f1.serve.wire.responses.listing import list_items
from f1.serve.wire.responses.request import (
    ResponsesRequest,
    parse_responses_request,
    whole_request,
)
from f1.serve.wire.responses.writer import ResponsesWriter
from f1.store.responses import ResponseStore, StoredResponse, TooMuch

# What chat calls a field, and this API.
_HERE = {
    "messages": "input",
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
}


def add_routes(app: FastAPI, server: Server) -> None:
    store, limits = server.responses, server.limits

    @app.post("/v1/responses")
    async def create(request: Request) -> Response:
        body = await read_json(request, limits.max_body_bytes)
        asked = parse_responses_request(body, limits, may_store=store.keeps)
        tenant = caller_of(request).tenant
        if asked.store:
            await store.check()  # before work is done for a response that could not be kept
        given = await _resolved(store, tenant, asked, limits)
        before = await _conversation_before(store, tenant, asked, limits)
        generate, repaired = whole_request(asked, [*before, *given], limits)
        writer = ResponsesWriter(asked, repaired)

        async def keep() -> None:
            if asked.store:
                response, given_json = writer.response(), [item.json for item in given]
                previous = asked.previous_response_id
                kept, said = server.redaction.redact([given_json, response])
                await store.put(tenant, StoredResponse(writer.id, previous, kept, said))

        work = Work(asked.model, generate, asked.stream, writer, asked.timeout, keep)
        with renamed(_HERE):
            return await answer(server, request, work)

    @app.get("/v1/responses/{response_id}")
    async def retrieve(request: Request, response_id: str) -> Response:
        if request.query_params.get("stream", "false") != "false":
            raise refuse("stream", "is not supported here")
        return json_response((await stored(request, response_id)).response)

    @app.get("/v1/responses/{response_id}/input_items")
    async def input_items(request: Request, response_id: str) -> Response:
        found = await stored(request, response_id)
        return json_response(list_items(found.input, request.query_params))

    @app.delete("/v1/responses/{response_id}")
    async def delete(request: Request, response_id: str) -> Response:
        if not await store.delete(caller_of(request).tenant, response_id):
            raise _not_found(response_id)
        return json_response({"id": response_id, "object": "response", "deleted": True})

    async def stored(request: Request, response_id: str) -> StoredResponse:
        found = await store.get(caller_of(request).tenant, response_id)
        if found is None:
            raise _not_found(response_id)
        return found


def _not_found(response_id: str) -> NotFound:
    return NotFound(f"no response '{response_id[:100]}' is stored", param="response_id")


async def _resolved(
    store: ResponseStore, tenant: str, asked: ResponsesRequest, limits: Limits
) -> list[Item]:
    """The items given, with what stands behind references in their place."""
    ids = {item.id for item in asked.items if isinstance(item, Reference)}
    try:
        found = await store.items(tenant, ids, max_bytes=limits.max_body_bytes) if ids else {}
    except TooMuch as error:
        raise refuse("input", f"refers to too much: {error}") from None
    items: list[Item] = []
    for item in asked.items:
        if isinstance(item, Item):
            items.append(item)
        elif item.id in found:
            items += _read([found[item.id]], item.path, limits)
        else:
            raise refuse(f"{item.path}.id", "names no stored item", code="item_not_found")
    return items


async def _conversation_before(
    store: ResponseStore, tenant: str, asked: ResponsesRequest, limits: Limits
) -> list[Item]:
    field, previous = "previous_response_id", asked.previous_response_id
    if previous is None:
        return []
    try:
        items = await store.conversation(
            tenant, previous, max_items=limits.max_messages, max_bytes=limits.max_body_bytes
        )
    except TooMuch as error:
        raise refuse(field, f"has too long a conversation before it: {error}") from None
    if items is None:
        raise refuse(
            field,
            "names a response that is not stored, or follows one",
            code=f"{field[:-3]}_not_found",
        )
    return _read(items, field, limits)


def _read(stored: Iterable[dict[str, Any]], path: str, limits: Limits) -> list[Item]:
    items = [parse_item(Fields(item, path), limits) for item in stored]
    return [item for item in items if isinstance(item, Item)]
