"""Runs the nodes of a plan: each starts the moment its needs are met.

    add ──▶ waits for its needs ──▶ bound, checked ──▶ admitted ──▶ runs ──▶ its result
                 │                        │               │           │         ▲
                 └── one failed ──────────┴─ unfit ───────┴─ refused ─┴─ left ──┘

Nothing polls: what ends a node starts those that waited for it alone. A failure of any kind is a
result, which the model reads; the other nodes go on.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

from f1.calling.schema import (
    MAX_ARGUMENT_DEPTH,
    deeper_than,
    is_too_deep,
    validate_arguments,
)
from f1.errors import F1Error
from f1.planning.content import write_failure, write_output
from f1.planning.gates import Gates
from f1.planning.guard import Guard
from f1.planning.plan import BadReference, bind, needs, references
from f1.planning.tries import Outcome, ended, run_call
from f1.tools.spec import INVOCATION, ToolSpec
from f1.types import Approval, FailureKind, Node, Ref, Started, ToolCall, ToolResult


@dataclass(slots=True)
class _Running:
    node: Node
    call: ToolCall
    spec: ToolSpec
    begun: float | None = None


class Executor:
    """Of one run. `async with` it: leaving cancels what still runs, and waits for that. Where runs
    are written down, calls that may change something go on: what came of them is to be known."""

    def __init__(self, tools: Mapping[str, ToolSpec], gates: Gates, guard: Guard | None = None):
        self.results: dict[str, ToolResult] = {}  # by node id
        self._tools = tools
        self._gates = gates
        self._guard = guard or Guard()
        self._nodes: dict[str, Node] = {}  # all, as they were added
        self._missing: dict[str, set[str]] = {}  # of nodes that wait: what is not done
        self._needed_by: dict[str, list[str]] = {}
        self._running: dict[str, asyncio.Task[ToolResult]] = {}
        self._changing: list[_Running] = []  # of those, what may change something
        self._theirs: dict[str, ToolCall] = {}
        self._approvals: dict[str, Approval] = {}
        self._values: dict[str, Any] = {}  # for references, where they were read whole
        self._news: asyncio.Queue[Started | ToolResult | F1Error] = asyncio.Queue()
        self._untold = 0  # results and errors in there
        self._asked: dict[str, list[asyncio.Future[None]]] = {}
        self._left = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        self._left = True
        stuck = self._stuck()
        waiting, self._missing = self._missing, {}
        for node_id in waiting:
            if node_id not in stuck:
                self._settle(self._failure(node_id, "cancelled", "it was called off"))
        tasks, stay = set(self._running.values()), set[asyncio.Task[ToolResult]]()
        for running in self._changing:
            if running.begun is not None and self._guard.writes:
                stay.add(self._running[running.node.id])
        self._guard.finishing |= stay
        for task in tasks - stay:
            task.cancel()
        await ended(asyncio.gather(*(tasks - stay), return_exceptions=True))
        for turns in self._asked.values():
            _wake(turns)

    def add(self, node: Node) -> None:
        """It starts now, or as soon as the nodes that it needs are done. Nodes of client tools
        (no runner) never start: they are `theirs` once their needs are met. Those that a person
        has to allow are among the `approvals` then.

        What is wrong with it is its result; only an id that is taken raises ValueError."""
        if self._left:
            raise RuntimeError("the run is over")
        if node.id in self._nodes or node.id in self.results:
            raise ValueError(f"there is a node {node.id!r} already")
        if deeper_than(node.arguments, MAX_ARGUMENT_DEPTH):
            self._nodes[node.id] = replace(node, arguments={})
            told = f"the arguments nest deeper than {MAX_ARGUMENT_DEPTH} levels"
            self._settle(self._failure(node.id, "invalid_arguments", told))
            return
        needed = needs(node)
        unknown = [n for n in needed if n not in self._nodes and n not in self.results]
        failed = [n for n in needed if n in self.results and self.results[n].failed]
        missing = {n for n in needed if n not in self.results}
        self._nodes[node.id] = node
        failure: ToolResult | None = None
        if node.tool not in self._tools:
            failure = self._failure(node.id, "unknown_tool", f"there is no tool '{node.tool}'")
        elif unknown:
            failure = self._failure(node.id, "bad_reference", f"no ${unknown[0]} stands before it")
        elif failed:
            failure = self._need_failed(node.id, failed[0])
        elif missing:
            self._missing[node.id] = missing
            for need in needed:
                self._needed_by.setdefault(need, []).append(node.id)
        else:
            failure = self._begin(node)
        if failure is not None:
            self._settle(failure)

    def stop(self) -> None:
        """Nothing begins any more; what runs goes on until this is left."""
        self._left, self._missing = True, {}

    def know(self, result: ToolResult) -> None:
        """What came of a node elsewhere: in an earlier request, or at the caller's. `next` does
        not tell of it."""
        self._theirs.pop(result.node_id, None)
        self.results[result.node_id] = result
        if result.whole:
            self._values[result.node_id] = result.value
        for failure in self._freed(result):
            self._settle(failure)

    @property
    def unfinished(self) -> int:
        """Nodes that run, or wait for others, or whose result `next` has not told yet; without
        those that wait for calls of `theirs`, or for a person."""
        return self._untold + len(self._running) + len(self._missing) - len(self._stuck())

    @property
    def approvals(self) -> tuple[Approval, ...]:
        """Calls that wait for a person, in the order of their nodes."""
        return tuple(self._approvals[id_] for id_ in self._nodes if id_ in self._approvals)

    @property
    def theirs(self) -> tuple[ToolCall, ...]:
        """Calls for the caller to run: bound, valid, in the order of their nodes."""
        return tuple(self._theirs[node_id] for node_id in self._nodes if node_id in self._theirs)

    async def next(self) -> Started | ToolResult:
        """What happens next; call it while there are `unfinished` ones. Raises F1Error where a
        call could not be written down: it was not made, or what came of it is not kept."""
        if not self.unfinished:
            raise RuntimeError("nothing is under way")
        item = await self._news.get()
        self._untold -= not isinstance(item, Started)
        if isinstance(item, F1Error):
            raise item
        return item

    async def result(self, node_id: str) -> ToolResult:
        """Of that node, as soon as it is done; for any number of waiters beside `next`. Raises
        LookupError where there will be none: no such node, or it waits for the caller."""
        if self._is_coming(node_id):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._asked.setdefault(node_id, []).append(turn)
            await turn
        if node_id not in self.results:
            raise LookupError(f"there will be no result of ${node_id}")
        return self.results[node_id]

    # --- a node's way ------------------------------------------------------------------------

    def _begin(self, node: Node) -> ToolResult | None:
        """Its needs are met: it runs, or is theirs; otherwise why not."""
        spec = self._tools[node.tool]
        for _, ref in references(node):
            if ref.id not in self._values:
                message = f"${ref.id} was too long to be read whole"
                return self._failure(node.id, "bad_reference", message)
        try:
            call = bind(node, self._values, spec.tool.parameters if spec.tool.strict else None)
        except BadReference as error:
            return self._failure(node.id, "bad_reference", error.message)
        if spec.runner is not None and not spec.tool.strict:
            message = "its arguments are held to no schema, so it is not run"
            return self._failure(node.id, "refused", message, call)
        if (problem := _problem(spec, call)) is not None:
            message = f"the arguments do not fit the schema: {problem}"
            return self._failure(node.id, "invalid_arguments", message, call)
        if spec.runner is None:
            self._theirs[node.id] = call
            self._wait_outside()
            return None
        admitted = self._guard.admit(node, call, spec, self.results)
        if isinstance(admitted, ToolResult):
            if admitted.tries:  # in the run's past
                self._news.put_nowait(Started(node, admitted.call, admitted.started))
            return admitted
        if isinstance(admitted, Approval):
            self._approvals[node.id] = admitted
            self._wait_outside()
            return None
        running = _Running(node, admitted, spec)
        task = self._running[node.id] = asyncio.create_task(self._run(running))
        if not spec.annotations.read_only:
            self._changing.append(running)
        task.add_done_callback(partial(self._ran, running))
        return None

    def _wait_outside(self) -> None:
        """Something waits for the caller or for a person: so do those that need it."""
        for asked in [asked for asked in self._asked if not self._is_coming(asked)]:
            _wake(self._asked.pop(asked))

    async def _run(self, running: _Running) -> ToolResult:
        node, call, spec = running.node, running.call, running.spec

        async def begun() -> None:
            if self._left:
                raise asyncio.CancelledError
            await self._guard.launch(node, call, spec)
            running.begun = self._gates.clock()
            self._news.put_nowait(Started(node, call, running.begun))

        INVOCATION.set(self._guard.invocation(node, call))
        with self._gates.gate(spec) as gate:
            if spec.annotations.read_only:
                outcome, shared = await gate.flights.join(
                    _same(call.arguments),
                    lambda begun: run_call(spec, call.arguments, gate, begun),
                    begun,
                )
            else:
                outcome, shared = await run_call(spec, call.arguments, gate, begun), False
        result = self._result(running, outcome, shared)
        await self._guard.done(result)
        return result

    def _ran(self, running: _Running, task: asyncio.Task[ToolResult]) -> None:
        """However it ended, the node has a result."""
        del self._running[running.node.id]
        if running in self._changing:
            self._changing.remove(running)
        if task.cancelled():
            result = self._result(running, _called_off(running))
        elif isinstance(error := task.exception(), F1Error):
            self._news.put_nowait(error)
            self._untold += 1
            return
        elif error is not None:
            message = f"{type(error).__name__}: {error}"
            result = self._result(running, Outcome(failed="error", message=message))
        else:
            result = task.result()
        self._settle(result)

    def _settle(self, result: ToolResult) -> None:
        """The node is done, and told of; so are those that fail with it."""
        done = deque([result])
        while done:
            result = done.popleft()
            self.results[result.node_id] = result
            if result.whole:
                self._values[result.node_id] = result.value
            self._guard.settled(result)
            self._news.put_nowait(result)
            self._untold += 1
            done.extend(self._freed(result))
            _wake(self._asked.pop(result.node_id, ()))

    def _freed(self, result: ToolResult) -> Iterator[ToolResult]:
        """Begins the nodes that waited for this one alone; the results of those that cannot."""
        for node_id in self._needed_by.pop(result.node_id, ()):
            missing = self._missing.get(node_id)
            if missing is None:
                continue  # it failed with another need
            missing.discard(result.node_id)
            failure: ToolResult | None = None
            if result.failed:
                failure = self._need_failed(node_id, result.node_id)
            if result.failed or not missing:
                del self._missing[node_id]
                failure = failure or self._begin(self._nodes[node_id])
            if failure is not None:
                yield failure

    def _stuck(self) -> set[str]:
        """Nodes that wait for the caller or a person, be it among others; needs stand before who
        needs them."""
        stuck = self._theirs.keys() | self._approvals.keys()
        for node_id, missing in self._missing.items() if stuck else ():
            if not missing.isdisjoint(stuck):
                stuck.add(node_id)
        return stuck - self._theirs.keys() - self._approvals.keys()

    def _is_coming(self, node_id: str) -> bool:
        waiting = node_id in self._missing and node_id not in self._stuck()
        return node_id in self._running or waiting

    # --- what came of it ---------------------------------------------------------------------

    def _result(self, running: _Running, outcome: Outcome, shared: bool = False) -> ToolResult:
        now = self._gates.clock()
        started = now if running.begun is None else running.begun
        output = outcome.output
        content, cut = write_failure(outcome.message), False
        if output is not None:
            content, cut = write_output(output, running.spec.limits.max_chars)
        return ToolResult(
            running.call,
            content,
            outcome.failed,
            started,
            now - started,
            value=None if output is None else output.value,
            node_id=running.node.id,
            tries=outcome.tries,
            cut=cut,
            shared=shared,
            whole=output is None or output.num_bytes is None,
        )

    def _failure(
        self, node_id: str, kind: FailureKind, message: str, call: ToolCall | None = None
    ) -> ToolResult:
        """Of a node that did not run."""
        call = call or _unbound(self._nodes[node_id])
        content, now = write_failure(message), self._gates.clock()
        return ToolResult(call, content, kind, now, 0.0, node_id=node_id, tries=0)

    def _need_failed(self, node_id: str, need: str) -> ToolResult:
        return self._failure(node_id, "need_failed", f"not run: it needs ${need}, which failed")


def _unbound(node: Node) -> ToolCall:
    """The call of a node without all values, its references as a plan's JSON has them."""

    def written(value: Any) -> Any:
        if isinstance(value, Ref):
            return {"ref": value.id} | ({"path": value.path} if value.path else {})
        return dict(value) if isinstance(value, Mapping) else str(value)

    arguments = json.dumps(node.arguments, default=written, ensure_ascii=False)
    return ToolCall(node.call_id or f"call_{node.id}", node.tool, arguments)


def _problem(spec: ToolSpec, call: ToolCall) -> str | None:
    """A grammar is not a validator: nothing runs before its arguments are checked in full."""
    if not spec.tool.strict:
        return "nested too deep" if is_too_deep(call.arguments) else None
    return validate_arguments(spec.tool, call.arguments)


def _same(arguments: str) -> str:
    """Equal for arguments that say the same, however they are written."""
    return json.dumps(json.loads(arguments), sort_keys=True)


def _called_off(running: _Running) -> Outcome:
    begun = running.begun is not None
    harm = begun and not running.spec.annotations.read_only
    message = "it was called off" + ("; what it does may be done" if harm else "")
    return Outcome(failed="cancelled", message=message, tries=int(begun))


def _wake(turns: Iterable[asyncio.Future[None]]) -> None:
    for turn in turns:
        if not turn.done():  # those who wait no more
            turn.set_result(None)
