"""What the routes share: the models once they are there, and the way of a request through them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

from f1.config import ORCHESTRATED, ApprovalOptions
from f1.errors import EngineStopped, F1Error, InvalidRequest, ModelNotFound, ShuttingDown
from f1.planning.orchestrator import Orchestrator, System
from f1.planning.run import Engine, Role
from f1.pool import LocalEngine
from f1.roles import Models
from f1.serve.admission import Admission, Ticket, estimate
from f1.serve.deadline import Deadline
from f1.serve.limits import Limits
from f1.serve.record import Record
from f1.serve.registrar import Registrar
from f1.serve.side_by_side import side_by_side
from f1.store.responses import ResponseStore
from f1.tools.embedder import Embedder
from f1.tools.policy import AllowAll, Policy
from f1.tools.ranking import Ranker
from f1.tools.selection import Selector
from f1.tools.spec import ToolSpec
from f1.tools.vectors import ToolVectors
from f1.trace.recorder import Recorder, Redacts, RedactsNothing
from f1.types import Event, GenerateRequest

T = TypeVar("T")
_MAX_ASIDE = 2  # texts tokenised or embedded side by side
_MAX_CALLS = 64
_UNKNOWN_CONTEXT = 1 << 15  # tokens, of a model that was not loaded yet or is elsewhere

State = Literal["loading", "ready", "stuck", "draining"]


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
    responses: ResponseStore = field(default_factory=lambda: ResponseStore(Path(), 0))
    created: int = field(default_factory=lambda: int(time.time()))
    models: Models | None = None
    deadlines: set[Deadline] = field(default_factory=set)  # of all that are being answered
    receiving: int = 0  # bytes of bodies that are not whole yet
    streams: int = 0  # that have begun and not ended; what they tell of may be decoded already
    embedder: Embedder | None = None
    vectors: ToolVectors | None = None
    keep_prompts: bool = False  # in the records of requests
    registrar: Registrar = field(default_factory=Registrar)
    recorder: Recorder | None = None  # None: runs are not written down
    redaction: Redacts = field(default_factory=RedactsNothing)  # of what leaves the process
    policy: Policy = field(default_factory=AllowAll)
    approvals: ApprovalOptions = field(default_factory=ApprovalOptions)
    system: System = field(init=False)  # behind `f1`
    aside: Admission = field(init=False)  # to work that is not decoding: it has a queue of its own
    registering: Admission = field(init=False)  # and so has this, which may take long
    calling: Admission = field(init=False)  # and single calls of tools

    def __post_init__(self) -> None:
        self.system = System(
            self.roles,
            self._registered,
            Selector(Ranker(self.vectors)),
            recorder=self.recorder,
            policy=self.policy,
            approvers=self.approvals.approvers,
            approval_seconds=self.approvals.seconds,
        )
        self.aside = Admission(replace(self.limits, max_running=_MAX_ASIDE))
        self.registering = Admission(replace(self.limits, max_running=1))
        self.calling = Admission(replace(self.limits, max_running=_MAX_CALLS))

    def _registered(self, tenant: str, request: GenerateRequest) -> Sequence[ToolSpec]:
        options, defaults = request.run, self.limits.defaults
        specs = self.registrar.registry.resolve(tenant, options.tools, options.toolsets)
        sent = {tool.name for tool in request.tools}
        if sent and (options.tools, options.toolsets) == (defaults.tools, defaults.toolsets):
            # The operator's defaults give way to what a request that does not know of them brings.
            return tuple(spec for spec in specs if spec.name not in sent)
        return specs

    def state(self) -> State:
        """`ready`, or why not. `stuck`: there is work, and no step was made for 10 seconds."""
        if self.admission.closed:
            return "draining"
        if self.models is None or not self.models.started:
            return "loading"
        return "ready" if self.models.healthy() else "stuck"

    def failed(self) -> bool:
        """An engine will answer no more, and nothing but a new process helps."""
        return self.models is not None and self.models.failed()

    def loaded(self) -> Models:
        if self.models is None or not self.models.started:
            raise EngineStopped("the model is still loading")
        return self.models

    def told(self, error: F1Error) -> F1Error:
        """As a client may read it."""
        error.message = self.redaction.redact(error.message)
        return error

    def model_ids(self) -> list[str]:
        """Of all models, those that decode first."""
        embedding = [self.embedder.model_id] if self.embedder else []
        return self._decoding() + embedding

    def _decoding(self) -> list[str]:
        return [ORCHESTRATED] + (self.models.names if self.models else [])

    def busy(self) -> bool:
        """Whether any request waits, or is being answered."""
        queues = (self.admission, self.aside, self.registering, self.calling)
        return bool(self.streams or any(queue.in_flight for queue in queues))

    def decoder(self, model: str, tenant: str = "", run_id: str = "") -> Engine:
        """`run_id`: of a run that its request does not name. Raises ModelNotFound."""
        models = self.loaded()
        if model == ORCHESTRATED:
            return Orchestrator(self.system, tenant=tenant, run_id=run_id)
        self._check(model)
        return models.engine(model)

    def roles(self, asked: Mapping[str, str] | None = None) -> Mapping[Role, Engine]:
        """Who does what behind `f1`, as f1.toml has it or as a request asks. Raises
        InvalidRequest, ModelNotFound."""
        return self.loaded().roles(asked)

    @asynccontextmanager
    async def local(self, model: str) -> AsyncIterator[LocalEngine]:
        """The engine that reads and writes the tokens of `model`: loaded, and not unloaded as long
        as this is held. Raises ModelNotFound; InvalidRequest where that is another server's."""
        self._check(model)
        async with self.loaded().lease(model) as engine:
            yield engine

    def _check(self, model: str) -> None:
        if model != ORCHESTRATED and model not in self.loaded().names:
            known = ", ".join(self._decoding())
            raise ModelNotFound(f"no model '{model[:100]}': this server has {known}", param="model")

    def cut(self) -> None:
        """Ends all that is being answered, or waits, with ShuttingDown. Runs are gone on with by
        the next process."""
        if self.recorder is not None:
            self.recorder.parking = True
        for deadline in self.deadlines:
            deadline.cut(ShuttingDown("the server is shutting down", retry_after=1.0))

    async def events(
        self,
        model: str,
        requests: Sequence[GenerateRequest],
        caller: Caller,
        deadline: Deadline | None = None,
    ) -> AsyncGenerator[Event]:
        """All that decodes passes here: it is admitted, waits its turn, is decoded, side by side.
        Nothing is done for it before it is admitted, and nothing once its deadline has passed."""
        _check_run(model, requests)
        # Runs that nobody names have the number of their request: clients know it from a header.
        run_id = caller.request_id.replace("req_", "run_", 1) if len(requests) == 1 else ""
        decoder = self.decoder(model, caller.tenant, run_id)
        context_length = self.loaded().context_length(model) or _UNKNOWN_CONTEXT
        num_bytes = caller.num_bytes // len(requests)
        tokens = sum(estimate(request, num_bytes, context_length) for request in requests)
        deadline = deadline or Deadline(caller.record.began, self.limits.default_timeout)
        record = caller.record
        record.model, record.n = model, requests[0].n
        if self.keep_prompts:
            record.prompt = [text for request in requests for text in prompt_of(request)]
        num_choices = sum(request.n for request in requests)
        ticket = self.admission.enter(caller.tenant, num_choices, tokens)
        with self._place(self.admission, ticket, deadline), told(record):
            await deadline.wait(ticket.started.wait())
            record.started = time.monotonic()
            async with aclosing(side_by_side(decoder, requests)) as events:
                while (event := await deadline.wait(anext(events, None))) is not None:
                    record.see(event)
                    yield event

    async def do_aside(
        self,
        work: Callable[[], Awaitable[T]],
        caller: Caller,
        deadline: Deadline,
        tokens: int = 1,
        queue: Admission | None = None,
    ) -> T:
        """What `work` returns: something that is not decoding, and about as dear as so many
        tokens. It is admitted, too, but waits only for its like: for the `queue`, or `aside`."""
        queue = self.aside if queue is None else queue
        queue.closed = self.admission.closed
        ticket = queue.enter(caller.tenant, 1, tokens)
        with self._place(queue, ticket, deadline), told(caller.record):
            await deadline.wait(ticket.started.wait())
            return await deadline.wait(work())

    @contextmanager
    def _place(self, admission: Admission, ticket: Ticket, deadline: Deadline) -> Iterator[None]:
        self.deadlines.add(deadline)
        try:
            yield
        finally:
            self.deadlines.discard(deadline)
            admission.leave(ticket)


def _check_run(model: str, requests: Sequence[GenerateRequest]) -> None:
    for request in requests:
        for name in ("run_id", "session_id", "verdicts") if model != ORCHESTRATED else ():
            if getattr(request.run, name):
                told = f"f1.{name}: the model '{model}' is asked by its own name; 'f1' keeps runs"
                raise InvalidRequest(told, param=f"f1.{name}")


def prompt_of(request: GenerateRequest) -> list[str]:
    if request.prompt is not None:
        return [str(request.prompt)]
    return [message.content for message in request.messages]


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
