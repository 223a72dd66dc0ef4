"""`f1 tools` against a real server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from scripted import ScriptedEngine
from serving import serving, wait_until_loaded
from typer.testing import CliRunner, Result

from f1.cli import app
from f1.errors import EngineStopped, F1Error, InvalidRequest, NotFound

TOOLS = '''
from f1 import tool

@tool(read_only=True, examples=[{"city": "Oslo"}])
def weather(city: str) -> int:
    """Current temperature in a city."""
    return 9

@tool
def send_mail(to: str, text: str) -> str:
    """Send a message to somebody by email."""
    return "sent"
'''


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(lambda: ScriptedEngine("Hello.")) as server:
        with httpx.Client() as http:
            wait_until_loaded(http, server)
        yield server.url


def run(url: str, *arguments: object) -> Result:
    name, *rest = map(str, arguments)
    return CliRunner().invoke(app, ["tools", name, "--base-url", url, *rest])


def out(url: str, *arguments: object) -> str:
    done = run(url, *arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_tools_are_registered_listed_shown_found_and_removed(url: str, tmp_path: Path) -> None:
    file = tmp_path / "my_tools.py"
    file.write_text(TOOLS)
    assert out(url, "register", file) == "registered weather\nregistered send_mail\n"
    assert out(url, "register", file, "--toolset", "daily") == "registered daily@1, 2 tools\n"
    listed = out(url, "list")
    assert "Current temperature in a city." in listed
    assert "daily@1" in listed
    assert "2 tools" in listed
    shown = json.loads(out(url, "show", "weather"))
    assert (shown["annotations"]["read_only"], shown["examples"]) == (True, [{"city": "Oslo"}])
    assert [tool["name"] for tool in json.loads(out(url, "show", "daily@1"))["tools"]] == [
        "weather", "send_mail",
    ]  # fmt: skip
    assert out(url, "search", "email somebody", "-n", "1").startswith("send_mail  Send")
    assert out(url, "rm", "weather", "send_mail") == "removed weather\nremoved send_mail\n"
    assert out(url, "search", "how warm, what temperature", "-n", "1").startswith("weather")
    assert out(url, "rm", "--toolset", "daily") == "removed daily\n"
    assert "daily" not in out(url, "list")


def test_json_is_registered_too(url: str, tmp_path: Path) -> None:
    file = tmp_path / "tool.json"
    file.write_text(json.dumps({"name": "ping", "description": "Pings."}))
    assert out(url, "register", file) == "registered ping\n"
    assert json.loads(out(url, "show", "ping"))["runner"] == "client"
    out(url, "rm", "ping")


def test_tools_of_a_configuration(tmp_path: Path) -> None:
    file = tmp_path / "f1.toml"
    file.write_text(
        "[models.smollm2-135m]\n"
        '[tools.weather]\ndescription = "The [b]weather"\nparameters = {type = "object"}\n'
        '[tools.double]\npython = "tools.py:double"\n'
        '[tools.time]\nhttp = {url = "http://127.0.0.1:9/"}\n'
        '[toolsets.travel]\ntools = ["weather"]\n'
    )
    listed = out("http://127.0.0.1:9", "list", "--config", file)
    runs = [line.split()[2] for line in listed.splitlines()[1:4]]
    assert runs == ["client", "server", "server"]
    assert "The [b]weather" in listed
    assert "1 tools" in listed


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["show", "nothing"], NotFound),
        (["rm", "nothing"], NotFound),
        (["register", "nowhere.json"], InvalidRequest),
    ],
)
def test_errors_are_those_of_the_server(
    url: str, arguments: list[str], error: type[F1Error]
) -> None:
    assert isinstance(run(url, *arguments).exception, error)


@pytest.mark.parametrize("text", ["[{}]", '["a"]', "3", '[{"name": 1}]'])
def test_json_that_is_no_tools_is_refused(url: str, tmp_path: Path, text: str) -> None:
    file = tmp_path / "tools.json"
    file.write_text(text)
    refused = run(url, "register", file).exception
    assert isinstance(refused, InvalidRequest)
    assert "tools[0] has to be an object with a 'name'" in refused.message


@pytest.mark.parametrize("body", [b"<html>Welcome", b"[1]"])
def test_what_answers_and_is_no_f1_is_told(body: bytes, tmp_path: Path) -> None:
    file = tmp_path / "tool.json"
    file.write_text(json.dumps({"name": "ping"}))

    class Other(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        told = run(f"http://127.0.0.1:{server.server_address[1]}", "register", file).exception
        thread.join()
    assert isinstance(told, EngineStopped)
    assert "no server of F1's" in told.message


def test_no_server() -> None:
    assert isinstance(run("http://127.0.0.1:9", "list").exception, EngineStopped)
