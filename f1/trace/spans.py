"""A run as spans of OpenTelemetry's GenAI conventions: semantic conventions 1.44.0, as the package
opentelemetry-semantic-conventions 0.66b2 has them; all of `gen_ai.*` is "Development" there.

    invoke_agent f1 ─┬─ chat qwen2.5-coder-0.5b      a turn of a model
                     ├─ execute_tool weather         a call
                     └─ chat qwen2.5-coder-0.5b

Made from the rows that are kept, which are redacted. Ids are digests of the run's id and the number
of the entry: a run that is told twice, or by two processes, is the same spans.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from f1.store.runs import EntryRow, RunRow

Attribute = str | int | float | bool | list[str]
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_REQUESTED = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "seed": "gen_ai.request.seed",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
}
_USED = {
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "completion_tokens": "gen_ai.usage.output_tokens",
    "cached_tokens": "gen_ai.usage.cache_read.input_tokens",
    "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
}


@dataclass(frozen=True, slots=True)
class Parent:
    """Who asked: W3C's `traceparent`."""

    trace_id: int
    span_id: int
    sampled: bool


@dataclass(frozen=True, slots=True)
class Span:
    """Times are seconds since 1970. `parent_id` 0: none; `error`: why it failed."""

    name: str
    trace_id: int
    span_id: int
    parent_id: int
    kind: Literal["internal", "client"]
    start: float
    end: float
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    error: str | None = None


def read_traceparent(header: str) -> Parent | None:
    """None: it is none, and as good as not sent."""
    match = _PARENT.fullmatch(header.strip())
    if match is None or match[1] == "ff" or (match[1] == "00" and len(header.strip()) != 55):
        return None
    trace_id, span_id = int(match[2], 16), int(match[3], 16)
    if not trace_id or not span_id:
        return None
    return Parent(trace_id, span_id, bool(int(match[4], 16) & 1))


def spans(
    run: RunRow, rows: Sequence[EntryRow], *, parent: Parent | None = None, content: bool = False
) -> list[Span]:
    """The run's first, then those in it, in order. `content`: with what was said and done."""
    if not rows:
        return []
    made = _Made(run, parent, content)
    made.begin(rows[0].body)
    inner = [*made.turns(rows), *made.calls(rows)]
    return [made.whole(rows, inner), *sorted(inner, key=lambda span: span.start)]


@dataclass(slots=True)
class _Made:
    run: RunRow
    parent: Parent | None
    content: bool
    models: Mapping[str, str] = field(default_factory=dict)  # by role
    request: Mapping[str, Any] = field(default_factory=dict)

    def begin(self, began: Mapping[str, Any]) -> None:
        self.models = began.get("models", {})
        self.request = began.get("request", {})

    # --- the run ---------------------------------------------------------------------------------

    def whole(self, rows: Sequence[EntryRow], inner: Sequence[Span]) -> Span:
        began, last = rows[0].body, rows[-1]
        found: dict[str, Any] = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.provider.name": "f1",
            "gen_ai.agent.name": "f1",
            "gen_ai.agent.version": began.get("version", ""),
            "gen_ai.conversation.id": self.run.session_id,
            "gen_ai.request.model": self.models.get("caller", ""),
            "f1.run.id": self.run.id,
            "f1.run.forked_from": began.get("forked_from", ""),
        }
        error = None
        if last.kind == "Ended":
            ending = last.body.get("ending", "")
            found |= {"f1.run.ending": ending} | _used(last.body.get("usage", {}))
            if ending == "failed":
                error = last.body.get("error") or "failed"
                found["error.type"] = error.partition(":")[0][:100] if self.content else "failed"
        if self.content:
            found |= _said(self.request)
            if last.kind == "Ended" and last.body.get("text"):
                parts = [{"type": "text", "content": last.body["text"]}]
                found["gen_ai.output.messages"] = _json([{"role": "assistant", "parts": parts}])
        start = min([rows[0].at, *(span.start for span in inner)])
        end = max([last.at, *(span.end for span in inner)])
        told = error if self.content or error is None else "failed"
        above = self.parent.span_id if self.parent else 0
        return self._span("invoke_agent f1", 0, above, "internal", start, end, found, told)

    # --- what is in it ---------------------------------------------------------------------------

    def turns(self, rows: Iterable[EntryRow]) -> Iterator[Span]:
        """Of a turn that is written more than once the last counts."""
        last = {row.body.get("number", row.seq): row for row in rows if row.kind == "Turned"}
        for row in last.values():
            turn = row.body
            model = self.models.get(turn.get("role", ""), "")
            sampling = turn.get("asked", {}).get("sampling", {})
            asked = {**self.request.get("sampling", {}), **sampling}
            ends = [event for event in turn.get("events", ()) if event.get("is") == "Finished"]
            found: dict[str, Any] = {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": "f1",
                "gen_ai.conversation.id": self.run.session_id,
                "gen_ai.request.model": model,
                "gen_ai.response.model": next(
                    (m for end in ends if (m := end.get("report", {}).get("model"))), model
                ),
                "gen_ai.response.finish_reasons": [end["reason"] for end in ends],
                "gen_ai.output.type": _output_type(turn.get("asked", {})),
                "f1.role": turn.get("role", ""),
                "f1.step": turn.get("step", 0),
            }
            found |= {name: asked[key] for key, name in _REQUESTED.items() if key in asked}
            if (count := turn.get("asked", {}).get("n", 1)) != 1:
                found["gen_ai.request.choice.count"] = count
            if turn.get("first") is not None:
                found["gen_ai.response.time_to_first_chunk"] = turn["first"]
            found |= _used(turn.get("usage", {}))
            if self.content:
                found["gen_ai.output.messages"] = _json(list(_messages(turn.get("events", ()))))
            start = row.at - turn.get("seconds", 0.0)
            error = None if turn.get("whole", True) else "interrupted"
            if error:
                found["error.type"] = error
            name = f"chat {model}".strip()
            yield self._span(name, row.seq + 1, None, "client", start, row.at, found, error)

    def calls(self, rows: Iterable[EntryRow]) -> Iterator[Span]:
        """Of those that were run here, and of those that no result is known of."""
        launched: dict[str, EntryRow] = {}
        for row in rows:
            if row.kind == "Launched":
                launched[row.body["node_id"]] = row
            elif row.kind == "Done":
                result = row.body["result"]
                begun = launched.pop(result.get("node_id", ""), None)
                if begun is not None or result.get("tries", 1):
                    start = begun.at if begun else row.at - result.get("seconds", 0.0)
                    yield self._call(row, result["call"], start, result)
        for row in launched.values():
            yield self._call(row, row.body["call"], row.at, {"failed": "unknown"})

    def _call(
        self, row: EntryRow, call: Mapping[str, Any], start: float, result: Mapping[str, Any]
    ) -> Span:
        found: dict[str, Any] = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": call["name"],
            "gen_ai.tool.call.id": call["id"],
            "gen_ai.tool.type": "function",
            "f1.tool.tries": result.get("tries", 1),
        }
        failed = result.get("failed")
        if failed:
            found["error.type"] = failed
        if self.content:
            found["gen_ai.tool.call.arguments"] = call["arguments"]
            if "content" in result:
                found["gen_ai.tool.call.result"] = result["content"]
        name = f"execute_tool {call['name']}"
        return self._span(name, row.seq + 1, None, "internal", start, row.at, found, failed)

    def _span(
        self,
        name: str,
        number: int,
        parent: int | None,
        kind: Literal["internal", "client"],
        start: float,
        end: float,
        attributes: Mapping[str, Any],
        error: str | None,
    ) -> Span:
        """`number`: 0 of the run, which is the `parent` unless one is told."""
        trace_id = self.parent.trace_id if self.parent else self._id("trace", 16)
        given = {n: v for n, v in attributes.items() if v not in (None, "", [])}
        above = self._id("0", 8) if parent is None else parent
        at = self._id(str(number), 8)
        return Span(name, trace_id, at, above, kind, start, max(start, end), given, error)

    def _id(self, what: str, size: int) -> int:
        text = json.dumps([self.run.tenant, self.run.id, what])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:size]) or 1


def _used(usage: Mapping[str, int]) -> dict[str, int]:
    return {name: usage[key] for key, name in _USED.items() if key in usage}


def _output_type(asked: Mapping[str, Any]) -> str:
    kind = asked.get("response_format", {}).get("kind", "text")
    return "json" if kind.startswith("json") else "text"


def _said(request: Mapping[str, Any]) -> dict[str, str]:
    """The conversation as the run was asked with it."""
    messages = [_message(message) for message in request.get("messages", ())]
    system = [part for m in messages if m["role"] == "system" for part in m["parts"]]
    found = {"gen_ai.input.messages": _json([m for m in messages if m["role"] != "system"])}
    return found | ({"gen_ai.system_instructions": _json(system)} if system else {})


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    parts: list[dict[str, Any]] = []
    if message.get("reasoning"):
        parts.append({"type": "reasoning", "content": message["reasoning"]})
    if message["role"] == "tool":
        response = {"id": message.get("tool_call_id"), "response": message.get("content", "")}
        parts.append({"type": "tool_call_response", **response})
    elif message.get("content"):
        parts.append({"type": "text", "content": message["content"]})
    parts += map(_called, message.get("tool_calls", ()))
    return {"role": message["role"], "parts": parts}


def _called(call: Mapping[str, Any]) -> dict[str, Any]:
    return {k: call[k] for k in ("id", "name", "arguments")} | {"type": "tool_call"}


def _messages(events: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """What a turn said: a message for each of its choices."""
    choices: dict[int, dict[str, Any]] = {}
    for event in events:
        said = choices.setdefault(event.get("choice", 0), {"calls": [], "reason": "stop"})
        match event.get("is"):
            case "TextDelta" | "ReasoningDelta" as kind:
                said[kind] = said.get(kind, "") + event.get("text", "")
            case "CallDelta":
                said["calls"].append(_called(event["call"]))
            case "Finished":
                said["reason"] = event["reason"]
    for said in choices.values():
        kinds = (("ReasoningDelta", "reasoning"), ("TextDelta", "text"))
        texts = [{"type": kind, "content": said[n]} for n, kind in kinds if said.get(n)]
        parts = [*texts, *said["calls"]]
        yield {"role": "assistant", "parts": parts, "finish_reason": said["reason"]}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
