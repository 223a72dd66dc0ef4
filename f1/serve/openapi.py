"""The OpenAPI document: which routes there are, what they take and what they answer.

What they take is the table of bounds that bodies are checked against; what they answer is said in
f1.serve.answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import FastAPI, Response

from f1 import __version__
from f1.serve import answers, traces
from f1.serve.access import OPEN_PATHS
from f1.serve.exchange import TIMEOUT_HEADER, json_response
from f1.serve.limits import Limits
from f1.serve.wire import approvals, bodies, completions, embeddings, tokens, tools
from f1.serve.wire.anthropic import bodies as anthropic
from f1.serve.wire.responses import bodies as responses
from f1.serve.wire.shape import Record

Json = dict[str, Any]


def _in_path(name: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


_ID = _in_path("response_id")
_APPROVAL = _in_path("approval_id")
_SESSION = _in_path("session_id")
_RUN = _in_path("run_id")


@dataclass(frozen=True, slots=True)
class Operation:
    """`streams`: with "stream": true the answer is events. `media` is what else it is, if not
    JSON."""

    method: str
    path: str
    summary: str
    answer: Json
    body: Callable[[Limits], Record] | None = None
    streams: bool = False
    parameters: tuple[Json, ...] = ()
    media: str = "application/json"
    others: tuple[int, ...] = ()  # statuses that mean something of their own, with the same body


_PAGE = (
    {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 100}},
    {"name": "order", "in": "query", "schema": {"type": "string", "enum": ["asc", "desc"]}},
    {"name": "after", "in": "query", "schema": {"type": "string"}},
    {"name": "include", "in": "query", "schema": {"type": "string"}},
)
_NAMES = tuple(part for part in _PAGE if part["name"] != "include")
_NAME = (_in_path("name"),)
_RUNS = (
    _PAGE[0],
    {"name": "before", "in": "query", "schema": {"type": "number"}},
    {"name": "session_id", "in": "query", "schema": {"type": "string"}},
    {"name": "status", "in": "query", "schema": {"type": "string", "enum": list(traces.STATUSES)}},
)
OPERATIONS = (
    Operation("post", "/v1/chat/completions", "Chat, as OpenAI has it", answers.CHAT,
              bodies.chat, streams=True),
    Operation("post", "/v1/responses", "Responses, as OpenAI has them", answers.RESPONSE,
              responses.responses, streams=True),
    Operation("get", "/v1/responses/{response_id}", "A response that is kept", answers.RESPONSE,
              parameters=(_ID, {"name": "stream", "in": "query", "schema": {"enum": ["false"]}})),
    Operation("get", "/v1/responses/{response_id}/input_items", "What it was asked with",
              answers.ITEMS, parameters=(_ID, *_PAGE)),
    Operation("delete", "/v1/responses/{response_id}", "Forget it", answers.DELETED,
              parameters=(_ID,)),
    Operation("post", "/v1/messages", "Messages, as Anthropic has them", answers.MESSAGE,
              anthropic.messages, streams=True),
    Operation("post", "/v1/messages/count_tokens", "Tokens of a prompt", answers.COUNT,
              anthropic.count_tokens),
    Operation("post", "/v1/completions", "Text that goes on, as OpenAI once had it",
              answers.TEXTS, completions.completions_body, streams=True),
    Operation("post", "/v1/embeddings", "Vectors of texts", answers.EMBEDDINGS,
              embeddings.embeddings_body),
    Operation("post", "/tokenize", "Text, or a conversation, to token ids", answers.TOKENS,
              tokens.tokenize_body),
    Operation("post", "/detokenize", "Token ids to text", answers.TEXT, tokens.detokenize_body),
    Operation("get", "/v1/models", "The models", answers.MODELS),
    Operation("get", "/v1/models/{model_id}", "One model", answers.MODEL,
              parameters=(_in_path("model_id"),)),
    Operation("post", "/v1/tools", "Register a tool that you run, for requests to name",
              answers.TOOL, tools.tool_body),
    Operation("get", "/v1/tools", "Registered tools: yours, and the operator's", answers.TOOLS,
              parameters=_NAMES),
    Operation("put", "/v1/tools/{name}", "Register it, or in place of the one there is",
              answers.TOOL, partial(tools.tool_body, named=False), parameters=_NAME),
    Operation("get", "/v1/tools/{name}", "One tool", answers.TOOL, parameters=_NAME),
    Operation("delete", "/v1/tools/{name}", "Forget it", answers.DELETED, parameters=_NAME),
    Operation("post", "/v1/toolsets", "Register tools under one name", answers.TOOLSET,
              tools.toolset_body),
    Operation("get", "/v1/toolsets", "Toolsets: yours, and the operator's", answers.TOOLSETS,
              parameters=_NAMES),
    Operation("put", "/v1/toolsets/{name}", "Register it: a new version, if anything changed",
              answers.TOOLSET, partial(tools.toolset_body, named=False), parameters=_NAME),
    Operation("get", "/v1/toolsets/{name}", "The latest version, or NAME@VERSION, with its tools",
              answers.WHOLE_TOOLSET, parameters=_NAME),
    Operation("delete", "/v1/toolsets/{name}", "Forget it, or NAME@VERSION", answers.DELETED,
              parameters=_NAME),
    Operation("get", "/v1/approvals", "Calls that wait for a person", answers.APPROVALS),
    Operation("get", "/v1/approvals/{approval_id}", "One of them, whole", answers.APPROVAL,
              parameters=(_APPROVAL,)),
    Operation("post", "/v1/approvals/{approval_id}", "Allow it, change it, or say no; once",
              answers.APPROVAL, lambda limits: approvals.VERDICT, parameters=(_APPROVAL,)),
    Operation("get", "/v1/sessions", "Conversations that are kept, the last used first",
              answers.SESSIONS, parameters=tuple(p for p in _NAMES if p["name"] != "order")),
    Operation("get", "/v1/sessions/{session_id}", "One of them, with its messages",
              answers.SESSION, parameters=(_SESSION,)),
    Operation("delete", "/v1/sessions/{session_id}", "Forget it", answers.DELETED,
              parameters=(_SESSION,)),
    Operation("get", "/v1/traces", "What runs left behind, the last begun first", answers.TRACES,
              parameters=_RUNS),
    Operation("get", "/v1/traces/{run_id}", "A run with all its entries", answers.TRACE,
              parameters=(_RUN,)),
    Operation("delete", "/v1/traces/{run_id}", "Forget it", answers.DELETED, parameters=(_RUN,)),
    Operation("get", "/health", "The process answers", answers.STATUS),
    Operation("get", "/ready", "Send it work", answers.STATUS, others=(503,)),
    Operation("get", "/metrics", "For Prometheus", {"type": "string"}, media="text/plain"),
    Operation("get", "/openapi.json", "This document", {"type": "object"}),
)  # fmt: skip
BODIES = {(entry.method, entry.path): entry.body for entry in OPERATIONS if entry.body is not None}
_ERRORS = {
    400: "Not served as it is: `message` says which field is wrong, and what was expected",
    401: "No key that is known",
    403: "A Host or an Origin that is not known here; or not yours to change",
    404: "No such model, response, tool or route",
    408: "Not done in the time it was given",
    409: "Another request is at it, or was first",
    413: "The body is too large",
    414: "The URL is too long",
    415: "The body is compressed",
    422: "The engine has died of this request twice; it is refused for an hour",
    429: "Too much is waiting; `retry-after` says when to try again",
    431: "The head is too large",
    500: "The server's mistake",
    503: "Loading, or shutting down; `retry-after` says when to try again",
}


def add_routes(app: FastAPI, limits: Limits) -> None:
    written = document(limits)

    @app.get("/openapi.json")
    async def openapi() -> Response:
        return json_response(written)


def document(limits: Limits) -> Json:
    """OpenAPI 3.1."""
    paths: dict[str, Json] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _write(operation, limits)
    keys = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "F1",
            "version": __version__,
            "description": "Keys are needed where the server has any.",
        },
        "paths": paths,
        "security": [{}, *({name: []} for name in keys)],
        "components": {
            "securitySchemes": keys,
            "schemas": {"Error": answers.ERROR, "AnthropicError": answers.ANTHROPIC_ERROR},
        },
    }


def _write(operation: Operation, limits: Limits) -> Json:
    written: Json = {
        "operationId": f"{operation.method}_{operation.path.strip('/').replace('/', '_')}",
        "summary": operation.summary,
        "responses": _responses(operation),
    }
    parameters = list(operation.parameters)
    if operation.path in OPEN_PATHS:
        written["security"] = []
    if operation.streams:
        seconds = {"type": "number", "minimum": limits.min_timeout, "maximum": limits.max_timeout}
        parameters.append({"name": TIMEOUT_HEADER, "in": "header", "schema": seconds})
    if parameters:
        written["parameters"] = parameters
    if operation.body is not None:
        schema = operation.body(limits).schema()
        written["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    return written


def _responses(operation: Operation) -> Json:
    content: Json = {operation.media: {"schema": operation.answer}}
    if operation.streams:
        content["text/event-stream"] = {"schema": {"description": "server-sent events"}}
    name = "AnthropicError" if operation.path.startswith("/v1/messages") else "Error"
    failed = {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
    written = {
        str(status): {"description": told, "content": failed} for status, told in _ERRORS.items()
    }
    for status in (200, *operation.others):
        written[str(status)] = {"description": operation.summary, "content": content}
    return dict(sorted(written.items()))
