"""`/v1/traces`: what runs left behind, as it is kept: without its secrets.

GET    /v1/traces         those of the caller, the last begun first
GET    /v1/traces/{id}    one, with all its entries
DELETE /v1/traces/{id}    forgotten; 409 where it is under way
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from fastapi import FastAPI, Request, Response

from f1.errors import NotFound
from f1.planning.opening import RunBusy
from f1.serve.exchange import caller_of, json_response
from f1.serve.server import Server
from f1.serve.wire.fields import Fields, refuse
from f1.serve.wire.responses.listing import parse_limit
from f1.store.runs import Conflict, RunStore, Status
from f1.trace.export import write_entry, write_run

Json = dict[str, Any]
_LISTED = frozenset({"before", "limit", "session_id", "status"})
STATUSES: tuple[Status, ...] = ("running", "waiting", "ended")


def add_routes(app: FastAPI, server: Server) -> None:
    @app.get("/v1/traces")
    async def listed(request: Request) -> Response:
        asked, limit = _parse(request.query_params)
        store = _store(server)
        tenant = caller_of(request).tenant
        found = [] if store is None else await store.runs(tenant, limit=limit + 1, **asked)
        data = [write_run(row) for row in found[:limit]]
        return json_response({"object": "list", "data": data, "has_more": len(found) > limit})

    @app.get("/v1/traces/{run_id}")
    async def one(request: Request, run_id: str) -> Response:
        store, tenant = _store(server), caller_of(request).tenant
        row = None if store is None or "\0" in run_id else await store.run(tenant, run_id)
        if store is None or row is None:
            raise _not_found(run_id)
        entries = await store.entries(tenant, run_id)
        return json_response(write_run(row) | {"entries": [write_entry(e) for e in entries]})

    @app.delete("/v1/traces/{run_id}")
    async def delete(request: Request, run_id: str) -> Response:
        store, tenant = _store(server), caller_of(request).tenant
        try:
            if store is None or "\0" in run_id or not await store.delete(tenant, run_id):
                raise _not_found(run_id)
        except Conflict as error:
            raise RunBusy(str(error), param="run_id", retry_after=1.0) from error
        return json_response({"id": run_id, "object": "trace", "deleted": True})


def _parse(query: Mapping[str, str]) -> tuple[Json, int]:
    """Raises InvalidRequest."""
    fields = Fields(dict(query))
    fields.only(_LISTED)
    status = cast(Status | None, fields.one_of("status", STATUSES))
    if "\0" in (query.get("session_id") or ""):
        raise refuse("session_id", "must be text without U+0000")
    asked: Json = {"status": status, "session_id": query.get("session_id")}
    if (text := query.get("before")) is not None:
        asked["before"] = _seconds(text)
    return asked, parse_limit(query.get("limit", "20"))


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise refuse("before", "must be a number of seconds since 1970")
    return seconds


def _store(server: Server) -> RunStore | None:
    recorder = server.system.recorder
    return None if recorder is None else recorder.store


def _not_found(run_id: str) -> NotFound:
    return NotFound(f"no run '{run_id[:100]}' is kept", param="run_id")
