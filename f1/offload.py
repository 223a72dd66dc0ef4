"""Models of f1.toml that are on other servers: of any make, and not believed.

    request ──▶ what every server takes ──▶ server ──▶ events, each call held to its tool's schema
                                              ▲                  │ it does not fit
                                              └── told so, once ─┘

What such a server answers an error with may name its keys, hosts and paths: the log has it, and a
client is told which model it was.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, cast

import orjson

from f1.calling.again import Broken
from f1.calling.request import check_request
from f1.calling.schema import held_to, validate_arguments, validate_content
from f1.config import RemoteModel
from f1.errors import (
    ConstraintError,
    ContextLengthExceeded,
    EngineStopped,
    F1Error,
    InvalidRequest,
    InvalidSchema,
    Overloaded,
)
from f1.remote import RemoteEngine
from f1.types import (
    ArgumentsDelta,
    CallBegun,
    CallDelta,
    Event,
    Finished,
    FinishReason,
    GenerateRequest,
    JsonSchema,
    ReasoningDelta,
    TextDelta,
    Tool,
    ToolCall,
)

log = logging.getLogger("f1.offload")

# Said only where they are not what every server takes for granted.
_GRANTED = {"n": 1, "tool_choice": "auto", "parallel_tool_calls": True, "seed": 0}


def connect(name: str, model: RemoteModel, env: Mapping[str, str] = os.environ) -> Offloaded:
    """Raises InvalidRequest where its key is not in the environment."""
    return Offloaded(name, model, key_of(name, model, env))


def key_of(name: str, model: RemoteModel, env: Mapping[str, str]) -> str | None:
    """Raises InvalidRequest where it is to have one and has none."""
    if model.api_key_env is None:
        return None
    if key := env.get(model.api_key_env):
        return key
    told = f"models.{name}.api_key_env: {model.api_key_env} is not set"
    raise InvalidRequest(told, param=f"models.{name}.api_key_env")


class Offloaded(RemoteEngine):
    """`name` is what the model is called here. For one event loop."""

    def __init__(self, name: str, model: RemoteModel, api_key: str | None = None):
        super().__init__(model.base_url, model.model, api_key, timeout=model.timeout)
        self._name = name
        self._model = model

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        """Raises InvalidRequest, ConstraintError; EngineStopped and Overloaded where another
        server may do better."""
        check_request(request)
        checked = _Checked(request)
        try:
            async for event in self._ask(request, checked):
                yield event
            return
        except _Unfit as unfit:
            if request.n > 1:
                raise unfit.broken.error() from None
            broken = unfit.broken
        checked.asked_again = 1
        again = replace(request, messages=(*request.messages, *broken.messages()))
        try:
            async for event in self._ask(again, checked):
                yield event
        except _Unfit as unfit:
            raise unfit.broken.error() from None

    async def _ask(self, request: GenerateRequest, checked: _Checked) -> AsyncGenerator[Event]:
        # Pieces of a call are passed on when all of it is known to be valid.
        request = replace(request, eager_arguments=False)
        try:
            async with aclosing(super().generate(request)) as events:
                async for event in events:
                    for passed in checked.read(event):
                        yield passed
        except (InvalidRequest, ConstraintError, Overloaded):
            raise
        except F1Error as error:
            log.warning("%s: %s", self._name, error)
            told = f"the server of '{self._name}' does not answer; the log has more"
            raise EngineStopped(told) from error

    def _body(self, request: GenerateRequest) -> dict[str, Any]:
        body = super()._body(request)
        if self._model.dialect == "openai":
            body = _plain(body, request)
        body |= self._model.body
        return {field: value for field, value in body.items() if field not in self._model.omit}

    def _error(self, status: int, body: bytes) -> F1Error:
        error = super()._error(status, body)
        if isinstance(error, ContextLengthExceeded | InvalidSchema):
            return error  # the request's own fault, in the server's words
        if isinstance(error, InvalidRequest):
            log.warning("%s: it answered %d: %s", self._name, status, error)
            told = f"the server of '{self._name}' does not take this request; the log has more"
            return InvalidRequest(told)
        if isinstance(error, Overloaded):
            log.warning("%s: %s", self._name, error)
            return Overloaded(f"the server of '{self._name}' takes no more now; try again later")
        return EngineStopped(f"it answered {status}: {error}")


def _plain(body: dict[str, Any], request: GenerateRequest) -> dict[str, Any]:
    """The body without what only F1 knows. `max_tokens` is what most servers take."""
    if request.response_format.kind in ("regex", "ebnf"):
        told = "is held to by models of this machine only"
        raise InvalidRequest(f"'response_format' {told}", param="response_format")
    if "max_completion_tokens" in body:
        body["max_tokens"] = body.pop("max_completion_tokens")
    body["messages"] = [
        {field: value for field, value in message.items() if field != "reasoning_content"}
        for message in body["messages"]
    ]
    return {f: v for f, v in body.items() if f != "f1" and _GRANTED.get(f) != v}


class _Unfit(Exception):
    """The server wrote what its schema does not allow."""

    def __init__(self, broken: Broken):
        super().__init__(broken.wrong)
        self.broken = broken


@dataclass(slots=True)
class _Choice:
    """What was passed on of it."""

    text: str = ""
    thought: str = ""
    calls: list[ToolCall] = field(default_factory=list)


class _Checked:
    """Reads what a server sends, as far as it is what was asked for."""

    def __init__(self, request: GenerateRequest):
        self.asked_again = 0
        self._request = request
        none = request.tool_choice.mode == "none"
        self._tools = {} if none else {tool.name: held_to(tool) for tool in request.tools}
        self._choices = [_Choice() for _ in range(request.n)]

    def read(self, event: Event) -> Iterator[Event]:
        """Raises _Unfit, ConstraintError."""
        if not 0 <= event.choice < len(self._choices):
            raise EngineStopped(f"it sent a choice {event.choice} that nobody asked for")
        choice = self._choices[event.choice]
        match event:
            case CallDelta():
                yield from self._read_call(event.choice, choice, event.call)
            case Finished():
                yield self._read_end(choice, event)
            case TextDelta(text=text):
                choice.text += text
                yield event
            case ReasoningDelta(text=text):
                choice.thought += text
                yield event

    def _read_call(self, number: int, choice: _Choice, call: ToolCall) -> Iterator[Event]:
        if choice.calls and not self._request.parallel_tool_calls:
            return  # the model asks again for what it still wants when it has seen the first
        if (wrong := self._wrong(call)) is not None:
            tool = self._tools.get(call.name, Tool(call.name))
            written = call.arguments if _is_object(call.arguments) else "{}"
            calls = tuple(choice.calls)
            raise _Unfit(Broken(tool, written, wrong, choice.text, choice.thought, calls))
        if not call.id or call.id in (made.id for made in choice.calls):
            call = replace(call, id=f"call_{secrets.token_hex(12)}")
        index = len(choice.calls)
        choice.calls.append(call)
        if self._request.eager_arguments:
            yield CallBegun(number, index, call.id, call.name)
            yield ArgumentsDelta(number, index, call.arguments)
        yield CallDelta(number, index, call)

    def _wrong(self, call: ToolCall) -> str | None:
        named = self._request.tool_choice.name
        if call.name not in self._tools or named not in (None, call.name):
            told = [named] if named in self._tools else list(self._tools)
            return f"there is no tool {call.name!r}; there is {', '.join(map(str, told))}"
        return validate_arguments(self._tools[call.name], call.arguments)

    def _read_end(self, choice: _Choice, end: Finished) -> Finished:
        mode, format = self._request.tool_choice.mode, self._request.response_format
        reason: FinishReason = "tool_calls" if choice.calls else "stop"
        if end.reason == "length":
            reason = "length"
        elif mode in ("required", "named") and not choice.calls:
            raise ConstraintError("the model made no call, and one is required")
        elif format.kind in ("json_schema", "json_object") and not choice.calls:
            schema = format.value if format.kind == "json_schema" else {"type": "object"}
            wrong = validate_content(cast("JsonSchema", schema), choice.text)
            if wrong is not None:
                raise Broken(None, choice.text, wrong).error()
        report = replace(end.report, asked_again=self.asked_again + end.report.asked_again)
        return replace(end, reason=reason, report=report)


def _is_object(text: str) -> bool:
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return False
