"""What the routes share: the engine once it is loaded, and the way of a request through it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol

from f1.errors import EngineStopped, F1Error, ModelNotFound, ShuttingDown
from f1.planning.orchestrator import Engine, Orchestrator
from f1.serve.admission import Admission, Ticket, estimate
from f1.serve.deadline import Deadline
from f1.serve.limits import Limits
from f1.serve.record import Record
from f1.types import Event, GenerateRequest

ORCHESTRATED = "f1"  # the model id that stands for the whole system
State = Literal["loading", "ready", "stuck", "draining"]


class LocalEngine(Engine, Protocol):
    """What the endpoint needs of f1.engine.AsyncEngine."""

    @property
    def model_id(self) -> str: ...
    @property
    def context_length(self) -> int: ...
    def healthy(self) -> bool: ...
    def failed(self) -> bool: ...
    def stats(self) -> Mapping[str, float]: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `tenant` owns what is kept and shares the machine fairly with the others."""

    tenant: str = ""
    request_id: str = ""
    num_bytes: int = 0  # of the body
    record: Record = field(default_factory=Record)


@dataclass(slots=True)
class Server:
    """One for an app."""

    limits: Limits
    admission: Admission
    created: int = field(default_factory=lambda: int(time.time()))
    engine: LocalEngine | None = None
    deadlines: set[Deadline] = field(default_factory=set)  # of all that are being answered
    keep_prompts: bool = False  # in the records of requests

    def state(self) -> State:
        """`ready`, or why not. `stuck`: there is work, and no step was made for 10 seconds."""
        if self.admission.closed:
            return "draining"
        if self.engine is None:
            return "loading"
        return "ready" if self.engine.healthy() else "stuck"

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

    def cut(self) -> None:
        """Ends all that is being answered, or waits, with ShuttingDown."""
        for deadline in self.deadlines:
            deadline.cut(ShuttingDown("the server is shutting down", retry_after=1.0))

    async def events(
        self,
        model: str,
        request: GenerateRequest,
        caller: Caller,
        deadline: Deadline | None = None,
    ) -> AsyncGenerator[Event]:
        """Every request that decodes passes here: it is admitted, waits its turn, is decoded.
        Nothing is done for it before it is admitted, and nothing once its deadline has passed."""
        decoder = self.decoder(model)
        tokens = estimate(request, caller.num_bytes, self.loaded().context_length)
        deadline = deadline or Deadline(caller.record.began, self.limits.default_timeout)
        record = caller.record
        record.model = model
        if self.keep_prompts:
            record.prompt = [message.content for message in request.messages]
        with self._place(caller.tenant, request.n, tokens, deadline) as ticket, told(record):
            await deadline.wait(ticket.started.wait())
            record.started = time.monotonic()
            async with aclosing(decoder.generate(request)) as events:
                while (event := await deadline.wait(anext(events, None))) is not None:
                    record.see(event)
                    yield event

    @contextmanager
    def _place(
        self, tenant: str, choices: int, tokens: int, deadline: Deadline
    ) -> Iterator[Ticket]:
        ticket = self.admission.enter(tenant, choices, tokens)
        self.deadlines.add(deadline)
        try:
            yield ticket
        finally:
            self.deadlines.discard(deadline)
            self.admission.leave(ticket)


@contextmanager
def told(record: Record) -> Iterator[None]:
    """Writes down what breaks the work off."""
    try:
        yield
    except F1Error as error:
        record.error = error.code or error.type
        raise
    except (asyncio.CancelledError, GeneratorExit):
        record.error = "client_gone"
        raise
    except Exception:
        record.error = "internal_error"
        raise
