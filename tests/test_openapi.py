"""The document says what is so: schemathesis asks by it, well and badly, and judges the answers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from jsonschema import Draft202012Validator
from scripted import Spelling
from serving import Running, serving, wait_until_loaded

from f1.engine import AsyncEngine
from f1.errors import ModelNotFound
from f1.serve import mcp
from f1.serve.limits import Limits
from f1.serve.openapi import OPERATIONS, document
from f1.settings import Settings

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_schema_conformance,negative_data_rejection,unsupported_method,allow_header_conformance"
)


@pytest.fixture(scope="module")
def server(smollm_path: Path) -> Iterator[Running]:
    def load() -> Spelling:
        return Spelling(AsyncEngine.start(str(smollm_path), Settings(kv_memory=2**26)), "Hi.")

    with serving(load) as running, httpx.Client() as http:
        wait_until_loaded(http, running)
        yield running


def test_every_route_is_in_the_document_and_no_other(server: Running) -> None:
    routes = set()
    for route in server.app.routes:
        if route.path == mcp.PATH:  # it has a document of its own: MCP's
            continue
        assert isinstance(route, APIRoute)
        routes |= {(method.lower(), route.path.replace(":path}", "}")) for method in route.methods}
    assert routes == {(operation.method, operation.path) for operation in OPERATIONS}


def test_the_document_is_served_and_loads_nothing_from_elsewhere(server: Running) -> None:
    served = httpx.get(f"{server.url}/openapi.json")
    assert served.json() == json.loads(json.dumps(document(Limits())))
    for path in ("/docs", "/redoc"):
        assert httpx.get(f"{server.url}{path}").status_code == 404
    for schema in schemas(served.json()):
        Draft202012Validator.check_schema(schema)


def schemas(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if isinstance(value.get("schema"), dict):
            yield value["schema"]
        for inner in value.values():
            yield from schemas(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from schemas(inner)


def test_a_wrong_method_is_told_which_there_are(server: Running) -> None:
    for path, allowed in (
        ("/v1/models", "GET"),
        ("/v1/chat/completions", "POST"),
        ("/v1/responses/x", "DELETE, GET"),
    ):
        answer = httpx.patch(f"{server.url}{path}")
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
        assert answer.json()["error"]["type"] == "invalid_request_error"


def schemathesis(server: Running, folder: Path, *options: str) -> None:
    """Asks as the document says; of models only for the one there is, so that something is done."""
    written = document(Limits())
    for schema in schemas(written["paths"]):
        model = schema.get("properties", {}).get("model")
        if model is not None and "object" not in schema["properties"]:
            may_be_null = [] if "model" in schema.get("required", ()) else [None]
            schema["properties"]["model"] = {"enum": ["f1", *may_be_null]}
    file = folder / "openapi.json"
    file.write_text(json.dumps(written))
    command = [
        sys.executable, "-P", "-m", "schemathesis.cli", "run", str(file), "--url", server.url,
        "--checks", CHECKS, "--no-color", "--no-shrink", "--continue-on-failure",
        "--suppress-health-check", "all", "--warnings", "off", "--output-truncate", "false",
        *options,
    ]  # fmt: skip
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    print(run.stdout)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_few_requests_of_each_kind_are_answered_as_documented(
    server: Running, tmp_path: Path
) -> None:
    options = ("--phases", "fuzzing", "--max-examples", "5", "--seed", "1")
    schemathesis(server, tmp_path, *options)


@pytest.mark.full
def test_many_requests_of_each_kind_are_answered_as_documented(
    server: Running, tmp_path: Path
) -> None:
    options = ("--phases", "coverage,fuzzing", "--max-examples", "100", "--seed", "2")
    schemathesis(server, tmp_path, *options)


def test_what_the_document_says_of_errors_is_so(server: Running) -> None:
    written = document(Limits())["components"]["schemas"]
    asked = {"model": "gpt-9", "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
    for path, name in (("/v1/chat/completions", "Error"), ("/v1/messages", "AnthropicError")):
        answer = httpx.post(f"{server.url}{path}", json=asked)
        assert answer.status_code == ModelNotFound.status
        Draft202012Validator(written[name]).validate(answer.json())
