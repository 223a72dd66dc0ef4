"""How the server is: /health, /ready and /metrics."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI, Response

from f1.serve.exchange import json_response
from f1.serve.metrics import CONTENT_TYPE, Metrics
from f1.serve.server import Server


def add_routes(app: FastAPI, server: Server, metrics: Metrics) -> None:
    @app.get("/health")
    async def health() -> Response:
        """The process answers."""
        return json_response({"status": "ok"})

    @app.get("/ready")
    async def ready() -> Response:
        """Send it work: the model is loaded and makes progress, and the door is open."""
        state = server.state()
        return json_response({"status": state}, 200 if state == "ready" else 503)

    @app.get("/metrics")
    async def tell_metrics() -> Response:
        text = await asyncio.to_thread(metrics.text)
        return Response(text, media_type=CONTENT_TYPE)
