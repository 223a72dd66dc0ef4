"""Runs that broke off with the process before go on when the models are loaded."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing

from f1.config import ORCHESTRATED
from f1.errors import F1Error
from f1.serve.server import Caller, Server
from f1.store.database import NotStored
from f1.store.runs import RunRow
from f1.types import GenerateRequest, RunOptions

log = logging.getLogger("f1.serve")


async def resume_runs(server: Server, loading: asyncio.Task[None]) -> None:
    """One after the other: who asks now goes before them. Their callers find what came of them
    under their `run_id`, and in their sessions."""
    await asyncio.shield(loading)
    if server.recorder is None or server.models is None or not server.models.started:
        return
    try:
        orphans = await server.recorder.store.orphans()
    except NotStored as error:
        log.warning("runs that broke off are not gone on with: %s", error)
        return
    for run in orphans:
        try:
            await _resume(server, run)
        except Exception:  # of this one; the others go on
            log.exception("the run %s, which broke off, cannot go on", run.id)


async def _resume(server: Server, run: RunRow) -> None:
    request = GenerateRequest((), run=RunOptions(run_id=run.id))
    try:
        async with aclosing(server.events(ORCHESTRATED, [request], Caller(run.tenant))) as events:
            async for _ in events:
                pass
        log.info("the run %s, which broke off, went on to its end", run.id)
    except F1Error as error:
        log.warning("the run %s, which broke off, cannot go on: %s", run.id, error)
