"""The `f1` command as a person runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

import f1


def run(*arguments: str, cache: Path | None = None, code: int = 0) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "f1.cli", *arguments],
        env=environment(cache),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def environment(cache: Path | None) -> dict[str, str]:
    settings = {"F1_CACHE": str(cache)} if cache else {}
    return {**os.environ, "NO_COLOR": "1", "COLUMNS": "100", **settings}


def test_help_and_version() -> None:
    text = run("--help").stdout
    assert all(
        command in text for command in ("demo", "chat", "serve", "pull", "list", "rm", "bench")
    )
    assert run("--version").stdout == f"f1 {f1.__version__}\n"
    assert "--port" in run("serve", "--help").stdout


def test_what_is_slow_to_import_is_not_imported_before_it_is_needed() -> None:
    script = """
import sys
import f1.cli
from f1 import F1, tool
slow = {"torch", "transformers", "xgrammar", "fastapi", "uvicorn", "pydantic", "numpy",
        "tokenizers", "jsonschema", "huggingface_hub", "jinja2", "sqlalchemy", "alembic"}
print(*sorted(slow & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("", "")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["dmeo"], 2, "No such command"),
        (["serve", "--port", "high"], 2, "--port"),
        (["pull", "gpt-9"], 1, "error: no model 'gpt-9'"),
        (["rm", "gpt-9"], 1, "error: no model 'gpt-9'"),
        (["chat", "Hi", "--model", "gpt-9"], 1, "error: no model 'gpt-9'"),
        (["serve", "--model", "gpt-9"], 1, "error: no model 'gpt-9'"),
        (["bench", "--model", "gpt-9"], 1, "error: no model 'gpt-9'"),
        (["bench", "--only", "speed"], 1, "error: --only: no section 'speed'"),
        (["bench", "--json", "nowhere/found.json"], 1, "there is no folder nowhere"),
        (["demo", "--base-url", "http://127.0.0.1:9"], 1, "error: http://127.0.0.1:9"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    tmp_path: Path, arguments: list[str], code: int, told: str
) -> None:
    done = run(*arguments, cache=tmp_path, code=code)
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_list_and_rm(tmp_path: Path) -> None:
    mine = tmp_path / "models" / "mine.gguf"
    mine.parent.mkdir()
    mine.write_bytes(b"x" * 3_000_000)
    text = run("list", cache=tmp_path).stdout
    assert re.search(r"mine +3 MB +yes", text)
    assert re.search(r"qwen2.5-coder-0.5b +491 MB +no", text)
    assert run("rm", "mine", cache=tmp_path).stdout == "removed mine\n"
    assert not mine.exists()


def test_chat(smollm_path: Path) -> None:
    done = run("chat", "Say hello.", "--model", str(smollm_path), "--max-tokens", "8")
    assert len(done.stdout.split()) > 2


def test_serve_tells_where_it_serves_and_stops_when_told(smollm_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "f1.cli", "serve", "--port", "0", "-m", str(smollm_path)]
    with subprocess.Popen(
        command, env=environment(None), stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stderr is not None
            line = server.stderr.readline()
            url = re.search(r"ready smollm2-135m at (http://127.0.0.1:\d+)/v1", line)
            assert url, line
            assert httpx.get(f"{url[1]}/health").json() == {"status": "ok"}
            run("chat", "Hi", "--base-url", url[1], "--max-tokens", "2")
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(60)
        # A shell that runs the tests in the background makes them, and the server, ignore SIGINT;
        # it still stops then, for uvicorn's sake, but was not interrupted.
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert server.returncode == (0 if ignored else 130)
        assert "Traceback" not in server.stderr.read()


def test_serve_ends_with_an_error_when_the_model_is_broken(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\xff" * 100)
    done = run("serve", "--port", "0", "-m", str(broken), code=1)
    assert "error:" in done.stderr
    assert "Traceback" not in done.stderr
