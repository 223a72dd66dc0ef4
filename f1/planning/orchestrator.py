"""From a question to an answer: decide, run what is ours, look, go on.

select tools, fit the context ─▶ strategy decides ──no calls──▶ Reply
     ▲                               │ calls start as they are decoded
     │                               ▼
     └── results go into the conversation ── some for the caller, or a person? ──▶ CallTools,
                                                                                  NeedsApproval
What happens is written down (journal.py). A run that broke off, or waits, is decided all over again
on what is written, up to where it stood.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from f1.errors import ContextLengthExceeded, InvalidRequest
from f1.planning.approvals import EXPIRES
from f1.planning.compaction import compacted
from f1.planning.endings import as_it_ended, give_up, why_silent
from f1.planning.executor import Executor
from f1.planning.gates import Gates
from f1.planning.opening import NewRun, Opened, SessionBusy, model_of, new_run_id, open_run
from f1.planning.outcome import (
    CallTools,
    GiveUp,
    NeedsApproval,
    Outcome,
    Planned,
    Progress,
    Reply,
    events_of,
    report_of,
)
from f1.planning.pending import Pending, Waiting, results_of
from f1.planning.plan import parse_plan
from f1.planning.run import Engine, Role, Run, Spent
from f1.planning.strategies.auto import strategy_for
from f1.planning.strategy import Move
from f1.planning.tape import Interrupted
from f1.planning.turns import RecordedTurn
from f1.store.runs import Conflict
from f1.tools.policy import AllowAll, Policy
from f1.tools.search import SEARCH_TOOL
from f1.tools.spec import ToolSpec
from f1.trace.entries import Ended
from f1.trace.recorder import Recorder
from f1.types import (
    Event,
    Finished,
    GenerateRequest,
    RunReport,
    Started,
    ToolCall,
    ToolChoice,
    ToolResult,
)

if TYPE_CHECKING:
    from f1.tools.selection import Selection, Selector


def _by_words() -> Selector:
    from f1.tools.selection import Selector  # brings numpy, which no client of a server needs

    return Selector()


@dataclass(frozen=True, slots=True)
class System:
    """What all runs of a process share. `engines`: by role, for a request's wishes of models by
    role; `registered`: the tools that a tenant's request names, or has by default."""

    engines: Callable[[Mapping[str, str]], Mapping[Role, Engine]]
    registered: Callable[[str, GenerateRequest], Sequence[ToolSpec]] = lambda tenant, request: ()
    selector: Selector = field(default_factory=_by_words)
    gates: Gates = field(default_factory=Gates)
    pending: Pending = field(default_factory=Pending)
    recorder: Recorder | None = None  # None: nothing is written down
    policy: Policy = field(default_factory=AllowAll)
    approvers: Collection[str] | None = None  # tenants that may allow calls; None: each its own
    approval_seconds: float = EXPIRES  # in which they have to

    @classmethod
    def of(cls, engine: Engine) -> System:
        """One model in all roles."""
        roles: Mapping[Role, Engine] = dict.fromkeys(
            ("router", "caller", "writer", "verifier"), engine
        )
        return cls(lambda wishes: roles)


class Orchestrator:
    """Runs requests to an outcome, with the tools `own` beside those that requests bring."""

    def __init__(
        self, system: System, own: Sequence[ToolSpec] = (), *, tenant: str = "", run_id: str = ""
    ):
        """`run_id`: of runs that requests do not name."""
        self.system = system
        self.own = own
        self.tenant = tenant
        self.run_id = run_id

    async def run(self, request: GenerateRequest) -> AsyncGenerator[Progress]:
        """What happens, as it happens; the last item is the Outcome. Raises F1Error."""
        async with aclosing(self.play(await self._open(request))) as items:
            async for item in items:
                yield item

    async def play(self, opened: Opened) -> AsyncGenerator[Progress]:
        """A run from where it is known to the end of its last request."""
        waiting = opened.waiting
        for earlier in opened.requests[:-1]:  # decided all over again
            async with aclosing(self._go(opened, earlier, waiting)) as items:
                *_, last = [item async for item in items]
            waiting = await opened.handed_over(last)
        request = opened.requests[-1]
        if opened.returns:
            request = await opened.take_back(request, waiting)
        async with aclosing(self._go(opened, request, waiting)) as items:
            async for item in items:
                yield item

    async def _go(
        self, opened: Opened, request: GenerateRequest, waiting: Waiting | None
    ) -> AsyncGenerator[Progress]:
        """The run, as far as it goes with one request."""
        opened.over = False
        try:
            async with self._begin(opened, request, waiting) as run:
                outcome: Outcome | None = None
                while outcome is None:
                    try:
                        await self._prepare(run)
                        async with aclosing(self._move(run)) as items:
                            async for item in items:
                                yield item
                        outcome = await self._outcome(run)
                    except Spent as spent:
                        outcome = give_up(run, spent.ending)
                    except Interrupted:
                        outcome = as_it_ended(run)
                    except ContextLengthExceeded:
                        if not run.nodes:
                            raise
                        outcome = give_up(run, "context")  # what was done is to be known
                run.executor.stop()  # who reads slowly has nothing begin behind the end
                await self._end(run, outcome)
                opened.over = True
                yield outcome
        except BaseException as error:
            await opened.leave(error)
            raise

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        """The whole run as the events of one turn: an Engine like any other."""
        if one_turn(request, self._specs(request)):
            async with aclosing(self._pass(request)) as events:
                async for event in events:
                    yield event
            return
        async with aclosing(self.run(request)) as items:
            async for item in items:
                for event in events_of(item, request):
                    yield event

    # --- a run, part by part ---------------------------------------------------------------------

    async def _open(self, request: GenerateRequest) -> Opened:
        if request.n != 1:
            raise InvalidRequest("'n' must be 1 where tools are run for you", param="n")
        plan = request.run.plan
        if isinstance(plan, Mapping):
            tools = {spec.name: spec for spec in self._specs(request)}
            options = replace(request.run, plan=parse_plan(plan, tools))
            request = replace(request, run=options)
        engines = self.system.engines(request.run.roles)
        models: dict[str, str] = {role: model_of(engine) for role, engine in engines.items()}
        new = NewRun(self.run_id or new_run_id(), models)
        opened = await open_run(self.system, self.tenant, request, new)
        try:
            await opened.guard.hear(request.run.verdicts)
        except BaseException:
            await opened.put_back()
            raise
        return opened

    @asynccontextmanager
    async def _begin(
        self, opened: Opened, request: GenerateRequest, waiting: Waiting | None
    ) -> AsyncIterator[Run]:
        """A run that goes on where the caller's results take it."""
        specs = self._specs(request)
        tools = {spec.name: spec for spec in specs}
        engines = self.system.engines(request.run.roles)
        some = len(tools) > request.run.num_shown(len(tools))
        if some and SEARCH_TOOL not in tools and not request.run.plan_only:
            tools[SEARCH_TOOL] = self.system.selector.search_tool(specs)
        guard = opened.guard
        guard.taints.tools = tools
        async with Executor(tools, self.system.gates, guard) as executor:
            run = Run(request, specs, tools, executor, engines, strategy_for(request), guard)
            run.asked_with, run.began_with = opened.asked_with, request.messages
            run.brought = frozenset(tool.name for tool in request.tools)
            run.known = opened.known
            if waiting is not None:
                self._carry_on(run, waiting)
            yield run

    def _carry_on(self, run: Run, waiting: Waiting) -> None:
        """With what of the plan waited for the caller's results."""
        run.nodes = list(waiting.nodes)
        run.strategy = waiting.strategy or run.strategy
        for result in results_of(waiting, run.request.messages):
            run.guard.settled(result)
            run.executor.know(result)
        for node in run.nodes:
            if node.id not in run.executor.results:
                run.fresh.append(node)
                run.executor.add(node)

    def _specs(self, request: GenerateRequest) -> Sequence[ToolSpec]:
        """All that the model may come to see: the caller's, ours, those registered. The last alone
        are the same object each time, and what is known of them is found again."""
        registered = self.system.registered(self.tenant, request)
        found = {tool.name: ToolSpec(tool) for tool in request.tools}
        if len(found) < len(request.tools):
            names = [tool.name for tool in request.tools]
            twice = next(name for name in names if names.count(name) > 1)
            raise InvalidRequest(f"tools: {twice!r} is given twice", param="tools")
        for spec in (*self.own, *registered):
            if found.setdefault(spec.name, spec).tool != spec.tool:
                raise InvalidRequest(f"tool '{spec.name}' is given twice", param="tools")
            found[spec.name] = spec
        if (name := request.tool_choice.name) is not None and name not in found:
            told = f"tool_choice: no tool is named {name[:100]!r}"
            raise InvalidRequest(told, param="tool_choice")
        return registered if len(registered) == len(found) else tuple(found.values())

    async def _prepare(self, run: Run) -> None:
        """What the model is shown: tools, as much of the conversation as fits, whether it may call.
        Raises Spent."""
        run.step += 1
        budget = run.budget
        if run.step > budget.steps:
            raise Spent("steps")
        if run.step == budget.steps > 1 or len(run.nodes) >= budget.calls:
            run.request = replace(run.request, tool_choice=ToolChoice("none"))
        if (shown := run.journal.shown(run.step)) is not None:
            run.show(shown)
            return
        selection: Selection | None = None
        if run.step == 1 or any(node.tool == SEARCH_TOOL for node in run.last):
            run.request, selection = await self._show(
                run.request, run.specs, run.tools.get(SEARCH_TOOL)
            )
            run.selected, run.num_tools = selection.selected, selection.num_tools
            run.notes += [note for note in selection.notes if note not in run.notes]
        dropped = 0
        if run.request.run.compact:
            run.request, dropped = await compacted(run.request, run.engines["caller"])
            run.dropped += dropped
        run.tell_shown(dropped, () if selection is None else selection.notes)

    async def _show(
        self,
        request: GenerateRequest,
        specs: Sequence[ToolSpec],
        search: ToolSpec | None = None,
    ) -> tuple[GenerateRequest, Selection]:
        """The request with the tools that it most likely needs."""
        selection = await self.system.selector.select(
            specs,
            request.messages,
            request.run.num_shown(len(specs)),
            forced=request.tool_choice.name,
        )
        if search is not None:
            selection = selection.with_search(search)
        shown = tuple(spec.tool for spec in selection.tools)
        return replace(request, tools=shown, shown_at=selection.shown_at), selection

    async def _move(self, run: Run) -> AsyncGenerator[Progress]:
        """Decides, and runs what is decided while it is decided. Raises Spent."""
        moves = run.strategy.decide(run)
        deciding: asyncio.Task[Move | None] | None = None
        happening: asyncio.Task[Started | ToolResult] | None = None
        if not run.fresh:  # otherwise there is a plan to carry on with
            deciding = asyncio.ensure_future(_next(moves))
        try:
            while True:
                if happening is None and run.executor.unfinished:
                    happening = asyncio.ensure_future(run.executor.next())
                tasks = [task for task in (deciding, happening) if task is not None]
                if not tasks:
                    return
                done, _ = await asyncio.wait(
                    tasks, timeout=run.seconds_left, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    raise Spent("seconds")
                if happening in done and happening is not None:
                    yield happening.result()
                    happening = None
                if deciding in done and deciding is not None:
                    move, deciding = deciding.result(), None
                    if move is not None:
                        for item in run.take(move):
                            yield item
                        deciding = asyncio.ensure_future(_next(moves))
        finally:
            for task in (deciding, happening):
                if task is not None:
                    task.cancel()
            await asyncio.gather(*filter(None, (deciding, happening)), return_exceptions=True)
            await moves.aclose()

    async def _outcome(self, run: Run) -> Outcome | None:
        """None: there are results to look at."""
        if run.request.run.plan_only:
            done = run.completed("planned")
            message = replace(done.message, tool_calls=())
            return Planned(replace(done, reason="stop", message=message))
        if run.executor.approvals:
            done = run.completed("needs_approval")
            message = replace(done.message, tool_calls=())
            return NeedsApproval(replace(done, reason="stop", message=message))
        if theirs := run.executor.theirs:
            return await self._hand_over(run, theirs)
        if run.fresh:
            run.remember()
            return None
        if run.completion.message.content.strip():
            return Reply(run.completed("answered"))
        return give_up(run, why_silent(run))

    async def _hand_over(self, run: Run, theirs: tuple[ToolCall, ...]) -> CallTools:
        """The caller's calls go back to it; what we did until here waits for it to return."""
        ids = {node.call_id: node.id for node in run.nodes}
        run.remember(theirs)
        waiting = Waiting(
            tuple(run.added),
            tuple((ids[c.id], c) for c in theirs),
            tuple(run.executor.results.values()),
            tuple(run.nodes),
            run.strategy,
            run.guard if run.journal.live else None,
            run.journal.run_id,
            run.request.messages,
        )
        key = self.system.pending.keep(self.tenant, run.asked_with, waiting)
        done = run.completed("client_calls")
        await run.journal.hand_over(theirs, waiting.messages, key, run.about(done))
        run.journal.next_request(run.step)
        message = replace(done.message, tool_calls=theirs)
        return CallTools(replace(done, message=message, reason="tool_calls"), waiting)

    async def _end(self, run: Run, outcome: Outcome) -> None:
        """It is written down how the run ends before anybody is told."""
        done = outcome.completion
        match outcome:
            case NeedsApproval():
                await run.journal.ask(outcome.approvals, run.about(done))
            case Reply() | Planned() | GiveUp():
                said = done.message.content
                ended = Ended(report_of(outcome).ending, said, done.usage, run.seconds)
                messages = run.session_messages(done.message)
                try:
                    await run.journal.end(ended, run.about(done), messages, run.known)
                except Conflict as error:
                    raise SessionBusy(run.request.run.session_id) from error

    async def _pass(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        """One turn of the model, event by event as the model's own. It is written down once it has
        ended, for there is nothing in it to go on with."""
        asked, options = request, request.run
        engine = self.system.engines(options.roles)["caller"]
        specs = self._specs(request)
        request, shown = await self._show(request, specs)
        dropped = 0
        if (most := options.budget.tokens) is not None:
            request = replace(request, max_tokens=min(request.max_tokens or most, most))
        if options.compact:
            request, dropped = await compacted(request, engine)
        report = RunReport(
            "direct", "answered", selected=shown.selected, num_tools=len(specs), dropped=dropped,
            notes=shown.notes,
        )  # fmt: skip
        turn = RecordedTurn(self.system.recorder, self.tenant, self.run_id, asked, request, report)
        async with aclosing(turn.events(engine)) as events:
            async for event in events:
                if isinstance(event, Finished) and (dropped or len(shown.tools) < len(specs)):
                    event = replace(event, report=replace(event.report, run=report))
                yield event


def one_turn(request: GenerateRequest, specs: Sequence[ToolSpec]) -> bool:
    """Whether the model's own turn is all that there is to it: all tools are the caller's, and
    nothing but an ordinary way of going about it is asked for."""
    options = request.run
    ordinary = options.strategy in ("auto", "direct") and options.budget.seconds is None
    planned = options.plan is not None or options.plan_only
    kept = options.run_id or options.session_id
    plain = ordinary and not planned and not options.progress and not kept
    return plain and all(spec.runner is None for spec in specs)


async def _next(moves: AsyncGenerator[Move]) -> Move | None:
    return await anext(moves, None)
