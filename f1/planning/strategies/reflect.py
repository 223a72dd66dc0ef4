"""Before a call that may change something the model looks at it once more.

Errors in calls that change the world decide how a task ends, others hardly do (SABER, 2025,
arXiv 2512.07850), so only tools that are not read-only are held up: the verifier says what it
thinks of the call and yes or no. After a no the model is told why and tries once more; what it
then wants is done. Nothing loops.

    decode ──▶ call ──read-only──▶ run
                 │                  ▲
                 └──▶ verifier ──yes┤
                         └─no─▶ decode once more, told why
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from f1.planning.collect import Collector
from f1.planning.content import write_failure
from f1.planning.run import Run
from f1.planning.strategies.react import React
from f1.types import (
    CallDelta,
    Event,
    Finished,
    GenerateRequest,
    Message,
    Note,
    ResponseFormat,
    StrategyName,
    ToolCall,
    ToolChoice,
)

_MAX_TOKENS = 96
_MAX_CHARS = 1500  # of one message that the verifier is shown
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "reason": {"type": "string", "maxLength": 160},
        "verdict": {"enum": ["yes", "no"]},
    },
    "required": ["reason", "verdict"],
    "additionalProperties": False,
}
_QUESTION = """\
Check a call before it is made; it cannot be taken back. Conversation:

{conversation}

Call to check: {call}
What the tool does: {description}

Did the user ask for this, and was every value in the call said by the user or by a tool above, not
made up? Give a short reason, then the verdict: "yes" to make the call, "no" not to make it."""


class Reflect(React):
    name: StrategyName = "reflect"

    async def turn(self, run: Run, request: GenerateRequest) -> AsyncGenerator[Event | Note]:
        collector, refused = Collector(), dict[str, str]()
        held: list[CallDelta] = []
        async with aclosing(run.decode(request)) as events:
            async for event in events:
                collector.add(event)
                if isinstance(event, CallDelta) and changes_something(run, event.call):
                    held.append(event)
                elif not isinstance(event, Finished):
                    yield event
        # Asked once the turn is over: there may be room for one model at a time.
        for event in held:
            if (reason := await objection(run, event.call)) is None:
                yield event
                continue
            yield Note(f"{event.call.name} was not called at first: {reason}")
            refused[event.call.id] = reason
        if not refused and collector.end is not None:
            yield collector.end
        if refused:
            async with aclosing(run.decode(_once_more(request, collector, refused))) as events:
                async for event in events:
                    yield event


def changes_something(run: Run, call: ToolCall) -> bool:
    """Whether the call is ours to run, and may change anything."""
    spec = run.tools.get(call.name)
    return spec is not None and spec.runner is not None and not spec.annotations.read_only


async def objection(run: Run, call: ToolCall) -> str | None:
    """What the verifier has against the call; None: nothing."""
    asked = GenerateRequest(
        (Message("user", _question(run, call)),),
        response_format=ResponseFormat("json_schema", _SCHEMA),
        tool_choice=ToolChoice("none"),
        max_tokens=_MAX_TOKENS,
    )
    (completion,) = await run.complete(asked, "verifier")
    try:
        judged = json.loads(completion.message.content)
    except json.JSONDecodeError:  # cut by max_tokens: no verdict, so no objection
        return None
    if not isinstance(judged, dict) or judged.get("verdict") != "no":
        return None
    return str(judged.get("reason", "")).strip() or "the verifier says no"


def _question(run: Run, call: ToolCall) -> str:
    said = [
        f"{message.role}: {message.content[:_MAX_CHARS]}"
        for message in run.request.messages
        if message.content.strip() and message.role != "system"
    ]
    return _QUESTION.format(
        conversation="\n".join(said),
        call=f"{call.name} {call.arguments}",
        description=run.tools[call.name].tool.description,
    )


def _once_more(
    request: GenerateRequest, collector: Collector, refused: dict[str, str]
) -> GenerateRequest:
    """The same turn, behind the calls that were refused and why."""
    calls = tuple(call for call in collector.calls if call.id in refused)
    tried = Message("assistant", tool_calls=calls)
    why = (
        Message("tool", write_failure(f"not called: {reason}"), tool_call_id=id_)
        for id_, reason in refused.items()
    )
    return replace(request, messages=(*request.messages, tried, *why))
