"""The Python client: the engine in this process, or a server's, behind the same calls.

    f1 = F1()                                    # embeds the engine
    f1 = F1(base_url="http://127.0.0.1:8000")    # talks to `f1 serve`

    f1.chat("Weather in Rome?", tools=[weather]).calls     # what the model wants called
    f1.run("Weather in Rome?", tools=[weather]).text       # calls run, question answered

`achat`, `astream`, `arun` and `awatch` are the same for asyncio.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from f1.config import Config
from f1.errors import InvalidRequest
from f1.planning.collect import gather
from f1.planning.compaction import Measuring
from f1.planning.orchestrator import Orchestrator, System
from f1.planning.outcome import (
    CallTools,
    GiveUp,
    NeedsApproval,
    Outcome,
    Planned,
    Progress,
    Reply,
    report_of,
)
from f1.planning.run import Engine
from f1.pool import LocalEngine
from f1.portal import Portal
from f1.registering import LocalTools, ready_in, told_to
from f1.serve.limits import Limits
from f1.serve.wire import bodies
from f1.serve.wire.fields import Fields, refuse
from f1.serve.wire.messages import write_message
from f1.serve.wire.request import parse_chat_request, parse_tool, write_tool
from f1.supervised import Approve, supervised
from f1.tools.function import make_tool
from f1.tools.policy import AllowAll, Policy
from f1.tools.spec import ToolSpec
from f1.trace.recorder import Recorder
from f1.types import (
    Approval,
    Completion,
    Event,
    FinishReason,
    GenerateRequest,
    Message,
    RunReport,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolResult,
    Usage,
)

if TYPE_CHECKING:
    from pydantic import BaseModel

    from f1.settings import Settings

Messages = str | Sequence[Message | Mapping[str, Any]]
AnyTool = Callable[..., Any] | ToolSpec | Tool | Mapping[str, Any]


class Options(TypedDict, total=False):
    """What a call may set, named and bounded as on the wire. `tool_choice` also takes a tool's
    plain name; `response_format` a pydantic model."""

    tool_choice: str | Mapping[str, Any]
    parallel_tool_calls: bool
    response_format: type[BaseModel] | Mapping[str, Any]
    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int
    stop: str | Sequence[str]
    logit_bias: Mapping[str, float]
    logprobs: bool
    top_logprobs: int
    f1: Mapping[str, Any]  # "strategy", "plan", "budget", … (f1.types.RunOptions) and the like


@dataclass(frozen=True, slots=True)
class ChatResult:
    """One assistant turn. `parsed` is set where `response_format` was a pydantic model and the
    turn came to its end."""

    completion: Completion
    parsed: Any = None

    @property
    def message(self) -> Message:
        """To be appended to the conversation."""
        return self.completion.message

    @property
    def text(self) -> str:
        return self.completion.message.content

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        return self.completion.message.tool_calls

    @property
    def reason(self) -> FinishReason:
        return self.completion.reason

    @property
    def approvals(self) -> tuple[Approval, ...]:
        """Calls of a server's run that wait for a person: `chat([], f1={"run_id": …, "verdicts":
        {id: {"approve": True}}})` goes on with it."""
        run = self.completion.report.run
        return run.approvals if run is not None else ()

    @property
    def run_id(self) -> str:
        """Of a server's run."""
        run = self.completion.report.run
        return run.run_id if run is not None else ""

    @property
    def usage(self) -> Usage:
        return self.completion.usage

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...]:
        return self.completion.logprobs


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended, and the calls that were run for it, in the order of its plan."""

    outcome: Outcome
    results: tuple[ToolResult, ...]
    parsed: Any = None

    @property
    def text(self) -> str:
        """The answer; "" where there is none."""
        return self.outcome.completion.message.content if isinstance(self.outcome, Reply) else ""

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """Calls left for you to run: those to tools given as dicts."""
        return self.outcome.calls if isinstance(self.outcome, CallTools) else ()

    @property
    def approvals(self) -> tuple[Approval, ...]:
        """Calls that wait for a person."""
        return self.outcome.approvals if isinstance(self.outcome, NeedsApproval) else ()

    @property
    def run_id(self) -> str:
        """Under which it is written down."""
        return self.report.run_id

    @property
    def usage(self) -> Usage:
        return self.outcome.completion.usage

    @property
    def report(self) -> RunReport:
        """What was done: the plan, the results, the strategy, the ending."""
        return report_of(self.outcome)


class F1:
    """Thread-safe. Close it, or use it in a `with` statement, to free the engine.

    Without `base_url` the model (a catalogue name, a path or a hub id) is fetched if need be and
    loaded here. A server's key is `api_key`, or F1_API_KEY. All calls raise F1Error.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        settings: Settings | None = None,
        policy: Policy | None = None,
    ):
        """`policy`: what runs of this client may do without a person (f1.tools.policy.Rules). A
        server's own rules are the server's."""
        self._closed = False
        self._portal = Portal()
        self._engine: Engine
        try:
            if base_url is None:
                engine, self._close = _embed(model, settings)
                self._engine, publish = engine, ready_in(engine)
            else:
                api_key = api_key or os.environ.get("F1_API_KEY")
                self._engine, self._close = _connect(self._portal, base_url, model, api_key)
                publish = told_to(base_url, api_key)
            self._registered = LocalTools(publish)
            self._embedded = base_url is None
            named = self._registered.named
            self._recorder = None if base_url else _recorder(model, settings)
            self._system = replace(
                System.of(self._engine),
                registered=named,
                recorder=self._recorder,
                policy=policy or AllowAll(),
            )
        except BaseException:
            self._portal.close()
            raise

    def close(self) -> None:
        """Ends what still runs. Closing twice does no harm."""
        if self._closed:
            return
        self._closed = True
        if self._recorder is not None:
            self._portal.run(self._recorder.close())
        self._close()
        self._portal.close()

    def __enter__(self) -> F1:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- registered tools ------------------------------------------------------------------------

    def register(self, tools: Sequence[AnyTool], toolset: str | None = None) -> tuple[str, ...]:
        """Keeps tools for requests to name: `f1={"tools": ["search"]}`, or all of a toolset,
        `f1={"toolsets": ["travel"]}`, of which another one is a new version (`"travel@2"`). The
        first request with them is then as fast as any. Functions run in this process; a server
        keeps what it has to know of them. Returns the names that requests may use."""
        specs = [_spec(tool) for tool in tools]
        return self._portal.run(self._registered.register(specs, toolset))

    def tools(self) -> tuple[Tool, ...]:
        """Those that this client has registered by themselves."""
        return self._registered.tools()

    def _system_of(self, engine: Engine) -> System:
        """One for another event loop: what calls wait for belongs to one. What was found of tools
        is for all."""
        ours = self._system
        return replace(
            System.of(engine),
            registered=ours.registered,
            selector=ours.selector,
            recorder=ours.recorder,
            policy=ours.policy,
        )

    def _turn(
        self, messages: Messages, tools: Sequence[AnyTool], options: Options
    ) -> GenerateRequest:
        """A server looks up itself what is named."""
        request = _request(messages, tools, options)
        return self._registered.shown(request) if self._embedded else request

    # --- one turn ------------------------------------------------------------------------------

    def chat(
        self, messages: Messages, tools: Sequence[AnyTool] = (), **options: Unpack[Options]
    ) -> ChatResult:
        """One assistant turn. Calls are returned, not run."""
        request = self._turn(messages, tools, options)
        (completion,) = self._portal.run(_complete(self._engine, request))
        return ChatResult(completion, _parsed(completion, options))

    async def achat(
        self, messages: Messages, tools: Sequence[AnyTool] = (), **options: Unpack[Options]
    ) -> ChatResult:
        request = self._turn(messages, tools, options)
        (completion,) = await _complete(_Bridge(self._portal, self._engine), request)
        return ChatResult(completion, _parsed(completion, options))

    def stream(
        self, messages: Messages, tools: Sequence[AnyTool] = (), **options: Unpack[Options]
    ) -> Generator[Event]:
        """The turn as it is decoded: TextDelta, CallDelta, and Finished at the end. Closing the
        generator stops the work."""
        request = self._turn(messages, tools, options)
        return self._portal.iterate(lambda: self._engine.generate(request))

    def astream(
        self, messages: Messages, tools: Sequence[AnyTool] = (), **options: Unpack[Options]
    ) -> AsyncGenerator[Event]:
        request = self._turn(messages, tools, options)
        return self._portal.aiterate(lambda: self._engine.generate(request))

    # --- a whole run -----------------------------------------------------------------------------

    def run(
        self,
        messages: Messages,
        tools: Sequence[AnyTool] = (),
        *,
        max_steps: int | None = None,
        approve: Approve | None = None,
        **options: Unpack[Options],
    ) -> RunResult:
        """Decodes, runs the calls to your functions (those of one step side by side), and goes on
        until there is an answer, a call to a tool given as a dict, or no step left. `approve` is
        asked about each call that the policy does not simply allow, and says yes, no, or a Verdict;
        without, the run waits, and goes on when it is asked for by its `run_id`."""
        watching = self.watch(messages, tools, max_steps=max_steps, approve=approve, **options)
        with closing(watching) as progress:
            return _run_result(list(progress), options)

    async def arun(
        self,
        messages: Messages,
        tools: Sequence[AnyTool] = (),
        *,
        max_steps: int | None = None,
        approve: Approve | None = None,
        **options: Unpack[Options],
    ) -> RunResult:
        """The same; coroutine functions among the tools run on the caller's loop."""
        watching = self.awatch(messages, tools, max_steps=max_steps, approve=approve, **options)
        async with aclosing(watching) as items:
            return _run_result([item async for item in items], options)

    def watch(
        self,
        messages: Messages,
        tools: Sequence[AnyTool] = (),
        *,
        max_steps: int | None = None,
        approve: Approve | None = None,
        **options: Unpack[Options],
    ) -> Generator[Progress]:
        """A run as it happens: each Node as it is planned, Started, ToolResult, TextDelta, Note;
        the outcome at the end."""
        request = _in_steps(_request(messages, tools, options), max_steps)
        orchestrator = Orchestrator(self._system, _own(tools))
        return self._portal.iterate(lambda: supervised(orchestrator, request, approve))

    def awatch(
        self,
        messages: Messages,
        tools: Sequence[AnyTool] = (),
        *,
        max_steps: int | None = None,
        approve: Approve | None = None,
        **options: Unpack[Options],
    ) -> AsyncGenerator[Progress]:
        request = _in_steps(_request(messages, tools, options), max_steps)
        system = self._system_of(_Bridge(self._portal, self._engine))
        return supervised(Orchestrator(system, _own(tools)), request, approve)


class _Bridge:
    """The engine on the portal's loop, for the caller's: an HTTP connection belongs to one."""

    def __init__(self, portal: Portal, engine: Engine):
        self.portal = portal
        self.engine = engine

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        return self.portal.aiterate(lambda: self.engine.generate(request))

    @property
    def context_length(self) -> int | None:
        """None: it is not known."""
        return self.engine.context_length if isinstance(self.engine, Measuring) else None

    async def tokenize(self, request: GenerateRequest) -> list[int]:
        """Of an engine whose `context_length` is known."""
        if not isinstance(self.engine, Measuring):
            raise TypeError("this engine does not tell its tokens")
        return await asyncio.to_thread(self.portal.run, _tokens(self.engine, request))


async def _tokens(engine: Measuring, request: GenerateRequest) -> list[int]:
    return await engine.tokenize(request)


def _embed(model: str | None, settings: Settings | None) -> tuple[LocalEngine, Callable[[], None]]:
    # Imported here: it takes seconds, and a client of a server does not need it.
    from f1.engine import AsyncEngine
    from f1.models.catalogue import DEFAULT_MODEL
    from f1.settings import Settings

    engine = AsyncEngine.start(model or DEFAULT_MODEL, settings or Settings.from_env())
    return engine, engine.close


def _recorder(model: str | None, settings: Settings | None) -> Recorder | None:
    from f1.keeping import open_recorder
    from f1.models.catalogue import DEFAULT_MODEL
    from f1.settings import Settings

    config = Config.of(model or DEFAULT_MODEL)
    return open_recorder(config, settings or Settings.from_env(), os.environ)


def _connect(
    portal: Portal, base_url: str, model: str | None, api_key: str | None
) -> tuple[Engine, Callable[[], None]]:
    from f1.remote import RemoteEngine

    engine = RemoteEngine(base_url, model or "f1", api_key)
    return engine, lambda: portal.run(engine.aclose())


async def _complete(engine: Engine, request: GenerateRequest) -> list[Completion]:
    async with aclosing(engine.generate(request)) as events:
        return await gather(events, request.n)


def _request(messages: Messages, tools: Sequence[AnyTool], options: Options) -> GenerateRequest:
    """The request, through the wire's own checks: what a server refuses is refused here too."""
    for name in options.keys() - Options.__annotations__.keys():
        raise refuse(name, "is not an option here", code="unknown_field")
    body: dict[str, Any] = {
        **options,
        "model": "f1",
        "messages": _messages(messages),
        "tools": [write_tool(_described(tool)) for tool in tools],
    }
    choice = options.get("tool_choice")
    if isinstance(choice, str) and choice not in ("auto", "none", "required"):
        body["tool_choice"] = {"type": "function", "function": {"name": choice}}
    if (model := _response_model(options)) is not None:
        schema = {"name": model.__name__, "schema": model.model_json_schema()}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return parse_chat_request(body, Limits()).generate


def _in_steps(request: GenerateRequest, max_steps: int | None) -> GenerateRequest:
    if max_steps is None:
        return request
    if max_steps < 1:
        raise InvalidRequest("max_steps must be at least 1", param="max_steps")
    budget = replace(request.run.budget, steps=max_steps)
    return replace(request, run=replace(request.run, budget=budget))


def _messages(messages: Messages) -> list[Any]:
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    return [write_message(m) if isinstance(m, Message) else m for m in messages]


def _described(tool: AnyTool) -> Tool:
    if isinstance(tool, Tool):
        return tool
    if isinstance(tool, Mapping):
        bodies.tool(Limits()).check(tool, "tools")
        return parse_tool(Fields(tool, "tools"))
    return tool.tool if isinstance(tool, ToolSpec) else make_tool(tool).tool


def _spec(tool: AnyTool) -> ToolSpec:
    if isinstance(tool, ToolSpec):
        return tool
    if isinstance(tool, Tool | Mapping):
        return ToolSpec(_described(tool))
    return make_tool(tool).spec


def _own(tools: Sequence[AnyTool]) -> list[ToolSpec]:
    """Those that are run for the caller: functions, and tools that come with what runs them."""
    specs = [_spec(tool) for tool in tools if not isinstance(tool, Tool | Mapping)]
    names = [spec.name for spec in specs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidRequest(f"tool '{twice}' is given twice", param="tools")
    return specs


def _response_model(options: Options) -> type[BaseModel] | None:
    given = options.get("response_format")
    return given if isinstance(given, type) else None


def _parsed(completion: Completion, options: Options) -> Any:
    model = _response_model(options)
    if model is None or completion.reason != "stop":
        return None
    return model.model_validate_json(completion.message.content)


def _run_result(items: Sequence[Progress], options: Options) -> RunResult:
    outcome = items[-1]
    if not isinstance(outcome, Reply | CallTools | NeedsApproval | Planned | GiveUp):
        raise TypeError(f"a run ended with {type(outcome).__name__}")
    results = report_of(outcome).results
    parsed = _parsed(outcome.completion, options) if isinstance(outcome, Reply) else None
    return RunResult(outcome, results, parsed)
