"""What is answered, as JSON Schemas for the OpenAPI document. Further fields may come with time."""

from __future__ import annotations

from typing import Any

from f1.serve.wire.approvals import STANDINGS

Json = dict[str, Any]

STRING: Json = {"type": "string"}
TEXT_OR_NULL: Json = {"type": ["string", "null"]}
COUNTED: Json = {"type": "integer", "minimum": 0}


def record(**fields: Json) -> Json:
    """An object that has all of these."""
    return {"type": "object", "properties": fields, "required": list(fields)}


def items(of: Json) -> Json:
    return {"type": "array", "items": of}


def word(*options: str | None) -> Json:
    return {"enum": list(options)}


def known(kind: str, **fields: Json) -> Json:
    return record(type=word(kind), **fields)


ERROR = record(
    error=record(message=STRING, type=STRING, param=TEXT_OR_NULL, code=TEXT_OR_NULL),
)
ANTHROPIC_ERROR = known("error", error=record(type=STRING, message=STRING), request_id=STRING)

_CALL = known("function", id=STRING, function=record(name=STRING, arguments=STRING))
_MESSAGE = record(role=word("assistant"), content=TEXT_OR_NULL, refusal={"type": "null"})
_MESSAGE["properties"] |= {"tool_calls": items(_CALL), "reasoning_content": STRING}
_LOGPROB = record(token=STRING, logprob={"type": "number"}, bytes=items(COUNTED))
_USAGE = record(prompt_tokens=COUNTED, completion_tokens=COUNTED, total_tokens=COUNTED)
CHAT = record(
    id=STRING,
    object=word("chat.completion"),
    created=COUNTED,
    model=STRING,
    choices=items(
        record(
            index=COUNTED,
            message=_MESSAGE,
            logprobs={"anyOf": [record(content=items(_LOGPROB)), {"type": "null"}]},
            finish_reason=word("stop", "length", "tool_calls"),
        )
    ),
    usage=_USAGE,
)
TEXTS = record(
    id=STRING,
    object=word("text_completion"),
    created=COUNTED,
    model=STRING,
    choices=items(record(index=COUNTED, text=STRING, finish_reason=word("stop", "length"))),
    usage=_USAGE,
)
_VECTOR = {"anyOf": [items({"type": "number"}), STRING]}  # or in base64
EMBEDDINGS = record(
    object=word("list"),
    model=STRING,
    data=items(record(object=word("embedding"), index=COUNTED, embedding=_VECTOR)),
    usage=record(prompt_tokens=COUNTED, total_tokens=COUNTED),
)

_BLOCK = {
    "oneOf": [
        known("text", text=STRING),
        known("thinking", thinking=STRING),
        known("tool_use", id=STRING, name=STRING, input={"type": "object"}),
    ]
}
MESSAGE = known(
    "message",
    id=STRING,
    role=word("assistant"),
    model=STRING,
    content=items(_BLOCK),
    stop_reason=word("end_turn", "max_tokens", "stop_sequence", "tool_use"),
    stop_sequence=TEXT_OR_NULL,
    usage=record(input_tokens=COUNTED, output_tokens=COUNTED),
)
COUNT = record(input_tokens=COUNTED)

_OUTPUT = {
    "oneOf": [
        known("message", id=STRING, role=word("assistant"), content=items({"type": "object"})),
        known("function_call", id=STRING, call_id=STRING, name=STRING, arguments=STRING),
        known("reasoning", id=STRING, content=items({"type": "object"})),
    ]
}
RESPONSE = record(
    id=STRING,
    object=word("response"),
    created_at=COUNTED,
    status=word("completed", "incomplete"),
    error={"type": "null"},
    model=STRING,
    output=items(_OUTPUT),
    usage=record(input_tokens=COUNTED, output_tokens=COUNTED, total_tokens=COUNTED),
)
_OWNED = {"owner": word("tenant", "operator"), "created": COUNTED}
_SPEC: dict[str, Json] = {
    "type": word("function"),
    "name": STRING,
    "description": STRING,
    "parameters": {"type": "object"},
    "strict": {"type": "boolean"},
    "output": {"type": ["object", "null"]},
    "examples": items({"type": "object"}),
    "annotations": record(
        read_only={"type": "boolean"},
        destructive={"type": "boolean"},
        idempotent={"type": "boolean"},
    ),
    "runner": word("client", "server"),
}
_SET: dict[str, Json] = {
    "id": STRING,
    "object": word("toolset"),
    "name": STRING,
    "version": {"type": "integer", "minimum": 1},
    "num_tools": COUNTED,
}
TOOL = record(id=STRING, object=word("tool"), **_SPEC, **_OWNED)
TOOLSET = record(**_SET, **_OWNED)
WHOLE_TOOLSET = record(**_SET, **_OWNED, tools=items(record(**_SPEC)))


def _page_of(entry: Json) -> Json:
    more: Json = {"type": "boolean"}
    cursor = {"first_id": TEXT_OR_NULL, "last_id": TEXT_OR_NULL, "has_more": more}
    return record(object=word("list"), data=items(entry), **cursor)


TOOLS, TOOLSETS = _page_of(TOOL), _page_of(TOOLSET)
ITEMS = _page_of(record(id=STRING, type=STRING))
_SESSION: dict[str, Json] = {
    "id": STRING,
    "object": word("session"),
    "created": COUNTED,
    "used": COUNTED,
    "num_messages": COUNTED,
}
SESSIONS = _page_of(record(**_SESSION))
SESSION = record(**_SESSION, messages=items(record(role=STRING)))
_SECONDS: Json = {"type": "number"}
_TRACE: dict[str, Json] = {
    "id": STRING,
    "object": word("trace"),
    "status": word("running", "waiting", "ended"),
    "session_id": STRING,
    "began": _SECONDS,
    "changed": _SECONDS,
    "num_entries": COUNTED,
    "about": {"type": "object"},
}
_ENTRY = record(seq=COUNTED, at=_SECONDS, entry={"type": ["object", "null"]})
TRACES = record(object=word("list"), data=items(record(**_TRACE)), has_more={"type": "boolean"})
TRACE = record(**_TRACE, entries=items(_ENTRY))
DELETED = record(id=STRING, object=STRING, deleted={"enum": [True]})

APPROVAL = record(
    id=STRING,
    object=word("approval"),
    run_id=STRING,
    status=word(*STANDINGS),
    node=STRING,
    tool=record(name=STRING, description=STRING, parameters={"type": "object"}),
    arguments=STRING,
    why=STRING,
    text=STRING,
    expires={"type": "number"},
)
APPROVALS = record(object=word("list"), data=items(APPROVAL))

TOKENS = record(count=COUNTED, max_model_len=COUNTED, tokens=items(COUNTED))
TEXT = record(prompt=STRING)
MODEL = record(id=STRING, object=word("model"), created=COUNTED, owned_by=STRING)
MODELS = record(object=word("list"), data=items(MODEL))
STATUS = record(status=STRING)
