"""What the routes share: the engine once it is loaded, and the way of a request through it."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

from f1.errors import EngineStopped, ModelNotFound
from f1.planning.orchestrator import Engine, Orchestrator
from f1.serve.admission import Admission
from f1.serve.limits import Limits
from f1.types import Event, GenerateRequest

ORCHESTRATED = "f1"  # the model id that stands for the whole system


class LocalEngine(Engine, Protocol):
    """What the endpoint needs of f1.engine.AsyncEngine."""

    @property
    def model_id(self) -> str: ...
    def healthy(self) -> bool: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `tenant` owns what is kept and shares the machine fairly with the others."""

    tenant: str = ""
    request_id: str = ""


@dataclass(slots=True)
class Server:
    """One for an app."""

    limits: Limits
    admission: Admission
    created: int = field(default_factory=lambda: int(time.time()))
    engine: LocalEngine | None = None

    def loaded(self) -> LocalEngine:
        if self.engine is None:
            raise EngineStopped("the model is still loading")
        return self.engine

    def model_ids(self) -> list[str]:
        return [ORCHESTRATED] + ([self.engine.model_id] if self.engine else [])

    def decoder(self, model: str) -> Engine:
        """Raises ModelNotFound."""
        engine = self.loaded()
        if model == ORCHESTRATED:
            return Orchestrator(engine)
        if model == engine.model_id:
            return engine
        known = ", ".join(self.model_ids())
        raise ModelNotFound(f"no model '{model[:100]}': this server has {known}", param="model")

    async def events(
        self, model: str, request: GenerateRequest, caller: Caller
    ) -> AsyncGenerator[Event]:
        """Every request that decodes passes here: it is admitted, then decoded."""
        decoder = self.decoder(model)
        with self.admission.reserve(request.n):
            async with aclosing(decoder.generate(request)) as events:
                async for event in events:
                    yield event
