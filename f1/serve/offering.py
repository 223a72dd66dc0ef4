"""F1 as an MCP server: the tools that it runs itself, and `f1`, which is all of it.

    tools/call search {…}  ─▶ a run of one call: rules, approvals, the record, as in any other
    tools/call f1 {question} ─▶ a run of the system, waiting its turn with all others

Calls to tools that their callers run are not offered: there is nobody to run them. What a person
has to allow is an error that names the approval; once it is decided, elsewhere, the same call with
the run's id in `_meta` goes on with it.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server as McpServer
from mcp.server.stdio import stdio_server
from mcp.types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)

from f1 import __version__
from f1.errors import F1Error, InvalidRequest
from f1.planning.collect import Collector
from f1.planning.orchestrator import Orchestrator, System
from f1.planning.outcome import GiveUp, NeedsApproval, Outcome, Progress, Reply, report_of
from f1.planning.run import Role
from f1.serve.deadline import Deadline
from f1.serve.server import Caller, Server
from f1.serve.wire.approvals import write_approval
from f1.serve.wire.request import parse_chat_request
from f1.serve.wire.runs import write_run
from f1.tools.spec import ToolSpec
from f1.types import (
    Approval,
    Budget,
    Event,
    Finished,
    GenerateRequest,
    Message,
    Node,
    Plan,
    RunEvent,
    RunOptions,
    Started,
    TextDelta,
    ToolResult,
    Usage,
)

Context = ServerRequestContext[Any]
Json = dict[str, Any]

SYSTEM = "f1"  # the tool that is the whole system
RUN_ID = "f1/runId"  # in `_meta`, of a call that goes on and of every result
_PAGE = 200  # tools
_OF_A_RUN = ("tools", "toolsets", "strategy", "run_id", "session_id", "budget")
_NAMES: Json = {"type": "array", "items": {"type": "string"}}
_ASK: Json = {
    "type": "object",
    "properties": {
        "question": {"type": "string", "description": "What to find out or to do."},
        "messages": {
            "type": "array",
            "items": {"type": "object"},
            "description": "A conversation instead, as chat completions have it.",
        },
        "tools": _NAMES | {"description": "Registered tools that may be called."},
        "toolsets": _NAMES | {"description": "Registered toolsets, likewise."},
        "strategy": {
            "enum": "auto direct react plan vote reflect backtrack soft".split(),
            "description": "How to go about it.",
        },
        "budget": {"type": "object", "description": "steps, calls, tokens, seconds at most"},
        "run_id": {"type": "string", "description": "Names the run; one that is there goes on."},
        "session_id": {"type": "string", "description": "A conversation that is kept here."},
    },
    "additionalProperties": False,
}


def offer(server: Server) -> McpServer[Any]:
    """What both transports serve."""
    offered = _Offered(server)
    return McpServer(
        "f1",
        version=__version__,
        on_list_tools=offered.list_tools,
        on_call_tool=offered.call_tool,
    )


async def speak_on_stdio(server: Server) -> None:
    """Until stdin ends. fd 1 is stderr meanwhile: nothing but the protocol is written to stdout."""
    offered = offer(server)
    async with stdio_server() as (read, write):
        await offered.run(read, write, offered.create_initialization_options())


class _Offered:
    def __init__(self, server: Server):
        self._server = server
        silent: Mapping[Role, Any] = dict.fromkeys(
            ("router", "caller", "writer", "verifier"), _Silent()
        )
        self._calls: System = replace(server.system, engines=lambda wishes: silent)

    async def list_tools(
        self, context: Context, params: PaginatedRequestParams | None
    ) -> ListToolsResult:
        registry, tenant = self._server.registrar.registry, _caller(context).tenant
        after = (params.cursor if params else None) or ""
        page = registry.tools(tenant, after=after, limit=_PAGE)
        tools = [_written(entry.spec) for entry in page.entries if entry.spec.runner is not None]
        if not after:
            tools.insert(0, Tool(name=SYSTEM, description=_ABOUT, input_schema=_ASK))
        cursor = page.entries[-1].name if page.has_more else None
        return ListToolsResult(tools=tools, next_cursor=cursor)

    async def call_tool(self, context: Context, params: CallToolRequestParams) -> CallToolResult:
        arguments = params.arguments or {}
        try:
            run_id = _goes_on(params.meta or {})
            if params.name == SYSTEM:
                named = {"run_id": run_id} if run_id else {}
                return await self._ask(context, named | arguments)
            entry = self._server.registrar.registry.tool(_caller(context).tenant, params.name)
            if entry is None or entry.spec.runner is None:
                raise MCPError(INVALID_PARAMS, f"Unknown tool: {params.name[:100]}")
            return await self._call(context, params.name, arguments, run_id)
        except F1Error as error:
            return _result(error.message, is_error=True)

    # --- one tool --------------------------------------------------------------------------------

    async def _call(
        self, context: Context, name: str, arguments: Json, run_id: str
    ) -> CallToolResult:
        caller, server = _caller(context), self._server
        options = RunOptions(
            "direct",
            plan=Plan((Node("1", name, arguments),)),
            tools=(name,),
            budget=Budget(steps=2, calls=1),
            run_id=run_id,
        )
        # A run of that id is this one's if it was asked the same, arguments included. All of it is
        # JSON, in which secrets are found by the names of their fields.
        asked = json.dumps({"call": name, "arguments": arguments}, sort_keys=True)
        request = GenerateRequest((Message("user", asked),), run=options)
        orchestrator = Orchestrator(self._calls, tenant=caller.tenant)

        async def work() -> list[Progress]:
            async with aclosing(orchestrator.run(request)) as items:
                return [item async for item in items]

        deadline = Deadline(caller.record.began, server.limits.max_timeout)
        items = await server.do_aside(work, caller, deadline, queue=server.calling)
        return _called(items)

    # --- the whole system ------------------------------------------------------------------------

    async def _ask(self, context: Context, arguments: Json) -> CallToolResult:
        server, caller = self._server, _caller(context)
        request = parse_chat_request(_body(arguments), server.limits).generate
        deadline = Deadline(caller.record.began, server.limits.default_timeout)
        events = server.events(SYSTEM, [request], caller, deadline)
        collector, steps = Collector(), 0
        async with aclosing(events):
            async for event in events:
                collector.add(event)
                if isinstance(event, RunEvent) and (step := _told(event)):
                    steps += 1
                    await context.session.report_progress(steps, message=step)
        completion = collector.completion()
        run = completion.report.run
        if run is not None and run.approvals:
            return _waits(run.approvals, run.run_id)
        answer = completion.message.content
        told: Json = {"answer": answer} | ({"run": write_run(run)} if run else {})
        if calls := completion.message.tool_calls:
            names = ", ".join(call.name for call in calls)
            return _result(f"it calls tools that nobody here can run: {names}", is_error=True)
        run_id = run.run_id if run else ""
        return _result(answer, told, run_id, is_error=not answer.strip())


def _goes_on(meta: Mapping[str, Any]) -> str:
    """The run that the call names; "": none. Raises InvalidRequest."""
    run_id = meta.get(RUN_ID, "")
    if not isinstance(run_id, str) or len(run_id) > 80:
        raise InvalidRequest(f"'{RUN_ID}' is no id of a run", param=RUN_ID)
    return run_id


def _caller(context: Context) -> Caller:
    """Whoever the keys say; of stdio the one who has started this."""
    if (request := context.request) is None:
        return Caller()
    scope = request.scope
    return Caller(
        scope.get("f1.tenant", ""), scope.get("f1.request_id", ""), record=scope["f1.record"]
    )


_ABOUT = (
    "Answers a question, or does what it says, with the tools registered here: selects, plans, "
    "calls them, and looks at what came of it."
)


def _written(spec: ToolSpec) -> Tool:
    said = spec.annotations
    return Tool(
        name=spec.name,
        description=spec.tool.description,
        input_schema=dict(spec.tool.parameters),
        annotations=ToolAnnotations(
            read_only_hint=said.read_only,
            destructive_hint=said.destructive and not said.read_only,
            idempotent_hint=said.repeatable,
        ),
    )


def _body(arguments: Json) -> Json:
    """As chat completions take it, whose checks are all made."""
    for name in arguments:
        if name not in _ASK["properties"]:
            raise InvalidRequest(f"'{name[:100]}' is not known", param=name[:100])
    messages = arguments.get("messages", [{"role": "user", "content": arguments.get("question")}])
    own = {name: arguments[name] for name in _OF_A_RUN if name in arguments}
    return {"model": SYSTEM, "messages": messages, SYSTEM: own | {"progress": True}}


def _told(event: RunEvent) -> str:
    match event.item:
        case Started(call=call):
            return f"calls {call.name}"
        case ToolResult(call=call, failed=failed):
            return f"{call.name}: {failed or 'done'}"
    return ""


def _called(items: list[Progress]) -> CallToolResult:
    """What came of the one call of a run."""
    outcome = items[-1]
    run_id = _run_id(outcome)
    if isinstance(outcome, NeedsApproval):
        return _waits(outcome.approvals, run_id)
    results = [item for item in items if isinstance(item, ToolResult)]
    if not results and isinstance(outcome, Reply | GiveUp):
        results = list(report_of(outcome).results)
    if not results:
        return _result("it was not run", run_id=run_id, is_error=True)
    result = results[-1]
    value = result.value if isinstance(result.value, dict) and not result.cut else None
    return _result(result.content, value, run_id, is_error=result.failed is not None)


def _run_id(outcome: Progress) -> str:
    return report_of(outcome).run_id if isinstance(outcome, Outcome) else ""


def _waits(approvals: tuple[Approval, ...], run_id: str) -> CallToolResult:
    ids = ", ".join(approval.id for approval in approvals)
    told = (
        f"a person has to allow this first: approval {ids} of run {run_id}. Once it is decided, "
        f"the same call with '{RUN_ID}': '{run_id}' in _meta goes on"
    )
    written = [write_approval(each, run_id, now=time.time()) for each in approvals]
    return _result(told, {"approvals": written}, run_id, is_error=True)


def _result(
    text: str, value: Json | None = None, run_id: str = "", *, is_error: bool = False
) -> CallToolResult:
    said: Json = {"content": [TextContent(type="text", text=text)], "isError": is_error}
    if value is not None:
        said["structuredContent"] = value
    if run_id:
        said["_meta"] = {RUN_ID: run_id}
    return CallToolResult.model_validate(said)


class _Silent:
    """In place of all models where a run is one call: there is nothing to decode."""

    model_id = "none"

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        yield TextDelta(0, "It was called.")
        yield Finished(0, "stop", Usage(0, 0))
