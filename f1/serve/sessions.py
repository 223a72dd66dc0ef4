"""`/v1/sessions`: conversations that are kept, by the `session_id` that requests name.

GET    /v1/sessions         those of the caller, the last used first
GET    /v1/sessions/{id}    one, with its messages, as chat completions has them
DELETE /v1/sessions/{id}    forgotten; traces of its runs stay as long as others
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response

from f1.codec import Malformed
from f1.errors import NotFound
from f1.serve.exchange import caller_of, json_response
from f1.serve.server import Server
from f1.serve.wire.fields import Fields
from f1.serve.wire.messages import write_message
from f1.serve.wire.responses.listing import parse_limit
from f1.store.database import NotStored
from f1.store.runs import RunStore
from f1.trace.entries import CODEC
from f1.types import Message

Json = dict[str, Any]
_LISTED = frozenset({"after", "limit"})


def add_routes(app: FastAPI, server: Server) -> None:
    @app.get("/v1/sessions")
    async def listed(request: Request) -> Response:
        query = request.query_params
        Fields(dict(query)).only(_LISTED)
        limit, after = parse_limit(query.get("limit", "20")), query.get("after")
        found: list[Json] = []
        store = _store(server)
        if store is not None and "\0" not in (after or ""):
            tenant = caller_of(request).tenant
            found = await store.sessions(tenant, limit=limit + 1, after=after)
        data = [_write(session) for session in found[:limit]]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
        page = {"object": "list", "data": data, "first_id": None, "last_id": None} | ends
        return json_response(page | {"has_more": len(found) > limit})

    @app.get("/v1/sessions/{session_id}")
    async def one(request: Request, session_id: str) -> Response:
        tenant = caller_of(request).tenant
        if (store := _store(server)) is not None and "\0" not in session_id:
            found = await store.session(tenant, session_id)
            said = await store.messages(tenant, session_id)
            if found is not None and said is not None:
                return json_response(_write(found) | {"messages": _messages(said)})
        raise _not_found(session_id)

    @app.delete("/v1/sessions/{session_id}")
    async def delete(request: Request, session_id: str) -> Response:
        tenant = caller_of(request).tenant
        if (store := _store(server)) is None or "\0" in session_id:
            raise _not_found(session_id)
        if not await store.delete_session(tenant, session_id):
            raise _not_found(session_id)
        return json_response({"id": session_id, "object": "session", "deleted": True})


def _store(server: Server) -> RunStore | None:
    recorder = server.system.recorder
    return None if recorder is None else recorder.store


def _write(session: Json) -> Json:
    return {
        "id": session["id"],
        "object": "session",
        "created": int(session["began"]),
        "used": int(session["used"]),
        "num_messages": session["messages"],
    }


def _messages(said: list[Json]) -> list[Json]:
    try:
        return [write_message(CODEC.decode(Message, message)) for message in said]
    except Malformed as error:
        raise NotStored("the session is broken; delete it to begin it anew") from error


def _not_found(session_id: str) -> NotFound:
    return NotFound(f"no session '{session_id[:100]}' is kept", param="session_id")
