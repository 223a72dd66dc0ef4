"""Who gets in: keys, the Host and Origin that browsers send, and every way around them."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anthropic
import httpx
import openai
import pytest
from fastapi.routing import APIRoute
from scripted import ScriptedEngine
from serving import Running, serving

from f1.errors import InvalidRequest
from f1.serve.access import OPEN_PATHS, Access, is_local, make_key, read_keys
from f1.store.responses import ResponseStore

HELLO: Any = [{"role": "user", "content": "Hello"}]
PATTERNED: Any = {
    "type": "function",
    "function": {
        "name": "f",
        "parameters": {"type": "object", "properties": {"a": {"pattern": "^(a|b)+c$"}}},
    },
}
ALICE, BOB = "alice-key-0123456789", "bob-key-0123456789"
ENV = {"F1_API_KEYS": f"alice:{ALICE}, bob:{BOB}", "F1_ALLOWED_ORIGINS": "https://app.example"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    access = Access.from_env(dict(ENV), "127.0.0.1")
    store = ResponseStore(tmp_path_factory.mktemp("store") / "responses.sqlite", 2**24)
    with serving(lambda: ScriptedEngine("Hello."), access=access, store=store) as running:
        while httpx.get(f"{running.url}/ready").status_code != 200:
            pass
        yield running


@pytest.fixture(scope="module")
def raw(server: Running) -> Iterator[http.client.HTTPConnection]:
    """Sends paths and headers as they are."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
    yield connection
    connection.close()


def ask(
    raw: http.client.HTTPConnection, method: str, path: str, **headers: str
) -> tuple[int, bytes]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    raw.request(method, path, headers=named)
    answer = raw.getresponse()
    return answer.status, answer.read()


def routes(server: Running) -> list[tuple[str, str]]:
    """Every method and path there is, with something in the place of parameters."""
    found = []
    for route in server.app.routes:
        assert isinstance(route, APIRoute), f"{route} is none that this test knows to walk"
        path = re.sub(r"{\w+(:\w+)?}", "x", route.path)
        found += [(method, path) for method in sorted(route.methods)]
    return found


def bent(path: str) -> list[str]:
    """Spellings that a proxy, or a router, might take for `path`."""
    first, rest = path[1:2], path[2:]
    return [
        f"/{path}", f"//{path}", f"/.{path}", f"/x/..{path}", f"/%2e{path}", f"/x/%2e%2e{path}",
        f"{path}/", f"{path}/.", f"{path}%00", f"{path};x", f"{path}%2f", f"{path}%20",
        f"/%2f{path}", f"/{first.upper()}{rest}", path.upper(), path.replace("/", "\\", 1),
        f"http://elsewhere.example{path}", f"/health/..{path}", f"/health/%2e%2e{path}",
        f"/health;{path}", f"/health%2f..{path}", f"/health?{path}"[:7] + path,
    ]  # fmt: skip


def test_every_route_needs_a_key(server: Running, raw: http.client.HTTPConnection) -> None:
    walked = routes(server)
    assert ("POST", "/v1/chat/completions") in walked
    assert {path for _, path in walked} >= OPEN_PATHS
    for method, path in walked:
        if path in OPEN_PATHS:
            assert ask(raw, method, path)[0] == 200
            continue
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "Bearer "},
            {"authorization": f"Basic {ALICE}"},
            {"authorization": ALICE},
            {"authorization": f"Bearer {ALICE}x"},
            {"authorization": f"Bearer {ALICE[:-1]}"},
            {"x_api_key": "wrong"},
            {"x_api_key": f"alice:{ALICE}"},
            {"cookie": f"authorization={ALICE}"},
        ):
            status, body = ask(raw, method, path, **headers)
            assert status == 401, (method, path, headers)
            assert ALICE.encode() not in body
        for known in ({"authorization": f"bearer {BOB}"}, {"x_api_key": ALICE}):
            assert ask(raw, method, path, **known)[0] not in (401, 403), (method, path)


def test_no_spelling_of_a_path_gets_around_the_key(
    server: Running, raw: http.client.HTTPConnection
) -> None:
    known = {"authorization": f"Bearer {ALICE}"}
    for method, path in routes(server):
        for spelt in bent(path):
            status, body = ask(raw, method, spelt)
            assert status in (400, 401, 403, 404), (method, spelt, body)
            status, body = ask(raw, method, spelt, **known)
            # Where it leads to a route after all, that one had the key.
            assert status < 500, (method, spelt, body)


@pytest.mark.parametrize("host", [
    "evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "127.0.0.1@evil.example",
    "evil.example:80", "192.168.0.1", "0.0.0.0", "[::2]", "", "[", "localhost:x", "localhost:1:1",
    "local\thost", "evil.example, localhost", "2130706433", "127.1",
])  # fmt: skip
def test_a_host_that_is_not_ours_gets_nothing(
    server: Running, raw: http.client.HTTPConnection, host: str
) -> None:
    for method, path in routes(server):
        status, body = ask(raw, method, path, Host=host, authorization=f"Bearer {ALICE}")
        assert status == 403, (method, path)
        assert json.loads(body)["error"]["type"] == "permission_error"


def test_hosts_that_are_ours(server: Running, raw: http.client.HTTPConnection) -> None:
    for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000"):
        assert ask(raw, "GET", "/health", Host=host)[0] == 200
    raw.putrequest("GET", "/health", skip_host=True)
    for host in ("localhost", "localhost"):
        raw.putheader("Host", host)
    raw.endheaders()
    answer = raw.getresponse()
    answer.read()
    assert answer.status in (400, 403)  # two are one too many
    raw.close()


def test_only_origins_that_are_named_are_answered(
    server: Running, raw: http.client.HTTPConnection
) -> None:
    known = {"authorization": f"Bearer {ALICE}"}
    for origin in ("https://evil.example", "null", "https://app.example.evil.example", "http://["):
        for method, path in routes(server):
            assert ask(raw, method, path, origin=origin, **known)[0] == 403
    assert ask(raw, "GET", "/v1/models", origin=server.url, **known)[0] == 200

    url, page = f"{server.url}/v1/models", {"origin": "https://app.example"}
    asked = {"access-control-request-method": "POST"}
    preflight = httpx.options(url, headers=page | asked)
    assert preflight.status_code == 204
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    answers = [preflight, httpx.get(url, headers=page), httpx.get(url, headers=page | known)]
    for answer in answers:  # the page may also read that its key is wrong
        assert answer.headers["access-control-allow-origin"] == page["origin"]
        assert answer.headers["vary"] == "Origin"
    assert [answer.status_code for answer in answers] == [204, 401, 200]
    assert httpx.options(url, headers=asked).status_code == 401
    assert "access-control-allow-origin" not in httpx.get(url, headers=known).headers


def test_the_official_clients_get_in_with_a_key_and_are_told_without(server: Running) -> None:
    def chat(key: str) -> None:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client:
            client.chat.completions.create(model="f1", messages=HELLO)

    def messages(**key: str) -> None:
        with anthropic.Anthropic(base_url=server.url, max_retries=0, **key) as client:
            client.messages.create(model="f1", messages=HELLO, max_tokens=9)

    chat(ALICE)
    messages(api_key=BOB)
    messages(auth_token=BOB)
    with pytest.raises(openai.AuthenticationError, match="a key is needed") as told:
        chat("wrong")
    assert told.value.code == "invalid_api_key"
    assert told.value.response.headers["www-authenticate"] == "Bearer"
    assert told.value.request_id
    with pytest.raises(anthropic.AuthenticationError, match="a key is needed") as refused:
        messages(api_key="wrong")
    assert refused.value.body["error"]["type"] == "authentication_error"  # type: ignore[index]


def test_what_is_kept_of_one_is_not_there_for_another(server: Running) -> None:
    alice, bob = ({"authorization": f"Bearer {key}"} for key in (ALICE, BOB))
    url = f"{server.url}/v1/responses"
    made = httpx.post(url, json={"model": "f1", "input": "Hello"}, headers=alice).json()
    own = f"{url}/{made['id']}"
    item = made["output"][0]["id"]
    for method, asked in (("GET", own), ("GET", f"{own}/input_items"), ("DELETE", own)):
        assert httpx.request(method, asked, headers=bob).status_code == 404
    for fields in (
        {"previous_response_id": made["id"], "input": "And?"},
        {"input": [{"type": "item_reference", "id": item}, {"role": "user", "content": "And?"}]},
    ):
        refused = httpx.post(url, json={"model": "f1"} | fields, headers=bob)
        assert refused.status_code == 400
        assert "Hello" not in refused.text
        assert httpx.post(url, json={"model": "f1"} | fields, headers=alice).status_code == 200
    assert httpx.get(own, headers=alice).json() == made


INJECTIONS = [
    f"{start}{middle}{end}"
    for start, middle, end in itertools.product(
        ("f1", "x", "1", "resp_1"),
        ("'", '"', "')", "`", "\\'"),
        (" OR 1=1 --", "; DROP TABLE responses; --", " UNION SELECT * FROM responses --"),
    )
]


@pytest.mark.parametrize("path", ["/v1/models/{}", "/v1/responses/{}"])
def test_ids_are_looked_up_and_nothing_else(
    server: Running, raw: http.client.HTTPConnection, path: str
) -> None:
    assert len(INJECTIONS) == 60
    for told in INJECTIONS:
        asked = path.format(quote(told, safe=""))
        status, body = ask(raw, "GET", asked, authorization=f"Bearer {ALICE}")
        assert status == 404, (asked, body)
        assert "sqlite" not in body.decode().lower()


# --- what is configured --------------------------------------------------------------------------


def test_keys_are_read_from_the_environment_and_taken_out_of_it(tmp_path: Path) -> None:
    secret, line = make_key("carol")
    file = tmp_path / "keys.jsonl"
    file.write_text(f"\n{line}\n")
    env = {"F1_API_KEYS": f" alice:{ALICE} ,plain", "F1_API_KEYS_FILE": str(file)}
    access = Access.from_env(env, "127.0.0.1")
    assert "F1_API_KEYS" not in env
    assert secret not in line
    assert access.tenant([secret.encode()]) == "carol"
    assert access.tenant([b"wrong", ALICE.encode()]) == "alice"
    assert str(access.tenant([b"plain"])).startswith("key-")
    for wrong in (b"", b"alice", b"carol", line.encode(), access.keys[0].digest):
        assert access.tenant([wrong]) is None
    assert ALICE not in repr(access)


@pytest.mark.parametrize(
    ("keys", "told"), [("a b:key", "a name must be"), ("alice:", "is empty"), (":key", "a name")]
)
def test_keys_that_are_wrong_are_refused(keys: str, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        Access.from_env({"F1_API_KEYS": keys}, "127.0.0.1")


@pytest.mark.parametrize("line", [
    "{", "[]", '"x"', "{}", '{"name": "a"}', '{"name": "a", "sha256": "ab"}',
    '{"name": "a", "sha256": 5}', '{"name": "a", "sha256": "zz"}',
    '{"name": "", "sha256": "' + "00" * 32 + '"}', '{"name": 1, "sha256": "' + "00" * 32 + '"}',
])  # fmt: skip
def test_a_file_of_keys_that_is_wrong_names_its_line(tmp_path: Path, line: str) -> None:
    file = tmp_path / "keys.jsonl"
    file.write_text(f"{make_key('a')[1]}\n{line}\n")
    with pytest.raises(InvalidRequest, match=re.escape(f"{file}:2")):
        read_keys(file)
    with pytest.raises(InvalidRequest, match="F1_API_KEYS_FILE"):
        read_keys(tmp_path / "missing")


def test_what_is_bound_says_who_reaches_it() -> None:
    for host in ("127.0.0.1", "localhost", "::1", "127.3.2.1"):
        assert is_local(host)
    for host in ("0.0.0.0", "::", "", "192.168.0.1", "server.example"):
        assert not is_local(host)
    wide = Access.from_env({"F1_ALLOWED_HOSTS": "F1.example"}, "0.0.0.0")
    assert all(map(wide.knows_host, ("f1.example:443", "192.168.0.1", "[fe80::1]:8000")))
    assert not wide.knows_host("evil.example")
    assert Access.from_env({}, "server.example").knows_host("server.example:8000")


def test_serving_to_others_needs_keys() -> None:
    command = [sys.executable, "-P", "-m", "f1.cli", "serve", "--host", "0.0.0.0", "--port", "0"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("F1_API")}
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "F1_API_KEYS" in run.stderr
    assert "--no-keys" in run.stderr


def test_the_process_listens_at_one_port_and_its_children_know_no_key(
    smollm_path: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-P", "-m", "f1.cli"]
    made = subprocess.run([*command, "key", "bob"], capture_output=True, text=True, check=True)
    (tmp_path / "keys").write_text(made.stdout)
    command += ["serve", "--port", "0", "-m", str(smollm_path)]
    env = {"F1_API_KEYS": f"alice:{ALICE}", "F1_API_KEYS_FILE": str(tmp_path / "keys")}
    env |= {"F1_KV_MEMORY": "64M", "NO_COLOR": "1"}
    with subprocess.Popen(
        command, env=os.environ | env, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            url = re.search(r"http://\S+", line)
            assert url, line
            for key in (ALICE, made.stderr.strip()):
                with openai.OpenAI(base_url=url[0], api_key=key, max_retries=0) as client:
                    client.chat.completions.create(
                        model="f1", messages=HELLO, max_tokens=1, tools=[PATTERNED]
                    )
            assert httpx.get(f"{url[0]}/models").status_code == 401
            port = int(url[0].rsplit(":")[-1].split("/")[0])
            assert listening(process.pid) == {("127.0.0.1", port)}
            children = family(process.pid) - {process.pid}
            assert children  # one of them judges schemas
            for child in children:
                assert ALICE.encode() not in Path(f"/proc/{child}/environ").read_bytes()
        finally:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def family(pid: int) -> set[int]:
    """A process and those that it has started."""
    tree = {pid}
    for entry in Path(f"/proc/{pid}/task").glob("*/children"):
        tree |= {int(child) for child in entry.read_text().split()}
    return tree


def listening(pid: int) -> set[tuple[str, int]]:
    """Addresses at which a process, or one it has started, takes connections or datagrams."""
    found = set()
    inodes = {
        os.readlink(fd)[8:-1]
        for one in family(pid)
        for fd in Path(f"/proc/{one}/fd").iterdir()
        if os.readlink(fd).startswith("socket:")
    }
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for row in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = row.split()
            listens = fields[3] == "0A" or table.startswith("udp")
            if listens and fields[9] in inodes:
                address, number = fields[1].split(":")
                found.add((".".join(str(b) for b in bytes.fromhex(address)[::-1]), int(number, 16)))
    return found
