"""What an operator sees: metrics and the log of requests."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from scripted import ScriptedEngine, call
from serving import HELLO, Running, serving, wait_until_loaded

from f1.engine import AsyncEngine
from f1.serve.limits import Limits
from f1.settings import Settings

NASTY = '\x1b[2J\u202e\u009b\n{"status": 200}'


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=60) as client:
        yield client


def ask(http: httpx.Client, server: Running, **fields: object) -> httpx.Response:
    return http.post(f"{server.url}/v1/chat/completions", json=HELLO | fields)


def read_metrics(http: httpx.Client, server: Running) -> dict[str, float]:
    """By name and labels, as in `f1_tokens_total{kind=prompt}`."""
    answer = http.get(f"{server.url}/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_metrics_count_what_happened(http: httpx.Client) -> None:
    calls = (call("a"), call("b"))
    with serving(
        lambda: ScriptedEngine("Hello there.", calls, "Bye."), Limits(max_body_bytes=999)
    ) as server:
        wait_until_loaded(http, server)
        for _ in range(3):
            assert ask(http, server).status_code == 200
        assert ask(http, server, model=NASTY).status_code == 404
        assert ask(http, server, user="x" * 999).status_code == 413
        assert http.get(f"{server.url}/no/{NASTY!r}").status_code == 404
        found = read_metrics(http, server)
    chat = "route=/v1/chat/completions"
    assert found[f"f1_requests_total{{{chat},status=200}}"] == 3
    assert found[f"f1_requests_total{{{chat},status=404}}"] == 1
    assert found[f"f1_requests_total{{{chat},status=413}}"] == 1
    assert found["f1_requests_total{route=,status=404}"] == 1
    assert found["f1_errors_total{code=model_not_found}"] == 1
    assert found["f1_errors_total{code=body_too_large}"] == 1
    assert found["f1_started_total"] == found["f1_request_seconds_count"] == 3
    assert found["f1_time_to_first_token_seconds_count"] == 3
    assert found["f1_tokens_total{kind=prompt}"] == 30
    assert found["f1_tokens_total{kind=prompt_cached}"] == 12
    assert found["f1_tool_calls_total{outcome=valid}"] == 2
    assert found["f1_choices_total{reason=stop}"] == 2
    assert found["f1_ready"] == 1
    assert found["f1_queue_requests"] == found["f1_running_choices"] == 0
    assert (
        found["f1_engine_steps_total{model=scripted}"],
        found["f1_engine_free_pages{model=scripted}"],
    ) == (7, 3)
    assert found["process_open_fds"] > 0
    assert not any("202e" in name or "\u202e" in name for name in found)


def test_each_prompt_counts_once(http: httpx.Client) -> None:
    log = io.StringIO()
    with serving(lambda: ScriptedEngine("Hello."), log_to=log) as server:
        wait_until_loaded(http, server)
        body = {"model": "f1", "prompt": ["Once", "Twice", "Thrice"], "n": 2}
        usage = http.post(f"{server.url}/v1/completions", json=body).json()["usage"]
    last = json.loads(log.getvalue().splitlines()[-1])
    assert last["prompt_tokens"] == usage["prompt_tokens"] == 30
    assert last["cached_tokens"] == usage["prompt_tokens_details"]["cached_tokens"] == 12


def test_metrics_of_a_real_engine(http: httpx.Client, smollm_path: Path) -> None:
    settings = Settings(kv_memory=2**26)
    with serving(lambda: AsyncEngine.start(str(smollm_path), settings)) as server:
        assert read_metrics(http, server)["f1_ready"] == 0
        wait_until_loaded(http, server)
        sampled = ask(http, server, max_tokens=5).json()["usage"]["completion_tokens"]
        found = read_metrics(http, server)
        assert found["f1_engine_grammars_compiled_total{model=smollm2-135m}"] == 0
        assert found["f1_tokens_total{kind=completion}"] == sampled
        assert found["f1_engine_sampled_tokens_total{model=smollm2-135m}"] >= sampled
        assert found["f1_engine_running{model=smollm2-135m}"] == 0
        assert found["f1_time_per_output_token_seconds_count"] == 1
        assert ask(http, server, response_format={"type": "json_object"}).status_code == 200
        found = read_metrics(http, server)
        assert found["f1_engine_grammars_compiled_total{model=smollm2-135m}"] > 0
        assert found["f1_engine_grammar_compile_seconds_total{model=smollm2-135m}"] > 0
        assert found["f1_engine_mask_seconds_total{model=smollm2-135m}"] > 0


def test_the_log_has_a_line_for_each_request_and_no_text_of_it(http: httpx.Client) -> None:
    log = io.StringIO()
    engine = ScriptedEngine("Hello there.", "Words …")
    with serving(lambda: engine, log_to=log) as server:
        wait_until_loaded(http, server)
        fine = ask(http, server, messages=[{"role": "user", "content": NASTY}])
        late = ask(http, server, timeout=0.01, stream=True)
        wrong = ask(http, server, model=NASTY)
        http.get(f"{server.url}/no/{NASTY!r}")
    text = log.getvalue()
    assert re.fullmatch(r"[\n -~]*", text)  # printable ASCII
    lines = [json.loads(line) for line in text.splitlines()]
    first, second, third, fourth = lines
    assert first["request_id"] == fine.headers["x-request-id"]
    assert (first["status"], first["model"], first["finish"]) == (200, "f1", ["stop"])
    assert (first["prompt_tokens"], first["cached_tokens"]) == (10, 4)
    assert 0 <= first["queue_ms"] <= first["ttft_ms"] <= first["total_ms"]
    assert (second["status"], second["error"]) == (200, "timeout")
    assert second["request_id"] == late.headers["x-request-id"]
    assert (third["status"], third["error"]) == (404, "model_not_found")
    assert third["request_id"] == wrong.headers["x-request-id"]
    assert "model" not in third
    assert fourth["status"] == 404
    assert "prompt" not in text.replace("prompt_tokens", "")


def test_prompts_are_logged_where_that_is_asked_for(http: httpx.Client) -> None:
    log = io.StringIO()
    with serving(lambda: ScriptedEngine("Hi."), log_to=log, log_prompts=True) as server:
        wait_until_loaded(http, server)
        ask(http, server, messages=[{"role": "user", "content": NASTY}])
    last = log.getvalue().splitlines()[-1]
    assert last.isascii()
    assert json.loads(last)["prompt"] == [NASTY]
